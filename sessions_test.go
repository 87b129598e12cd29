package dynamicforward

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sessionWorld is a gateway with a node as thread 1 and another as thread 2 of
// wgamed.
type sessionWorld struct {
	t       *testing.T
	redis   *pushingRedis
	node    string
	other   string
	m       *middleware
	gateway string
}

const wgamedKey = "game-server_dev_node_wgamed"

// newSessionWorld makes one. set changes its configuration.
func newSessionWorld(t *testing.T, set func(c *Config)) *sessionWorld {
	t.Helper()
	w := &sessionWorld{t: t, redis: newPushingRedis(t), node: echoNode(t), other: echoNode(t)}
	w.redis.hset(wgamedKey, "1", w.node)
	w.redis.hset(wgamedKey, "2", w.other)
	config := testConfig(w.redis.addr)
	set(config)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the link", m.table.connected)
	w.m = m
	w.gateway = serveMiddleware(t, m.handler())
	return w
}

// echoNode is a node that agrees to handshakes and says what it hears. It refuses
// those to /refuse, and breaks off those to /break.
func echoNode(t *testing.T) string {
	t.Helper()
	echo := func(conn net.Conn, reader *bufio.Reader, handshake string) {
		switch {
		case strings.HasPrefix(handshake, "GET /refuse"):
			_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		case strings.HasPrefix(handshake, "GET /break"):
		case strings.HasPrefix(handshake, "GET /reset"):
			_, _ = io.WriteString(conn, switching)
			_ = conn.(*net.TCPConn).SetLinger(0)
		default:
			_, _ = io.WriteString(conn, switching)
			_, _ = io.Copy(conn, reader)
		}
	}
	return rawNode(t, echo)
}

// player is a client's side of a session.
type player struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
	status int
}

// play sends a handshake for a thread of wgamed and reads the answer.
func (w *sessionWorld) play(path, thread string) *player {
	w.t.Helper()
	conn, reader := rawClient(w.t, w.gateway, handshakeText(path+"?nodeName=wgamed&platform=dev&threadId="+thread))
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if got := response.Header.Get("Retry-After"); response.StatusCode == 503 && got != "1" {
		w.t.Errorf("Retry-After is %q", got)
	}
	return &player{t: w.t, conn: conn, reader: reader, status: response.StatusCode}
}

// becomes waits until a handshake for thread 1 is answered so.
func (w *sessionWorld) becomes(status int) {
	w.t.Helper()
	is := func() bool {
		p := w.play("/ws", "1")
		p.conn.Close()
		return p.status == status
	}
	waitFor(w.t, "another answer", is)
}

// wantEcho checks that the session goes on.
func (p *player) wantEcho() {
	p.t.Helper()
	if p.status != 101 {
		p.t.Fatalf("the handshake got %d", p.status)
	}
	if _, err := io.WriteString(p.conn, "hello\n"); err != nil {
		p.t.Fatal(err)
	}
	if line, err := p.reader.ReadString('\n'); line != "hello\n" {
		p.t.Fatalf("got %q, %v", line, err)
	}
}

// wantEnd waits for the end of the session.
func (p *player) wantEnd() {
	p.t.Helper()
	if rest, err := io.ReadAll(p.reader); len(rest) > 0 || err != nil && isTimeout(err) {
		p.t.Fatalf("the session goes on: %q, %v", rest, err)
	}
}

// enter takes a place at a node as work does.
func enter(c *census, address string, max int) *crowd {
	c.mu.Lock()
	defer c.mu.Unlock()
	return take(c, address, max)
}

// sessionsOf is how many a node holds.
func sessionsOf(node string) int {
	everybody.mu.Lock()
	defer everybody.mu.Unlock()
	if crowd := everybody.nodes[node]; crowd != nil {
		return crowd.count
	}
	return 0
}

// wantSessions waits until a node holds so many sessions.
func wantSessions(t *testing.T, node string, want int) {
	t.Helper()
	is := func() bool { return sessionsOf(node) == want }
	waitFor(t, "the count of sessions", is)
}

func TestANodeHoldsNoMoreSessionsThanItMay(t *testing.T) {
	limit := func(c *Config) { c.WebSocket.MaxPerNode = 2 }
	w := newSessionWorld(t, limit)
	first := w.play("/ws", "1")
	second := w.play("/ws", "1")
	first.wantEcho()
	second.wantEcho()
	if third := w.play("/ws", "1"); third.status != 503 {
		t.Errorf("one too many got %d", third.status)
	}
	w.play("/ws", "2").wantEcho() // another node
	first.conn.Close()
	wantSessions(t, w.node, 1)
	w.play("/ws", "1").wantEcho()
	if fourth := w.play("/ws", "1"); fourth.status != 503 {
		t.Errorf("one too many got %d", fourth.status)
	}
	second.wantEcho()
}

func TestEachWayThatASessionEndsGivesItsPlaceBack(t *testing.T) {
	limit := func(c *Config) { c.WebSocket.MaxPerNode = 1 }
	w := newSessionWorld(t, limit)
	for _, c := range []struct {
		name, path string
		status     int
		end        func(p *player)
	}{
		{"the client closes", "/ws", 101, func(p *player) { p.conn.Close() }},
		{"the client resets", "/ws", 101, func(p *player) {
			_ = p.conn.(*net.TCPConn).SetLinger(0)
			p.conn.Close()
		}},
		{"the client is done", "/ws", 101, func(p *player) { _ = p.conn.(*net.TCPConn).CloseWrite() }},
		{"the node resets", "/reset", 101, func(p *player) {}},
		{"the node refuses", "/refuse", 403, func(p *player) {}},
		{"the node breaks off", "/break", 502, func(p *player) {}},
	} {
		p := w.play(c.path, "1")
		if p.status != c.status {
			t.Errorf("%s: got %d, want %d", c.name, p.status, c.status)
		}
		c.end(p)
		wantSessions(t, w.node, 0)
	}
	w.redis.move(t, wgamedKey, "1", refused(t))
	w.becomes(502)
	w.redis.move(t, wgamedKey, "1", w.node)
	w.becomes(101)
	few := func() bool {
		everybody.mu.Lock()
		defer everybody.mu.Unlock()
		return len(everybody.nodes) <= 2 // this session, and perhaps one of another test
	}
	waitFor(t, "the counts of nodes without sessions to go", few)
}

// begin starts a session between two connections that has no idleTimeout, as work does.
func begin(session *tunnel) {
	pump := func(from, to net.Conn) {
		d := <-pumps
		if len(pumps) == 0 {
			pumpsWanted <- true
		}
		d.t = session
		d.from = from
		d.to = to
		d.dst = io.MultiWriter(to)
		d.src.R = from
		d.src.N = stint
		d.again <- true
	}
	pump(session.client, session.node)
	pump(session.node, session.client)
}

// waits tells whether a direction is among those without a session.
func waits(d *direction) bool {
	found := false
	for i := len(pumps); i > 0; i-- {
		one := <-pumps
		found = found || one == d
		pumps <- one
	}
	return found
}

// hasEnded tells whether a direction's goroutine has been told to end.
func hasEnded(d *direction) bool {
	said, _ := reflect.ValueOf(d.again).TryRecv()
	return said.IsValid()
}

// Both ways to end: at once, or by a goroutine, where to close takes time.
func TestASessionThatBreaksEndsWhole(t *testing.T) {
	for _, plain := range []bool{true, false} {
		_, client := tcpPair(t)
		_, node := tcpPair(t)
		session := &tunnel{client: client, node: node, place: enter(everybody, "breaks", 0), plain: plain}
		for i := 0; i < 2; i++ {
			d := newDirection()
			go pump(d)
			d.t = session
			d.to = node
			d.from = client
			d.src.N = 1
			d.err = io.ErrUnexpectedEOF
			rested <- d
			for side, conn := range []net.Conn{client, node} {
				closed := func() bool { return errors.Is(conn.SetDeadline(time.Time{}), net.ErrClosed) }
				waitFor(t, "plain "+strconv.FormatBool(plain)+": connection "+strconv.Itoa(side)+" to be closed", closed)
			}
			wantSessions(t, "breaks", 1-i)
			over := func() bool { return waits(d) || hasEnded(d) }
			waitFor(t, "direction "+strconv.Itoa(i)+" to wait for a session or end", over)
		}
	}
}

// wantEndInTurn has both directions of a session end with err, and checks that they wait for the
// next one: those that have a goroutine of their own take stock do not. Some others go, so that
// there is room.
func wantEndInTurn(t *testing.T, session *tunnel, err error) {
	t.Helper()
	for len(pumps) > maxPumps/2 {
		close((<-pumps).again)
	}
	for i := 0; i < 2; i++ {
		d := <-pumps
		if len(pumps) == 0 {
			pumpsWanted <- true
		}
		d.t = session
		d.to = session.node
		d.from = session.client
		d.src.N = 1
		d.carried = 0 // its last session may have left something
		d.err = err
		rest(t, d)
		waitFor(t, "direction "+strconv.Itoa(i)+" to wait for a session", func() bool { return waits(d) })
	}
}

// busyTable is one whose lock somebody else holds.
type busyTable struct {
	free      chan bool // closed when it is
	unwatched chan *tunnel
}

func (b *busyTable) unwatch(session *tunnel) {
	<-b.free
	b.unwatched <- session
}

// Its place is free, the request that waits for its end goes on, and so do those who take stock.
func TestASessionThatIsWatchedEndsBeforeItsTableHasTime(t *testing.T) {
	const sessions = 2 * takers
	table := &busyTable{free: make(chan bool), unwatched: make(chan *tunnel, sessions)}
	for i := 0; i < sessions; i++ {
		_, client := tcpPair(t)
		_, node := tcpPair(t)
		session := &tunnel{client: client, node: node, place: enter(everybody, "watched", 0), plain: true}
		session.watched = &watched{table: table}
		session.over = make(chan struct{})
		wantEndInTurn(t, session, io.ErrUnexpectedEOF)
		if which, _ := choose(session.over, time.After(fakeRedisPatience)); which == 1 {
			t.Fatalf("session %d: the request that waits for its end waits for the table", i)
		}
	}
	wantSessions(t, "watched", 0)
	if len(table.unwatched) > 0 {
		t.Fatal("the table was not busy")
	}
	close(table.free)
	waitFor(t, "the sessions to be watched no more", func() bool { return len(table.unwatched) == sessions })
}

func TestASessionThatIsGivenUpIsNotWatched(t *testing.T) {
	_, client := tcpPair(t)
	table := &busyTable{free: make(chan bool), unwatched: make(chan *tunnel, 1)}
	close(table.free)
	session := &tunnel{client: client, place: enter(everybody, "given up", 0), watched: &watched{table: table}}
	abandon(session)
	if len(table.unwatched) != 1 {
		t.Error("it is watched still")
	}
	wantSessions(t, "given up", 0)
}

// Thousands may have fallen silent at the same moment.
func TestSilenceEndsASessionWithoutAGoroutine(t *testing.T) {
	_, client := tcpPair(t)
	_, node := tcpPair(t)
	session := &tunnel{client: client, node: node, place: enter(everybody, "silent", 0), plain: true}
	session.silence = newSilence(time.Hour)
	session.silence.since.Store(moment(time.Now().Add(-2 * time.Hour)))
	wantEndInTurn(t, session, os.ErrDeadlineExceeded)
	wantSessions(t, "silent", 0)
}

// wasReset tells whether the other end of a connection has been reset, and not just closed.
func wasReset(t *testing.T, conn net.Conn) bool {
	t.Helper()
	_, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "connection reset by peer") {
		t.Errorf("neither closed nor reset: %v", err)
	}
	return err != nil
}

func TestAClientThatWasResetHasItsNodeReset(t *testing.T) {
	broken := &os.SyscallError{Syscall: "read", Err: errors.New("connection reset by peer")}
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"reset", &net.OpError{Op: "read", Err: broken}, true},
		{"reset below TLS", fmt.Errorf("TLS: %w", &net.OpError{Op: "read", Err: broken}), true},
		{"broken off within TLS", io.ErrUnexpectedEOF, false},
		{"silent", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, false},
		{"closed by the gateway", &net.OpError{Op: "read", Err: net.ErrClosed}, false},
		{"closed by the gateway above TLS", net.ErrClosed, false},
		{"there, and the node has gone", &net.OpError{Op: "write", Err: broken}, false},
	} {
		for _, how := range []string{"", "TLS", "as its direction ends"} {
			if how == "as its direction ends" && strings.Contains(c.name, "TLS") {
				continue // the other way
			}
			beyond, node := tcpPair(t)
			_, client := tcpPair(t)
			if how == "TLS" {
				node = tls.Client(node, &tls.Config{})
			}
			d := newDirection()
			d.to = node
			d.from = client
			d.err = c.err
			if how == "as its direction ends" {
				place := enter(everybody, "reset", 0)
				defer leave(everybody, place)
				d.t = &tunnel{client: client, node: node, place: place, plain: true}
				d.t.half.Store(1) // long ago
				d.src.N = 1
				go pump(d)
				rested <- d
			} else {
				passReset(d, c.err)
				node.Close()
			}
			if got := wasReset(t, beyond); got != c.want {
				t.Errorf("%s, %s: the node's connection is reset: %t", c.name, how, got)
			}
		}
	}
}

// The reset of a client reaches the node. The client of a node that resets still gets its
// last words, and an end in order.
func TestAResetIsPassedOnToTheNodeAlone(t *testing.T) {
	told := make(chan error, 1)
	listen := func(conn net.Conn, reader *bufio.Reader, handshake string) {
		_, _ = io.WriteString(conn, switching)
		_, err := reader.ReadByte()
		if err != nil {
			told <- err
			return
		}
		_, _ = io.WriteString(conn, "last words")
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	node := rawNode(t, listen)
	for _, options := range []WebSocketConfig{{}, {IdleTimeout: "1m"}, {WaitForEnd: true}} {
		set := func(c *Config) { c.WebSocket = options }
		w := newSessionWorld(t, set)
		w.redis.hset(wgamedKey, "3", node)
		p := w.play("/ws", "3")
		_ = p.conn.(*net.TCPConn).SetLinger(0)
		p.conn.Close()
		if err := <-told; !strings.Contains(err.Error(), "connection reset by peer") {
			t.Errorf("%+v: the node was told %v", options, err)
		}
		p = w.play("/ws", "3")
		if _, err := io.WriteString(p.conn, "x"); err != nil {
			t.Fatal(err)
		}
		if said, err := io.ReadAll(p.reader); string(said) != "last words" || err != nil {
			t.Errorf("%+v: the client of a node that resets got %q, %v", options, said, err)
		}
		wantSessions(t, node, 0)
	}
}

func TestDirectionsWithoutASessionGo(t *testing.T) {
	w := newSessionWorld(t, func(_ *Config) {})
	var players []*player
	for i := 0; i < 2*maxPumps; i++ {
		players = append(players, w.play("/ws", "1"))
	}
	for _, p := range players {
		p.wantEcho()
		_ = p.conn.(*net.TCPConn).SetLinger(0)
		p.conn.Close()
	}
	wantSessions(t, w.node, 0)
	few := func() bool { return len(pumps) >= maxPumps && len(pumps) < maxPumps+8 } // some come back at once
	waitFor(t, "as many directions as may stay", few)
	w.play("/ws", "1").wantEcho()
}

// What panics while stock is taken ends no other session's stock-taking.
func TestStockIsTakenAfterAPanic(t *testing.T) {
	for i := 0; i <= takers; i++ {
		rest(t, &direction{})
	}
	_, client := tcpPair(t)
	_, node := tcpPair(t)
	begin(&tunnel{client: client, node: node, place: enter(everybody, "after a panic", 0), plain: true})
	client.Close()
	wantSessions(t, "after a panic", 0)
}

func TestTheLimitHoldsInARace(t *testing.T) {
	const limit, clients = 5, 40
	c := &census{nodes: map[string]*crowd{}}
	var all sync.WaitGroup
	var mu sync.Mutex
	var in []*crowd
	enter := func() {
		defer all.Done()
		if place := enter(c, "node", limit); place != nil {
			mu.Lock()
			in = append(in, place)
			mu.Unlock()
		}
	}
	for i := 0; i < clients; i++ {
		all.Add(1)
		go enter()
	}
	all.Wait()
	if len(in) != limit {
		t.Errorf("%d came in, want %d", len(in), limit)
	}
	for _, place := range in {
		leave(c, place)
	}
	if len(c.nodes) != 0 {
		t.Error("a node without sessions is remembered")
	}
}

func TestASilentSessionIsClosedAndOneThatIsNotIsNot(t *testing.T) {
	idle := func(c *Config) { c.WebSocket.IdleTimeout = "1s" }
	w := newSessionWorld(t, idle)
	talking := w.play("/ws", "1")
	talking.wantEcho()
	said := 0
	for i := 0; i < 2; i++ {
		silent := w.play("/ws", "2")
		silent.wantEcho()
		ended := make(chan bool)
		wait := func() {
			_, _ = io.ReadAll(silent.reader)
			close(ended)
		}
		go wait()
		for over := false; !over; {
			if _, err := io.WriteString(talking.conn, "still here\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := talking.reader.ReadString('\n'); err != nil {
				t.Fatalf("got %q, %v after %d times", line, err, said)
			}
			said++
			which, _ := choose(ended, time.After(10*time.Millisecond))
			over = which == 0
		}
	}
	talking.wantEcho()
	talking.wantEnd()
	wantSessions(t, w.node, 0)
	wantSessions(t, w.other, 0)
}

// One direction is enough to keep a session, either of them, and whether it says
// little or much.
func TestASessionOnWhichOneSideTalksIsNotSilent(t *testing.T) {
	w := newSessionWorld(t, func(c *Config) { c.WebSocket.IdleTimeout = minIdleTimeout.String() })
	nodes := make(chan net.Conn)
	over := make(chan bool)
	t.Cleanup(func() { close(over) })
	agree := func(conn net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(conn, switching)
		nodes <- conn
		<-over
	}
	w.node = rawNode(t, agree)
	w.redis.move(t, wgamedKey, "1", w.node)
	for _, c := range []struct {
		name     string
		fromNode bool
		size     int // bytes each time
	}{
		{"little from the client", false, 1},
		{"little from the node", true, 1},
		{"much from the client", false, 256 * 1024},
		{"much from the node", true, 256 * 1024},
	} {
		p := w.play("/ws", "1")
		node := <-nodes
		var talker io.Writer = p.conn
		var listener io.Reader = node
		if c.fromNode {
			talker = node
			listener = p.reader
		}
		said := make([]byte, c.size)
		heard := make([]byte, c.size)
		write := func() { _, _ = talker.Write(said) }
		for begin := time.Now(); time.Since(begin) < 5*minIdleTimeout/2; {
			go write()
			if _, err := io.ReadFull(listener, heard); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			<-time.After(10 * time.Millisecond)
		}
		if _, err := listener.Read(heard); err != io.EOF {
			t.Errorf("%s: after it fell silent: %v", c.name, err)
		}
		wantSessions(t, w.node, 0)
	}
}

// What a direction has carried is known by and by: the other one does not take that for
// silence.
func TestSilenceIsWhatIsCertain(t *testing.T) {
	limit := time.Hour
	for _, c := range []struct {
		name     string
		since    time.Duration
		carried  int64
		err      error
		lastWord time.Duration // from now until the end of what half a session has; 0: it is whole
		want     bool
	}{
		{"nothing for long", limit + limit/3, 0, os.ErrDeadlineExceeded, 0, false},
		{"something may be untold", limit + limit/4, 0, os.ErrDeadlineExceeded, 0, true},
		{"this direction has carried", 2 * limit, 1, os.ErrDeadlineExceeded, 0, true},
		{"the end", 0, 1, nil, 0, false},
		{"a time-out of the system's", 0, 1, &net.DNSError{IsTimeout: true}, 0, false},
		{"half, with time left", 0, 0, os.ErrDeadlineExceeded, time.Minute, true},
		{"half, with none left", 0, 0, os.ErrDeadlineExceeded, -time.Minute, false},
	} {
		session := &tunnel{silence: newSilence(limit)}
		session.silence.since.Store(moment(time.Now().Add(-c.since)))
		if c.lastWord != 0 {
			session.half.Store(moment(time.Now().Add(c.lastWord)))
		}
		if got := stays(session, c.carried, c.err); got != c.want {
			t.Errorf("%s: stays: %v", c.name, got)
		}
	}
}

// requests are those that a gateway serves.
type requests struct {
	handler http.Handler
	begun   chan context.Context
	over    chan bool
}

// ServeHTTP implements http.Handler.
func (q *requests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q.begun <- r.Context()
	q.handler.ServeHTTP(w, r)
	q.over <- true
}

// counted puts itself between a world's clients and its middleware.
func (w *sessionWorld) counted() *requests {
	q := &requests{handler: w.m.handler(), begun: make(chan context.Context, 100), over: make(chan bool, 100)}
	w.gateway = serveMiddleware(w.t, q)
	return q
}

// wantOver waits for the end of a request.
func (q *requests) wantOver(t *testing.T, what string) {
	t.Helper()
	if which, _ := choose(q.over, time.After(fakeRedisPatience)); which == 1 {
		t.Fatalf("%s: the request goes on", what)
	}
}

// However a session ends, its request does when websocket.waitForEnd is set, and no
// sooner. Its place is free by then.
func TestARequestLastsAsLongAsItsSession(t *testing.T) {
	requestsLast(t, false)
	requestsLast(t, true)
}

// requestsLast tries it, with closeOnRouteChange or without.
func requestsLast(t *testing.T, watched bool) {
	t.Helper()
	wait := func(c *Config) {
		c.WebSocket.WaitForEnd = true
		c.WebSocket.CloseOnRouteChange = watched
		c.WebSocket.MaxPerNode = 1
	}
	w := newSessionWorld(t, wait)
	q := w.counted()
	for _, path := range []string{"/refuse", "/break", "/reset"} {
		w.play(path, "1")
		<-q.begun
		q.wantOver(t, path)
	}
	const routeGoes = "the route goes"
	for _, c := range []struct {
		name string
		end  func(p *player)
	}{
		{"the client closes", func(p *player) { p.conn.Close() }},
		{"the client resets", func(p *player) {
			_ = p.conn.(*net.TCPConn).SetLinger(0)
			p.conn.Close()
		}},
		{"the client is done", func(p *player) { _ = p.conn.(*net.TCPConn).CloseWrite() }},
		{routeGoes, func(_ *player) {
			w.redis.del(wgamedKey)
			w.redis.push(t, wgamedKey)
		}},
	} {
		if c.name == routeGoes && !watched {
			continue
		}
		p := w.play("/ws", "1")
		p.wantEcho()
		p.wantEcho()
		if ctx := <-q.begun; ctx.Err() != nil || len(q.over) > 0 {
			t.Errorf("%s: the request is over before", c.name)
		}
		if full := w.play("/ws", "1"); full.status != 503 {
			t.Errorf("%s: one too many got %d", c.name, full.status)
		}
		<-q.begun
		q.wantOver(t, "refused")
		c.end(p)
		q.wantOver(t, c.name)
		if n := sessionsOf(w.node); n != 0 {
			t.Errorf("%s: the request is over, and the node holds %d sessions", c.name, n)
		}
	}
}

func TestASilentSessionEndsItsRequest(t *testing.T) {
	silent := func(c *Config) {
		c.WebSocket.WaitForEnd = true
		c.WebSocket.IdleTimeout = "1s"
	}
	w := newSessionWorld(t, silent)
	q := w.counted()
	w.play("/ws", "1").wantEcho()
	q.wantOver(t, "silent")
}

// By default a request is over when its session has started.
func TestARequestEndsWhenItsSessionStarts(t *testing.T) {
	w := newSessionWorld(t, func(c *Config) {})
	q := w.counted()
	p := w.play("/ws", "1")
	q.wantOver(t, "started")
	p.wantEcho()
}

// tcpPair is the two ends of a connection.
func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	listener := listenAlone(t)
	defer listener.Close()
	one, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	end := func() {
		one.Close()
		other.Close()
	}
	t.Cleanup(end)
	_ = one.SetDeadline(time.Now().Add(fakeRedisPatience))
	return one, other
}
