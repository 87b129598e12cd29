package dynamicforward

import (
	"context"
	"errors"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/traefik/genconf/dynamic"
)

// letThrough enters a gate so many times, at once, and fails if it cannot.
func letThrough(t *testing.T, g *gate, count int) {
	t.Helper()
	for i := 0; i < count; i++ {
		if trial, err := enterGate(context.Background(), g, time.Minute); trial || err != nil {
			t.Fatalf("dial %d: trial %v, %v", i, trial, err)
		}
	}
}

// waitsAt starts a dial that has to wait at a gate. What becomes of it comes on
// the channel.
func waitsAt(ctx context.Context, t *testing.T, g *gate, timeout time.Duration) chan error {
	t.Helper()
	became := make(chan error, 1)
	before := g.waits()
	enter := func() {
		_, err := enterGate(ctx, g, timeout)
		became <- err
	}
	go enter()
	waits := func() bool { return g.waits() > before }
	waitFor(t, "a dial that waits", waits)
	return became
}

// waits returns how many dials wait.
func (g *gate) waits() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting.Len()
}

func TestDialsToOneAddressAreBounded(t *testing.T) {
	g := newGate(true)
	letThrough(t, g, maxDials)
	second := waitsAt(context.Background(), t, g, time.Minute)
	third := waitsAt(context.Background(), t, g, time.Minute)
	leaveGate(g, false, nil)
	if err := <-second; err != nil {
		t.Errorf("when its turn came: %v", err)
	}
	if g.waits() != 1 || g.dials != maxDials {
		t.Errorf("%d wait and %d dial", g.waits(), g.dials)
	}
	leaveGate(g, false, errors.New("connection refused"))
	if err := <-third; err != nil {
		t.Errorf("when its turn came: %v", err)
	}
}

func TestADialThatIsNotAnsweredTellsOfTheOthers(t *testing.T) {
	g := newGate(true)
	letThrough(t, g, maxDials)
	waiting := waitsAt(context.Background(), t, g, time.Minute)
	leaveGate(g, false, os.ErrDeadlineExceeded)
	if err := <-waiting; !errors.Is(err, errNotDialed) {
		t.Errorf("what waited: %v", err)
	}
	trial, err := enterGate(context.Background(), g, time.Minute)
	if !trial || err != nil {
		t.Fatalf("the first one afterwards: trial %v, %v", trial, err)
	}
	g.until = time.Now().Add(-grace) // the trial goes on for long
	for i := 0; i < 3; i++ {
		if _, err := enterGate(context.Background(), g, time.Minute); !errors.Is(err, errNotDialed) {
			t.Errorf("beside the trial: %v", err)
		}
	}
	leaveGate(g, true, context.Canceled)
	if again, err := enterGate(context.Background(), g, time.Minute); !again || err != nil {
		t.Fatalf("after the trial's client has gone: trial %v, %v", again, err)
	}
	leaveGate(g, true, os.ErrDeadlineExceeded)
	if again, err := enterGate(context.Background(), g, time.Minute); !again || err != nil {
		t.Fatalf("after a trial: trial %v, %v", again, err)
	}
	for i := 0; i < maxDials-1; i++ {
		leaveGate(g, false, os.ErrDeadlineExceeded) // those from before
	}
	if _, err := enterGate(context.Background(), g, time.Minute); !errors.Is(err, errNotDialed) {
		t.Errorf("after those from before: %v", err)
	}
	leaveGate(g, true, nil)
	letThrough(t, g, maxDials)
}

func TestANodeThatRefusesIsNotSilent(t *testing.T) {
	g := newGate(true)
	letThrough(t, g, 1)
	leaveGate(g, false, os.ErrDeadlineExceeded)
	if trial, err := enterGate(context.Background(), g, time.Minute); !trial || err != nil {
		t.Fatalf("trial %v, %v", trial, err)
	}
	leaveGate(g, true, errors.New("connection refused"))
	letThrough(t, g, maxDials)
}

func TestGraceEnds(t *testing.T) {
	g := newGate(true)
	letThrough(t, g, 1)
	leaveGate(g, false, os.ErrDeadlineExceeded)
	g.until = time.Now().Add(-time.Millisecond)
	letThrough(t, g, maxDials)
}

func TestWhatWaitsForADialDoesNotWaitForEver(t *testing.T) {
	g := newGate(true)
	letThrough(t, g, maxDials)
	if _, err := enterGate(context.Background(), g, time.Millisecond); !errors.Is(err, errNotDialed) {
		t.Errorf("after dialTimeout: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := waitsAt(ctx, t, g, time.Minute)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that has gone: %v", err)
	}
	if g.waits() != 0 {
		t.Errorf("%d wait", g.waits())
	}
	for i := 0; i < maxDialsWaiting; i++ {
		g.waiting.PushBack(&dialWait{turn: make(chan struct{})})
	}
	if _, err := enterGate(context.Background(), g, time.Minute); !errors.Is(err, errNotDialed) {
		t.Errorf("one too many: %v", err)
	}
}

func TestAllRoutersShareAGate(t *testing.T) {
	f, err := newFence(&TargetsConfig{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := f.open("127.0.0.1:1")
	second, _ := f.open("127.0.0.1:1")
	if first.(*gate) != second.(*gate) {
		t.Error("one address has two gates")
	}
}

// silentNode is a gateway to a node that runs, but whose dials time out until
// the returned function is called.
func silentNode(t *testing.T) (*pushingRedis, *middleware, func()) {
	t.Helper()
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", testNode(t, "first"))
	config := testConfig(redis.addr)
	// Settings of its own: nobody else has this forwarder.
	config.ServersTransport = &dynamic.ServersTransport{ServerName: t.Name(), MaxIdleConnsPerHost: -1}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
	if err != nil {
		t.Fatal(err)
	}
	before := m.nodes.fence.dialer.Timeout
	m.nodes.fence.dialer.Timeout = 1 // over before it begins
	answers := func() { m.nodes.fence.dialer.Timeout = before }
	return redis, m, answers
}

func TestASilentNodeIsAnsweredAtOnceAndFoundAgain(t *testing.T) {
	_, m, answers := silentNode(t)
	gateway := serveMiddleware(t, m.handler())
	for i := 0; i < 3; i++ {
		if response, body := get(t, gateway+wgamed); response.StatusCode != 502 || body != "node-down: the node cannot be reached\n" {
			t.Fatalf("got %s %q", response.Status, body)
		}
	}
	g := m.nodes.fence.gates.get(theNode(t, m)).(*gate)
	g.trying = true // somebody tries it: all others are not let through
	answers()
	if response, _ := get(t, gateway+wgamed); response.StatusCode != 502 {
		t.Errorf("beside a trial: got %s", response.Status)
	}
	_, reader := rawClient(t, gateway, handshakeText(wgamed))
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 502 {
		t.Errorf("a handshake beside a trial: got %v, %v", response, err)
	}
	g.trying = false
	if response, body := get(t, gateway+wgamed); response.StatusCode != 200 || body != "first" {
		t.Errorf("after the node is back: got %s %q", response.Status, body)
	}
}

func TestASilentNodeThatHasMovedIsFound(t *testing.T) {
	redis, m, _ := silentNode(t)
	gateway := serveMiddleware(t, m.handler())
	get(t, gateway+wgamed)
	g := m.nodes.fence.gates.get(theNode(t, m)).(*gate)
	g.trying = true
	m.nodes.fence.dialer.Timeout = time.Minute
	age(m.table, "game-server_dev_node_wgamed", "1", lookAgainAfter)
	before := redis.count("HGET")
	for i := 0; i < 5; i++ {
		if response, _ := get(t, gateway+wgamed); response.StatusCode != 502 {
			t.Fatalf("before it moves: %s", response.Status)
		}
	}
	if looks := redis.count("HGET") - before; looks < 1 || looks > 4 {
		t.Errorf("5 requests that were not even dialed read the route %d times", looks)
	}
	redis.hset("game-server_dev_node_wgamed", "1", testNode(t, "second")) // without a word
	age(m.table, "game-server_dev_node_wgamed", "1", lookAgainAfter)
	if response, body := get(t, gateway+wgamed); response.StatusCode != 200 || body != "second" {
		t.Errorf("after it has moved: %s %q", response.Status, body)
	}
}

// theNode is the address that wgamed leads to, as it is dialed.
func theNode(t *testing.T, m *middleware) string {
	t.Helper()
	r, _, err := m.table.find(context.Background(), "game-server_dev_node_wgamed", "1")
	if err != nil {
		t.Fatal(err)
	}
	return r.node.dial
}
