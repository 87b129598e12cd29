package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// generator makes HTTP load with wrk.
type generator struct {
	bin, version string
}

// The load is that of 32 clients that never pause.
const (
	loadThreads = 2
	loadClients = 32
)

func newGenerator() (generator, error) {
	bin, err := exec.LookPath("wrk")
	if err != nil {
		return generator{}, errors.New("no wrk on the PATH: install Debian's package wrk (apt-get install wrk)")
	}
	said, _ := exec.Command(bin, "--version").CombinedOutput() // ends with status 1
	return generator{bin, version.FindString(wordAfter(string(said), "wrk"))}, nil
}

// version finds 4.1.0 in what a distribution may call debian/4.1.0-3.
var version = regexp.MustCompile(`\d+(\.\d+)+`)

func (g generator) what() string { return "wrk " + g.version }

// command is what a person would type.
func (g generator) command(seconds int) string {
	return fmt.Sprintf("wrk -c%d -t%d -d%ds", loadClients, loadThreads, seconds)
}

// script makes wrk ask for routes at random. Both sides of a comparison pay for
// it alike.
const script = `
local routes, path = %d, %q
init = function() math.randomseed(os.time() + tonumber(tostring({}):match("0x(%%x+)"), 16) %% 100000) end
request = function()
  return wrk.format("GET", path .. "?nodeName=n" .. math.random(routes) .. "&threadId=1&platform=dev")
end
`

var (
	wrkRate    = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	somethings = regexp.MustCompile(`(?m)^\s*(Non-2xx or 3xx responses: .*|Socket errors: .*)$`)
)

// run asks a path for so many routes and returns the requests a second. A
// request that fails is an error.
func (g generator) run(url, path string, routes, seconds int) (float64, error) {
	dir, err := os.MkdirTemp("", "dynamicforward-load-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "load.lua")
	if err := os.WriteFile(file, fmt.Appendf(nil, script, routes, path), 0o600); err != nil {
		return 0, err
	}
	said, err := g.wrk("-c", strconv.Itoa(loadClients), "-t", strconv.Itoa(loadThreads),
		"-d", fmt.Sprintf("%ds", seconds), "-s", file, url)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	rate := wrkRate.FindSubmatch(said)
	if rate == nil {
		return 0, fmt.Errorf("wrk: no Requests/sec in %s", said)
	}
	return strconv.ParseFloat(string(rate[1]), 64)
}

// wrk runs it and returns what it said. A request that fails is an error.
func (g generator) wrk(args ...string) ([]byte, error) {
	said, err := exec.Command(g.bin, args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("wrk: %w: %s", err, bytes.TrimSpace(said))
	}
	if failed := somethings.Find(said); failed != nil {
		return nil, errors.New(string(bytes.TrimSpace(failed)))
	}
	return said, nil
}
