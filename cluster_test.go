package dynamicforward

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mna/redisc"
)

// fakeCluster is a Cluster of Redis servers that push. They agree about the
// slots, unless a test makes them disagree.
type fakeCluster struct {
	nodes []*pushingRedis

	mu     sync.Mutex
	owners map[int]int             // slot -> node, where that is not slot*len(nodes)/HashSlots
	asks   map[int]int             // slot -> node that it is moving to
	asked  map[string]bool         // the keys that are there already
	asking map[*fakeRedisConn]bool // connections that have just said ASKING
	led    int                     // how many look-ups were led on
	hosts  []string                // node -> its host, as CLUSTER SLOTS tells it
}

func newFakeCluster(t *testing.T, size int) *fakeCluster {
	t.Helper()
	c := &fakeCluster{owners: map[int]int{}, asks: map[int]int{}, asked: map[string]bool{}, asking: map[*fakeRedisConn]bool{}}
	for i := 0; i < size; i++ {
		c.nodes = append(c.nodes, newPushingRedis(t))
		c.hosts = append(c.hosts, "127.0.0.1")
		c.equip(i)
	}
	return c
}

// equip makes a server a node of the Cluster.
func (c *fakeCluster) equip(node int) {
	redis := c.nodes[node]
	slots := func(_ *fakeRedisConn, args []string) string {
		if strings.Join(args, " ") != "CLUSTER SLOTS" {
			return "-ERR unknown subcommand\r\n"
		}
		return c.slots()
	}
	redis.handle("CLUSTER", slots)
	asking := func(conn *fakeRedisConn, _ []string) string {
		c.mu.Lock()
		c.asking[conn] = true
		c.mu.Unlock()
		return "+OK\r\n"
	}
	redis.handle("ASKING", asking)
	look := func(conn *fakeRedisConn, args []string) string {
		if redirection := c.redirect(node, conn, args[1]); redirection != "" {
			return redirection
		}
		redis.fakeRedis.mu.Lock()
		defer redis.fakeRedis.mu.Unlock()
		reply := redis.execute(conn, "HGET", args[1:])
		return reply
	}
	redis.handle("HGET", look)
}

// owner returns the node that owns a slot. The lock is held.
func (c *fakeCluster) owner(slot int) int {
	if node, moved := c.owners[slot]; moved {
		return node
	}
	return slot * len(c.nodes) / redisc.HashSlots
}

// slots answers CLUSTER SLOTS: one range for each run of slots with one owner.
func (c *fakeCluster) slots() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ranges []string
	add := func(from, to, node int) {
		_, port, _ := net.SplitHostPort(c.nodes[node].addr)
		master := respArray(respBulk(c.hosts[node]), ":"+port+"\r\n", respBulk("id"+strconv.Itoa(node)), respArray())
		ranges = append(ranges, respArray(":"+strconv.Itoa(from)+"\r\n", ":"+strconv.Itoa(to)+"\r\n", master))
	}
	for node := range c.nodes {
		from := (node*redisc.HashSlots + len(c.nodes) - 1) / len(c.nodes)
		end := ((node+1)*redisc.HashSlots + len(c.nodes) - 1) / len(c.nodes)
		for slot := from; slot < end; slot++ {
			if other, moved := c.owners[slot]; moved {
				if slot > from {
					add(from, slot-1, node)
				}
				add(slot, slot, other)
				from = slot + 1
			}
		}
		if from < end {
			add(from, end-1, node)
		}
	}
	return respArray(ranges...)
}

// redirect says where a key is, if it is not on this node.
func (c *fakeCluster) redirect(node int, conn *fakeRedisConn, key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asking := c.asking[conn]
	delete(c.asking, conn)
	slot := redisc.Slot(key)
	to, moving := c.asks[slot]
	switch {
	case moving && asking && node == to:
		return ""
	case c.owner(slot) != node:
		c.led++
		return "-MOVED " + strconv.Itoa(slot) + " " + c.nodes[c.owner(slot)].addr + "\r\n"
	case moving && c.asked[key]:
		return "-ASK " + strconv.Itoa(slot) + " " + c.nodes[to].addr + "\r\n"
	}
	return ""
}

// move makes a node the owner of the slot of a key.
func (c *fakeCluster) move(key string, node int) {
	c.mu.Lock()
	c.owners[redisc.Slot(key)] = node
	delete(c.asks, redisc.Slot(key))
	c.mu.Unlock()
}

// keyOn returns a key that a node owns; another one for each n.
func (c *fakeCluster) keyOn(node, n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; ; i++ {
		key := "key" + strconv.Itoa(i)
		if c.owner(redisc.Slot(key)) == node {
			if n == 0 {
				return key
			}
			n--
		}
	}
}

// table makes a table whose first node is all that it is told of, once every
// master is connected.
func (c *fakeCluster) table(t *testing.T, change func(c *Config)) *table {
	t.Helper()
	table := testTable(t, c.nodes[0].addr, func(config *Config) {
		config.Redis.Cluster = true
		if change != nil {
			change(config)
		}
	})
	return table
}

func TestLookupsGoToTheOwnerOfTheSlot(t *testing.T) {
	c := newFakeCluster(t, 3)
	table := c.table(t, nil)
	for node, redis := range c.nodes {
		key := c.keyOn(node, 0)
		redis.hset(key, "1", "10.0.0.1:1")
		expect(t, table, key, "1", "10.0.0.1:1")
		expect(t, table, c.keyOn(node, 1), "1", "unknown-node")
		redis.move(t, key, "1", "10.0.0.2:2")
		await(t, table, key, "1", "10.0.0.2:2")
	}
	if c.led > 0 {
		t.Errorf("%d look-ups went to the wrong node", c.led)
	}
	c.nodes[1].hset("{tag}a", "1", "10.0.0.1:1")
	c.nodes[1].hset("{tag}b", "1", "10.0.0.2:2")
	c.move("tag", 1)
	expect(t, table, "{tag}a", "1", "10.0.0.1:1")
	expect(t, table, "{tag}b", "1", "10.0.0.2:2")
}

// Requests that come before anything is known of the slots wait for it.
func TestTheFirstLookupWaitsForTheSlots(t *testing.T) {
	c := newFakeCluster(t, 2)
	key := c.keyOn(1, 0)
	c.nodes[1].hset(key, "1", "10.0.0.1:1")
	settings := testSettings(t, c.nodes[0].addr, func(r *RedisConfig) { r.Cluster = true })
	cache, err := newTableSettings(&testConfig("").Cache)
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(settings, cache)
	table.source.start()
	defer table.close()
	expect(t, table, key, "1", "10.0.0.1:1")
}

func TestNoNodeOfTheClusterIsThere(t *testing.T) {
	dead := refused(t)
	settings := testSettings(t, dead, func(r *RedisConfig) { r.Cluster = true })
	cache, err := newTableSettings(&testConfig("").Cache)
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(settings, cache)
	table.source.start()
	expect(t, table, "a", "1", "redis-down: "+dead+": dial tcp")
	table.close()
	await(t, table, "a", "1", "redis-down: nobody uses this Cluster any more")
}

// A slot has moved: the old owner says where to. What was known of it is read
// again, and the new owner's news count.
func TestASlotThatMovedIsFollowed(t *testing.T) {
	c := newFakeCluster(t, 2)
	key, other := c.keyOn(0, 0), c.keyOn(0, 1)
	c.nodes[0].hset(other, "1", "10.0.0.9:9")
	c.nodes[0].hset(key, "1", "10.0.0.1:1")
	c.nodes[1].hset(key, "1", "10.0.0.2:2")
	table := c.table(t, nil)
	expect(t, table, key, "1", "10.0.0.1:1")
	expect(t, table, other, "1", "10.0.0.9:9")

	refreshes := c.nodes[0].count("CLUSTER") + c.nodes[1].count("CLUSTER")
	c.move(key, 1)
	expect(t, table, key, "1", "10.0.0.1:1")   // nobody told
	expect(t, table, key, "2", "unknown-node") // node 1 was asked
	expect(t, table, key, "1", "10.0.0.2:2")
	c.nodes[1].move(t, key, "1", "10.0.0.3:3")
	await(t, table, key, "1", "10.0.0.3:3")
	waitFor(t, "a look at all slots", func() bool {
		return c.nodes[0].count("CLUSTER")+c.nodes[1].count("CLUSTER") > refreshes
	})
	expect(t, table, key, "1", "10.0.0.3:3")
	expect(t, table, other, "1", "10.0.0.9:9")
}

// A slot is on its way: a key that has gone already is asked for where the slot
// is going. Nobody says when the slot has arrived, so that is not trusted.
func TestASlotThatIsMovingIsFollowed(t *testing.T) {
	c := newFakeCluster(t, 2)
	key, here := c.keyOn(0, 0), ""
	for i := 0; here == ""; i++ { // another one in the same slot
		here = "{" + key + "}" + strconv.Itoa(i)
	}
	c.nodes[0].hset(here, "1", "10.0.0.1:1")
	c.nodes[1].hset(key, "1", "10.0.0.2:2")
	table := c.table(t, nil)
	c.mu.Lock()
	c.asks[redisc.Slot(key)] = 1
	c.asked[key] = true
	c.mu.Unlock()
	expect(t, table, here, "1", "10.0.0.1:1")
	expect(t, table, key, "1", "10.0.0.2:2")
	expect(t, table, key, "1", "10.0.0.2:2")
	if table.routes.get(key, "1").epoch != untrusted {
		t.Error("trusted while the slot is moving")
	}
	if n := c.nodes[1].count("ASKING"); n != 2 {
		t.Errorf("asked for what is not to be trusted %d times, want 2", n)
	}
	// What is not trusted still is of use when the slot's owner does not answer.
	c.nodes[0].stop()
	waitFor(t, "the loss", func() bool { return table.source.session(redisc.Slot(key)) == nil })
	expect(t, table, key, "1", "10.0.0.2:2")
	expect(t, table, here, "1", "10.0.0.1:1")
	c.nodes[0].start()
	waitFor(t, "the link", table.connected)

	c.move(key, 1)
	await(t, table, key, "1", "10.0.0.2:2")
	expect(t, table, key, "3", "unknown-node")
	expect(t, table, key, "1", "10.0.0.2:2")
	before := c.nodes[1].count("HGET")
	expect(t, table, key, "1", "10.0.0.2:2")
	if c.nodes[1].count("HGET") != before {
		t.Error("asked again where the slot has arrived")
	}
}

func TestNodesThatDisagreeHoldNobodyUp(t *testing.T) {
	c := newFakeCluster(t, 2)
	key := c.keyOn(0, 0)
	table := c.table(t, nil)
	for node := range c.nodes {
		to := c.nodes[1-node].addr
		away := func(_ *fakeRedisConn, _ []string) string { return "-MOVED 1 " + to + "\r\n" }
		c.nodes[node].handle("HGET", away)
	}
	expect(t, table, key, "1", "redis-down: the nodes of the Cluster send look-ups of slot")
	if n := c.nodes[0].count("HGET") + c.nodes[1].count("HGET"); n != maxHops+1 {
		t.Errorf("asked %d times, want %d", n, maxHops+1)
	}
}

// Of a slot that moves nothing is told about keys that are not there, so what is
// missing counts for negativeTTL alone.
func TestWhatIsMissingInAClusterIsLookedForAgain(t *testing.T) {
	c := newFakeCluster(t, 2)
	key := c.keyOn(0, 0)
	table := c.table(t, func(c *Config) { c.Cache.NegativeTTL = "1h" })
	expect(t, table, key, "1", "unknown-node")
	c.move(key, 1)
	c.nodes[1].hset(key, "1", "10.0.0.1:1")
	expect(t, table, key, "1", "unknown-node")
	age(table, key, "1", 61*time.Minute)
	expect(t, table, key, "1", "10.0.0.1:1")
}

// One master dies: its routes go on as those of a lost Redis do, and those of
// the others as if nothing had happened. Another one takes over.
func TestAMasterIsReplaced(t *testing.T) {
	c := newFakeCluster(t, 3)
	keys := []string{c.keyOn(0, 0), c.keyOn(1, 0)}
	for node, key := range keys {
		c.nodes[node].hset(key, "1", "10.0.0.1:1")
	}
	table := c.table(t, nil)
	for _, key := range keys {
		expect(t, table, key, "1", "10.0.0.1:1")
	}
	late := c.keyOn(1, 1)
	c.nodes[1].stop()
	waitFor(t, "the loss", func() bool { return !table.connected() })
	expect(t, table, keys[1], "1", "10.0.0.1:1")
	await(t, table, late, "1", "redis-down: dial tcp")
	expect(t, table, c.keyOn(0, 1), "1", "unknown-node")
	c.nodes[0].move(t, keys[0], "1", "10.0.0.2:2")
	await(t, table, keys[0], "1", "10.0.0.2:2")

	// Nobody has taken over yet, and it is asked again and again whether.
	refreshes := c.nodes[0].count("CLUSTER") + c.nodes[2].count("CLUSTER")
	waitFor(t, "a second look at all slots", func() bool {
		return c.nodes[0].count("CLUSTER")+c.nodes[2].count("CLUSTER") > refreshes+1
	})
	// The new master is at another address.
	next := newPushingRedis(t)
	next.hset(keys[1], "1", "10.0.0.3:3")
	next.hset(late, "1", "10.0.0.4:4")
	c.mu.Lock()
	c.nodes[1] = next
	c.mu.Unlock()
	c.equip(1)
	await(t, table, late, "1", "10.0.0.4:4")
	expect(t, table, keys[1], "1", "10.0.0.3:3")
	next.move(t, keys[1], "1", "10.0.0.5:5")
	await(t, table, keys[1], "1", "10.0.0.5:5")
	expect(t, table, keys[0], "1", "10.0.0.2:2")
}

// A flush of one master says nothing of the others.
func TestAFlushIsOfOneMaster(t *testing.T) {
	c := newFakeCluster(t, 2)
	keys := []string{c.keyOn(0, 0), c.keyOn(1, 0)}
	for node, key := range keys {
		c.nodes[node].hset(key, "1", "10.0.0.1:1")
	}
	table := c.table(t, nil)
	for _, key := range keys {
		expect(t, table, key, "1", "10.0.0.1:1")
	}
	c.nodes[1].stop()
	waitFor(t, "the loss", func() bool { return !table.connected() })
	c.nodes[0].del(keys[0])
	c.nodes[0].push(t, "")
	await(t, table, keys[0], "1", "unknown-node")
	expect(t, table, keys[1], "1", "10.0.0.1:1")
}

// A node that does not know its own name means the one that it was asked by.
func TestANodeWithoutAName(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.hosts = []string{"", ""}
	key, moved := c.keyOn(1, 0), c.keyOn(0, 0)
	c.nodes[1].hset(key, "1", "10.0.0.1:1")
	c.nodes[1].hset(moved, "1", "10.0.0.2:2")
	table := c.table(t, nil)
	expect(t, table, key, "1", "10.0.0.1:1")
	_, port, _ := net.SplitHostPort(c.nodes[1].addr)
	away := func(_ *fakeRedisConn, _ []string) string { return "-MOVED 1 :" + port + "\r\n" }
	c.nodes[0].handle("HGET", away)
	c.move(moved, 1)
	expect(t, table, moved, "1", "10.0.0.2:2")
	source := table.source.(*cluster)
	source.mu.Lock()
	defer source.mu.Unlock()
	for address := range source.members {
		if !strings.HasPrefix(address, "127.0.0.1:") {
			t.Errorf("%q is taken for a node", address)
		}
	}
}

func TestWhereARedirectionLeads(t *testing.T) {
	for _, c := range []struct{ to, want string }{
		{"10.0.0.1:6379", "10.0.0.1:6379"},
		{"redis.example.com:6379", "redis.example.com:6379"},
		{"fd00::1:6379", "[fd00::1]:6379"},
		{":6380", "10.0.0.9:6380"},
	} {
		if got := redirected(c.to, "10.0.0.9:6379"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.to, got, c.want)
		}
	}
}

// The examples of the Redis Cluster specification.
func TestSlotsAreThoseOfRedis(t *testing.T) {
	for _, c := range []struct {
		key  string
		slot int
	}{
		{"123456789", 12739}, {"foo", 12182}, {"", 0},
		{"{user1000}.following", redisc.Slot("user1000")},
		{"foo{}{bar}", 8363},
		{"foo{{bar}}zap", redisc.Slot("{bar")},
		{"foo{bar}{zap}", redisc.Slot("bar")},
	} {
		if got := redisc.Slot(c.key); got != c.slot {
			t.Errorf("%q: got %d, want %d", c.key, got, c.slot)
		}
	}
}

// What a node says of the slots names the option to look at when it is of no use.
func TestErrorsOfAClusterNameTheOption(t *testing.T) {
	for _, c := range []struct{ reply, want string }{
		{"-ERR This instance has cluster support disabled\r\n", "ERR This instance has cluster support disabled: the server is no node of a Cluster: remove redis.cluster"},
		{"-NOPERM this user has no permissions to run the 'cluster|slots' command\r\n", "NOPERM this user has no permissions to run the 'cluster|slots' command: look at the ACL rules of redis.username"},
		{"*0\r\n", "knows of no slots: is it part of the Cluster?"},
		{"*1\r\n*2\r\n:0\r\n:1\r\n", "cannot read its CLUSTER SLOTS: a range has no master"},
		{"*1\r\n*3\r\n:0\r\n:1\r\n*0\r\n", "cannot read its CLUSTER SLOTS: a master has no address"},
		{"*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$-1\r\n$1\r\nx\r\n", "cannot read its CLUSTER SLOTS: strconv.ParseInt"},
	} {
		redis := newPushingRedis(t)
		reply := c.reply
		say := func(_ *fakeRedisConn, _ []string) string { return reply }
		redis.handle("CLUSTER", say)
		settings := testSettings(t, redis.addr, func(r *RedisConfig) { r.Cluster = true })
		_, err := settings.clusterSlots(redis.addr)
		if err == nil || !strings.HasPrefix(wording(err), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// A slot that nobody owns.
func TestASlotWithoutAMaster(t *testing.T) {
	c := newFakeCluster(t, 2)
	half := func(_ *fakeRedisConn, _ []string) string {
		_, port, _ := net.SplitHostPort(c.nodes[0].addr)
		return "*1\r\n*3\r\n:0\r\n:8191\r\n*3\r\n$9\r\n127.0.0.1\r\n:" + port + "\r\n$2\r\nid\r\n"
	}
	c.nodes[0].handle("CLUSTER", half)
	settings := testSettings(t, c.nodes[0].addr, func(r *RedisConfig) { r.Cluster = true })
	cache, err := newTableSettings(&testConfig("").Cache)
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(settings, cache)
	table.source.start()
	defer table.close()
	expect(t, table, c.keyOn(0, 0), "1", "unknown-node")
	expect(t, table, c.keyOn(1, 0), "1", "redis-down: no master of the Cluster holds slot")
	if table.connected() {
		t.Error("half a Cluster is taken for a whole one")
	}
}

// While one master of several does not answer, the routes of the others are read again as
// ever, and none piles up.
func TestATableOfHalfACluster(t *testing.T) {
	c := newFakeCluster(t, 2)
	table := c.table(t, nil)
	lives, dead := c.keyOn(0, 0), c.keyOn(1, 0)
	for i := 0; i < recheckBatch; i++ {
		field := strconv.Itoa(i)
		c.nodes[1].hset(dead, field, "10.0.0.1:1")
		expect(t, table, dead, field, "10.0.0.1:1")
		age(table, dead, field, recheckAfter)
	}
	c.nodes[0].hset(lives, "1", "10.0.0.1:1")
	expect(t, table, lives, "1", "10.0.0.1:1")
	c.nodes[1].stop()
	waitFor(t, "the loss to be noticed", func() bool { return !table.connected() })

	asked := c.nodes[0].count("HGET")
	age(table, lives, "1", recheckAfter)
	table.tick()
	c.nodes[0].awaitCount("HGET", asked+1)

	table.mu.Lock()
	for i := 0; i < 2*(recheckBatch+1)+recheckVisits; i++ {
		table.rounds = append(table.rounds, &route{key: lives, field: "1"}) // changed, and read again
	}
	table.mu.Unlock()
	table.tick()
	table.mu.Lock()
	defer table.mu.Unlock()
	if len(table.rounds) != table.routes.count {
		t.Errorf("goes through %d routes, and has %d", len(table.rounds), table.routes.count)
	}
}

func TestLookupsDoNotPileUpBeforeACluster(t *testing.T) {
	c := newCluster(testSettings(t, "127.0.0.1:1", func(r *RedisConfig) { r.Cluster = true }), nil) // never started
	for i := 0; i < maxWaiting; i++ {
		if err := c.ask(&lookup{}, false); err != nil {
			t.Fatalf("look-up %d: %v", i, err)
		}
	}
	if err := c.ask(&lookup{}, false); !errors.Is(err, errRedisDown) {
		t.Errorf("one more: %v", err)
	}
}
