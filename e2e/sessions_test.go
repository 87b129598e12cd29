package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// wantFull checks that a handshake is refused for want of a place.
func wantFull(t *testing.T, target string) {
	t.Helper()
	c := dial(t)
	c.send(t, handshake(target)...)
	wantAnswer(t, c.receive(t), 503, "node-full")
}

// wantPlace waits until a node has a place again, and returns the session that
// takes it.
func wantPlace(t *testing.T, target string) *wire {
	t.Helper()
	var c *wire
	eventually(t, "a place for a session", func() bool {
		c = dial(t)
		c.send(t, handshake(target)...)
		resp := c.head(t)
		if resp.StatusCode != 101 && resp.StatusCode != 503 {
			t.Fatalf("got %s", resp.Status)
		}
		return resp.StatusCode == 101
	})
	return c
}

// A node holds maxPerNode sessions, those of all routers together, and whatever
// becomes of Traefik's configuration.
func TestANodeHoldsNoMoreSessionsThanMaxPerNode(t *testing.T) {
	free := usual(t)
	limited := route(t, stack.Options{"websocket": stack.Options{"maxPerNode": 2}})
	n := startNode(t, stack.NodeOptions{})
	q := place(t, n.Addr())
	open(t, n, limited+q, nil)
	open(t, n, free+q, nil)
	wantFull(t, limited+q)
	alike := route(t, stack.Options{"websocket": stack.Options{"maxPerNode": 2}}) // and a reload
	wantFull(t, alike+q)
	open(t, n, free+q, nil) // this router knows no limit
	wantNode(t, get(t, limited+q), n)
	other := startNode(t, stack.NodeOptions{})
	open(t, other, limited+place(t, other.Addr()), nil)
}

// However a session ends, or a handshake fails, its place is given back.
func TestThePlaceOfASessionIsGivenBack(t *testing.T) {
	path := route(t, stack.Options{"websocket": stack.Options{"maxPerNode": 1}})
	for what, end := range map[string]func(c *wire, n *stack.Node){
		"the client hangs up":        func(c *wire, _ *stack.Node) { c.Close() },
		"the client says it is done": func(c *wire, _ *stack.Node) { _ = c.Conn.(*net.TCPConn).CloseWrite() },
		"the client resets": func(c *wire, _ *stack.Node) {
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
		},
		"the node hangs up": func(c *wire, n *stack.Node) {
			_ = n.Sessions()[0].CloseNow()
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		},
		"the node is gone": func(_ *wire, n *stack.Node) {
			n.Kill()
			if err := n.Start(); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			n := startNode(t, stack.NodeOptions{})
			target := path + place(t, n.Addr())
			c := wantPlace(t, target)
			wantFull(t, target)
			eventually(t, "the node knows of the session", func() bool { return len(n.Sessions()) == 1 })
			end(c, n)
			wantPlace(t, target)
			wantFull(t, target)
		})
	}
}

func TestAFailedHandshakeTakesNoPlace(t *testing.T) {
	path := route(t, stack.Options{
		"websocket":        stack.Options{"maxPerNode": 1},
		"serversTransport": stack.Options{"forwardingTimeouts": stack.Options{"responseHeaderTimeout": "1s"}},
	})
	for what, at := range map[string]string{
		"403":         started[*stack.RawNode](t)(stack.Reject403Node()).Addr(),
		"502 reset":   started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(net.Conn) {}))).Addr(),
		"502 refused": started[*stack.Refusing](t)(stack.RefusingAddr()).Addr(),
		"504":         started[*stack.RawNode](t)(stack.HangingNode()).Addr(),
	} {
		target := path + place(t, at)
		for range 3 {
			c := dial(t)
			c.send(t, handshake(target)...)
			if resp := c.head(t); !strings.HasPrefix(what, fmt.Sprint(resp.StatusCode)) {
				t.Errorf("%s: got %s", what, resp.Status)
			}
		}
	}
}

// A body would take a handshake past the count, and past all that bounds sessions: nobody
// switches for it, not even with a node that does so unasked.
func TestAHandshakeWithABodyBeginsNoSession(t *testing.T) {
	path := route(t, stack.Options{"websocket": stack.Options{"maxPerNode": 1}})
	eager := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	})))
	target := path + place(t, eager.Addr())
	for _, body := range [][]string{
		{"Content-Length: 4", "", "body"},
		{"Transfer-Encoding: chunked", "", "4", "body", "0", ""},
	} {
		c := dial(t)
		c.send(t, append(handshake(target), body...)...)
		wantAnswer(t, c.receive(t), 502, "node-down")
	}
}

// Never more than maxPerNode, however many come at once.
func TestMaxPerNodeHoldsInARush(t *testing.T) {
	const limit, clients = 10, 200
	path := route(t, stack.Options{"websocket": stack.Options{"maxPerNode": limit}})
	n := startNode(t, stack.NodeOptions{})
	target := path + place(t, n.Addr())
	got := make(chan int)
	for range clients {
		go func() {
			_, resp, err := websocket.Dial(patience(t), "ws://"+traefik.Addr()+target, nil)
			if resp == nil {
				t.Error(err)
				resp = &http.Response{}
			}
			got <- resp.StatusCode
		}()
	}
	counts := map[int]int{}
	for range clients {
		counts[<-got]++
	}
	if counts[101] != limit || counts[503] != clients-limit {
		t.Errorf("got %v; want %d times 101, else 503", counts, limit)
	}
}

// pong is a frame that asks for no answer, so only the client talks.
const pong = "\x8a\x80\x00\x00\x00\x00"

// idleTimeout closes a session on which nobody says anything, and none on which
// one side does.
func TestIdleTimeoutClosesSilentSessions(t *testing.T) {
	path := route(t, stack.Options{"websocket": stack.Options{"idleTimeout": "3s"}})
	n := startNode(t, stack.NodeOptions{})
	hears, speaker := open(t, n, path+place(t, n.Addr()), nil)
	listening := goesOn(hears)
	target := path + place(t, n.Addr())
	speaks := wantPlace(t, target)
	hearer, err := n.Session(patience(t), target)
	must(t, err)
	for range 2 { // one after the other: more than twice idleTimeout
		silent, s := open(t, n, path+place(t, n.Addr()), nil)
		over := goesOn(silent)
		eventually(t, "the silent session ends", func() bool {
			must(t, speaker.Send(t.Context(), "hello"))
			_, err := io.WriteString(speaks, pong)
			must(t, err)
			return !over()
		})
		if err := ended(t, s); err == nil || websocket.CloseStatus(err) != -1 {
			t.Errorf("the node saw %v; want the connection closed without a close frame", err)
		}
	}
	if !listening() {
		t.Error("the session on which the node talks has ended")
	}
	select {
	case <-hearer.Ended():
		t.Error("the session on which the client talks has ended")
	default:
	}
}

// goesOn reads a session. The function it returns tells whether it goes on.
func goesOn(c *websocket.Conn) func() bool {
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			if _, _, err := c.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	return func() bool {
		select {
		case <-over:
			return false
		default:
			return true
		}
	}
}

// closeOnRouteChange closes the sessions whose entry has gone or moved, and those
// alone. The world's options are those of the test.
func closesExactlyThose(t *testing.T, s setup) {
	s.options = stack.Options{"websocket": stack.Options{"closeOnRouteChange": true}}
	w := s.begin(t)
	name := nobody()
	for field := range 4 {
		w.do("HSET", key(name), fmt.Sprint(field), w.a.Addr())
	}
	var players []*websocket.Conn
	for field := range 4 {
		c, _, err := websocket.Dial(patience(t), fmt.Sprintf("ws://%s/ws?nodeName=%s&threadId=%d&platform=dev", w.traefik.Addr(), name, field), nil)
		must(t, err)
		t.Cleanup(func() { c.CloseNow() })
		players = append(players, c)
		wantEcho(t, c, websocket.MessageText, []byte("hello"))
	}
	wantClosed := func(c *websocket.Conn) {
		t.Helper()
		_, _, err := c.Read(patience(t))
		if err == nil || errors.Is(err, context.DeadlineExceeded) || websocket.CloseStatus(err) != -1 {
			t.Errorf("got %v; want the connection closed without a close frame", err)
		}
	}
	wantOpen := func(players ...*websocket.Conn) {
		t.Helper()
		for _, c := range players {
			wantEcho(t, c, websocket.MessageText, []byte("still here"))
		}
	}
	w.do("HSET", key(name), "9", w.b.Addr()) // another field
	w.do("HSET", key(name), "0", w.b.Addr()) // moves
	wantClosed(players[0])
	wantOpen(players[1:]...)
	w.do("HDEL", key(name), "1") // goes
	wantClosed(players[1])
	wantOpen(players[2:]...)

	w.redis.Kill()
	wantOpen(players[2:]...)
	must(t, w.redis.Restart(func(do func(command string, args ...any) (any, error)) error {
		_, err := do("HSET", key(name), "2", w.b.Addr(), "3", w.a.Addr()) // meanwhile
		return err
	}))
	if s.noPush {
		w.forbidClient()
	}
	wantClosed(players[2])
	wantOpen(players[3])
	w.do("FLUSHALL")
	wantClosed(players[3])
}

func TestCloseOnRouteChangeClosesExactlyThose(t *testing.T) {
	closesExactlyThose(t, setup{})
}

// Where Redis does not push, what has changed is found by reading.
func TestCloseOnRouteChangeWithoutPush(t *testing.T) {
	closesExactlyThose(t, setup{noPush: true, cache: stack.Options{"ttl": "1s", "negativeTTL": "1s"}})
}

// Both connections of a session have TCP keep-alive, so a peer that has gone
// without a word is found.
func TestBothSidesOfASessionHaveKeepAlive(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc/net/tcp")
	}
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	c := dial(t)
	c.send(t, handshake(path+place(t, n.Addr()))...)
	wantSwitched(t, c.head(t))
	_, nodePort, err := net.SplitHostPort(n.Addr())
	must(t, err)
	_, clientPort, err := net.SplitHostPort(c.LocalAddr().String())
	must(t, err)
	for side, port := range map[string]string{"node": nodePort, "client": clientPort} {
		eventually(t, "keep-alive towards the "+side, func() bool { return keepAliveTowards(t, port) })
	}
}

// keepAliveTowards tells whether the open connection to a port has the timer of
// keep-alive: 02 in the column tr.
func keepAliveTowards(t *testing.T, port string) bool {
	t.Helper()
	columns := connectionTo(t, port)
	return columns != nil && strings.HasPrefix(columns[5], "02:")
}

// connectionTo returns what /proc/net/tcp says of the open connection to a port, or
// nil.
func connectionTo(t *testing.T, port string) []string {
	t.Helper()
	number, err := strconv.Atoi(port)
	must(t, err)
	table, err := os.ReadFile("/proc/net/tcp6")
	if !errors.Is(err, fs.ErrNotExist) { // as it is without IPv6
		must(t, err)
	}
	four, err := os.ReadFile("/proc/net/tcp")
	must(t, err)
	for line := range strings.Lines(string(table) + string(four)) {
		columns := strings.Fields(line)
		if len(columns) > 5 && strings.HasSuffix(columns[2], fmt.Sprintf(":%04X", number)) && columns[3] == "01" {
			return columns
		}
	}
	return nil
}
