package dynamicforward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/traefik/genconf/dynamic"
)

// rawNode is a node that hands each connection, with its handshake read, to
// serve. It returns its address.
func rawNode(t *testing.T, serve func(conn net.Conn, reader *bufio.Reader, handshake string)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	end := func() { listener.Close() }
	t.Cleanup(end)
	one := func(conn net.Conn) {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(fakeRedisPatience))
		reader := bufio.NewReader(conn)
		handshake := ""
		for !strings.HasSuffix(handshake, "\r\n\r\n") {
			line, err := reader.ReadString('\n')
			if err != nil {
				return
			}
			handshake += line
		}
		serve(conn, reader, handshake)
	}
	accept := func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go one(conn)
		}
	}
	go accept()
	return listener.Addr().String()
}

// handshakeText is a client's handshake. What follows it comes along with it.
func handshakeText(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: game.example.com\r\nConnection: keep-alive, Upgrade, close\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Dynamicforward-Node: forged\r\n\r\n"
}

// rawClient sends text to the gateway and returns the connection.
func rawClient(t *testing.T, gateway, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(gateway, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	end := func() { conn.Close() }
	t.Cleanup(end)
	_ = conn.SetDeadline(time.Now().Add(fakeRedisPatience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"

// sessionGateway is a gateway with the node as wgamed.
func sessionGateway(t *testing.T, node string) string {
	t.Helper()
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", node)
	return testGateway(t, testConfig(redis.addr))
}

func TestAHandshakeReachesTheNodeAsItWas(t *testing.T) {
	saw := make(chan string, 1)
	keep := func(_ net.Conn, _ *bufio.Reader, handshake string) { saw <- handshake }
	gateway := sessionGateway(t, rawNode(t, keep))
	rawClient(t, gateway, handshakeText(wgamed))
	want := "GET " + wgamed + " HTTP/1.1\r\nHost: game.example.com\r\nConnection: Upgrade\r\n" +
		"Upgrade: websocket\r\nX-Forwarded-For: 127.0.0.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
	if got := <-saw; got != want {
		t.Errorf("the node saw\n%s\nwant\n%s", got, want)
	}
}

func TestAShortcutTakesNoForgedHeadersAlong(t *testing.T) {
	saw := make(chan string, 1)
	keep := func(_ net.Conn, _ *bufio.Reader, handshake string) { saw <- handshake }
	node := rawNode(t, keep)
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", node)
	m, direct, wgamedsWay := newLaneMiddleware(context.Background(), t, redis.addr, "")
	usual := strings.Replace(handshakeText(wgamed), "keep-alive, Upgrade, close", "Upgrade", 1)
	usual = strings.Replace(usual, "X-Dynamicforward-Node: forged\r\n", "", 1)
	rawClient(t, strings.TrimSuffix(direct, wgamed), usual)
	<-saw
	if wgamedsWay() == nil {
		t.Fatal("there is no shortcut")
	}
	gateway, seen := asTraefik(t, m)
	for _, c := range []struct{ before, after, unwanted string }{
		{"", "", "forged"},
		{"\r\n\r\n", "\r\nX-Dynamicforward-Node: forged\r\n\r\n", "forged"},
		{"\r\nUpgrade", "\r\nx-dynamicforward-error: forged\r\nUpgrade", "forged"},
		{"\r\nHost", "\r\nX-Dynamicforward-: forged\r\nHost", "forged"},
		{"Connection: Upgrade", "Connection: keep-alive, Upgrade\r\nX-Dynamicforward-Error: forged", "forged"},
		{"Connection: Upgrade", "Connection: Upgrade, X-Dynamicforward-Error\r\nX-Dynamicforward-Error: forged", "forged"},
		{"Connection: Upgrade", "Connection: close", "Upgrade"}, // no handshake
	} {
		rawClient(t, gateway, strings.Replace(usual, c.before, c.after, 1))
		if got := <-saw; strings.Contains(got, c.unwanted) {
			t.Errorf("%q: the node saw\n%s", c.after, got)
		}
		wantNoForgery(t, c.after, <-seen, node)
	}
	waitFor(t, "the places among the sessions", func() bool { return sessionsOf(node) == 0 })
}

func TestTrailersAreWantedThoughTEBelongsToTheConnection(t *testing.T) {
	saw := make(chan string, 1)
	keep := func(_ net.Conn, _ *bufio.Reader, handshake string) { saw <- handshake }
	gateway := sessionGateway(t, rawNode(t, keep))
	text := strings.Replace(handshakeText(wgamed), "keep-alive, Upgrade, close", "Upgrade, TE\r\nTE: gzip, trailers", 1)
	rawClient(t, gateway, text)
	if got := <-saw; !strings.Contains(got, "\r\nTe: trailers\r\n") || strings.Contains(got, "gzip") {
		t.Errorf("the node saw\n%s", got)
	}
}

func TestWhatEitherSideSendsEarlyIsNotLost(t *testing.T) {
	echo := func(conn net.Conn, reader *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, switching+"from the node\n")
		line, _ := reader.ReadString('\n')
		_, _ = io.WriteString(conn, "echo "+line)
	}
	gateway := sessionGateway(t, rawNode(t, echo))
	_, reader := rawClient(t, gateway, handshakeText(wgamed)+"from the client\n")
	all, err := io.ReadAll(reader)
	if want := switching + "from the node\necho from the client\n"; err != nil || !strings.HasSuffix(string(all), "from the node\necho from the client\n") || len(all) != len(want) {
		t.Errorf("got %q, %v", all, err)
	}
}

func TestEachSideIsToldWhenTheOtherIsDone(t *testing.T) {
	told := make(chan error, 1)
	listen := func(conn net.Conn, reader *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, switching)
		_, err := io.ReadAll(reader) // until the client is done
		told <- err
		_, _ = io.WriteString(conn, "last words")
	}
	gateway := sessionGateway(t, rawNode(t, listen))
	conn, reader := rawClient(t, gateway, handshakeText(wgamed))
	if _, err := http.ReadResponse(reader, nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err != nil {
		t.Errorf("the node was told %v", err)
	}
	if rest, err := io.ReadAll(reader); string(rest) != "last words" || err != nil {
		t.Errorf("after the node was done the client got %q, %v", rest, err)
	}
}

func TestANodeThatBreaksOffEndsTheSession(t *testing.T) {
	reset := func(conn net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, switching)
		one := make([]byte, 1)
		_, _ = conn.Read(one)
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	gateway := sessionGateway(t, rawNode(t, reset))
	conn, reader := rawClient(t, gateway, handshakeText(wgamed))
	if _, err := http.ReadResponse(reader, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(reader); len(rest) != 0 { // ends at all
		t.Errorf("got %q", rest)
	}
}

func TestFailedUpgradesAreAnswered(t *testing.T) {
	for _, c := range []struct {
		name, answer, want, wantBody string
	}{
		{"refusal", "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\nX-Why: banned\r\nConnection: close\r\n\r\nbanned", "403", "banned"},
		{"chunked", "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nban\r\n3\r\nned\r\n0\r\n\r\n", "403", "banned"},
		{"200", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200", "ok"},
		{"early hints first", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "103 404", ""},
		{"nothing", "", "502", "node-down: the node cannot be reached\n"},
		{"no HTTP", "SSH-2.0-x\r\n\r\n", "502", "node-down: the node cannot be reached\n"},
		{"200 that speaks of switching", "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n\r\n\r\n", "200", "\r\n"},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "502", "node-down: the node cannot be reached\n"},
		{"another protocol, and words", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\r\nUpgrade: websocket\r\n\r\n", "502", "node-down: the node cannot be reached\n"},
		{"a control character", strings.Replace(switching, "Sec-WebSocket-Accept: x", "X-Node: \x01", 1), "502", "node-down: the node cannot be reached\n"},
		{"half an end of line", strings.Replace(switching, "Sec-WebSocket-Accept: x", "X-Node: a\rb", 1), "502", "node-down: the node cannot be reached\n"},
		{"a line without a colon", strings.Replace(switching, "Sec-WebSocket-Accept: x", "no colon", 1), "502", "node-down: the node cannot be reached\n"},
		{"a header without a name", strings.Replace(switching, "Sec-WebSocket-Accept: x", ": 1", 1), "502", "node-down: the node cannot be reached\n"},
		{"1xx without end", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 2*maxInformational), strings.Repeat("102 ", maxInformational) + "502", "node-down: the node cannot be reached\n"},
	} {
		answer := c.answer
		say := func(conn net.Conn, _ *bufio.Reader, _ string) { _, _ = io.WriteString(conn, answer) }
		gateway := sessionGateway(t, rawNode(t, say))
		_, reader := rawClient(t, gateway, handshakeText(wgamed))
		response, err := http.ReadResponse(reader, nil)
		got := ""
		for ; err == nil && response.StatusCode < 200; response, err = http.ReadResponse(reader, nil) {
			got += fmt.Sprint(response.StatusCode, " ")
		}
		if err != nil {
			t.Errorf("%s: %s%v", c.name, got, err)
			continue
		}
		if response.Header.Get("Link") != "" {
			t.Errorf("%s: the answer has the hint's header", c.name)
		}
		if response.Header.Get("Upgrade") != "" {
			t.Errorf("%s: the answer has what belongs to the node's connection", c.name)
		}
		body, err := io.ReadAll(response.Body)
		if got += fmt.Sprint(response.StatusCode); got != c.want || string(body) != c.wantBody || err != nil {
			t.Errorf("%s: got %s %q %v, want %s %q", c.name, got, body, err, c.want, c.wantBody)
		}
		if c.name == "refusal" && response.Header.Get("X-Why") != "banned" {
			t.Errorf("%s: headers %v", c.name, response.Header)
		}
	}
	gateway := sessionGateway(t, refused(t))
	_, reader := rawClient(t, gateway, handshakeText(wgamed))
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 502 {
		t.Errorf("refused: got %v, %v", response, err)
	}
}

func TestAnotherProtocolThanWasAskedForIsNoAgreement(t *testing.T) {
	agree := func(conn net.Conn, _ *bufio.Reader, _ string) { _, _ = io.WriteString(conn, switching) }
	gateway := sessionGateway(t, rawNode(t, agree))
	_, reader := rawClient(t, gateway, strings.Replace(handshakeText(wgamed), "websocket", "chat", 1))
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 502 {
		t.Errorf("got %v, %v", response, err)
	}
}

func TestHalfAnAgreementIsNone(t *testing.T) {
	half := func(conn net.Conn, reader *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
		_, _ = reader.ReadByte()
	}
	redis := newPushingRedis(t)
	redis.hset(wgamedKey, "1", rawNode(t, half))
	config := testConfig(redis.addr)
	config.ServersTransport = &dynamic.ServersTransport{ForwardingTimeouts: &dynamic.ForwardingTimeouts{ResponseHeaderTimeout: "50ms"}}
	_, reader := rawClient(t, testGateway(t, config), handshakeText(wgamed))
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 504 {
		t.Errorf("got %v, %v", response, err)
	}
}

// The client gets the node's agreement as it is, unless something has to be added, or it
// does not come at once and alone: then in another order.
func TestAnAgreementReachesTheClient(t *testing.T) {
	const said = "HTTP/1.1 101 Go On\r\nUpgrade: websocket\r\nx-lower: 1\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
	for _, c := range []struct {
		name   string
		answer string
		others http.Header // what other middlewares have for the client
		debug  bool
		want   string // "": the answer as it is
	}{
		{"at once", said, nil, false, ""},
		{"behind Traefik", said, http.Header{"Content-Type": nil}, false, ""},
		{"too long to be read at once", strings.Replace(said, "1\r", strings.Repeat("1", answerBuffer)+"\r", 1), nil, false, "X-Lower: 1"},
		{"with a first word", said + "hello\n", nil, false, "X-Lower: 1\r\n"},
		{"with a content type", said, http.Header{"Content-Type": {"text/x"}}, false, "Content-Type: text/x\r\n"},
		{"with another header", said, http.Header{"X-More": {"1"}}, false, "X-More: 1\r\n"},
		{"with both", said, http.Header{"Content-Type": nil, "X-More": {"1"}}, false, "X-More: 1\r\n"},
		{"with debugHeaders", said, nil, true, "X-Dynamicforward-Node: 127.0.0.1:"},
	} {
		answer := c.answer
		agree := func(conn net.Conn, reader *bufio.Reader, _ string) {
			_, _ = io.WriteString(conn, answer)
			_, _ = io.Copy(conn, reader)
		}
		redis := newPushingRedis(t)
		redis.hset(wgamedKey, "1", rawNode(t, agree))
		config := testConfig(redis.addr)
		config.DebugHeaders = c.debug
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
		if err != nil {
			t.Fatal(err)
		}
		plugin := m.handler()
		others := c.others
		outer := func(w http.ResponseWriter, r *http.Request) {
			for name, values := range others {
				w.Header()[name] = values
			}
			plugin.ServeHTTP(w, r)
		}
		conn, reader := rawClient(t, serveMiddleware(t, http.HandlerFunc(outer)), handshakeText(wgamed))
		head := ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := reader.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %q, %v", c.name, head, err)
			}
			head += line
		}
		if c.want == "" && head != said || !strings.Contains(head, c.want) || !strings.Contains(head, "\r\nSec-WebSocket-Accept: x\r\n") {
			t.Errorf("%s: the client got\n%s", c.name, head)
		}
		if !strings.HasSuffix(answer, "hello\n") {
			_, _ = io.WriteString(conn, "hello\n")
		}
		if line, err := reader.ReadString('\n'); line != "hello\n" {
			t.Errorf("%s: then the client gets %q, %v", c.name, line, err)
		}
	}
}

func TestAProtocolThatIsNoTextIsForTheNodeToDecline(t *testing.T) {
	decline := func(conn net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nbanned")
	}
	gateway := sessionGateway(t, rawNode(t, decline))
	_, reader := rawClient(t, gateway, strings.Replace(handshakeText(wgamed), "websocket", "web\xffsocket", 1))
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(response.Body); response.StatusCode != 403 || string(body) != "banned" || err != nil {
		t.Errorf("got %d %q, %v", response.StatusCode, body, err)
	}
}

func TestADeclinedAnswerEndsWithItsClient(t *testing.T) {
	ended := make(chan error, 1)
	begin := func(conn net.Conn, reader *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nbanned until")
		_, err := io.Copy(io.Discard, reader)
		ended <- err
	}
	gateway := sessionGateway(t, rawNode(t, begin))
	client, reader := rawClient(t, gateway, handshakeText(wgamed))
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 403 {
		t.Fatalf("got %v, %v", response, err)
	}
	client.Close()
	if err := <-ended; isTimeout(err) {
		t.Error("the node goes on answering a client that has gone")
	}
}

// Who breaks it off, the client or responseHeaderTimeout, makes no difference to the node;
// and the handshakes that the same ushers take afterwards are left alone.
func TestAHandshakeThatIsBrokenOffEndsAtTheNode(t *testing.T) {
	begun := make(chan bool, 1)
	ended := make(chan error, 1)
	var agrees atomic.Bool
	hang := func(conn net.Conn, reader *bufio.Reader, _ string) {
		if agrees.Load() {
			_, _ = io.WriteString(conn, switching)
		}
		begun <- true
		_, err := io.Copy(conn, reader)
		ended <- err
	}
	redis := newPushingRedis(t)
	node := rawNode(t, hang)
	_, port, _ := strings.Cut(node, ":")
	redis.hset("game-server_dev_node_wgamed", "1", node)
	redis.hset("game-server_dev_node_wgamed", "2", "localhost:"+port)
	config := testConfig(redis.addr)
	config.ServersTransport = &dynamic.ServersTransport{}
	config.ServersTransport.ForwardingTimeouts = &dynamic.ForwardingTimeouts{ResponseHeaderTimeout: "1h"}
	patient := testGateway(t, config)
	config.ServersTransport.ForwardingTimeouts = &dynamic.ForwardingTimeouts{ResponseHeaderTimeout: "1s"}
	gateway := testGateway(t, config)
	byName := strings.Replace(wgamed, "threadId=1", "threadId=2", 1)
	for i, path := range []string{wgamed, wgamed, byName, byName} {
		goes := i%2 == 0
		at := gateway
		if goes {
			at = patient // or the time-out would end it as well
		}
		client, reader := rawClient(t, at, handshakeText(path))
		<-begun
		if goes {
			client.Close()
		} else if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 504 {
			t.Errorf("too late: got %v, %v", response, err)
		}
		if err := <-ended; isTimeout(err) {
			t.Fatalf("%d: the node goes on with a handshake that has been broken off", i)
		}
	}
	agrees.Store(true)
	for i := 0; i < 2*maxUshers; i++ {
		client, reader := rawClient(t, gateway, handshakeText(wgamed))
		if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 101 {
			t.Fatalf("afterwards: got %v, %v", response, err)
		}
		<-begun
		if _, err := io.WriteString(client, "hi"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(reader, make([]byte, 2)); err != nil {
			t.Fatalf("afterwards: %v", err)
		}
		client.Close()
		<-ended
	}
}

func TestASessionCarriesMuchAndLittle(t *testing.T) {
	echo := func(conn net.Conn, reader *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, switching)
		_, _ = io.Copy(conn, reader)
	}
	gateway := sessionGateway(t, rawNode(t, echo))
	conn, reader := rawClient(t, gateway, handshakeText(wgamed))
	if _, err := http.ReadResponse(reader, nil); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 100, smallBuffer, smallBuffer + 1, middle1k + 1, middle4k + 1, stint - 1, stint, stint + 1, calmBuffers*middle4k + 1, 8 << 20, 3, smallBuffer} {
		sent := make([]byte, size)
		for i := 0; i < len(sent); i += 251 {
			sent[i] = byte(i)
		}
		write := func() { _, _ = conn.Write(sent) }
		go write()
		got := make([]byte, size)
		if _, err := io.ReadFull(reader, got); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if string(got) != string(sent) {
			t.Fatalf("%d bytes came back changed", size)
		}
	}
	// What has been looked at for much to carry may be silent for longer than that took.
	_ = conn.SetReadDeadline(time.Now().Add(longQuiets * quiet))
	if _, err := reader.ReadByte(); !isTimeout(err) {
		t.Fatalf("in silence: %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(fakeRedisPatience))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(reader); len(rest) != 0 || err != nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// direct is a direction whose stint is over, from talker to listener.
func direct(t *testing.T) (d *direction, talker, listener net.Conn) {
	t.Helper()
	talker, client := tcpPair(t)
	listener, node := tcpPair(t)
	d = newDirection()
	d.t = &tunnel{client: client, node: node}
	d.from = client
	d.to = node
	d.dst = io.MultiWriter(node)
	d.src.R = client
	return d, talker, listener
}

// rest hands a direction over whose stint is over.
func rest(t *testing.T, d *direction) {
	t.Helper()
	handed := func() bool { return reflect.ValueOf(rested).TrySend(reflect.ValueOf(d)) }
	waitFor(t, "somebody who takes stock", handed)
}

// deadlines is a connection that notes until when reads of it may take.
type deadlines struct {
	net.Conn
	set       chan time.Time
	meanwhile func() // happens while the first is set
}

// SetReadDeadline implements net.Conn.
func (c *deadlines) SetReadDeadline(at time.Time) error {
	c.set <- at
	if c.meanwhile != nil {
		c.meanwhile()
		c.meanwhile = nil
	}
	return c.Conn.SetReadDeadline(at)
}

// noteDeadlines has a direction's deadlines noted.
func noteDeadlines(d *direction) *deadlines {
	noted := &deadlines{Conn: d.from, set: make(chan time.Time, 10)}
	d.from = noted
	d.src.R = noted
	return noted
}

// next waits for the next deadline.
func (c *deadlines) next(t *testing.T) time.Time {
	t.Helper()
	which, at := choose(c.set, time.After(fakeRedisPatience))
	if which == 1 {
		t.Fatal("nobody sets a deadline")
	}
	return at.(time.Time)
}

// endsStint tells whether a stint with a buffer of that size, which is new if it is a
// middle one, may last until then.
func endsStint(until time.Time, buffer int) bool {
	if buffer == smallBuffer {
		return until.IsZero()
	}
	left := time.Until(until)
	return left > lull/2 && left <= lull
}

func TestADirectionThatCarriesMuchStaysLonger(t *testing.T) {
	for _, c := range []struct {
		name string
		more int // bytes that come in the second stay, which is twice as long as the first
		stay bool
		want int64
		with int // bytes of the buffer then
	}{
		{"nothing", 0, false, smallBuffer, smallBuffer},
		{"what was enough for the first", largeBuffer + middle4k, false, smallBuffer, middle4k},
		{"twice that", 2*largeBuffer + middle4k, true, smallBuffer, smallBuffer},
	} {
		d, talker, listener := direct(t)
		noted := noteDeadlines(d)
		if _, err := talker.Write(make([]byte, 3*largeBuffer)); err != nil {
			t.Fatal(err)
		}
		read := func() { _, _ = io.Copy(io.Discard, listener) }
		go read()
		d.src.N = 0
		d.lulls = longLulls // as its last middle buffer has left it
		go takeStock(d)
		noted.next(t) // of the look before
		first := noted.next(t)
		second := noted.next(t)
		if second.Sub(first) < 2*quiet {
			t.Errorf("%s: the second stay ends %s after the first", c.name, second.Sub(first))
		}
		if _, err := talker.Write(make([]byte, c.more)); err != nil {
			t.Fatal(err)
		}
		if c.stay {
			if third := noted.next(t); third.Sub(second) < 4*quiet {
				t.Errorf("%s: the third stay ends %s after the second", c.name, third.Sub(second))
			}
		}
		if last := noted.next(t); !endsStint(last, c.with) {
			t.Errorf("%s: there is one stay too many, or the deadline %s is left", c.name, last)
		}
		if which, _ := choose(d.again, time.After(fakeRedisPatience)); which == 1 || d.src.N != c.want || len(d.buffer) != c.with {
			t.Errorf("%s: the next stint has %d bytes, with a buffer of %d; want %d, %d", c.name, d.src.N, len(d.buffer), c.want, c.with)
		}
	}
}

// Whoever reads on after a reset sees an end in order.
func TestAResetEndsAStayThatHasPaid(t *testing.T) {
	d, talker, listener := direct(t)
	const much = 3 * largeBuffer
	if _, err := talker.Write(make([]byte, much)); err != nil {
		t.Fatal(err)
	}
	d.src.N = 0
	go takeStock(d)
	if _, err := io.ReadFull(listener, make([]byte, much)); err != nil {
		t.Fatal(err)
	}
	_ = talker.(*net.TCPConn).SetLinger(0)
	talker.Close()
	if !wasReset(t, listener) {
		t.Error("the other side is told of an end in order")
	}
}

func TestAStayIsNoLongerThanWhatMayBeUntold(t *testing.T) {
	for _, c := range []struct {
		limit time.Duration
		want  []int
	}{
		{0, []int{1, 2, 4, 8, 8}},
		{minIdleTimeout, []int{1, 1}},
		{2 * minIdleTimeout, []int{1, 2, 2}},
		{time.Minute, []int{1, 2, 4, 8, 8}},
	} {
		session := &tunnel{}
		if c.limit > 0 {
			session.silence = newSilence(c.limit)
		}
		for i := 1; i < len(c.want); i++ {
			if got := longer(session, c.want[i-1]); got != c.want[i] {
				t.Errorf("with %s, after %d: %d, want %d", c.limit, c.want[i-1], got, c.want[i])
			}
		}
	}
}

func TestADirectionThatWasOnlyToTellGoesOn(t *testing.T) {
	limit := time.Hour
	for _, c := range []struct {
		name    string
		since   time.Duration
		carried int64
		half    string // when the other side is done
		inTurn  bool   // no goroutine of its own takes stock, which would have to know its stint
		again   bool
		told    bool // that it has carried something
	}{
		{"it has carried", limit, 1, "", true, true, true},
		{"it has carried after long", 2 * limit, 1, "", true, true, true},
		{"it has not, the session may have", limit, 0, "", true, true, false},
		{"silence", limit + limit/2, 0, "", false, false, false},
		{"the last words", limit, 0, "before", false, true, false},
		{"the last words begin", limit, 0, "meanwhile", true, true, false},
	} {
		d, _, _ := direct(t)
		noted := noteDeadlines(d)
		d.t.silence = newSilence(limit)
		since := time.Now().Add(-c.since)
		d.t.silence.since.Store(moment(since))
		d.carried = c.carried
		d.err = os.ErrDeadlineExceeded
		d.src.N = 1
		if c.inTurn {
			d.src = nil
		}
		want := time.Now().Add(limit / 3)
		lastWord := want.Add(limit)
		half := func() { d.t.half.Store(moment(lastWord)) }
		switch c.half {
		case "before":
			want = lastWord
			half()
		case "meanwhile":
			noted.meanwhile = half
		}
		rest(t, d)
		which, again := choose(d.again, time.After(fakeRedisPatience))
		if which == 1 || (again == true) != c.again { // nil: it is closed
			t.Fatalf("%s: goes on: %v", c.name, again)
		}
		if told := d.t.silence.since.Load() != moment(since); told != c.told {
			t.Errorf("%s: noted as carried: %v", c.name, told)
		}
		if !c.again {
			continue
		}
		if late := noted.next(t).Sub(want); late < -time.Millisecond || late > limit/3 {
			t.Errorf("%s: is to tell %s after %s", c.name, late, want)
		}
		if c.half == "meanwhile" {
			if last := noted.next(t); !last.Equal(lastWord) {
				t.Errorf("%s: until %s, want %s", c.name, last, lastWord)
			}
		}
		if !c.inTurn && d.src.N != 1 {
			t.Errorf("%s: the stint has %d bytes left", c.name, d.src.N)
		}
	}
}

func TestAMiddleBufferIsGivenBackInSilence(t *testing.T) {
	silenced.count.Add(silenceSize) // if it is looked at meanwhile it begins anew, which shows below
	defer silenced.count.Store(0)
	const long = calmBuffers * middle4k
	const least = calmBuffers * middle1k
	for _, c := range []struct {
		name    string
		limit   time.Duration // websocket.idleTimeout
		carried int64         // in the time in which it was to be seen whether there is silence
		half    bool          // the other side is done
		left    int64         // bytes of the stint
		lulls   int           // for how many it could be silent
		with    int           // bytes of the buffer then
		then    int64         // and those left
		after   time.Duration
	}{
		{"silence", 0, 0, false, long, 1, smallBuffer, stint, 0},
		{"silence, and a look is soon", 0, 0, false, smallBuffer, 1, smallBuffer, smallBuffer, 0},
		{"silence, and the next message is to be looked at", 0, 0, false, 1, 1, smallBuffer, 1, 0},
		{"little", 0, smallBuffer - 1, false, long, 1, smallBuffer, stint, 0},
		{"little for so long", 0, longLulls*smallBuffer - 1, false, long, longLulls, smallBuffer, stint, 0},
		{"it has carried", 0, smallBuffer, false, long, 1, middle4k, long, 2 * lull},
		{"it goes on to carry", 0, longLulls / 2 * smallBuffer, false, long, longLulls / 2, middle4k, long, longLulls * lull},
		{"it still carries", 0, longLulls * smallBuffer, false, long, longLulls, middle4k, long, longLulls * lull},
		{"silence, and idleTimeout", time.Hour, 0, false, long, 1, smallBuffer, stint, time.Hour / 3},
		{"it has carried, and idleTimeout", time.Hour, smallBuffer, false, long, 1, middle4k, long, 2 * lull},
		{"it has carried, and an idleTimeout whose third is just as long", 6 * lull, smallBuffer, false, long, 1, middle4k, long, 2 * lull},
		{"it has carried, and an idleTimeout whose third is less than that", 5 * lull, smallBuffer, false, long, 1, middle4k, long, lull},
		{"it has carried, and a short idleTimeout", 3 * time.Second, smallBuffer, false, long, 1, middle4k, long, time.Second},
		{"the last words", 0, 0, true, long, 1, middle4k, long, time.Hour},
		{"silence, with a middle buffer of 1 kB", 0, 0, false, least, 1, smallBuffer, stint, 0},
		{"it has carried, with a middle buffer of 1 kB", 0, smallBuffer, false, least, 1, middle1k, least, 2 * lull},
	} {
		d, _, _ := direct(t)
		noted := noteDeadlines(d)
		d.t.plain = true
		if c.limit > 0 {
			d.t.silence = newSilence(c.limit)
		}
		d.fresh = c.left == 1
		d.buffer = make([]byte, middle4k)
		if c.left == least {
			d.buffer = make([]byte, middle1k)
		}
		d.lulls = c.lulls
		d.carried = c.carried
		d.err = os.ErrDeadlineExceeded
		d.src.N = c.left
		before := silenced.count.Load()
		now := time.Now()
		if c.half {
			d.t.half.Store(moment(now.Add(c.after)))
		}
		rest(t, d)
		if which, again := choose(d.again, time.After(fakeRedisPatience)); which == 1 || again != true {
			t.Fatalf("%s: goes on: %v", c.name, again)
		}
		if len(d.buffer) != c.with {
			t.Errorf("%s: it has a buffer of %d bytes; want %d", c.name, len(d.buffer), c.with)
		}
		if counted := silenced.count.Load() - before; counted >= 0 && (counted == 1) != (c.with == smallBuffer) {
			t.Errorf("%s: %d directions that have fallen silent are counted", c.name, counted)
		}
		if d.src.N != c.then || d.fresh != (c.then == 1) {
			t.Errorf("%s: the next look is after %d bytes, of a message that begins then: %v; want %d", c.name, d.src.N, d.fresh, c.then)
		}
		if told := time.Duration(d.lulls) * lull; len(d.buffer) > smallBuffer && !c.half && told != c.after && c.after >= lull {
			t.Errorf("%s: it may be silent for %s; want %s", c.name, told, c.after)
		}
		next := noted.next(t)
		if early := now.Add(c.after).Sub(next); next.IsZero() != (c.after == 0) || c.after > 0 && (early > time.Millisecond || -early > c.after/2) {
			t.Errorf("%s: it is to tell next at %s; want %s after %s", c.name, next, c.after, now)
		}
	}
}

// To take stock of a direction does not put it back to where its buffer was new.
func TestHowLongADirectionMayBeSilentWithItsBuffer(t *testing.T) {
	for _, c := range []struct {
		limit  time.Duration // websocket.idleTimeout
		buffer int           // bytes
		want   time.Duration
	}{
		{0, smallBuffer, 0},
		{0, middle1k, 4 * lull},
		{0, middle4k, 4 * lull},
		{time.Hour, smallBuffer, time.Hour / 3},
		{time.Hour, middle4k, 4 * lull},
		{3 * lull, middle4k, lull},
	} {
		d, _, _ := direct(t)
		if c.limit > 0 {
			d.t.silence = newSilence(c.limit)
		}
		noted := noteDeadlines(d)
		d.buffer = make([]byte, c.buffer)
		d.lulls = 4
		d.err = os.ErrDeadlineExceeded
		d.src.N = 1
		now := time.Now()
		takeStock(d)
		next := noted.next(t)
		if early := now.Add(c.want).Sub(next); next.IsZero() != (c.want == 0) || c.want > 0 && (early > 0 || -early > c.want/2) {
			t.Errorf("with %s, and %d bytes: it is to tell next at %s; want %s after %s", c.limit, c.buffer, next, c.want, now)
		}
	}
}

// A direction that waits for another session has none of the last one's middle buffer.
func TestAMiddleBufferIsGivenBackAtTheEnd(t *testing.T) {
	d, _, _ := direct(t)
	place := enter(everybody, "middle", 0)
	defer leave(everybody, place)
	d.t.place = place
	d.t.plain = true
	d.buffer = make([]byte, middle1k)
	d.fresh = true
	d.err = io.EOF
	d.src.N = 1
	go pump(d)
	rest(t, d)
	over := func() bool { return waits(d) || hasEnded(d) }
	waitFor(t, "the direction to wait for a session or end", over)
	if len(d.buffer) != smallBuffer || d.fresh {
		t.Errorf("it has a buffer of %d bytes; its stint ends with the first byte of a message: %v", len(d.buffer), d.fresh)
	}
}

// pieces is a connection that counts what is written.
type pieces struct {
	net.Conn
	count atomic.Int32
}

// Write implements io.Writer.
func (p *pieces) Write(b []byte) (int, error) {
	p.count.Add(1)
	return p.Conn.Write(b)
}

// What is larger than the small buffer leaves in one piece, once a look has seen it, and not
// only what was left of it when the look came by.
func TestAMessageLeavesInOnePiece(t *testing.T) {
	for _, size := range []int{2 * 1024, 2500} {
		d, talker, listener := direct(t)
		counter := &pieces{Conn: d.to}
		d.to = counter
		d.dst = counter
		d.src.N = stint
		go pump(d)
		d.again <- true
		carry := func(messages int) int {
			counter.count.Store(0)
			message := make([]byte, size)
			for i := 0; i < messages; i++ {
				if _, err := talker.Write(message); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(listener, message); err != nil {
					t.Fatal(err)
				}
			}
			return int(counter.count.Load())
		}
		first := stint / size
		if got, want := carry(first), first*((size+smallBuffer-1)/smallBuffer); got != want {
			t.Errorf("of %d bytes: the first stint came in %d pieces, want %d", size, got, want)
		}
		const counted = 50
		got := 0
		for i := 0; i < 3 && got != counted; i++ { // a machine that is busy may have the look see nothing
			carry(2) // there is a look at the rest of the first, and at the second
			got = carry(counted)
		}
		if got != counted {
			t.Errorf("of %d bytes: %d messages came in %d pieces", size, counted, got)
		}
	}
}

func TestAPanicWhileStockIsTakenEndsTheSession(t *testing.T) {
	for _, inTurn := range []bool{true, false} {
		d, talker, listener := direct(t)
		d.t.silence = newSilence(time.Hour)
		d.err = os.ErrDeadlineExceeded
		d.src.N = 1
		if !inTurn {
			d.t.half.Store(moment(time.Now().Add(time.Hour)))
		}
		noteDeadlines(d).meanwhile = func() { panic("for the test") }
		rest(t, d)
		if which, again := choose(d.again, time.After(fakeRedisPatience)); which == 1 || again != nil { // nil: it is closed
			t.Errorf("in turn %v: goes on: %v", inTurn, again)
		}
		for _, side := range []net.Conn{talker, listener} {
			if _, err := side.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("in turn %v: a side is told %v", inTurn, err)
			}
		}
	}
}

func TestWhatThereIsToCarryDecidesTheNextStint(t *testing.T) {
	for _, c := range []struct {
		name  string
		had   int  // bytes of its buffer before
		fresh bool // what there is begins with a byte that has been carried
		size  int  // with that byte
		ends  bool
		want  int64
		with  int // bytes of its buffer then; 0: it does not matter
	}{
		{"nothing", smallBuffer, false, 0, false, 1, smallBuffer},
		{"little, which may be the rest of more", smallBuffer, false, smallBuffer - 1, false, 1, smallBuffer},
		{"just a small buffer full, which may be the rest", smallBuffer, false, smallBuffer, false, 1, smallBuffer},
		{"more than that, which may be the rest", smallBuffer, false, middle1k, false, 1, middle1k},
		{"just the largest middle buffer full, which may be the rest", smallBuffer, false, middle4k, false, 1, middle4k},
		{"a message of a byte", smallBuffer, true, 1, false, calmBuffers * smallBuffer, smallBuffer},
		{"just a small buffer full", smallBuffer, true, smallBuffer, false, calmBuffers * smallBuffer, smallBuffer},
		{"a byte more", smallBuffer, true, smallBuffer + 1, false, calmBuffers * middle1k, middle1k},
		{"just a middle buffer of 1 kB full", smallBuffer, true, middle1k, false, calmBuffers * middle1k, middle1k},
		{"a byte more than 1 kB", smallBuffer, true, middle1k + 1, false, calmBuffers * middle2k, middle2k},
		{"just a middle buffer of 2 kB full", smallBuffer, true, middle2k, false, calmBuffers * middle2k, middle2k},
		{"a byte more than 2 kB", smallBuffer, true, middle2k + 1, false, calmBuffers * middle4k, middle4k},
		{"just a middle buffer of 4 kB full", smallBuffer, true, middle4k, false, calmBuffers * middle4k, middle4k},
		{"much", smallBuffer, false, middle4k + 1, false, smallBuffer, smallBuffer},
		{"much, from its first byte on", smallBuffer, true, middle4k + 1, false, smallBuffer, smallBuffer},
		{"a little more than the large buffer", smallBuffer, false, smallBuffer + largeBuffer + 1, false, stint, middle4k},
		{"more than the large buffer", smallBuffer, false, 3 * largeBuffer, false, smallBuffer, smallBuffer},
		{"much and the end", smallBuffer, false, 4 * middle4k, true, 0, 0},
		{"the end", smallBuffer, false, 0, true, 0, 0},
		{"a buffer full and the end", smallBuffer, false, smallBuffer, true, 0, 0},
		{"nothing, after more", middle4k, false, 0, false, 1, middle4k},
		{"less, after more", middle4k, false, smallBuffer - 1, false, 1, middle4k},
		{"the same, which may be the rest, after more", middle4k, false, middle4k, false, 1, middle4k},
		{"more, which may be the rest, after 1 kB", middle1k, false, middle2k, false, 1, middle2k},
		{"less, from its first byte on, after more", middle4k, true, smallBuffer, false, calmBuffers * middle4k, middle4k},
		{"the same, after 1 kB", middle1k, true, middle1k, false, calmBuffers * middle1k, middle1k},
		{"a byte more, after 1 kB", middle1k, true, middle1k + 1, false, calmBuffers * middle2k, middle2k},
		{"4 kB, after 1 kB", middle1k, true, middle4k, false, calmBuffers * middle4k, middle4k},
		{"1 kB, after 2 kB", middle2k, true, middle1k, false, calmBuffers * middle2k, middle2k},
		{"the same, after more", middle4k, true, middle4k, false, calmBuffers * middle4k, middle4k},
		{"much, after more", middle4k, false, middle4k + 1, false, smallBuffer, smallBuffer},
		{"a little more than the large buffer, after more", middle4k, false, middle4k + largeBuffer + 1, false, stint, middle4k},
	} {
		d, talker, listener := direct(t)
		d.buffer = make([]byte, c.had)
		d.lulls = 4
		d.fresh = c.fresh
		toCome := c.size
		if c.fresh {
			toCome--
		}
		if _, err := talker.Write(make([]byte, toCome)); err != nil {
			t.Fatal(err)
		}
		if c.ends {
			talker.Close()
		}
		if next, err := look(d); next != c.want || err != nil {
			t.Errorf("%s: the next stint has %d bytes, %v; want %d", c.name, next, err, c.want)
		}
		if d.fresh != (c.want == 1) {
			t.Errorf("%s: the next stint ends with the first byte of a message: %v", c.name, d.fresh)
		}
		if c.with != 0 && len(d.buffer) != c.with {
			t.Errorf("%s: it goes on with a buffer of %d bytes; want %d", c.name, len(d.buffer), c.with)
		}
		if isNew := len(d.buffer) > c.had; len(d.buffer) > smallBuffer && (d.lulls == 1) != isNew {
			t.Errorf("%s: it is woken after %d lulls; its buffer is new: %v", c.name, d.lulls, isNew)
		}
		d.to.Close()
		if got, err := io.ReadAll(listener); len(got) != toCome || err != nil {
			t.Errorf("%s: %d bytes were carried, %v; want %d", c.name, len(got), err, toCome)
		}
	}
}

// The rest of a message does not pass for one.
func TestALookSeesAWholeMessage(t *testing.T) {
	for name, size := range map[string]int{"little": 2, "a buffer full": smallBuffer, "more": smallBuffer + 2} {
		d, talker, listener := direct(t)
		if _, err := talker.Write(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		looked := make(chan error, 1)
		inBackground := func() {
			_, err := look(d)
			looked <- err
		}
		go inBackground()
		if _, err := io.ReadFull(listener, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := talker.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := <-looked; err != nil {
			t.Fatal(err)
		}
		if got := len(d.buffer) > smallBuffer; got != (size > smallBuffer) {
			t.Errorf("%s after the rest of a message: it goes on with a buffer of %d bytes", name, len(d.buffer))
		}
	}
}

// Where nothing but the rest of a message comes soon, the next message is looked at, and all
// of it counts.
func TestALookWaitsForTheNextMessage(t *testing.T) {
	for _, c := range []struct{ size, want int }{
		{1, smallBuffer},
		{2, smallBuffer},
		{smallBuffer, smallBuffer},
		{smallBuffer + 1, middle1k},
		{middle1k + 1, middle2k},
		{middle2k + 1, middle4k},
	} {
		for _, rest := range []int{1, smallBuffer, middle1k} {
			d, talker, _ := direct(t)
			for i, length := range []int{rest, c.size} {
				if _, err := talker.Write(make([]byte, length)); err != nil {
					t.Fatal(err)
				}
				d.carried, d.err = io.CopyBuffer(d.dst, d.src, d.buffer)
				takeStock(d)
				if again := <-d.again; !again {
					t.Fatalf("%d bytes, after a rest of %d: it ends: %v", c.size, rest, d.err)
				}
				if i == 0 && (d.src.N != 1 || !d.fresh) {
					t.Fatalf("after a rest of %d, it goes on for %d bytes, to the next message: %v", rest, d.src.N, d.fresh)
				}
			}
			want := c.want
			if rest > want {
				want = rest // which a middle buffer of 1 kB is for
			}
			if len(d.buffer) != want || d.src.N != int64(calmBuffers*want) || d.fresh {
				t.Errorf("%d bytes, after a rest of %d: it goes on for %d bytes with a buffer of %d; want one of %d", c.size, rest, d.src.N, len(d.buffer), want)
			}
		}
	}
}

func TestTakingStockTellsWhetherToGoOn(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int
		prepare func(d *direction)
		want    int64 // bytes of the next stint; 0: none
	}{
		{"a little to carry", 8, func(d *direction) {}, 1},
		{"a little more to carry", smallBuffer + 1, func(d *direction) { d.fresh = true }, calmBuffers * middle1k},
		{"much to carry", largeBuffer, func(d *direction) {}, smallBuffer},
		{"the end", 8, func(d *direction) { d.src.N = 1 }, 0},
		{"an error", 8, func(d *direction) { d.err = io.ErrClosedPipe }, 0},
		{"a panic", 8, func(d *direction) { d.src = nil }, 0},
	} {
		d, talker, _ := direct(t)
		noted := noteDeadlines(d)
		if _, err := talker.Write(make([]byte, c.size)); err != nil {
			t.Fatal(err)
		}
		c.prepare(d)
		go takeStock(d)
		which, goesOn := choose(d.again, time.After(fakeRedisPatience))
		if which == 1 {
			t.Fatalf("%s: nobody is told", c.name)
		}
		if (goesOn != nil) != (c.want > 0) { // nil: closed
			t.Errorf("%s: goes on: %v", c.name, goesOn)
		}
		if c.want > 0 && d.src.N != c.want {
			t.Errorf("%s: the next stint has %d bytes, want %d", c.name, d.src.N, c.want)
		}
		if c.want > 0 {
			last := noted.next(t)
			for len(noted.set) > 0 {
				last = noted.next(t)
			}
			if !endsStint(last, len(d.buffer)) {
				t.Errorf("%s: the deadline %s is left, with a buffer of %d bytes", c.name, last, len(d.buffer))
			}
		}
	}
}

func TestWhoIsLeftHasLastWords(t *testing.T) {
	d, _, listener := direct(t)
	if !saidDone(d) {
		t.Fatal("it cannot be said")
	}
	if rest, err := io.ReadAll(listener); len(rest) != 0 || err != nil {
		t.Errorf("the other side hears %q, %v", rest, err)
	}
	if left := time.Until(atMoment(d.t.half.Load())); left <= 0 || left > lastWords {
		t.Errorf("it has %s, want %s", left, lastWords)
	}
}

// An answer that is no agreement may take its time, and be as large as it likes.
func TestAnAnswerThatTakesItsTimeIsNotMixedWithOthers(t *testing.T) {
	const part = "the first part"
	rest := strings.Repeat(".", maxAnswerHead)
	let := make(chan struct{})
	answer := func(conn net.Conn, reader *bufio.Reader, handshake string) {
		if !strings.HasPrefix(handshake, "GET /refuse") {
			_, _ = io.WriteString(conn, switching)
			_, _ = io.Copy(conn, reader)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: "+strconv.Itoa(len(part+rest))+"\r\n\r\n"+part)
		<-let
		_, _ = io.WriteString(conn, rest)
	}
	gateway := sessionGateway(t, rawNode(t, answer))
	_, reader := rawClient(t, gateway, handshakeText(strings.Replace(wgamed, "/ws", "/refuse", 1)))
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != 403 {
		t.Fatalf("got %v, %v", response, err)
	}
	for i := 0; i < 2*maxUshers; i++ { // each usher has one
		_, reader := rawClient(t, gateway, handshakeText(wgamed))
		if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 101 {
			t.Fatalf("meanwhile: %v, %v", response, err)
		}
	}
	close(let)
	if body, err := io.ReadAll(response.Body); string(body) != part+rest || err != nil {
		t.Errorf("the answer has %d bytes, want %d; %v", len(body), len(part+rest), err)
	}
}
