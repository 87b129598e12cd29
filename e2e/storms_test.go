package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// 10,000 handshakes that come to nothing, each in one of the ways in which that
// happens, leave neither a connection nor a goroutine in Traefik.
func TestFailedUpgradesLeaveNothing(t *testing.T) {
	const each, clients = 2000, 100
	w := setup{debug: true, options: stack.Options{"serversTransport": stack.Options{
		"forwardingTimeouts": stack.Options{"responseHeaderTimeout": "1s"},
	}}}.begin(t)
	hanging := started[*stack.RawNode](t)(stack.HangingNode()).Addr()
	resetting := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(reset))).Addr()
	kinds := []struct {
		what, addr string
		status     int // 0: the client goes without waiting for an answer
	}{
		{"a node that is down", started[*stack.Refusing](t)(stack.RefusingAddr()).Addr(), 502},
		{"a node that says no", started[*stack.RawNode](t)(stack.Reject403Node()).Addr(), 403},
		{"a node that resets the connection", resetting, 502},
		{"a client that goes", hanging, 0},
		{"a node that hangs", hanging, 504},
	}
	storm := func(times int) {
		for i, k := range kinds {
			name := fmt.Sprintf("kind%d", i)
			do(t, w.redis, "HSET", key(name), "1", k.addr)
			w.repeat(clients, times, func() error {
				if err := fail(w.traefik.Addr(), "/ws"+query(name), k.status); err != nil {
					return fmt.Errorf("%s: %w", k.what, err)
				}
				return nil
			})
		}
	}
	storm(clients)
	before := w.settled()
	var after holdings
	storm(each)
	eventually(t, "Traefik holds what it held before", func() bool {
		after = w.holdings()
		return after.descriptors <= before.descriptors+5 && after.goroutines <= before.goroutines+10
	})
	t.Logf("before %+v, after %d failed handshakes %+v", before, each*len(kinds), after)
}

// Sessions of which one side says that it is done, and then the other, leave
// neither a connection nor a goroutine in Traefik, and need no garbage collection
// for it.
func TestSessionsThatEndInPeaceLeaveNothing(t *testing.T) {
	const sessions = 200
	w := setup{debug: true}.begin(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(echo)))
	do(t, w.redis, "HSET", key("crowd"), "1", n.Addr())
	end := func(conns []net.Conn) {
		for _, c := range conns {
			must(t, c.(*net.TCPConn).CloseWrite())
			if _, err := io.ReadAll(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	end(w.open(sessions, "crowd")) // some of the goroutines that take handshakes stay
	before := w.settled()
	conns := w.open(sessions, "crowd")
	if during := w.holdings(); during.descriptors < before.descriptors+2*sessions-5 {
		t.Fatalf("%+v before, and %+v during %d sessions", before, during, sessions)
	}
	end(conns)
	var after holdings
	eventually(t, "Traefik holds what it held before", func() bool {
		after = w.holdings()
		return after.descriptors <= before.descriptors+5 && after.goroutines <= before.goroutines+10
	})
	t.Logf("before %+v, after %d sessions %+v", before, sessions, after)
}

// fail tries a handshake and checks how it fails.
func fail(addr, target string, status int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, strings.Join(handshake(target), "\r\n")+"\r\n\r\n"); err != nil || status == 0 {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("got %s; want %d", resp.Status, status)
	}
	return nil
}

// reset ends a connection with a reset.
func reset(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// holdings is what a request could leave behind.
type holdings struct{ descriptors, goroutines int }

func (w *world) holdings() (h holdings) {
	w.t.Helper()
	var err error
	h.descriptors, err = w.traefik.Descriptors()
	must(w.t, err)
	h.goroutines, err = w.traefik.Goroutines()
	must(w.t, err)
	return h
}

// settled returns what is held when that has not changed from one look to the next.
func (w *world) settled() (h holdings) {
	w.t.Helper()
	eventually(w.t, "Traefik has settled", func() bool {
		last := h
		h = w.holdings()
		return h == last
	})
	return h
}

// 9,000 sessions carry messages while Traefik reloads its configuration every
// second for a minute: none is lost, and nothing grows.
func TestSessionsOutliveReloads(t *testing.T) {
	const reloads, warmUp = 60, 5
	sessions := 9000
	if room := (descriptorLimit(t) - 1000) / 2; room < sessions {
		t.Logf("the limit of descriptors leaves room for %d sessions instead of %d", room, sessions)
		sessions = room
	}
	w := setup{debug: true}.begin(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(echo)))
	do(t, w.redis, "HSET", key("crowd"), "1", n.Addr())
	conns := w.open(sessions, "crowd")
	var next, messages atomic.Int64
	var locks [64]sync.Mutex // one message at a time in a session
	talk := func() error {
		i := int(next.Add(1)) % sessions
		lock := &locks[i%len(locks)]
		lock.Lock()
		defer lock.Unlock()
		messages.Add(1)
		if err := ping(conns[i]); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		return nil
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	reload := func(times int) {
		for range times {
			<-second.C
			must(t, w.traefik.Reload(w.conf))
		}
	}
	var before, after footprint
	w.underLoad(4, talk, func() {
		reload(warmUp)
		before = w.footprint()
		reload(reloads)
		after = w.footprint()
	})
	t.Logf("%d sessions, %d messages; before %d reloads: %v; after: %v", sessions, messages.Load(), reloads, before, after)
	for i, c := range conns {
		if err := ping(c); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	if open := n.Open(); open != sessions {
		t.Errorf("the node has %d sessions; want %d", open, sessions)
	}
	if after.goroutines > before.goroutines+reloads {
		t.Errorf("%d goroutines before, %d after", before.goroutines, after.goroutines)
	}
	if after.heap > before.heap+mostHeap(reloads) {
		t.Errorf("a live heap of %d bytes before, %d after", before.heap, after.heap)
	}
}

// What an idle session keeps alive is little. The 4 kB that Traefik's entry point
// brings along for each client are not among it.
func TestAnIdleSessionKeepsLittleAlive(t *testing.T) {
	const sessions, most = 1000, 5400 // a frame more for each direction is 800 bytes more
	w := setup{debug: true}.begin(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(echo)))
	do(t, w.redis, "HSET", key("crowd"), "1", n.Addr())
	w.open(50, "crowd") // what only the first ones cost
	before := w.footprint()
	w.open(sessions, "crowd")
	after := w.footprint()
	each := (after.heap - before.heap) / sessions
	t.Logf("%d bytes of live heap and %d goroutines a session", each, (after.goroutines-before.goroutines)/sessions)
	if each > most {
		t.Errorf("a session keeps %d bytes alive; want %d at most", each, most)
	}
	if grown := after.goroutines - before.goroutines; grown > 2*sessions+20 {
		t.Errorf("%d sessions have %d goroutines; want two each", sessions, grown)
	}
}

// open opens so many sessions by a route.
func (w *world) open(sessions int, name string) []net.Conn {
	w.t.Helper()
	conns := make([]net.Conn, sessions)
	w.t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	var opened atomic.Int64
	w.repeat(16, sessions, func() (err error) {
		i := opened.Add(1) - 1
		conns[i], err = begin(w.traefik.Addr(), "/ws"+query(name))
		return err
	})
	if w.t.Failed() {
		w.t.FailNow()
	}
	return conns
}

// descriptorLimit is how many files and sockets this process and Traefik may
// each have open.
func descriptorLimit(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	return int(min(limit.Cur, 1<<20))
}

// echo agrees to switch protocols and sends back what it gets.
func echo(c net.Conn) {
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+sampleAccept+"\r\n\r\n")
	_, _ = io.CopyBuffer(onlyWriter{c}, onlyReader{c}, make([]byte, 512))
}

// onlyWriter and onlyReader hide what would copy with more memory.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// begin opens a session.
func begin(addr, target string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	defer func() { _ = c.SetDeadline(time.Time{}) }()
	if _, err := io.WriteString(c, strings.Join(handshake(target), "\r\n")+"\r\n\r\n"); err != nil {
		return c, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(onlyReader{c}, 512), nil)
	if err != nil {
		return c, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return c, fmt.Errorf("got %s; want 101", resp.Status)
	}
	return c, nil
}

// ping sends a few bytes through a session and waits for them to come back.
func ping(c net.Conn) error {
	message := [...]byte{1, 2, 3, 4, 5, 6, 7, 8}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write(message[:]); err != nil {
		return err
	}
	var got [len(message)]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		return err
	}
	if got != message {
		return fmt.Errorf("sent %v, got %v", message, got)
	}
	return nil
}
