package dynamicforward

import (
	"log"
	"net"
	"strings"
	"sync"
	"testing"
)

// fakeSentinel is a Sentinel that says what the test wants.
type fakeSentinel struct {
	*fakeRedis
	mu        sync.Mutex
	master    string           // host:port; "": knows none
	listeners []*fakeRedisConn // who wants to know
}

func newFakeSentinel(t *testing.T, master string) *fakeSentinel {
	t.Helper()
	s := &fakeSentinel{fakeRedis: newFakeRedis(t), master: master}
	answer := func(_ *fakeRedisConn, args []string) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		host, port, _ := net.SplitHostPort(s.master)
		if host == "" || strings.Join(args[1:], " ") != "get-master-addr-by-name game" {
			return "*-1\r\n"
		}
		return respArray(respBulk(host), respBulk(port))
	}
	s.handle("SENTINEL", answer)
	subscribe := func(c *fakeRedisConn, args []string) string {
		s.mu.Lock()
		s.listeners = append(s.listeners, c)
		s.mu.Unlock()
		return respArray(respBulk("subscribe"), respBulk(args[1]), ":1\r\n")
	}
	s.handle("SUBSCRIBE", subscribe)
	ping := func(c *fakeRedisConn, _ []string) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, listener := range s.listeners {
			if listener == c {
				return respArray(respBulk("pong"), respBulk(""))
			}
		}
		return "+PONG\r\n"
	}
	s.handle("PING", ping)
	return s
}

// names makes another server the master, without a word to those who listen.
func (s *fakeSentinel) names(master string) {
	s.mu.Lock()
	s.master = master
	s.mu.Unlock()
}

// tells says what a Sentinel does after a failover of a master of that name.
func (s *fakeSentinel) tells(t *testing.T, name string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	host, port, _ := net.SplitHostPort(s.master)
	message := respArray(respBulk("message"), respBulk(switchMaster), respBulk(name+" 10.0.0.1 6379 "+host+" "+port))
	for _, listener := range s.listeners {
		_ = listener.send(message)
	}
}

// masterWith is a Redis that pushes, holds one route and says what it is.
func masterWith(t *testing.T, role, address string) *pushingRedis {
	t.Helper()
	redis := redisWith(t, "a", "1", address)
	say := func(_ *fakeRedisConn, _ []string) string { return respArray(respBulk(role), ":0\r\n", respArray()) }
	redis.handle("ROLE", say)
	return redis
}

// sentinelTable makes a table under these Sentinels that is connected.
func sentinelTable(t *testing.T, change func(c *Config), endpoints ...string) *table {
	t.Helper()
	table := testTable(t, "", func(c *Config) {
		c.Redis.Endpoints = endpoints
		c.Redis.Sentinel = &SentinelConfig{MasterName: "game"}
		if change != nil {
			change(c)
		}
	})
	return table
}

func TestTheSentinelsAreAskedInTurn(t *testing.T) {
	master := masterWith(t, "master", "10.0.0.1:1")
	ignorant := newFakeSentinel(t, "")
	locked := newFakeSentinel(t, master.addr)
	locked.user("default", "s3cret")
	locked.handle("PING", func(_ *fakeRedisConn, _ []string) string { return "-NOAUTH Authentication required.\r\n" })
	good := newFakeSentinel(t, master.addr)
	table := sentinelTable(t, nil, refused(t), ignorant.addr, locked.addr, good.addr)
	expect(t, table, "a", "1", "10.0.0.1:1")
	master.move(t, "a", "1", "10.0.0.2:2")
	await(t, table, "a", "1", "10.0.0.2:2")

	good.names("")
	w := table.source.(*link).sentinels
	_, _, err := w.master()
	for _, want := range []string{
		"connection refused",
		"Sentinel " + ignorant.addr + `: knows no master "game": look at redis.sentinel.masterName`,
		"Sentinel " + locked.addr + ": NOAUTH Authentication required.: the server wants a password: look at redis.sentinel.username and redis.sentinel.password",
		"Sentinel " + good.addr + ": knows no master",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// The Sentinels and the master have each their own password.
func TestTheSentinelsHaveTheirOwnLogin(t *testing.T) {
	master := masterWith(t, "master", "10.0.0.1:1")
	master.user("gateway", "one")
	sentinel := newFakeSentinel(t, master.addr)
	sentinel.user("watcher", "two")
	table := sentinelTable(t, func(c *Config) {
		c.Redis.Username = "gateway"
		c.Redis.Password = "one"
		c.Redis.Sentinel.Username = "watcher"
		c.Redis.Sentinel.Password = "two"
	}, sentinel.addr)
	expect(t, table, "a", "1", "10.0.0.1:1")
	if log := strings.Join(sentinel.commands(), "\n"); !strings.Contains(log, "AUTH watcher two") || strings.Contains(log, "one") {
		t.Errorf("the Sentinel was told\n%s", log)
	}
	if log := strings.Join(master.commands(), "\n"); !strings.Contains(log, "AUTH gateway one") || strings.Contains(log, "two") {
		t.Errorf("the master was told\n%s", log)
	}
}

// A Sentinel that is cut off from the others names what was the master once.
func TestAReplicaIsNoMaster(t *testing.T) {
	old := masterWith(t, "slave", "10.0.0.1:1")
	master := masterWith(t, "master", "10.0.0.2:2")
	stale := newFakeSentinel(t, old.addr)
	good := newFakeSentinel(t, master.addr)
	table := sentinelTable(t, nil, stale.addr, good.addr)
	expect(t, table, "a", "1", "10.0.0.2:2")
	if n := old.count("HGET"); n != 0 {
		t.Errorf("the replica was asked %d times", n)
	}
}

func TestASwitchThatTheSentinelsTellIsFollowedAtOnce(t *testing.T) {
	first := masterWith(t, "master", "10.0.0.1:1")
	second := masterWith(t, "master", "10.0.0.2:2")
	sentinel := newFakeSentinel(t, first.addr)
	table := sentinelTable(t, nil, sentinel.addr)
	expect(t, table, "a", "1", "10.0.0.1:1")
	sentinel.awaitCount("SUBSCRIBE", 1)
	before := table.source.session(0)

	sentinel.tells(t, "other")
	sentinel.awaitCount("PING", sentinel.count("PING")+2) // time enough to be heard
	if table.source.session(0) != before {
		t.Error("another master's failover ended the session")
	}
	sentinel.names(second.addr)
	sentinel.tells(t, "game")
	await(t, table, "a", "1", "10.0.0.2:2")
	second.move(t, "a", "1", "10.0.0.3:3")
	await(t, table, "a", "1", "10.0.0.3:3")
	first.awaitOpen(0)
}

// What happens before anybody listens nobody tells.
func TestASwitchThatNobodyToldIsFound(t *testing.T) {
	first := masterWith(t, "master", "10.0.0.1:1")
	second := masterWith(t, "master", "10.0.0.2:2")
	sentinel := newFakeSentinel(t, first.addr)
	table := sentinelTable(t, nil, sentinel.addr)
	expect(t, table, "a", "1", "10.0.0.1:1")
	sentinel.awaitCount("SUBSCRIBE", 1)
	sentinel.names(second.addr)
	table.source.(*link).sentinels.compare(table.source.(*link))
	await(t, table, "a", "1", "10.0.0.2:2")
}

// Who has told of a switch is who is asked for the master, whoever was before: another
// Sentinel may not know yet, or be cut off from the others with the old master.
func TestTheSentinelThatToldIsAsked(t *testing.T) {
	old := masterWith(t, "master", "10.0.0.1:1")
	master := masterWith(t, "master", "10.0.0.2:2")
	behind := newFakeSentinel(t, old.addr)
	behind.handle("SUBSCRIBE", func(_ *fakeRedisConn, _ []string) string { return "-ERR not now\r\n" })
	told := newFakeSentinel(t, old.addr)
	table := sentinelTable(t, nil, behind.addr, told.addr)
	expect(t, table, "a", "1", "10.0.0.1:1")
	behind.awaitCount("SENTINEL", 2) // to connect, and when the other one was listened to
	told.names(master.addr)
	told.tells(t, "game")
	await(t, table, "a", "1", "10.0.0.2:2")
	if n := behind.count("SENTINEL"); n != 2 {
		t.Errorf("the other one was asked %d times more", n-2)
	}
}

// A master that cannot be reached is held against who has named it, not against who has
// told of another one meanwhile.
func TestTheSentinelThatNamedADeadMasterIsAskedLast(t *testing.T) {
	settings := testSettings(t, "a:1", func(r *RedisConfig) {
		r.Endpoints = []string{"a:1", "b:1", "c:1"}
		r.Sentinel = &SentinelConfig{MasterName: "game"}
	})
	w := newSentinels(settings)
	w.first("c:1")
	w.last("a:1")
	if got := strings.Join(w.inTurn(), " "); got != "c:1 b:1 a:1" {
		t.Errorf("they are asked in the order %s", got)
	}
}

// The master goes on serving while no Sentinel answers, and a Sentinel that
// comes back is listened to again.
func TestTheMasterOutlivesTheSentinels(t *testing.T) {
	first := masterWith(t, "master", "10.0.0.1:1")
	second := masterWith(t, "master", "10.0.0.2:2")
	sentinel := newFakeSentinel(t, first.addr)
	table := sentinelTable(t, nil, sentinel.addr)
	sentinel.awaitCount("SUBSCRIBE", 1)
	sentinel.stop()
	expect(t, table, "a", "1", "10.0.0.1:1")
	first.move(t, "a", "1", "10.0.0.4:4")
	await(t, table, "a", "1", "10.0.0.4:4")
	sentinel.start()
	sentinel.awaitCount("SUBSCRIBE", 2)
	sentinel.names(second.addr)
	sentinel.tells(t, "game")
	await(t, table, "a", "1", "10.0.0.2:2")
}

// lines is what is logged.
type lines struct {
	mu   sync.Mutex
	text string
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	return len(p), nil
}

// all returns it.
func (l *lines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// Each Sentinel that does not answer is logged once, however long that lasts.
func TestSentinelsThatDoNotAnswerAreLoggedOnce(t *testing.T) {
	logged := &lines{}
	before := log.Writer()
	log.SetOutput(logged)
	defer log.SetOutput(before)
	gone := refused(t)
	master := masterWith(t, "master", "10.0.0.1:1")
	silent := newFakeSentinel(t, master.addr)
	silent.handle("SUBSCRIBE", func(_ *fakeRedisConn, _ []string) string { return "" })
	sentinelTable(t, func(c *Config) { c.Redis.ReadTimeout = "100ms" }, gone, silent.addr)
	silent.awaitCount("SUBSCRIBE", 3)
	for _, endpoint := range []string{gone, silent.addr} {
		if n := strings.Count(logged.all(), "redis Sentinel "+endpoint+": "); n != 1 {
			t.Errorf("%d lines about %s, want 1:\n%s", n, endpoint, logged.all())
		}
	}
}
