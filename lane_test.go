package dynamicforward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/traefik/genconf/dynamic"
)

// laneNode is a node whose answers are written by hand.
type laneNode struct {
	addr        string
	requests    atomic.Int64
	connections atomic.Int64
	open        atomic.Int64
	later       chan struct{} // has it say what comes later, and tells when it has
	conns       chan net.Conn // all that there were, the first 100
}

// hangUp closes all connections.
func (n *laneNode) hangUp() {
	for len(n.conns) > 0 {
		conn := <-n.conns
		conn.Close()
	}
}

// plainAnswer is an answer of usual kind.
const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// newLaneNode starts a node. answer gets each request's number, from 1, and its head,
// and returns what to say; after "" nothing is said any more, after what ends in
// "!close" the connection is closed, and what comes after "!later" is said later.
func newLaneNode(t *testing.T, answer func(number int64, head string) string) *laneNode {
	t.Helper()
	listener := listenAlone(t) // it counts its connections
	n := &laneNode{addr: listener.Addr().String(), later: make(chan struct{}), conns: make(chan net.Conn, 100)}
	serve := func(conn net.Conn) {
		defer conn.Close()
		defer n.open.Add(-1)
		reader := bufio.NewReader(conn)
		for {
			head := ""
			for !strings.HasSuffix(head, "\r\n\r\n") {
				line, err := reader.ReadString('\n')
				if err != nil {
					return
				}
				head += line
			}
			said := answer(n.requests.Add(1), head)
			said, later, _ := strings.Cut(said, "!later")
			_, _ = io.WriteString(conn, strings.TrimSuffix(said, "!close"))
			if later != "" {
				<-n.later
				_, _ = io.WriteString(conn, later)
				n.later <- struct{}{}
			}
			if strings.HasSuffix(said, "!close") {
				return
			}
		}
	}
	accept := func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			n.connections.Add(1)
			n.open.Add(1)
			if len(n.conns) < cap(n.conns) {
				n.conns <- conn
			}
			go serve(conn)
		}
	}
	go accept()
	t.Cleanup(func() { listener.Close() })
	return n
}

// laneSetting makes each test's settings others than those of the rest.
var laneSetting atomic.Int64

// newLaneMiddleware returns a middleware whose watchman does not come by himself, the
// URL of wgamed through it, and wgamed's way once it is known.
func newLaneMiddleware(ctx context.Context, t *testing.T, redis, timeout string) (*middleware, string, func() *way) {
	t.Helper()
	config := testConfig(redis)
	config.ServersTransport = &dynamic.ServersTransport{MaxIdleConnsPerHost: 20 + int(laneSetting.Add(1))}
	config.ServersTransport.ForwardingTimeouts = &dynamic.ForwardingTimeouts{ResponseHeaderTimeout: timeout}
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
	if err != nil {
		t.Fatal(err)
	}
	m.nodes.lanes.every = time.Hour
	_, query, _ := strings.Cut(wgamed, "?")
	wgamedsWay := func() *way { return m.short.get(query) }
	return m, serveMiddleware(t, m.handler()) + wgamed, wgamedsWay
}

// newNodeGateway is a gateway to a node that has no lanes yet.
func newNodeGateway(t *testing.T, node *laneNode, timeout string) (string, func() *way) {
	t.Helper()
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", node.addr)
	_, url, wgamedsWay := newLaneMiddleware(context.Background(), t, redis.addr, timeout)
	t.Cleanup(node.hangUp) // first: a gateway waits at its end for answers that do not come
	return url, wgamedsWay
}

// press says how many requests of late have found no lane, and when the first of them
// came.
func press(to *way, missed int, since time.Time) {
	p := to.pressure
	p.mu.Lock()
	p.missed = missed
	p.since = since
	p.mu.Unlock()
}

// newLaneGateway is a gateway to a node that has just more lanes than are left idle, so
// that the next request takes one, whose watchman comes only when the test has it tick.
// Those that find no lane open none.
func newLaneGateway(t *testing.T, node *laneNode, timeout string) (string, *lanes, *way) {
	t.Helper()
	url, wgamedsWay := newNodeGateway(t, node, timeout)
	g, to := openLanes(t, url, wgamedsWay)
	return url, g, to
}

// openLanes is what newLaneGateway does with a gateway to a node that has no lanes yet.
func openLanes(t *testing.T, url string, wgamedsWay func() *way) (*lanes, *way) {
	t.Helper()
	get(t, url)
	to := wgamedsWay()
	for i := 0; i <= spareLanes; i++ {
		press(to, busyNode, time.Now().Add(time.Hour))
		get(t, url)
	}
	g := lanesOf(to)
	if len(g.idle) != spareLanes+1 {
		t.Fatalf("%d lanes are idle, want %d", len(g.idle), spareLanes+1)
	}
	press(to, -1000, time.Now().Add(time.Hour))
	return g, to
}

// lanesOf returns the lanes of a way, or nil.
func lanesOf(to *way) *lanes {
	to.pressure.mu.Lock()
	defer to.pressure.mu.Unlock()
	return to.pressure.lanes
}

// opened is how many requests openLanes makes.
const opened = 1 + spareLanes + 1

// lanesOpen tells how many lanes there are that do not rest.
func lanesOpen(g *lanes) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open)
}

// soon waits for a condition.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(fakeRedisPatience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": not in time")
		}
	}
}

func TestABusyNodeGetsLanes(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, wgamedsWay := newNodeGateway(t, node, "")
	get(t, url)
	press(wgamedsWay(), 0, time.Now().Add(time.Hour)) // all that follows is within a tick
	for i := 1; i < busyNode; i++ {
		get(t, url)
	}
	if lanesOf(wgamedsWay()) != nil {
		t.Error("lanes already")
	}
	for i := 0; i < 2*busyNode; i++ {
		if response, body := get(t, url); response.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", response.StatusCode, body)
		}
	}
	if got := node.requests.Load(); got != 3*busyNode {
		t.Errorf("%d requests arrived, want %d", got, 3*busyNode)
	}
	if got := node.connections.Load(); got != 1+spareLanes+1 {
		t.Errorf("%d connections, want one of the transport's and %d lanes", got, spareLanes+1)
	}
}

func TestANodeThatIsAskedForLittleGetsNoLanes(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, wgamedsWay := newNodeGateway(t, node, "")
	get(t, url)
	for i := 0; i < 2*busyNode; i++ {
		press(wgamedsWay(), busyNode-1, time.Now().Add(-2*laneTick)) // as many, but before
		get(t, url)
	}
	if lanesOf(wgamedsWay()) != nil || node.connections.Load() != 1 {
		t.Errorf("lanes: %t; %d connections, want 1", lanesOf(wgamedsWay()) != nil, node.connections.Load())
	}
}

func TestAnotherQueryToTheSameNodeTakesTheLanesThatThereAre(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	for what, another := range map[string]func(url string) string{
		"in another order": inAnotherOrder,
		"with a token":     func(url string) string { return url + "&token=1" },
	} {
		url, g, to := newLaneGateway(t, node, "")
		other := another(url)
		get(t, other) // in another order: the long way
		before := node.connections.Load()
		g.tick(time.Now(), probes)
		for i := 0; i < 3; i++ {
			get(t, other)
		}
		g.tick(time.Now(), probes)
		if node.connections.Load() != before || lanesOpen(g) != 3 || missedOf(to) != -1000 {
			t.Errorf("%s: %d connections more, %d lanes used, pressure %d", what, node.connections.Load()-before, lanesOpen(g), missedOf(to))
		}
	}
}

// inAnotherOrder has the last parameter of a query come first.
func inAnotherOrder(url string) string {
	path, query, _ := strings.Cut(url, "?")
	last := strings.LastIndex(query, "&")
	return path + "?" + query[last+1:] + "&" + query[:last]
}

// A lane whose node has closed it has its request made once more, which is for GETs alone.
func TestLanesCarryGETsWithoutABodyAlone(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, g, to := newLaneGateway(t, node, "")
	press(to, busyNode, time.Now().Add(time.Hour))
	g.tick(time.Now(), probes)
	others := []struct{ method, more, body string }{
		{"DELETE", "", ""}, {"POST", "", ""}, {"GET", "", "body"}, {"POST", "", "body"},
		{"DELETE", "&token=1", ""}, {"GET", "&token=2", "body"},
	}
	for _, c := range others {
		request, err := http.NewRequest(c.method, url+c.more, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s %s %q: %d", c.method, c.more, c.body, response.StatusCode)
		}
	}
	if got, want := node.requests.Load(), opened+int64(len(others)); got != want {
		t.Errorf("%d requests arrived, want %d", got, want)
	}
	g.tick(time.Now(), probes)
	if lanesOpen(g) != 0 || laneCount(g) != spareLanes+1 {
		t.Errorf("%d lanes of %d were used", lanesOpen(g), laneCount(g))
	}
}

func TestAQueryFromBeforeThereWereLanesTakesThem(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, wgamedsWay := newNodeGateway(t, node, "")
	other := inAnotherOrder(url)
	get(t, other)
	get(t, url)
	to := wgamedsWay()
	for i := 0; i <= spareLanes; i++ {
		press(to, busyNode, time.Now().Add(time.Hour))
		get(t, url)
	}
	before := node.connections.Load()
	press(to, 0, time.Now().Add(time.Hour)) // the node need not be busy for it
	g := lanesOf(to)
	g.tick(time.Now(), probes)
	for i := 0; i < 3; i++ {
		get(t, other)
	}
	g.tick(time.Now(), probes)
	if got := missedOf(to); node.connections.Load() != before || lanesOpen(g) != 3 || got != 0 {
		t.Errorf("%d connections more, %d lanes used, pressure %d", node.connections.Load()-before, lanesOpen(g), got)
	}
}

// missedOf returns how many requests of late have found no lane.
func missedOf(to *way) int {
	to.pressure.mu.Lock()
	defer to.pressure.mu.Unlock()
	return to.pressure.missed
}

func TestARequestGoesByALane(t *testing.T) {
	plain := func(_ int64, head string) string {
		if !strings.Contains(head, "\r\nX-Forwarded-For: 127.0.0.1\r\n") || strings.Contains(head, "X-Dynamicforward") {
			return "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
		}
		return plainAnswer
	}
	node := newLaneNode(t, plain)
	url, g, _ := newLaneGateway(t, node, "")
	before := node.connections.Load()
	for i := 0; i < 20; i++ {
		if response, body := get(t, url); response.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", response.StatusCode, body)
		}
	}
	if node.connections.Load() != before || node.requests.Load() != 20+opened || lanesOpen(g) != spareLanes+1 {
		t.Errorf("%d connections, %d requests, %d lanes", node.connections.Load(), node.requests.Load(), lanesOpen(g))
	}
}

// asTraefik serves a middleware, and hands over the header of each request when it is over,
// as Traefik logs it.
func asTraefik(t *testing.T, m *middleware) (string, chan http.Header) {
	t.Helper()
	handler := m.handler()
	seen := make(chan http.Header, 1)
	serve := func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		seen <- r.Header
	}
	return serveMiddleware(t, http.HandlerFunc(serve)), seen
}

// wantNoForgery checks a header that Traefik logs.
func wantNoForgery(t *testing.T, what string, header http.Header, node string) {
	t.Helper()
	if got := header[nodeHeader]; len(got) != 1 || got[0] != node {
		t.Errorf("%s: Traefik sees the node %q", what, got)
	}
	for name := range header {
		if strings.HasPrefix(name, headerPrefix) && name != nodeHeader {
			t.Errorf("%s: Traefik sees %s", what, name)
		}
	}
}

// newForgersGateway is newLaneGateway as asTraefik serves it. The node does not want to see
// what clients forge.
func newForgersGateway(t *testing.T) (url string, seen chan http.Header, node *laneNode, g *lanes, to *way) {
	t.Helper()
	cleanAlone := func(_ int64, head string) string {
		if strings.Contains(head, headerPrefix) {
			return "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
		}
		return plainAnswer
	}
	node = newLaneNode(t, cleanAlone)
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", node.addr)
	m, direct, wgamedsWay := newLaneMiddleware(context.Background(), t, redis.addr, "")
	g, to = openLanes(t, direct, wgamedsWay)
	gateway, seen := asTraefik(t, m)
	return gateway + wgamed, seen, node, g, to
}

func TestALaneTakesNoForgedHeadersAlong(t *testing.T) {
	url, seen, node, g, to := newForgersGateway(t)
	before := node.connections.Load()
	g.tick(time.Now(), probes)
	large := strings.Repeat("x", 3*laneBuffer)
	for _, c := range []struct {
		name         string
		first, after string // other headers, by the order of names
	}{
		{name: "X-Mine"}, // not forged
		{name: nodeHeader},
		{name: errorHeader},
		{name: "x-dynamicforward-anything"},
		{name: headerPrefix, first: large},
		{name: cacheHeader, after: large},
	} {
		request, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set(c.name, "forged")
		request.Header.Set("A-First", c.first)
		request.Header.Set("Z-Last", c.after)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: it reached the node", c.name)
		}
		wantNoForgery(t, c.name, <-seen, node.addr)
	}
	g.tick(time.Now(), probes)
	if node.connections.Load() != before || missedOf(to) != -1000 || lanesOpen(g) != spareLanes+1 {
		t.Errorf("%d connections more, %d found no lane, %d lanes were used", node.connections.Load()-before, missedOf(to)+1000, lanesOpen(g))
	}
}

// The client's host is none, which shows when the request is written down: it has a name
// that is said to be in Punycode, and is not.
func TestWhatALaneCannotSendIsLoggedWithoutForgedHeaders(t *testing.T) {
	url, seen, node, _, _ := newForgersGateway(t)
	gateway := strings.TrimSuffix(url, wgamed)
	_, reader := rawClient(t, gateway, "GET http://xn--\xc3\xa9"+wgamed+" HTTP/1.1\r\nHost: game.example.com\r\nX-Dynamicforward-Error: forged\r\n\r\n")
	wantNoForgery(t, "a host that is none", <-seen, node.addr)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadGateway || node.requests.Load() != opened {
		t.Errorf("%s, %d requests more", response.Status, node.requests.Load()-opened)
	}
}

// What has not been sent of a request may not go before the next one's.
func TestALaneThatCannotBeWrittenToIsNotUsedAgain(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, g, _ := newLaneGateway(t, node, "")
	for i := 0; i <= spareLanes; i++ {
		l := <-g.idle
		l.out = undialed
		g.idle <- l
	}
	if response, body := get(t, url); response.StatusCode != http.StatusOK || body != "ok" {
		t.Errorf("%d %q", response.StatusCode, body)
	}
	if got := laneCount(g); got != spareLanes {
		t.Errorf("%d lanes are left, want %d", got, spareLanes)
	}
}

func TestALaneDoesNotKeepTheRoomOfALargeRequest(t *testing.T) {
	url, seen, _, g, _ := newForgersGateway(t)
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Large", strings.Repeat("x", 3*laneBuffer))
	for _, when := range []string{"before", "after"} {
		for i := 0; i <= spareLanes; i++ {
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			<-seen
			if response.StatusCode != http.StatusOK {
				t.Fatal(response.Status)
			}
		}
		if got := largest(g); got <= 3*laneBuffer {
			t.Fatalf("%d bytes: no request went by a lane", got)
		}
		g.tick(time.Now(), probes)
		if got := largest(g); got != laneBuffer {
			t.Errorf("%s: a lane keeps %d bytes for requests, want %d", when, got, laneBuffer)
		}
		request.Header.Set(errorHeader, "forged") // it has to be looked for where the text is now
	}
}

// largest returns how much room for requests the lane keeps that keeps most.
func largest(g *lanes) int {
	most := 0
	for i := len(g.idle); i > 0; i-- {
		l := <-g.idle
		if l.text.Cap() > most {
			most = l.text.Cap()
		}
		g.idle <- l
	}
	return most
}

func TestALaneThatTheNodeHasClosedIsNoFailure(t *testing.T) {
	rude := func(number int64, _ string) string {
		if number > 1 && number <= opened {
			return plainAnswer + "!close" // without a word
		}
		return plainAnswer
	}
	node := newLaneNode(t, rude)
	url, g, _ := newLaneGateway(t, node, "")
	soon(t, "the node's end of the lanes", func() bool { return node.open.Load() == 1 })
	for i := 0; i < 3; i++ {
		if response, body := get(t, url); response.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", response.StatusCode, body)
		}
	}
	if node.requests.Load() != opened+3 || lanesOpen(g) != spareLanes {
		t.Errorf("%d requests, %d lanes left", node.requests.Load(), lanesOpen(g))
	}
}

func TestALaneEndsWhenTheNodeSaysSo(t *testing.T) {
	last := func(number int64, _ string) string {
		if number > opened {
			return "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlast"
		}
		return plainAnswer
	}
	node := newLaneNode(t, last)
	url, g, _ := newLaneGateway(t, node, "")
	if response, body := get(t, url); response.StatusCode != 200 || body != "last" {
		t.Errorf("%d %q", response.StatusCode, body)
	}
	soon(t, "the end of the lane", func() bool { return lanesOpen(g) == spareLanes && node.open.Load() == 1+spareLanes })
	if node.requests.Load() != opened+1 {
		t.Errorf("%d requests, want %d", node.requests.Load(), opened+1)
	}
}

func TestNobodyGetsWhatNobodyAskedFor(t *testing.T) {
	twice := func(number int64, _ string) string {
		if number == opened+1 {
			return plainAnswer + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
		}
		return plainAnswer
	}
	node := newLaneNode(t, twice)
	url, g, _ := newLaneGateway(t, node, "")
	for i := 0; i < 2*opened; i++ {
		if response, body := get(t, url); response.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", response.StatusCode, body)
		}
	}
	if lanesOpen(g) != spareLanes {
		t.Errorf("%d lanes, want %d", lanesOpen(g), spareLanes)
	}
}

func TestANodeThatSaysMoreThanItWasAskedForLosesItsLanes(t *testing.T) {
	later := func(number int64, _ string) string {
		if number == opened+1 {
			return plainAnswer + "!laterHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
		}
		return plainAnswer
	}
	node := newLaneNode(t, later)
	url, g, to := newLaneGateway(t, node, "")
	if _, body := get(t, url); body != "ok" {
		t.Fatalf("%q", body)
	}
	node.later <- struct{}{}
	<-node.later
	soon(t, "the end of the lane", func() bool {
		g.tick(time.Now(), probes)
		return node.open.Load() < 1+spareLanes+1
	})
	press(to, busyNode, time.Now().Add(time.Hour))
	for i := 0; i < opened; i++ {
		if _, body := get(t, url); body != "ok" {
			t.Fatalf("%q", body)
		}
	}
	g.tick(time.Now(), probes)
	if lanesOpen(g) != 0 {
		t.Errorf("%d lanes, want none", lanesOpen(g))
	}
}

func TestALaneCarriesAnswersOfEveryKind(t *testing.T) {
	long := strings.Repeat("0123456789", 20000)
	answers := []string{
		fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long),
		fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n%x\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n", len(long), long),
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end!close",
	}
	bodies := []string{long, long, "", "ok", "until the end"}
	kinds := func(number int64, _ string) string {
		if number <= opened {
			return plainAnswer
		}
		return answers[number-opened-1]
	}
	node := newLaneNode(t, kinds)
	url, g, _ := newLaneGateway(t, node, "")
	hints := 0
	for i, want := range bodies {
		trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			if header.Get("Link") != "" {
				hints++
			}
			return nil
		}}
		request, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != want || i == 1 && response.Trailer.Get("X-Sum") != "1" {
			t.Errorf("answer %d: %d bytes, %v, trailer %v", i, len(body), err, response.Trailer)
		}
		if i == 3 && (hints != 1 || response.Header.Get("Link") != "") {
			t.Errorf("%d hints, header %v", hints, response.Header)
		}
	}
	if node.requests.Load() != opened+int64(len(answers)) || lanesOpen(g) != spareLanes {
		t.Errorf("%d requests, %d lanes left", node.requests.Load(), lanesOpen(g))
	}
}

func TestALaneWaitsForAnAnswerNoLongerThanItMay(t *testing.T) {
	silent := func(number int64, _ string) string {
		if number > opened {
			return ""
		}
		return plainAnswer
	}
	node := newLaneNode(t, silent)
	url, g, _ := newLaneGateway(t, node, "1h")
	status := make(chan int, 1)
	ask := func() {
		response, err := http.Get(url)
		if err != nil {
			status <- 0
			return
		}
		response.Body.Close()
		status <- response.StatusCode
	}
	go ask()
	soon(t, "the request", func() bool { return node.requests.Load() == opened+1 })
	now := time.Now()
	g.tick(now, probes)
	g.tick(now.Add(time.Hour-time.Second), probes)
	if lanesOpen(g) != 1 {
		t.Errorf("%d lanes, want the one that waits", lanesOpen(g)) // the idle ones rest
	}
	g.tick(now.Add(time.Hour), probes)
	soon(t, "the answer", func() bool { return len(status) == 1 })
	if got := <-status; got != http.StatusGatewayTimeout {
		t.Errorf("status %d", got)
	}
}

// sluggish is a connection whose deadlines are late, as where a processor is taken away.
type sluggish struct {
	net.Conn
	by time.Duration
}

// SetReadDeadline implements net.Conn.
func (c *sluggish) SetReadDeadline(at time.Time) error {
	time.Sleep(c.by)
	return c.Conn.SetReadDeadline(at)
}

func TestALaneIsReadWithMoreTimeWhereThatWasTooShort(t *testing.T) {
	for _, c := range []struct {
		by   time.Duration
		read bool
	}{{0, true}, {probeTime, true}, {maxProbeTime, false}} {
		_, conn := tcpPair(t)
		l := &lane{conn: &sluggish{Conn: conn, by: c.by}, reader: bufio.NewReader(conn)}
		if err := probe(l); isTimeout(err) != c.read || !c.read && err != errUnread {
			t.Errorf("deadlines late by %s: %v", c.by, err)
		}
	}
}

func TestAClientThatHasGoneEndsItsLane(t *testing.T) {
	silent := func(number int64, _ string) string {
		switch number {
		case opened + 1:
			return ""
		case opened + 2:
			return halfAnswer
		}
		return plainAnswer
	}
	node := newLaneNode(t, silent)
	url, g, to := newLaneGateway(t, node, "")
	var done sync.WaitGroup
	for i := 1; i <= 2; i++ {
		ctx, cancel := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		done.Add(1)
		ask := func() {
			defer done.Done()
			response, err := http.DefaultClient.Do(request)
			if err == nil {
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		}
		if i == 2 { // the first has left spareLanes: the second would go by the transport
			press(to, busyNode, time.Now().Add(time.Hour))
		}
		go ask()
		count := int64(opened + i)
		soon(t, "the request", func() bool { return node.requests.Load() == count })
		cancel()
		done.Wait()
		now := time.Now()
		soon(t, "the end of the lane", func() bool {
			for j := len(g.idle); j > 0; j-- {
				l := <-g.idle
				l.asked = http.Header{} // it stays
				g.idle <- l
			}
			g.tick(now, probes)
			return node.open.Load() == 1+spareLanes
		})
	}
}

// halfAnswer is the begin of an answer whose rest does not come.
const halfAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"

// halfway is a gateway to a node that says halfAnswer from now on, and a lane on which
// one has come.
func halfway(t *testing.T) (*laneNode, *lanes, *lane, *http.Response) {
	t.Helper()
	half := func(number int64, _ string) string {
		if number > opened {
			return halfAnswer
		}
		return plainAnswer
	}
	node := newLaneNode(t, half)
	_, g, _ := newLaneGateway(t, node, "1h")
	request, err := http.NewRequest(http.MethodGet, "http://"+node.addr+wgamed, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := <-g.idle
	l.asked = http.Header{}
	response, err := l.proxy.Transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	return node, g, l, response
}

func TestAnAnswerMayTakeLongerThanItsHead(t *testing.T) {
	_, g, l, response := halfway(t)
	now := time.Now()
	for i := 0; i < 3; i++ {
		g.tick(now.Add(time.Duration(i)*time.Hour), 0)
	}
	if lanesOpen(g) != 1 || l.late {
		t.Errorf("%d lanes, too late: %t; want the one of the answer", lanesOpen(g), l.late)
	}
	response.Body.Close()
	l.settle()
}

func TestALaneDoesNotWaitForAnAnswerThatNobodyReads(t *testing.T) {
	node, g, l, response := halfway(t)
	leave := func() {
		response.Body.Close()
		l.settle()
	}
	go leave()
	soon(t, "the end of the lane", func() bool { return lanesOpen(g) == spareLanes && node.open.Load() == 1+spareLanes })
}

func TestLanesThatAreNotUsedRestAndAreClosed(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, g, _ := newLaneGateway(t, node, "")
	now := time.Now()
	g.tick(now, probes)
	if lanesOpen(g) != spareLanes+1 {
		t.Errorf("%d lanes after one look", lanesOpen(g))
	}
	get(t, url)
	g.tick(now, probes)
	if lanesOpen(g) != 1 || laneCount(g) != spareLanes+1 {
		t.Errorf("%d lanes of %d after two, want the one that was used", lanesOpen(g), laneCount(g))
	}
	g.tick(now.Add(time.Second), probes)
	if done, _ := g.tick(now.Add(g.rest-1), probes); done || laneCount(g) != spareLanes+1 || node.open.Load() != 1+spareLanes+1 {
		t.Errorf("%d lanes, %d connections: closed too soon", laneCount(g), node.open.Load())
	}
	g.tick(now.Add(g.rest), probes)
	if laneCount(g) != 1 {
		t.Errorf("%d lanes, want the one that came to rest last", laneCount(g))
	}
	for i := 1; i < emptyLooks; i++ {
		if done, _ := g.tick(now.Add(time.Second+g.rest), probes); done {
			t.Errorf("done at look %d", i)
		}
	}
	if done, _ := g.tick(now.Add(time.Second+g.rest), probes); !done {
		t.Error("not done")
	}
	soon(t, "the end of all", func() bool { return node.open.Load() == 1 })
}

// restingGateway is a gateway all of whose lanes rest, to a node that says no more than
// it is asked for until then.
func restingGateway(t *testing.T, node *laneNode) (string, *lanes, *way) {
	t.Helper()
	url, g, to := newLaneGateway(t, node, "")
	g.tick(time.Now(), probes)
	g.tick(time.Now(), probes)
	if lanesOpen(g) != 0 || laneCount(g) != spareLanes+1 {
		t.Fatalf("%d lanes of %d do not rest", lanesOpen(g), laneCount(g))
	}
	for len(g.idle) > 0 { // the stand-in
		<-g.idle
	}
	return url, g, to
}

func TestALaneThatRestsTakesTheNextRequest(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, g, to := restingGateway(t, node)
	press(to, busyNode, time.Now().Add(time.Hour))
	for i := 0; i < 2; i++ {
		if _, body := get(t, url); body != "ok" {
			t.Fatalf("%q", body)
		}
	}
	if lanesOpen(g) != 2 || laneCount(g) != spareLanes+1 || node.connections.Load() != 1+spareLanes+1 {
		t.Errorf("%d lanes of %d, %d connections", lanesOpen(g), laneCount(g), node.connections.Load())
	}
	g.tick(time.Now(), probes)
	if lanesOpen(g) != 2 {
		t.Errorf("%d lanes, want the two that were used", lanesOpen(g))
	}
}

func TestALaneThatRestsIsReadBeforeItIsUsed(t *testing.T) {
	later := func(number int64, _ string) string {
		if number == opened {
			return plainAnswer + "!laterHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
		}
		return plainAnswer
	}
	node := newLaneNode(t, later)
	url, g, to := restingGateway(t, node)
	node.later <- struct{}{}
	<-node.later
	press(to, busyNode, time.Now().Add(time.Hour))
	for i := 0; i < 2*spareLanes; i++ {
		if _, body := get(t, url); body != "ok" {
			t.Fatalf("%q", body)
		}
	}
	if g.trusted() {
		t.Error("the node is trusted still")
	}
	g.tick(time.Now(), probes)
	if laneCount(g) != 0 {
		t.Errorf("%d lanes, want none", laneCount(g))
	}
}

func TestALaneThatTheNodeClosesAtRestIsReplaced(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	url, g, to := restingGateway(t, node)
	node.hangUp()
	soon(t, "the end of all connections", func() bool { return node.open.Load() == 0 })
	press(to, busyNode, time.Now().Add(time.Hour))
	if _, body := get(t, url); body != "ok" {
		t.Fatalf("%q", body)
	}
	if laneCount(g) != 1 || !g.trusted() || node.requests.Load() != opened+1 {
		t.Errorf("%d lanes, trusted %t, %d requests", laneCount(g), g.trusted(), node.requests.Load())
	}
}

func TestLanesThatTheNodeClosesAtRestAreClosedAtALook(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	_, g, _ := restingGateway(t, node)
	for i := 0; i < 2*spareLanes; i++ {
		g.tick(time.Now(), probes)
	}
	if laneCount(g) != spareLanes+1 {
		t.Errorf("%d lanes, want all", laneCount(g))
	}
	node.hangUp()
	soon(t, "the end of all connections", func() bool { return node.open.Load() == 0 })
	soon(t, "the end of all lanes", func() bool {
		g.tick(time.Now(), probes)
		return laneCount(g) == 0
	})
	if !g.trusted() {
		t.Error("the node is trusted no more")
	}
}

func TestANodeThatHasWaitedTooLongAtRestIsTrusted(t *testing.T) {
	later := func(number int64, _ string) string {
		if number == opened {
			return plainAnswer + "!close!laterHTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
		}
		return plainAnswer
	}
	node := newLaneNode(t, later)
	_, g, _ := restingGateway(t, node)
	node.later <- struct{}{}
	<-node.later
	soon(t, "the end of the lane", func() bool {
		g.tick(time.Now(), probes)
		return laneCount(g) == spareLanes
	})
	if !g.trusted() {
		t.Error("the node is trusted no more")
	}
}

// Where all lanes rest most looks leave them alone, unless a request may wait for one.
func TestLanesAtRestAreLookedAtSeldom(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	_, g, _ := restingGateway(t, newLaneNode(t, plain))
	if atRest(g) {
		t.Error("no stand-in, and nobody looks after it")
	}
	m := newWatchman()
	m.every = time.Hour
	m.watch(g)
	before := g.visits
	for i := 0; i < restLooks; i++ {
		m.look()
	}
	if got := g.visits - before; got != 2 { // the first one makes a stand-in
		t.Errorf("looked at %d times in %d looks", got, restLooks)
	}
	l := rouse(g)
	g.idle <- l
	m.look()
	if got := g.visits - before; got != 3 {
		t.Errorf("looked at %d times, want 3: a lane does not rest", got)
	}
}

// lanesToLookAt are some that nobody uses; trusted is called once in each look.
func lanesToLookAt(trusted func() bool) *lanes {
	g := &lanes{idle: make(chan *lane, 2), open: map[*lane]bool{}, trusted: trusted}
	g.open[&lane{under: make(chan *http.Request, 1)}] = true
	g.idle <- &lane{over: true}
	return g
}

// Interpreted, who is called at the same moment as another one could be taken for that.
func TestEachWatchmanGoesOnDuty(t *testing.T) {
	const watchmen = 50
	onDuty := atomic.Int64{}
	goOn := make(chan bool)
	send := func() {
		looked := &sync.Once{}
		count := func() { onDuty.Add(1) }
		var g *lanes
		trusted := func() bool {
			looked.Do(count)
			g.mu.Lock()
			defer g.mu.Unlock()
			for l := range g.open { // or he would go on when the test is over
				delete(g.open, l)
			}
			return true
		}
		g = lanesToLookAt(trusted)
		m := newWatchman()
		m.every = 10 * time.Millisecond
		<-goOn
		m.watch(g)
	}
	for i := 0; i < watchmen; i++ {
		go send()
	}
	close(goOn)
	all := func() bool { return onDuty.Load() == watchmen }
	waitFor(t, "all watchmen", all)
}

// A look must not keep what the one before it has used: interpreted, a chain of calls would.
func TestLooksLeaveNothingInMemory(t *testing.T) {
	const (
		first = 50
		last  = 550 // less than lostAfter
	)
	looks := 0
	before := int64(0)
	more := make(chan int64, 1)
	trusted := func() bool {
		looks++
		switch looks {
		case first:
			before = liveHeap()
		case last:
			more <- liveHeap() - before
		}
		return true
	}
	m := newWatchman()
	m.every = time.Microsecond
	m.watch(lanesToLookAt(trusted))
	if bytes := <-more; bytes > 1<<20 {
		t.Errorf("%d looks have left %d kB", last-first, bytes>>10)
	}
}

func TestLanesThatHaveRestedCountAsLanes(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	_, g, _ := restingGateway(t, newLaneNode(t, plain))
	room := cap(g.idle) / 2
	for i := lanesOpen(g) + spareLanes + 1; i < room; i++ {
		g.open[g.make()] = true
	}
	m := newWatchman()
	m.every = time.Hour
	for i := 0; i <= spareLanes; i++ { // those at rest
		if freeLane(g, m) == nil {
			t.Fatal("no lane")
		}
	}
	if freeLane(g, m) != nil || laneCount(g) != room {
		t.Errorf("%d lanes, want %d", laneCount(g), room)
	}
}

// watchedConn tells when a deadline is set.
type watchedConn struct {
	net.Conn
	set func()
}

// SetReadDeadline implements net.Conn.
func (c *watchedConn) SetReadDeadline(t time.Time) error {
	c.set()
	return c.Conn.SetReadDeadline(t)
}

// A look takes a while, in which requests take lanes, so that one that was looked at
// comes to the front again. That nobody has used it since says nothing.
func TestALaneThatIsMetTwiceAtALookDoesNotRest(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	_, g, _ := newLaneGateway(t, newLaneNode(t, plain), "")
	first := <-g.idle
	var taken []*lane
	take := func() { // when the first is read
		for len(g.idle) > 2 {
			l := <-g.idle
			taken = append(taken, l)
		}
	}
	first.conn = &watchedConn{Conn: first.conn, set: take}
	var others []*lane
	for len(g.idle) > 0 {
		l := <-g.idle
		others = append(others, l)
	}
	g.idle <- first
	for _, l := range others {
		g.idle <- l
	}
	g.tick(time.Now(), probes)
	if len(taken) != spareLanes-2 || len(g.idle) != 3 || lanesOpen(g) != spareLanes+1 {
		t.Errorf("%d taken, %d idle, %d of %d lanes do not rest", len(taken), len(g.idle), lanesOpen(g), laneCount(g))
	}
}

func TestALaneThatIsLostIsForgottenUntilItIsBack(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	_, g, _ := newLaneGateway(t, newLaneNode(t, plain), "")
	lost := <-g.idle
	look := func() {
		for i := len(g.idle); i > 0; i-- {
			l := <-g.idle
			l.asked = http.Header{}
			g.idle <- l
		}
		g.tick(time.Now(), 0)
	}
	for i := 1; i < lostAfter; i++ {
		look()
	}
	if lanesOpen(g) != spareLanes+1 {
		t.Errorf("%d lanes: forgotten too soon", lanesOpen(g))
	}
	look()
	if lanesOpen(g) != spareLanes {
		t.Errorf("%d lanes, want all but the one that is lost", lanesOpen(g))
	}
	g.idle <- lost
	look()
	if lanesOpen(g) != spareLanes+1 {
		t.Errorf("%d lanes, want all", lanesOpen(g))
	}
}

// A lane may be opened when it has just been found that there are none.
func TestLanesAreWatchedAsLongAsThereAreAny(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	_, g, _ := restingGateway(t, newLaneNode(t, plain))
	m := newWatchman()
	m.every = time.Hour
	m.watch(g)
	m.leave(g)
	if !m.watched[g] {
		t.Error("lanes at rest are not watched")
	}
	visitResting(g, time.Now(), false)
	m.leave(g)
	if m.watched[g] {
		t.Error("watched, where there is nothing to watch")
	}
}

func TestLanesEndWithTheirRouter(t *testing.T) {
	plain := func(_ int64, _ string) string { return plainAnswer }
	node := newLaneNode(t, plain)
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", node.addr)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, url, wgamedsWay := newLaneMiddleware(ctx, t, redis.addr, "")
	get(t, url)
	for i := 0; i < 2; i++ {
		press(wgamedsWay(), busyNode, time.Now().Add(time.Hour))
		get(t, url)
	}
	g := lanesOf(wgamedsWay())
	g.tick(time.Now(), probes)
	get(t, url)
	g.tick(time.Now(), probes)
	if lanesOpen(g) != 1 || laneCount(g) != 3 {
		t.Fatalf("%d lanes of %d", lanesOpen(g), laneCount(g))
	}
	cancel()
	g.tick(time.Now(), probes)
	if laneCount(g) != 0 {
		t.Errorf("%d lanes, want none", laneCount(g))
	}
}

func TestNoRequestWaitsForALaneInVain(t *testing.T) {
	plain := func(_ int64, head string) string {
		if strings.Contains(head, headerPrefix) {
			return "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
		}
		return plainAnswer
	}
	node := newLaneNode(t, plain)
	_, g, _ := newLaneGateway(t, node, "")
	for len(g.idle) > 0 { // as if others had taken them for long
		<-g.idle
	}
	g.tick(time.Now(), probes)
	l := <-g.idle
	recorder := newRecorder()
	request, err := http.NewRequest(http.MethodGet, "http://gateway"+wgamed, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(errorHeader, "forged")
	ride(g.idle, l, recorder, request)
	if recorder.body.String() != "ok" || len(g.idle) != 0 {
		t.Errorf("%q, %d idle", recorder.body.String(), len(g.idle))
	}
	if got := request.Header[nodeHeader]; len(got) != 1 || got[0] != node.addr || request.Header[errorHeader] != nil {
		t.Errorf("Traefik sees %v", request.Header)
	}
	if done, _ := g.tick(time.Now(), probes); done || len(g.idle) != 1 {
		t.Errorf("nothing for the next that waits: done %t, %d idle", done, len(g.idle))
	}
}

// recorder is a ResponseWriter that keeps the body.
type recorder struct {
	header http.Header
	body   strings.Builder
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(_ int) {}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
