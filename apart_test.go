package dynamicforward

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"
)

// liveHeap is how much of the heap is in use when garbage has been collected, in bytes.
func liveHeap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// callers is how many times each thing is made, and burden what its caller has in its
// variables each time, in bytes.
const (
	callers = 10
	burden  = 4 << 20
)

// leavesBurdens has things made, and waits until most of those who had them made are gone.
func leavesBurdens(t *testing.T, name string, makeOne func(i int)) {
	t.Helper()
	before := liveHeap()
	for i := 0; i < callers; i++ {
		makeOne(i)
	}
	gone := func() bool { return liveHeap()-before < callers*burden/2 }
	waitFor(t, name+" to let go of its caller", gone)
}

// Interpreted, what lives long would keep the frames of those who had it made: see apartWay.
func TestWhatLivesLongKeepsNoCaller(t *testing.T) {
	redis := newPushingRedis(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m, err := newMiddleware(ctx, http.NotFoundHandler(), testConfig(redis.addr), "test")
	if err != nil {
		t.Fatal(err)
	}
	made := make([]interface{}, callers)
	makeWay := func(i int) {
		much := make([]byte, burden)
		node, err := parseTarget(fmt.Sprintf("127.0.0.1:%d", 1000+i+int(much[i])))
		if err != nil {
			t.Error(err)
			return
		}
		made[i] = m.to(node)
	}
	leavesBurdens(t, "a way", makeWay)
	for i := range made {
		press(made[i].(*way), busyNode, time.Now().Add(time.Hour))
	}
	makeLanes := func(i int) {
		much := make([]byte, burden)
		g := busyLanes(m, made[i+int(much[i])].(*way))
		if g == nil {
			t.Error("no lanes")
			return
		}
		made[i] = g.make()
	}
	leavesBurdens(t, "a lane", makeLanes)
	lingerFor(time.Minute) // longer than anybody waits to see the callers go
	defer lingerFor(lingers)
	makeShared := func(i int) {
		much := make([]byte, burden)
		config := testConfig(redis.addr)
		config.Cache.MaxEntries = 1000 + i + int(much[i]) // none has these two
		config.Targets.Allow = []string{fmt.Sprintf("127.0.0.1:%d", 1000+i)}
		untilReload, reload := context.WithCancel(ctx)
		defer reload()
		_, err := newMiddleware(untilReload, http.NotFoundHandler(), config, "test")
		if err != nil {
			t.Error(err)
		}
	}
	leavesBurdens(t, "a table, or a forwarder", makeShared)
	nobody := refused(t)
	c := newCluster(testSettings(t, nobody, func(r *RedisConfig) { r.Cluster = true }), nil)
	defer c.close()
	makeMember := func(i int) {
		much := make([]byte, burden)
		c.mu.Lock()
		made[i] = c.join(fmt.Sprintf("%s%d", nobody, i+int(much[i]))) // no address: it cannot be dialed
		c.mu.Unlock()
	}
	leavesBurdens(t, "a node of a Cluster", makeMember)
}

// A gateway may see a hundred thousand nodes in its time.
func TestAWayTakesLittle(t *testing.T) {
	const nodes, most = 2000, 2500 // bytes each; interpreted, 1500 to 2000
	redis := newPushingRedis(t)
	usual := testConfig(redis.addr)
	host := testConfig(redis.addr)
	host.PassHostHeader = false
	debug := testConfig(redis.addr)
	debug.DebugHeaders = true
	for name, config := range map[string]*Config{"usual": usual, "passHostHeader: false": host, "debugHeaders": debug} {
		ctx, cancel := context.WithCancel(context.Background())
		m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
		if err != nil {
			t.Fatal(err)
		}
		before := liveHeap()
		for i := 0; i < nodes; i++ {
			node, err := parseTarget(fmt.Sprintf("10.0.%d.%d:1000", i/250, i%250))
			if err != nil {
				t.Fatal(err)
			}
			m.to(node)
		}
		each := (liveHeap() - before) / nodes
		t.Logf("%s: %d bytes for each node", name, each)
		if each > most {
			t.Errorf("%s: %d bytes for each node, want %d at most", name, each, most)
		}
		if m.ways.get("10.0.0.0:1000") == nil {
			t.Errorf("%s: a way is not kept, so this was in vain", name)
		}
		cancel()
	}
}
