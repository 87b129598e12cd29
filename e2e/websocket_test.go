package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// patience bounds what happens at once unless it never does.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open opens a session through the shared Traefik, and returns both ends.
func open(t *testing.T, n *stack.Node, target string, o *websocket.DialOptions) (*websocket.Conn, *stack.Session) {
	t.Helper()
	ctx := patience(t)
	c, _, err := websocket.Dial(ctx, "ws://"+traefik.Addr()+target, o)
	must(t, err)
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(64 << 20)
	s, err := n.Session(ctx, target)
	must(t, err)
	return c, s
}

// session opens a session to a node of its own on the usual route.
func session(t *testing.T) (*websocket.Conn, *stack.Session, *stack.Node) {
	t.Helper()
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	c, s := open(t, n, path+place(t, n.Addr()), nil)
	return c, s, n
}

// wantEcho sends a message and waits for it to come back.
func wantEcho(t *testing.T, c *websocket.Conn, kind websocket.MessageType, message []byte) {
	t.Helper()
	ctx := patience(t)
	must(t, c.Write(ctx, kind, message))
	gotKind, got, err := c.Read(ctx)
	must(t, err)
	if gotKind != kind || !bytes.Equal(got, message) {
		t.Fatalf("sent %v of %d bytes (%.20q), got %v of %d bytes (%.20q)", kind, len(message), message, gotKind, len(got), got)
	}
}

func ended(t *testing.T, s *stack.Session) error {
	t.Helper()
	select {
	case <-s.Ended():
		return s.Err()
	case <-patience(t).Done():
		t.Fatal("the node's session goes on")
		return nil
	}
}

func TestWebSocketEchoes(t *testing.T) {
	c, _, _ := session(t)
	wantEcho(t, c, websocket.MessageText, []byte("hello, node"))
	wantEcho(t, c, websocket.MessageText, []byte("你好"))
	wantEcho(t, c, websocket.MessageBinary, []byte{0, 1, 2, 0xff, 0xfe, '\r', '\n'})
	wantEcho(t, c, websocket.MessageBinary, nil)
}

func TestWebSocketLargeMessages(t *testing.T) {
	c, _, _ := session(t)
	for i := range 8 {
		message := bytes.Repeat([]byte{byte(i), 'a', 'b', 'c', 0, 0xff, 'd', 'e'}, 1<<17) // 1 MiB
		wantEcho(t, c, websocket.MessageBinary, message)
	}
}

// Both directions are full at the same time.
func TestWebSocketBothWaysAtOnce(t *testing.T) {
	c, s, _ := session(t)
	ctx := patience(t)
	const messages = 50
	text := strings.Repeat("x", 100<<10)
	var senders sync.WaitGroup
	senders.Go(func() {
		for range messages {
			if err := s.Send(ctx, text); err != nil {
				t.Error(err)
			}
		}
	})
	senders.Go(func() {
		for range messages {
			if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 * messages {
		_, got, err := c.Read(ctx)
		must(t, err)
		if string(got) != text {
			t.Fatalf("got a message of %d bytes; want %d", len(got), len(text))
		}
	}
	senders.Wait()
}

func TestWebSocketSubprotocol(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	for offered, want := range map[string]string{"chat": "chat", "other, chat": "chat", "other": ""} {
		c, _ := open(t, n, path+place(t, n.Addr()), &websocket.DialOptions{Subprotocols: strings.Split(offered, ", ")})
		if got := c.Subprotocol(); got != want {
			t.Errorf("for %q the subprotocol is %q; want %q", offered, got, want)
		}
		wantEcho(t, c, websocket.MessageText, []byte("hello"))
	}
}

func TestWebSocketPing(t *testing.T) {
	c, s, _ := session(t)
	ctx := patience(t)
	// Either side must read to see the other's pong.
	reading := c.CloseRead(ctx)
	if err := c.Ping(ctx); err != nil {
		t.Errorf("the client's ping: %v", err)
	}
	if err := s.Ping(ctx); err != nil {
		t.Errorf("the node's ping: %v", err)
	}
	if reading.Err() != nil {
		t.Error("the session has ended")
	}
}

func TestClientSeesTheNodesCloseCode(t *testing.T) {
	for _, code := range []websocket.StatusCode{websocket.StatusNormalClosure, websocket.StatusGoingAway, 4001} {
		c, s, _ := session(t)
		closed := make(chan error, 1)
		go func() { closed <- s.Close(code, "moved to another server") }()
		_, _, err := c.Read(patience(t))
		var frame websocket.CloseError
		if !errors.As(err, &frame) || frame.Code != code || frame.Reason != "moved to another server" {
			t.Errorf("the node closed with %d; the client saw %v", code, err)
		}
		if err := <-closed; err != nil {
			t.Errorf("the node did not see the client's close frame: %v", err)
		}
	}
}

func TestNodeSeesTheClientsCloseCode(t *testing.T) {
	for _, code := range []websocket.StatusCode{websocket.StatusNormalClosure, websocket.StatusGoingAway, 4002} {
		c, s, _ := session(t)
		if err := c.Close(code, "bye"); err != nil {
			t.Errorf("the client did not see the node's close frame: %v", err)
		}
		var frame websocket.CloseError
		if err := ended(t, s); !errors.As(err, &frame) || frame.Code != code || frame.Reason != "bye" {
			t.Errorf("the client closed with %d; the node saw %v", code, err)
		}
	}
}

func TestClientSeesAKilledNode(t *testing.T) {
	c, _, n := session(t)
	wantEcho(t, c, websocket.MessageText, []byte("hello"))
	n.Kill()
	_, _, err := c.Read(patience(t))
	if err == nil || errors.Is(err, context.DeadlineExceeded) || websocket.CloseStatus(err) != -1 {
		t.Errorf("the node was killed; the client saw %v; want the connection closed without a close frame", err)
	}
}

func TestClientSeesANodeThatHangsUp(t *testing.T) {
	c, s, _ := session(t)
	must(t, s.CloseNow())
	_, _, err := c.Read(patience(t))
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the node hung up; the client saw %v", err)
	}
}

func TestNodeSeesThatTheClientHasGone(t *testing.T) {
	c, s, n := session(t)
	wantEcho(t, c, websocket.MessageText, []byte("hello"))
	must(t, c.CloseNow())
	if err := ended(t, s); websocket.CloseStatus(err) != -1 {
		t.Errorf("the client has gone; the node saw the close frame %v", err)
	}
	if left := len(n.Sessions()); left != 0 {
		t.Errorf("%d sessions are left", left)
	}
}

// handshake is a WebSocket handshake as a browser sends it. The key is RFC
// 6455's own example, and so is its answer.
func handshake(target string) []string {
	return []string{
		"GET " + target + " HTTP/1.1", "Host: game.example.com", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: other, chat",
		"Origin: https://game.example.com", "User-Agent: a browser", "Cookie: a=1; b=2", "X-Game: yes",
	}
}

const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

func wantSwitched(t *testing.T, resp *http.Response) {
	t.Helper()
	if resp.StatusCode != 101 {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("got %s: %s; want 101", resp.Status, body)
	}
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != sampleAccept {
		t.Errorf("Sec-WebSocket-Accept is %q; want the node's answer %q to the client's own key", got, sampleAccept)
	}
}

func TestHandshakeGoesThroughUnchanged(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	target := path + place(t, n.Addr())
	c := dial(t)
	c.send(t, handshake(target)...)
	resp := c.head(t)
	wantSwitched(t, resp)
	if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "chat" {
		t.Errorf("Sec-WebSocket-Protocol is %q; want the node's chat", got)
	}

	request := seen(t, n)
	if request.Host != "game.example.com" || request.RequestURI != target || request.Proto != "HTTP/1.1" {
		t.Errorf("the node saw %s %s, Host %s", request.RequestURI, request.Proto, request.Host)
	}
	for name, want := range map[string]string{
		"Upgrade": "websocket", "Connection": "Upgrade", "Sec-Websocket-Key": sampleKey, "Sec-Websocket-Version": "13",
		"Sec-Websocket-Protocol": "other, chat", "Origin": "https://game.example.com", "User-Agent": "a browser",
		"Cookie": "a=1; b=2", "X-Game": "yes", "X-Real-Ip": "127.0.0.1", "X-Forwarded-For": "127.0.0.1",
	} {
		if got := request.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("the node saw %s %q; want %q", name, got, want)
		}
		delete(request.Header, name)
	}
	// Little is added, since a node takes a head of 8192 bytes at most.
	for name := range request.Header {
		if !strings.HasPrefix(name, "X-Forwarded-") {
			t.Errorf("the node saw %s, which nobody sent", name)
		}
	}
}

// The names of a handshake's headers arrive as RFC 6455 spells them: there are
// servers that compare them as they are.
func TestHandshakeHeadersKeepTheirSpelling(t *testing.T) {
	path := usual(t)
	heads := make(chan string, 1)
	n := started[*stack.RawNode](t)(stack.StartRawNode(func(c net.Conn) {
		buf := make([]byte, 8192)
		var head []byte
		for !bytes.Contains(head, []byte("\r\n\r\n")) {
			k, err := c.Read(buf)
			if err != nil {
				break
			}
			head = append(head, buf[:k]...)
		}
		heads <- string(head)
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	}))
	c := dial(t)
	c.send(t, append(handshake(path+place(t, n.Addr())), "Sec-WebSocket-Extensions: permessage-deflate")...)
	c.head(t)
	head := <-heads
	for _, line := range []string{
		"Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: other, chat",
		"Sec-WebSocket-Extensions: permessage-deflate", "Upgrade: websocket", "Connection: Upgrade",
	} {
		if !strings.Contains(head, "\r\n"+line+"\r\n") {
			t.Errorf("the head that the node gets has no line %q:\n%s", line, head)
		}
	}
}

// frame is one unfragmented text frame; a client's is masked.
func frame(text string, masked bool) []byte {
	if len(text) > 125 {
		panic("too long for this frame")
	}
	f := []byte{0x81, byte(len(text))}
	if !masked {
		return append(f, text...)
	}
	mask := binary.BigEndian.AppendUint32(nil, 0x12345678)
	f[1] |= 0x80
	f = append(f, mask...)
	for i := range len(text) {
		f = append(f, text[i]^mask[i%4])
	}
	return f
}

func wantFrame(t *testing.T, c *wire, text string) {
	t.Helper()
	want := frame(text, false)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.in, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got the frame %q, %v; want %q", got, err, want)
	}
}

// A client may send its first frame before it has the answer.
func TestClientsFirstFrameComesWithTheHandshake(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	c := dial(t)
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	early := append([]byte(strings.Join(handshake(path+place(t, n.Addr())), "\r\n")+"\r\n\r\n"), frame("early", true)...)
	_, err := c.Write(early)
	must(t, err)
	wantSwitched(t, c.head(t))
	wantFrame(t, c, "early")
	_, err = c.Write(frame("later", true))
	must(t, err)
	wantFrame(t, c, "later")
}

// However much a client sends before it has the answer, all of it arrives: it waits
// in several places, one of them a reader of Traefik's that sessions step past.
func TestWhatComesBeforeTheAnswerArrives(t *testing.T) {
	path := usual(t)
	answer := make(chan struct{})
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		<-answer
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+sampleAccept+"\r\n\r\n")
		_, _ = io.Copy(c, c)
	})))
	c := dial(t)
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	c.send(t, handshake(path+place(t, n.Addr()))...)
	eventually(t, "the handshake is at the node", func() bool { return n.Count() == 1 })
	const early = 20_000
	said := make([]byte, 2*early)
	for i := range said {
		said[i] = byte(i % 251)
	}
	_, err := c.Write(said[:early])
	must(t, err)
	eventually(t, "Traefik has begun to read it", func() bool { return unread(t, c) < early })
	close(answer)
	wantSwitched(t, c.head(t))
	_, err = c.Write(said[early:])
	must(t, err)
	got := make([]byte, len(said))
	if _, err := io.ReadFull(c.in, got); err != nil || !bytes.Equal(got, said) {
		t.Fatalf("what came back is not what was said (%v)", err)
	}
}

// So does what comes along with a handshake, wherever that ends in the 4 kB that each of
// Traefik's two readers takes at a time, and whether it comes at once or in two pieces.
func TestWhatComesWithTheHandshakeArrives(t *testing.T) {
	path := usual(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+sampleAccept+"\r\n\r\n")
		_, _ = io.Copy(c, c)
	})))
	bare := strings.Join(append(handshake(path+place(t, n.Addr())), "X-Pad: "), "\r\n")
	for _, head := range []int{1000, 4095, 4096, 4097, 4196, 6000} {
		text := bare + strings.Repeat("p", head-len(bare)-4) + "\r\n\r\n"
		for _, early := range []int{1, 96, 3096, 4096, 9000} {
			said := make([]byte, early)
			for i := range said {
				said[i] = byte(i % 251)
			}
			for _, first := range []int{0, 100, head - 1, head + 1} {
				c := dial(t)
				must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
				all := append([]byte(text), said...)
				_, err := c.Write(all[:first])
				must(t, err)
				if first > 0 {
					eventually(t, "Traefik has read the first piece", func() bool { return unread(t, c) == 0 })
				}
				_, err = c.Write(all[first:])
				must(t, err)
				wantSwitched(t, c.head(t))
				got := make([]byte, early)
				if _, err := io.ReadFull(c.in, got); err != nil || !bytes.Equal(got, said) {
					t.Errorf("a head of %d bytes, %d more, the first %d by themselves: what came back is not what was said (%v)", head, early, first, err)
				}
				c.Close()
			}
		}
	}
}

// unread returns how much of what a client has sent Traefik has not read yet.
func unread(t *testing.T, c net.Conn) int {
	t.Helper()
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	must(t, err)
	_, waiting, _ := strings.Cut(connectionTo(t, port)[4], ":")
	size, err := strconv.ParseInt(waiting, 16, 0)
	must(t, err)
	return int(size)
}

// A node may send its first frame along with the answer.
func TestNodesFirstFrameComesWithTheAnswer(t *testing.T) {
	path := usual(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + sampleAccept + "\r\n\r\n"
		_, _ = c.Write(append([]byte(answer), frame("welcome", false)...))
		_, _ = io.Copy(io.Discard, c)
	})))
	c := dial(t)
	c.send(t, handshake(path+place(t, n.Addr()))...)
	wantSwitched(t, c.head(t))
	wantFrame(t, c, "welcome")
}

// What a node says last before it closes arrives.
func TestNodesLastFrameArrives(t *testing.T) {
	path := usual(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+sampleAccept+"\r\n\r\n")
		for range 1000 {
			_, _ = c.Write(frame(strings.Repeat("x", 100), false))
		}
		_, _ = c.Write(frame("goodbye", false))
	})))
	c := dial(t)
	c.send(t, handshake(path+place(t, n.Addr()))...)
	wantSwitched(t, c.head(t))
	rest, err := io.ReadAll(c.in)
	must(t, err)
	if want := 1000*102 + len(frame("goodbye", false)); len(rest) != want || !bytes.HasSuffix(rest, []byte("goodbye")) {
		t.Errorf("got %d bytes; want %d that end with goodbye", len(rest), want)
	}
}

func TestNodeRejectsTheHandshake(t *testing.T) {
	path := usual(t)
	n := started[*stack.RawNode](t)(stack.Reject403Node())
	q := place(t, n.Addr())
	c := dial(t)
	for range 2 {
		c.send(t, handshake(path+q)...)
		resp := c.receive(t)
		if resp.StatusCode != 403 || resp.Header.Get("X-Reason") != "list" || resp.body != stack.RejectedBody {
			t.Fatalf("got %s %v: %q; want the node's 403 as it is", resp.Status, resp.Header, resp.body)
		}
	}
	// The connection goes on: with a plain request, and with a session.
	good := startNode(t, stack.NodeOptions{})
	c.send(t, "GET "+path+place(t, good.Addr())+" HTTP/1.1", "Host: localhost")
	wantNode(t, c.receive(t), good)
	c.send(t, handshake(path+place(t, good.Addr()))...)
	wantSwitched(t, c.head(t))
	_, err := c.Write(frame("hello", true))
	must(t, err)
	wantFrame(t, c, "hello")
}

// A node that does not care for WebSockets answers the request.
func TestNodeIgnoresTheUpgrade(t *testing.T) {
	path := usual(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")
	})))
	c := dial(t)
	c.send(t, handshake(path+place(t, n.Addr()))...)
	if resp := c.receive(t); resp.StatusCode != 200 || resp.body != "plain" {
		t.Errorf("got %s: %q; want the node's 200", resp.Status, resp.body)
	}
}

// Every cause gives a handshake the answer that it gives a plain request, and
// leaves the connection usable.
func TestFailedHandshakesAreAnswered(t *testing.T) {
	path := route(t, stack.Options{"serversTransport": stack.Options{
		"forwardingTimeouts": stack.Options{"responseHeaderTimeout": "1s", "dialTimeout": "300ms"},
	}})
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	withoutRedis := route(t, stack.Options{"redis": stack.Options{"endpoints": []string{refusing.Addr()}}})
	cases := []struct {
		target string
		status int
		reason string
	}{
		{path, 400, "bad-request"},
		{path + query(nobody()), 404, "unknown-node"},
		{path + place(t, "no address"), 502, "bad-target"},
		{path + place(t, refusing.Addr()), 502, "node-down"},
		{path + place(t, started[*stack.Full](t)(stack.FullAddr()).Addr()), 502, "node-down"},
		{path + place(t, started[*stack.RawNode](t)(stack.HangingNode()).Addr()), 504, "node-timeout"},
		{withoutRedis + query(nobody()), 503, "redis-down"},
	}
	c := dial(t)
	for _, k := range cases {
		c.send(t, handshake(k.target)...)
		wantAnswer(t, c.receive(t), k.status, k.reason)
	}
	c.send(t, handshake(path+place(t, node.Addr()))...)
	wantSwitched(t, c.head(t))
}

// A client that does not wait for a handshake's answer leaves nothing at the
// node.
func TestClientGivesUpOnAHandshake(t *testing.T) {
	path := usual(t)
	n := started[*stack.RawNode](t)(stack.HangingNode())
	c := dial(t)
	c.send(t, handshake(path+place(t, n.Addr()))...)
	eventually(t, "the handshake is at the node", func() bool { return n.Open() == 1 })
	c.Close()
	eventually(t, "the node's connection is closed", func() bool { return n.Open() == 0 })
}

// A session goes on whatever happens to its route, to Traefik's configuration
// or to Redis.
func TestSessionOutlivesItsRoute(t *testing.T) {
	own := startRedis(t, stack.RedisOptions{})
	path := route(t, redisAt(own))
	n, other := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	put(t, own, "wgamed", n.Addr())
	c, _ := open(t, n, path+query("wgamed"), nil)
	for _, change := range []struct {
		what   string
		happen func()
	}{
		{"a reload", func() { route(t, stack.Options{}) }},
		{"a move", func() { put(t, own, "wgamed", other.Addr()) }},
		{"a removal", func() { do(t, own, "DEL", "game-server_dev_node_wgamed") }},
		{"a kill of Redis", own.Kill},
		{"a reload without Redis", func() { route(t, stack.Options{}) }},
	} {
		change.happen()
		wantEcho(t, c, websocket.MessageText, []byte("after "+change.what))
	}
}

func TestManySessions(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	q := path + place(t, n.Addr())
	const sessions, messages = 100, 20
	ctx := patience(t)
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() {
			if err := play(ctx, fmt.Sprintf("%s&i=%d", q, i), messages); err != nil {
				t.Errorf("session %d: %v", i, err)
			}
		})
	}
	all.Wait()
	eventually(t, "no session is left at the node", func() bool { return len(n.Sessions()) == 0 })
}

// play has one session echo messages that are its own.
func play(ctx context.Context, target string, messages int) error {
	c, _, err := websocket.Dial(ctx, "ws://"+traefik.Addr()+target, nil)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for i := range messages {
		want := fmt.Sprint(target, " message ", i)
		if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			return err
		}
		_, got, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if string(got) != want {
			return fmt.Errorf("got %q; want %q", got, want)
		}
	}
	return c.Close(websocket.StatusNormalClosure, "")
}

// The reset of a client reaches its node, as without a gateway; an end in order is one on
// the other side; and a node's last words reach its client even when it resets. All that
// whatever Traefik's entry point has around the client's connection.
func TestAResetIsPassedOnToTheNodeAlone(t *testing.T) {
	told := make(chan error, 1)
	const resets, closes = "r", "c"
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		order := make([]byte, 1)
		if _, err := c.Read(order); err != nil {
			told <- err
			return
		}
		_, _ = io.WriteString(c, "last words")
		if string(order) == resets {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
	})))
	q := place(t, n.Addr())
	conf := stack.Game(redisAt(redis))
	conf.Routers["secure"] = stack.Router{Rule: "Path(`/ws`)", Middlewares: []string{"wgame"}, TLS: true}
	for entryPoint, options := range map[string]string{"an entry point": "", "one with PROXY protocol": "proxyProtocol: {insecure: true}"} {
		own := start(t, stack.TraefikOptions{Dynamic: conf.YAML(), EntryPoint: options})
		for _, secure := range []bool{false, true} {
			open := func(t *testing.T) (net.Conn, *net.TCPConn) {
				c, err := net.Dial("tcp", own.Addr())
				must(t, err)
				t.Cleanup(func() { c.Close() })
				must(t, c.SetDeadline(time.Now().Add(30*time.Second)))
				tcp := c.(*net.TCPConn)
				if options != "" {
					_, err := io.WriteString(c, "PROXY TCP4 127.0.0.9 127.0.0.1 1234 80\r\n")
					must(t, err)
				}
				if secure {
					c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
				}
				w := &wire{c, bufio.NewReader(c)}
				w.send(t, handshake("/ws"+q)...)
				if resp := w.head(t); resp.StatusCode != 101 {
					t.Fatalf("got %s", resp.Status)
				}
				return c, tcp
			}
			wantTold := func(t *testing.T, want error) {
				t.Helper()
				select {
				case err := <-told:
					if !errors.Is(err, want) {
						t.Errorf("the node was told %v; want %v", err, want)
					}
				case <-patience(t).Done():
					t.Fatalf("the node was told nothing; want %v", want)
				}
			}
			in := fmt.Sprintf("%s, TLS %t: ", entryPoint, secure)
			t.Run(in+"the client resets", func(t *testing.T) {
				_, tcp := open(t)
				must(t, tcp.SetLinger(0))
				tcp.Close()
				wantTold(t, syscall.ECONNRESET)
			})
			t.Run(in+"the client closes", func(t *testing.T) {
				c, _ := open(t)
				c.Close()
				wantTold(t, io.EOF)
			})
			for what, order := range map[string]string{"resets": resets, "closes": closes} {
				t.Run(in+"the node "+what, func(t *testing.T) {
					c, _ := open(t)
					_, err := io.WriteString(c, order)
					must(t, err)
					if said, err := io.ReadAll(c); string(said) != "last words" || err != nil {
						t.Errorf("the client got %q, %v", said, err)
					}
				})
			}
		}
	}
}
