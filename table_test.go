package dynamicforward

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// pushingRedis is a fake Redis that can push, when the test says so.
type pushingRedis struct {
	*fakeRedis
	mu       sync.Mutex
	listener *fakeRedisConn // the connection that gets the news; nil: none yet
}

func newPushingRedis(t *testing.T) *pushingRedis {
	t.Helper()
	p := &pushingRedis{fakeRedis: newFakeRedis(t)}
	info := func(_ *fakeRedisConn, _ []string) string {
		return respBulk("# Server\r\nredis_version:7.0.15\r\nrun_id:0123abcd\r\ntcp_port:6379\r\n")
	}
	p.handle("INFO", info)
	client := func(_ *fakeRedisConn, args []string) string {
		if args[1] == "ID" {
			return ":7\r\n"
		}
		return "+OK\r\n"
	}
	p.handle("CLIENT", client)
	subscribe := func(c *fakeRedisConn, args []string) string {
		p.mu.Lock()
		p.listener = c
		p.mu.Unlock()
		return respArray(respBulk("subscribe"), respBulk(args[1]), ":1\r\n")
	}
	p.handle("SUBSCRIBE", subscribe)
	ping := func(c *fakeRedisConn, args []string) string { return p.ping(c, args) }
	p.handle("PING", ping)
	return p
}

// ping answers PING: differently where something was subscribed to.
func (p *pushingRedis) ping(c *fakeRedisConn, _ []string) string {
	p.mu.Lock()
	listening := p.listener == c
	p.mu.Unlock()
	if listening {
		return respArray(respBulk("pong"), respBulk(""))
	}
	return "+PONG\r\n"
}

// push tells the plugin that a key has changed; "": that everything has.
func (p *pushingRedis) push(t *testing.T, key string) {
	t.Helper()
	p.mu.Lock()
	listener := p.listener
	p.mu.Unlock()
	what := "*-1\r\n"
	if key != "" {
		what = respArray(respBulk(key))
	}
	if err := listener.send(respArray(respBulk("message"), respBulk(invalidations), what)); err != nil {
		t.Fatal(err)
	}
}

// move changes an address as HSET does on a Redis that pushes.
func (p *pushingRedis) move(t *testing.T, key, field, address string) {
	t.Helper()
	p.hset(key, field, address)
	p.push(t, key)
}

// heldHGET is what an answer that holdHGET has made counts as.
const heldHGET = "HELD HGET"

// holdHGET keeps the answers to HGET, made in time, until the returned function
// is called.
func (p *pushingRedis) holdHGET(t *testing.T) func() {
	t.Helper()
	gate := make(chan struct{})
	hold := func(c *fakeRedisConn, args []string) string {
		p.fakeRedis.mu.Lock()
		reply := p.execute(c, "HGET", args[1:])
		p.counts[heldHGET]++
		p.notify()
		p.fakeRedis.mu.Unlock()
		<-gate
		return reply
	}
	p.handle("HGET", hold)
	var once sync.Once
	release := func() {
		open := func() { close(gate) }
		once.Do(open)
	}
	t.Cleanup(release)
	return release
}

// testTable makes a table with the default cache options, but for change, that
// is connected. It ticks only when the test says so.
func testTable(t *testing.T, endpoint string, change func(c *Config)) *table {
	t.Helper()
	table := testTableOf(t, endpoint, change)
	waitFor(t, "the link", table.connected)
	return table
}

// testTableOf is testTable before it is connected.
func testTableOf(t *testing.T, endpoint string, change func(c *Config)) *table {
	t.Helper()
	config := testConfig(endpoint)
	if change != nil {
		change(config)
	}
	redis, err := newRedisSettings(&config.Redis)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := newTableSettings(&config.Cache)
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(redis, cache)
	table.source.start()
	end := func() { table.close() }
	t.Cleanup(end)
	return table
}

func (t *table) connected() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.source.whole()
}

// now returns the table's epoch.
func (t *table) now() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.epoch
}

// believes tells whether a route counts as true without another look.
func (t *table) believes(r *route) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return r.epoch == t.epoch
}

// address finds a route and returns its node's address, or the error's text.
func address(t *table, key, field string) string {
	r, _, err := t.find(context.Background(), key, field)
	if err != nil {
		return err.Error()
	}
	return r.node.address
}

// expect checks what address says.
func expect(t *testing.T, table *table, key, field, want string) {
	t.Helper()
	if got := address(table, key, field); !strings.HasPrefix(got, want) {
		t.Fatalf("%s %s: got %q, want %q", key, field, got, want)
	}
}

// await waits until address says so.
func await(t *testing.T, table *table, key, field, want string) {
	t.Helper()
	waitFor(t, key+" "+field+" to be "+want, func() bool { return strings.HasPrefix(address(table, key, field), want) })
}

func TestAWarmRouteCostsRedisNothing(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	for i := 0; i < 100; i++ {
		expect(t, table, "a", "1", "10.0.0.1:1")
		expect(t, table, "b", "1", "unknown-node")
		expect(t, table, "a", "2", "unknown-node")
	}
	if n := redis.count("HGET"); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
}

func TestAChangeIsInEffectWithItsPush(t *testing.T) {
	redis := newPushingRedis(t)
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "unknown-node")
	redis.move(t, "a", "1", "10.0.0.1:1")
	await(t, table, "a", "1", "10.0.0.1:1")
	redis.move(t, "a", "1", "10.0.0.2:2")
	await(t, table, "a", "1", "10.0.0.2:2")
	redis.move(t, "a", "1", "no address")
	await(t, table, "a", "1", "bad-target")
	redis.del("a")
	redis.push(t, "a")
	await(t, table, "a", "1", "unknown-node")
	redis.set("a", "10.0.0.1:1")
	redis.push(t, "a")
	await(t, table, "a", "1", "bad-target: WRONGTYPE")
	redis.del("a")
	redis.move(t, "a", "1", "10.0.0.3:3")
	await(t, table, "a", "1", "10.0.0.3:3")
}

func TestARouteInUseIsReadAgainAtOnce(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	table.mu.Lock()
	table.routes.get("a", "1").read = time.Now().Add(-time.Second)
	table.mu.Unlock()
	redis.move(t, "a", "1", "10.0.0.2:2")
	redis.awaitCount("HGET", 2) // without a request
	await(t, table, "a", "1", "10.0.0.2:2")
	if n := redis.count("HGET"); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

// asksNothing tells whether no look-up is under way.
func asksNothing(t *table) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.fetching) == 0
}

// Where Redis has no memory left to know who read what, each read makes it forget
// another key and say so. To read those again unasked would never end.
func TestWhatNobodyAskedForIsNotReadAgain(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	known := func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return table.get("a", "1") != nil
	}
	forgotten := func() bool { // and not being read
		table.mu.Lock()
		defer table.mu.Unlock()
		return table.get("a", "1") == nil && len(table.fetching) == 0
	}

	age(table, "a", "1", time.Second)
	redis.push(t, "a")
	redis.awaitCount("HGET", 2) // read again: it had been asked for
	waitFor(t, "the answer", known)

	age(table, "a", "1", time.Second)
	redis.push(t, "a")
	waitFor(t, "the news", forgotten)
	if n := redis.count("HGET"); n != 2 {
		t.Fatalf("asked %d times, want 2: nobody had asked for it", n)
	}

	expect(t, table, "a", "1", "10.0.0.1:1")
	age(table, "a", "1", time.Second)
	redis.push(t, "a")
	redis.awaitCount("HGET", 4) // read by a request, and again after the news
}

func TestTheEndOfALookUpConnectionIsNoticedAtOnce(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, func(c *Config) { c.Redis.ReadTimeout = "1h" })
	expect(t, table, "a", "1", "10.0.0.1:1")
	silent := func(_ *fakeRedisConn, _ []string) string { return "" }
	redis.handle("PING", silent) // so that nothing but the end of the connection can tell
	before := table.source.session(0)
	redis.disconnect()
	select {
	case <-before.broken:
	case <-time.After(fakeRedisPatience):
		t.Error("never noticed")
	}
}

func TestAPushConnectionThatBreaksIsNoRefusal(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	redis.cut("SUBSCRIBE", 0)
	table := testTableOf(t, redis.addr, nil)
	redis.awaitCount("SUBSCRIBE", 1)
	redis.heal()
	waitFor(t, "the link", table.connected)
	if table.source.session(0).push == nil {
		t.Error("one broken connection, and it does without push")
	}
}

func TestAProxyThatHangsUpOnPushIsARefusal(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	redis.cut("SUBSCRIBE", 0)
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	if n := redis.count("SUBSCRIBE"); n != maxHungUp || table.source.session(0).push != nil {
		t.Errorf("after %d attempts push is %v", n, table.source.session(0).push)
	}
	before := table.source.session(0)
	before.fail(errTryPush)
	again := func() bool { now := table.source.session(0); return now != nil && now != before }
	waitFor(t, "another session", again)
	if n := redis.count("SUBSCRIBE"); n != maxHungUp+1 {
		t.Errorf("push was tried %d times more, want once", n-maxHungUp)
	}
}

func TestAFlushIsAChangeOfEverything(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	redis.hset("b", "1", "10.0.0.2:2")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	expect(t, table, "b", "1", "10.0.0.2:2")
	redis.del("a")
	redis.del("b")
	redis.push(t, "")
	await(t, table, "a", "1", "unknown-node")
	await(t, table, "b", "1", "unknown-node")
}

// The race that every client-side cache has, with its order forced: the answer
// is made, the key changes, the news arrives, and then the old answer does.
func TestAnAnswerThatTheNewsOvertookIsNotKept(t *testing.T) {
	for _, change := range []string{"a", ""} {
		redis := newPushingRedis(t)
		redis.hset("a", "1", "10.0.0.1:1")
		table := testTable(t, redis.addr, nil)
		release := redis.holdHGET(t)
		got := make(chan string, 1)
		ask := func() { got <- address(table, "a", "1") }
		go ask()
		redis.awaitCount(heldHGET, 1)

		redis.hset("a", "1", "10.0.0.2:2")
		redis.push(t, change)
		waitFor(t, "the news", func() bool {
			table.mu.Lock()
			defer table.mu.Unlock()
			return len(table.fetching) == 0
		})
		release()
		if old := <-got; old != "10.0.0.1:1" {
			t.Errorf("push %q: who asked before the news got %q", change, old)
		}
		expect(t, table, "a", "1", "10.0.0.2:2")
	}
}

func TestOneLookupForManyCallers(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	release := redis.holdHGET(t)
	got := make(chan string, 100)
	ask := func() { got <- address(table, "a", "1") }
	for i := 0; i < cap(got); i++ {
		go ask()
	}
	redis.awaitCount("HGET", 1)
	release()
	for i := 0; i < cap(got); i++ {
		if a := <-got; a != "10.0.0.1:1" {
			t.Errorf("got %q", a)
		}
	}
	if n := redis.count("HGET"); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestACallerThatGoesAwayEndsNothing(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	release := redis.holdHGET(t)
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	leave := func() {
		_, _, err := table.find(ctx, "a", "1")
		gone <- err
	}
	go leave()
	redis.awaitCount("HGET", 1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) { // while the look-up is still under way
		t.Errorf("got %v", err)
	}
	release()
	await(t, table, "a", "1", "10.0.0.1:1")
	if n := redis.count("HGET"); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestAKnownRouteOutlivesRedis(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	redis.hset("moved", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	expect(t, table, "moved", "1", "10.0.0.1:1")
	expect(t, table, "nobody", "1", "unknown-node")

	redis.stop()
	waitFor(t, "the loss", func() bool { return !table.connected() })
	expect(t, table, "a", "1", "10.0.0.1:1")
	await(t, table, "b", "1", "redis-down")
	expect(t, table, "nobody", "1", "redis-down") // it may be there by now

	redis.hset("moved", "1", "10.0.0.2:2")
	redis.start()
	waitFor(t, "the link", table.connected)
	expect(t, table, "moved", "1", "10.0.0.2:2")
	expect(t, table, "a", "1", "10.0.0.1:1")
	expect(t, table, "nobody", "1", "unknown-node")
}

// The route that a request gets is the one that news find, also where it was
// read again and is what it was.
func TestNewsReachARouteThatWasReadAgain(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	redis.disconnect()
	redis.awaitCount("SUBSCRIBE", 2)
	waitFor(t, "the link", table.connected)
	r, _, err := table.find(context.Background(), "a", "1")
	if err != nil || !table.believes(r) {
		t.Fatalf("read again: %+v, %v", r, err)
	}
	redis.move(t, "a", "1", "10.0.0.2:2")
	waitFor(t, "the news", func() bool { return !table.believes(r) })
	await(t, table, "a", "1", "10.0.0.2:2")
}

func TestAnInvalidatedRouteDoesNotOutliveRedis(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	redis.hang("HGET")
	redis.push(t, "a")
	waitFor(t, "the news", func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return table.routes.get("a", "1") == nil
	})
	redis.stop()
	await(t, table, "a", "1", "redis-down")
}

func TestStaleTTLEndsWhatIsKnown(t *testing.T) {
	redis := newPushingRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, func(c *Config) { c.Cache.StaleTTL = "1h" })
	expect(t, table, "a", "1", "10.0.0.1:1")
	redis.stop()
	waitFor(t, "the loss", func() bool { return !table.connected() })
	expect(t, table, "a", "1", "10.0.0.1:1")

	r := table.routes.get("a", "1")
	heard := atMoment(r.session.heard.Load())
	r.read = heard.Add(-2 * time.Hour)
	expect(t, table, "a", "1", "10.0.0.1:1") // the link vouched for it until it was lost
	r.session.heard.Store(moment(heard.Add(-2 * time.Hour)))
	expect(t, table, "a", "1", "redis-down")

	other := redisWith(t, "a", "1", "10.0.0.1:1")
	none := testTable(t, other.addr, func(c *Config) { c.Cache.StaleTTL = "0" })
	expect(t, none, "a", "1", "10.0.0.1:1")
	other.stop()
	await(t, none, "a", "1", "redis-down")
}

// redisWith is a Redis that pushes and holds one route.
func redisWith(t *testing.T, key, field, address string) *pushingRedis {
	t.Helper()
	redis := newPushingRedis(t)
	redis.hset(key, field, address)
	return redis
}

func TestWhatMovedWithoutAWordIsFoundInTheEnd(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	redis.hset("b", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	expect(t, table, "b", "1", "10.0.0.1:1")
	redis.hset("a", "1", "10.0.0.2:2") // as SWAPDB does it: no push
	table.tick()
	waitFor(t, "the look-ups to end", func() bool { return asksNothing(table) })
	expect(t, table, "a", "1", "10.0.0.1:1")
	if n := redis.count("HGET"); n != 2 {
		t.Fatalf("asked %d times, want twice", n)
	}
	age(table, "a", "1", recheckAfter)
	table.tick()
	await(t, table, "a", "1", "10.0.0.2:2")
	table.tick()
	waitFor(t, "the look-ups to end", func() bool { return asksNothing(table) })
	if n := redis.count("HGET"); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
}

func TestATickVisitsNoRouteTwice(t *testing.T) {
	redis := newPushingRedis(t)
	table := testTable(t, redis.addr, nil)
	for i := 0; i < 3; i++ {
		redis.hset("a", strconv.Itoa(i), "10.0.0.1:1")
		expect(t, table, "a", strconv.Itoa(i), "10.0.0.1:1")
	}
	table.mu.Lock()
	table.round = 0
	table.recheck()
	visited := table.round
	table.mu.Unlock()
	if visited != 3 {
		t.Errorf("came to %d, want 3: past each once", visited)
	}
}

func TestALargeTableIsReadAgainLittleByLittle(t *testing.T) {
	redis := newPushingRedis(t)
	table := testTable(t, redis.addr, nil)
	const routes = 2 * recheckBatch
	for i := 0; i < routes; i++ {
		redis.hset("a", strconv.Itoa(i), "10.0.0.1:1")
		expect(t, table, "a", strconv.Itoa(i), "10.0.0.1:1")
		age(table, "a", strconv.Itoa(i), recheckAfter)
	}
	for i := 1; i <= 3; i++ {
		table.tick()
		want := routes + i*recheckBatch
		if want > 2*routes {
			want = 2 * routes
		}
		redis.awaitCount("HGET", want)
		waitFor(t, "the answers", func() bool {
			table.mu.Lock()
			defer table.mu.Unlock()
			return len(table.fetching) == 0
		})
		if n := redis.count("HGET"); n != want {
			t.Errorf("after tick %d: asked %d times, want %d", i, n, want)
		}
	}
}

func TestRoutesThatAreGoneAreNotReadAgain(t *testing.T) {
	redis := newPushingRedis(t)
	table := testTable(t, redis.addr, func(c *Config) { c.Cache.MaxEntries = 10 })
	for i := 0; i < 2*recheckVisits; i++ {
		redis.hset("a", strconv.Itoa(i), "10.0.0.1:1")
		expect(t, table, "a", strconv.Itoa(i), "10.0.0.1:1")
	}
	before := redis.count("HGET")
	for i := 0; i < 5; i++ {
		table.tick()
	}
	waitFor(t, "the look-ups to end", func() bool { return asksNothing(table) })
	table.mu.Lock()
	defer table.mu.Unlock()
	if n := len(table.rounds); n != table.routes.count {
		t.Errorf("goes through %d routes, and has %d", n, table.routes.count)
	}
	if n := redis.count("HGET") - before; n != 0 {
		t.Errorf("asked %d times", n)
	}
}

func TestNamesThatDoNotExistPushNoRouteOut(t *testing.T) {
	redis := newPushingRedis(t)
	table := testTable(t, redis.addr, func(c *Config) { c.Cache.MaxEntries = 10 })
	for i := 0; i < 10; i++ {
		redis.hset("a", strconv.Itoa(i), "10.0.0.1:1")
		expect(t, table, "a", strconv.Itoa(i), "10.0.0.1:1")
	}
	for i := 0; i < 200; i++ {
		expect(t, table, "nobody"+strconv.Itoa(i), "1", "unknown-node")
		expect(t, table, "a", "x"+strconv.Itoa(i), "unknown-node")
	}
	before := redis.count("HGET")
	for i := 0; i < 10; i++ {
		expect(t, table, "a", strconv.Itoa(i), "10.0.0.1:1")
	}
	if n := redis.count("HGET") - before; n != 0 {
		t.Errorf("%d routes had to be asked for again", n)
	}
}

// age makes a route look as if it had been read that much earlier.
func age(table *table, key, field string, by time.Duration) {
	table.mu.Lock()
	r := table.get(key, field)
	r.read = r.read.Add(-by)
	table.mu.Unlock()
}

func TestWithoutPushARouteIsTrustedForItsTTL(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, func(c *Config) {
		c.Cache.TTL = "1h"
		c.Cache.NegativeTTL = "2h"
	})
	expect(t, table, "a", "1", "10.0.0.1:1")
	expect(t, table, "b", "1", "unknown-node")
	redis.hset("a", "1", "10.0.0.2:2")
	redis.hset("b", "1", "10.0.0.3:3")
	expect(t, table, "a", "1", "10.0.0.1:1")
	if n := redis.count("HGET"); n != 2 {
		t.Fatalf("asked %d times, want 2", n)
	}

	age(table, "a", "1", 40*time.Minute)
	expect(t, table, "a", "1", "10.0.0.1:1") // and is read again beside it
	await(t, table, "a", "1", "10.0.0.2:2")

	redis.hset("a", "1", "10.0.0.4:4")
	age(table, "a", "1", 61*time.Minute)
	expect(t, table, "a", "1", "10.0.0.4:4") // not trusted any more

	expect(t, table, "b", "1", "unknown-node")
	age(table, "b", "1", 61*time.Minute)
	await(t, table, "b", "1", "10.0.0.3:3")
	if n := redis.count("HGET"); n != 5 {
		t.Errorf("asked %d times, want 5", n)
	}
}

func TestWithoutPushNothingIsReadUnasked(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	age(table, "a", "1", time.Hour)
	table.tick()
	table.mu.Lock()
	defer table.mu.Unlock()
	if len(table.fetching) != 0 {
		t.Error("a tick has a route read again that only requests may")
	}
}

func TestWithoutPushAKnownRouteOutlivesRedis(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	redis.stop()
	age(table, "a", "1", time.Hour)
	expect(t, table, "a", "1", "10.0.0.1:1")
	age(table, "a", "1", 24*time.Hour)
	await(t, table, "a", "1", "redis-down")
}

func TestPushIsNotTrustedAcrossServers(t *testing.T) {
	redis := newPushingRedis(t)
	n := 0
	var mu sync.Mutex
	other := func(_ *fakeRedisConn, _ []string) string {
		mu.Lock()
		defer mu.Unlock()
		n++
		return respBulk("run_id:" + strconv.Itoa(n) + "\r\n")
	}
	redis.handle("INFO", other)
	table := testTable(t, redis.addr, nil)
	if table.source.session(0).push != nil {
		t.Error("news of one server are expected from another")
	}
	if n := redis.count("SUBSCRIBE"); n != 0 {
		t.Errorf("subscribed %d times", n)
	}
}

func TestTheServersOwnErrors(t *testing.T) {
	for _, c := range []struct{ reply, want string }{
		{"-NOPERM no permission\r\n", "redis-down: NOPERM no permission: look at the ACL rules of redis.username"},
		{"-LOADING Redis is loading\r\n", "redis-down: LOADING Redis is loading: the server is reading its data from disk"},
		{"-MASTERDOWN Link with MASTER is down\r\n", "redis-down: MASTERDOWN Link with MASTER is down: the server is a replica that has lost its master: look at redis.endpoints"},
		{"-READONLY You can't write\r\n", "redis-down: READONLY You can't write: the server is a replica: look at redis.endpoints"},
		{"-NOAUTH Authentication required.\r\n", "redis-down: NOAUTH Authentication required.: the server wants a password: look at redis.username, redis.password and redis.passwordFile"},
		{"-CLUSTERDOWN Hash slot not served\r\n", "redis-down: CLUSTERDOWN Hash slot not served: the Cluster of redis.endpoints does not serve this key now: look at its CLUSTER INFO"},
		{"-MOVED 1 10.0.0.1:1\r\n", "redis-down: MOVED 1 10.0.0.1:1: the server is part of a Cluster: set redis.cluster"},
		{"-ERR unknown command 'HGET', with args beginning with: 'b'\r\n", "redis-down: ERR unknown command 'HGET', with args beginning with: 'b': is the server a Sentinel? Then set redis.sentinel.masterName"},
		{"-ERR whatever\r\n", "redis-down: ERR whatever"},
		{":1\r\n", "redis-down: redigo: unexpected type for String"},
	} {
		redis := redisWith(t, "a", "1", "10.0.0.1:1")
		table := testTable(t, redis.addr, nil)
		expect(t, table, "a", "1", "10.0.0.1:1")
		bad := func(_ *fakeRedisConn, _ []string) string { return c.reply }
		redis.handle("HGET", bad)
		expect(t, table, "b", "1", c.want)
		expect(t, table, "a", "1", "10.0.0.1:1")
		if !table.connected() {
			t.Errorf("%q ended the link", c.reply)
		}
	}
}

func TestARedisThatHangsHoldsNobodyUp(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, func(c *Config) {
		c.Redis.ReadTimeout = "500ms"
		c.Redis.DialTimeout = "100ms"
	})
	expect(t, table, "a", "1", "10.0.0.1:1")
	redis.hang("*")
	expect(t, table, "b", "1", "redis-down") // after the first time-out
	sent := redis.count("HGET")
	for i := 0; i < 100; i++ {
		expect(t, table, "b"+strconv.Itoa(i), "1", "redis-down")
		expect(t, table, "a", "1", "10.0.0.1:1")
	}
	if n := redis.count("HGET"); n != sent {
		t.Errorf("%d look-ups were sent to a Redis that hangs", n-sent)
	}
	redis.heal()
	redis.hset("b", "1", "10.0.0.2:2")
	await(t, table, "b", "1", "10.0.0.2:2")
}

func TestAHalfDeadPushConnectionIsNoticed(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, func(c *Config) { c.Redis.ReadTimeout = "500ms" })
	expect(t, table, "a", "1", "10.0.0.1:1")
	silent := func(c *fakeRedisConn, _ []string) string {
		redis.mu.Lock()
		defer redis.mu.Unlock()
		if c == redis.listener {
			return ""
		}
		return "+PONG\r\n"
	}
	redis.handle("PING", silent)
	waitFor(t, "the loss", func() bool { return !table.connected() })
}

func TestLookupsDoNotPileUp(t *testing.T) {
	settings, err := newRedisSettings(&testConfig("127.0.0.1:1").Redis)
	if err != nil {
		t.Fatal(err)
	}
	k := newLink(settings, settings.endpoints[0], nil) // never started: nothing takes the look-ups away
	for i := 0; i < maxWaiting; i++ {
		if err := k.ask(&lookup{}, false); err != nil {
			t.Fatalf("look-up %d: %v", i, err)
		}
		if err := k.ask(&lookup{}, true); i+1 >= maxBatch && err == nil {
			t.Fatalf("%d are waiting, and one in the background takes a place", i+1)
		} else if i == 0 && err != nil {
			t.Fatalf("in the background, with nobody waiting: %v", err)
		} else if err == nil {
			<-k.waiting
		}
	}
	if err := k.ask(&lookup{}, false); !errors.Is(err, errRedisDown) {
		t.Errorf("one more: %v", err)
	}
}

func TestAStringKeyIsReadWithGET(t *testing.T) {
	redis := newPushingRedis(t)
	redis.set("route:a", "10.0.0.1:1")
	redis.hset("hash", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	expect(t, table, "route:a", "", "10.0.0.1:1")
	expect(t, table, "route:b", "", "unknown-node")
	expect(t, table, "hash", "", "bad-target: WRONGTYPE")
}
