package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// EchoNode is a node for measurements of sessions: it runs in a process of its
// own, agrees to every handshake and sends back what it gets.
type EchoNode struct {
	addr, dir string
	process   *process
}

// echoNodeAddr is the environment variable that makes ServeEchoNode serve.
const echoNodeAddr = "DYNAMICFORWARD_ECHONODE"

// ServeEchoNode has to be called first by the main function of a program that
// calls StartEchoNode: the node is that program once more.
func ServeEchoNode() {
	addr := os.Getenv(echoNodeAddr)
	if addr == "" {
		return
	}
	light := net.ListenConfig{KeepAlive: -1} // the node shares the processors with what is measured
	l, err := light.Listen(context.Background(), "tcp", addr)
	if err == nil {
		fmt.Println(echoListens)
	}
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			go echo(c)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// echoListens is what the node says when it listens.
const echoListens = "listens"

// switched agrees to a handshake. The key is that of RFC 6455's example.
const switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

func echo(c net.Conn) {
	defer c.Close()
	buffer := make([]byte, 4096)
	for n := 0; !bytes.HasSuffix(buffer[:n], []byte("\r\n\r\n")); {
		read, err := c.Read(buffer[n:])
		if n += read; err != nil || n == len(buffer) {
			return
		}
	}
	if _, err := io.WriteString(c, switched); err != nil {
		return
	}
	_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buffer)
}

// StartEchoNode starts one.
func StartEchoNode() (*EchoNode, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "dynamicforward-echo-")
	if err != nil {
		return nil, err
	}
	n := &EchoNode{dir: dir}
	err = onFreePort(func(addr string) error {
		n.addr = addr
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), echoNodeAddr+"="+addr)
		if n.process, err = startProcess(cmd, filepath.Join(dir, "node.log")); err != nil {
			return err
		}
		listens := func() bool { return strings.Contains(n.process.log(), echoListens) }
		if waitFor(patience, n.process.done, listens) {
			return nil
		}
		if strings.Contains(n.process.log(), syscall.EADDRINUSE.Error()) {
			return errPortTaken
		}
		n.process.stop(time.Second)
		return errors.New("the node does not listen: " + n.process.log())
	})
	if err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

// Addr returns the node's address, host:port.
func (n *EchoNode) Addr() string { return n.addr }

// Stop ends the node and removes its files.
func (n *EchoNode) Stop() {
	if n.process != nil {
		n.process.stop(5 * time.Second)
	}
	_ = os.RemoveAll(n.dir)
}
