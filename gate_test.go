package dynamicforward

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/traefik/genconf/dynamic"
)

// enterGate enters a gate as dial does.
func enterGate(ctx context.Context, g *gate, timeout time.Duration) (bool, error) {
	if g.load.Add(1) <= maxDials {
		return false, nil
	}
	trial, err := g.enter(ctx, timeout)
	return trial, err
}

// leaveGate leaves a gate as dial does.
func leaveGate(g *gate, trial bool, err error) {
	if !trial && g.load.Add(-1) < maxDials-1 && err == nil {
		return
	}
	g.leave(trial, err)
}

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
	g := newGate(nil, "")
	letThrough(t, g, maxDials)
	second := waitsAt(context.Background(), t, g, time.Minute)
	third := waitsAt(context.Background(), t, g, time.Minute)
	leaveGate(g, false, nil)
	if err := <-second; err != nil {
		t.Errorf("when its turn came: %v", err)
	}
	if g.waits() != 1 || g.load.Load() != maxDials {
		t.Errorf("%d wait and %d dial", g.waits(), g.load.Load())
	}
	leaveGate(g, false, errors.New("connection refused"))
	if err := <-third; err != nil {
		t.Errorf("when its turn came: %v", err)
	}
}

func TestADialThatIsNotAnsweredTellsOfTheOthers(t *testing.T) {
	g := newGate(nil, "")
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
	g := newGate(nil, "")
	letThrough(t, g, 1)
	leaveGate(g, false, os.ErrDeadlineExceeded)
	if trial, err := enterGate(context.Background(), g, time.Minute); !trial || err != nil {
		t.Fatalf("trial %v, %v", trial, err)
	}
	leaveGate(g, true, errors.New("connection refused"))
	letThrough(t, g, maxDials)
}

func TestGraceEnds(t *testing.T) {
	g := newGate(nil, "")
	letThrough(t, g, 1)
	leaveGate(g, false, os.ErrDeadlineExceeded)
	g.until = time.Now().Add(-time.Millisecond)
	letThrough(t, g, maxDials)
}

func TestWhatWaitsForADialDoesNotWaitForEver(t *testing.T) {
	g := newGate(nil, "")
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

// slowDialer is a dialer whose dials wait until they may go on. Those that do are
// counted.
func slowDialer(goOn chan struct{}, count *atomic.Int64) *net.Dialer {
	dialer := &net.Dialer{Timeout: fakeRedisPatience}
	control := reflect.ValueOf(dialer).Elem().FieldByName("Control") // Yaegi has no syscall.RawConn
	wait := func(_ []reflect.Value) []reflect.Value {
		count.Add(1)
		<-goOn
		return []reflect.Value{reflect.Zero(control.Type().Out(0))}
	}
	control.Set(reflect.MakeFunc(control.Type(), wait))
	return dialer
}

func TestDialsTakeTurns(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	goOn := make(chan struct{})
	begun := &atomic.Int64{}
	f, err := newFence(&TargetsConfig{}, slowDialer(goOn, begun))
	if err != nil {
		t.Fatal(err)
	}
	g := f.gate(listener.Addr().String())
	const more = 3
	results := make(chan error, maxDials+more)
	one := func() {
		conn, err := dial(context.Background(), g)
		if err == nil {
			conn.Close()
		}
		results <- err
	}
	for i := 0; i < maxDials+more; i++ {
		go one()
	}
	asMany := func() bool { return begun.Load() == maxDials && g.waits() == more }
	waitFor(t, "as many dials as there may be", asMany)
	for i := 0; i < more; i++ {
		goOn <- struct{}{}
		if err := <-results; err != nil {
			t.Fatal(err)
		}
		next := func() bool { return begun.Load() == int64(maxDials+1+i) && g.waits() == more-1-i }
		waitFor(t, "the next one's turn", next)
	}
	close(goOn)
	for i := 0; i < maxDials; i++ {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if g.load.Load() != 0 {
		t.Errorf("in the end there are %d dials", g.load.Load())
	}
}

func TestAllRoutersShareAGate(t *testing.T) {
	f, err := newFence(&TargetsConfig{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := f.gate("127.0.0.1:1")
	if first != f.gate("127.0.0.1:1") {
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
