package stack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// RawNode is a node that speaks bytes, to misbehave as no HTTP server would.
type RawNode struct {
	listener net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	count int
	ended bool
}

// StartRawNode starts a node that gives each connection to serve, in a
// goroutine of its own, and closes it when serve returns.
func StartRawNode(serve func(net.Conn)) (*RawNode, error) {
	return StartRawNodeAt("127.0.0.1:0", serve)
}

// StartRawNodeAt is StartRawNode at an address, host:port. On a loopback address of
// its own a node meets nobody who takes it for one that had the port before, as a
// test beside this one may that dials a dead node over and over.
func StartRawNodeAt(addr string, serve func(net.Conn)) (*RawNode, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	n := &RawNode{listener: l, conns: map[net.Conn]bool{}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !n.add(c) {
				c.Close()
				return
			}
			go func() {
				defer n.remove(c)
				serve(c)
			}()
		}
	}()
	return n, nil
}

func (n *RawNode) add(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return false
	}
	n.conns[c] = true
	n.count++
	return true
}

func (n *RawNode) remove(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
	c.Close()
}

// Addr returns the node's address, host:port.
func (n *RawNode) Addr() string { return n.listener.Addr().String() }

// Count returns how many connections the node has taken.
func (n *RawNode) Count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count
}

// Open returns how many connections are open.
func (n *RawNode) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// Stop closes the listener and every connection.
func (n *RawNode) Stop() {
	n.listener.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
	for c := range n.conns {
		c.Close()
	}
}

// HangingNode takes connections and requests, and never answers.
func HangingNode() (*RawNode, error) {
	return StartRawNode(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// CutShortNode promises a body of 1000 bytes, sends ten and closes.
func CutShortNode() (*RawNode, error) {
	return StartRawNode(AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n0123456789")
	}))
}

// RejectedBody is what Reject403Node says.
const RejectedBody = "you are not on the list\n"

// Reject403Node answers every request, upgrades included, with 403,
// RejectedBody and the header X-Reason: list, and keeps the connection.
func Reject403Node() (*RawNode, error) {
	return StartRawNode(func(c net.Conn) {
		for in := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprintf(c, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nX-Reason: list\r\nContent-Length: %d\r\n\r\n%s",
				len(RejectedBody), RejectedBody)
		}
	})
}

// AfterRequest makes a function for StartRawNode that reads the head of one
// request and then calls serve.
func AfterRequest(serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		serve(c)
	}
}

// Refusing is an address at which connections are refused. The port is held,
// so that nobody else starts to listen there.
type Refusing struct {
	fd   int
	addr string
}

// RefusingAddr takes a port without listening on it.
func RefusingAddr() (*Refusing, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	r := &Refusing{fd: fd}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		r.Stop()
		return nil, err
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		r.Stop()
		return nil, err
	}
	r.addr = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	return r, nil
}

// Addr returns the address, host:port.
func (r *Refusing) Addr() string { return r.addr }

// Stop gives the port back.
func (r *Refusing) Stop() { _ = syscall.Close(r.fd) }

// Full is an address at which connections are neither taken nor refused: the
// backlog is full, as that of a machine that has gone looks from outside.
type Full struct {
	fd    int
	addr  string
	conns []net.Conn // that fill the backlog

	server *http.Server // nil: nobody accepts yet
}

// FullAddr listens on a port without ever accepting, and fills its backlog.
func FullAddr() (*Full, error) {
	r, err := RefusingAddr()
	if err != nil {
		return nil, err
	}
	f := &Full{fd: r.fd, addr: r.addr}
	if err := syscall.Listen(f.fd, 0); err != nil {
		f.Stop()
		return nil, err
	}
	for range 16 {
		c, err := net.DialTimeout("tcp", f.addr, 200*time.Millisecond)
		if err != nil {
			return f, nil
		}
		f.conns = append(f.conns, c)
	}
	f.Stop()
	return nil, errors.New("a port whose backlog should be full goes on taking connections")
}

// Addr returns the address, host:port.
func (f *Full) Addr() string { return f.addr }

// Serve makes the address answer, as when the machine is back.
func (f *Full) Serve(handler http.Handler) error {
	if err := syscall.Listen(f.fd, 1024); err != nil {
		return err
	}
	file := os.NewFile(uintptr(f.fd), f.addr)
	l, err := net.FileListener(file)
	if err != nil {
		return err
	}
	f.fd = -1
	_ = file.Close()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
	f.server = &http.Server{Handler: handler}
	go func() { _ = f.server.Serve(l) }()
	return nil
}

// Dials returns the local ports from which somebody is dialing the address
// without an answer so far, each once. It reads /proc/net/tcp, which the system makes
// piece by piece: what changes meanwhile can have it list a connection twice.
func (f *Full) Dials() ([]string, error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(f.addr)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	var ports []string
	for line := range strings.Lines(string(table)) {
		columns := strings.Fields(line)
		if len(columns) > 3 && columns[3] == synSent && strings.HasSuffix(columns[2], fmt.Sprintf(":%04X", number)) {
			ports = append(ports, columns[1])
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

// synSent is /proc/net/tcp's name for the state of a connection that waits for
// the answer to its SYN.
const synSent = "02"

// Stop gives the port back.
func (f *Full) Stop() {
	if f.server != nil {
		_ = f.server.Close()
		return
	}
	for _, c := range f.conns {
		c.Close()
	}
	_ = syscall.Close(f.fd)
}
