package dynamicforward

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// named answers handshakes with what they ask for, when it is let.
func named(let chan struct{}) func(conn net.Conn, reader *bufio.Reader, handshake string) {
	return func(conn net.Conn, reader *bufio.Reader, handshake string) {
		<-let
		_, rest, _ := strings.Cut(handshake, "name=")
		name, _, _ := strings.Cut(rest, " ")
		_, _ = io.WriteString(conn, strings.Replace(switching, "Accept: x", "Accept: "+name, 1)+name+"\n")
		_, _ = io.Copy(io.Discard, reader)
	}
}

func TestHandshakesAtATimeDoNotGetMixedUp(t *testing.T) {
	const players, times = 2 * maxUshers, 4
	let := make(chan struct{})
	close(let)
	gateway := sessionGateway(t, rawNode(t, named(let)))
	results := make(chan string, players)
	play := func(name string) {
		for i := 0; i < times; i++ {
			conn, err := net.Dial("tcp", strings.TrimPrefix(gateway, "http://"))
			if err != nil {
				results <- err.Error()
				return
			}
			_, _ = io.WriteString(conn, strings.Replace(handshakeText(wgamed+"&name="+name), "keep-alive, Upgrade, close", "Upgrade", 1))
			reader := bufio.NewReader(conn)
			response, err := http.ReadResponse(reader, nil)
			if err != nil || response.Header.Get("Sec-WebSocket-Accept") != name {
				results <- "the answer to " + name + " is another one's"
				return
			}
			if line, err := reader.ReadString('\n'); err != nil || line != name+"\n" {
				results <- "the session of " + name + " is another one's"
				return
			}
			conn.Close()
		}
		results <- ""
	}
	for i := 0; i < players; i++ {
		go play("player" + strconv.Itoa(i))
	}
	for i := 0; i < players; i++ {
		if problem := <-results; problem != "" {
			t.Error(problem)
		}
	}
}

func TestUshersWithoutWorkGo(t *testing.T) {
	const players = 3 * maxUshers
	let := make(chan struct{})
	node := rawNode(t, named(let))
	gateway := sessionGateway(t, node)
	answered := make(chan error, players)
	wait := func(reader *bufio.Reader) {
		_, err := http.ReadResponse(reader, nil)
		answered <- err
	}
	for i := 0; i < players; i++ {
		_, reader := rawClient(t, gateway, handshakeText(wgamed+"&name=x"))
		go wait(reader)
	}
	wantSessions(t, node, players) // an usher each
	close(let)
	for i := 0; i < players; i++ {
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
	}
	few := func() bool { return len(ushers) >= maxUshers && len(ushers) < maxUshers+8 } // some come back at once
	waitFor(t, "as many ushers as may stay", few)
	_, reader := rawClient(t, gateway, handshakeText(wgamed+"&name=x"))
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 101 {
		t.Errorf("afterwards: %v %v", response, err)
	}
}

// agreeingNode is wgamed's: it agrees to handshakes, and tells how each session ends. It
// returns the node's address and that of Redis.
func agreeingNode(t *testing.T) (string, string, chan error) {
	t.Helper()
	ends := make(chan error, 1)
	listen := func(conn net.Conn, reader *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, switching)
		_, err := reader.ReadByte()
		ends <- err
	}
	node := rawNode(t, listen)
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", node)
	return node, redis.addr, ends
}

func TestAnUsherThatPanicsLeavesNothing(t *testing.T) {
	node, redis, left := agreeingNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m, err := newMiddleware(ctx, http.NotFoundHandler(), testConfig(redis), "test")
	if err != nil {
		t.Fatal(err)
	}
	route, _, err := m.table.find(ctx, "game-server_dev_node_wgamed", "1")
	if err != nil {
		t.Fatal(err)
	}
	broken := &attempt{m: &middleware{name: "test", nodes: m.nodes}, way: m.to(route.node)} // sessions are needed last
	panicked := make(chan interface{}, 1)
	handle := func(w http.ResponseWriter, r *http.Request) { upgradeCaught(w, r, broken, panicked) }
	var handler http.Handler = http.HandlerFunc(handle)
	client, _ := rawClient(t, serveMiddleware(t, handler), handshakeText(wgamed))
	if cause := <-panicked; cause == nil {
		t.Fatal("no panic")
	}
	if err := <-left; err == nil || isTimeout(err) {
		t.Errorf("the node's connection: %v", err)
	}
	if _, err := io.ReadAll(client); err != nil {
		t.Errorf("the client's connection: %v", err)
	}
	wantSessions(t, node, 0)
	_, reader := rawClient(t, serveMiddleware(t, m.handler()), handshakeText(wgamed))
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 101 {
		t.Errorf("afterwards: %v %v", response, err)
	}
}

func TestAClientThatIsNotLetGoOfIsRefused(t *testing.T) {
	node, redis, left := agreeingNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	handler, err := New(ctx, http.NotFoundHandler(), testConfig(redis), "test")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 2; i++ { // by the table and by a shortcut
		r := httptest.NewRequest("GET", wgamed, nil)
		r.Header["Connection"] = []string{"Upgrade"}
		r.Header["Upgrade"] = []string{"websocket"}
		answer := httptest.NewRecorder() // has no connection
		handler.ServeHTTP(answer, r)
		if answer.Code != 502 || !strings.HasPrefix(answer.Body.String(), "node-down: ") {
			t.Errorf("got %d %q", answer.Code, answer.Body.String())
		}
		if err := <-left; err == nil || isTimeout(err) {
			t.Errorf("the node's connection: %v", err)
		}
		wantSessions(t, node, 0)
	}
}

// upgradeCaught is upgrade, but says what panicked; nil: nothing. Yaegi: a closure cannot
// recover.
func upgradeCaught(w http.ResponseWriter, r *http.Request, a *attempt, panicked chan interface{}) {
	defer tell(panicked)
	upgrade(a.m, a, w, r)
}

// tell is deferred to learn what panics.
func tell(panicked chan interface{}) {
	cause := recover()
	panicked <- cause
}
