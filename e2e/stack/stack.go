// Package stack starts what a test, a demo or a measurement of the plugin
// needs: the real Traefik with the plugin as a local plugin, the real Redis,
// game nodes that behave or misbehave, and a TCP proxy to spoil a link.
//
// Everything listens on 127.0.0.1 alone, on a free port unless told
// otherwise, and ends by process id. What was started is to be stopped by the
// caller; child processes also end when the process that started them dies.
package stack

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Module is the plugin's module path.
const Module = "github.com/lifesix/dynamicforward"

// Root finds the plugin's repository: the nearest directory from the working
// directory upwards whose go.mod is the plugin's own.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if moduleOf(filepath.Join(dir, "go.mod")) == Module {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod of %s in %s or above it", Module, start)
		}
	}
}

func moduleOf(goMod string) string {
	f, err := os.Open(goMod)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "module "); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

// FreePort returns a TCP port of 127.0.0.1 on which nothing listened a moment
// ago. It is below those that Linux gives to clients and to whoever asks for
// any port (32768 to 60999), so hardly anybody takes it meanwhile; still,
// whoever uses it must be ready to find it taken.
func FreePort() (int, error) {
	const lowest, beyond, tries = 10000, 32768, 100
	var err error
	for range tries {
		port := lowest + rand.IntN(beyond-lowest)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port, nil
		}
	}
	return 0, err
}

// errPortTaken is what a start function returns when another port may do.
var errPortTaken = errors.New("the port was taken by somebody else")

// onFreePort calls start with a free address until it gets one that is still
// free by the time the process listens.
func onFreePort(start func(addr string) error) error {
	var err error
	for range 5 {
		var port int
		if port, err = FreePort(); err != nil {
			return err
		}
		if err = start(fmt.Sprintf("127.0.0.1:%d", port)); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// waitFor polls ok every few milliseconds until it holds, ended is closed, or
// the bound is over; it tells whether ok held.
func waitFor(bound time.Duration, ended <-chan struct{}, ok func() bool) bool {
	for deadline := time.Now().Add(bound); time.Now().Before(deadline); {
		if ok() {
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

// tail returns the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
