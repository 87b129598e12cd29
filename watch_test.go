package dynamicforward

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// watchingWorld is a sessionWorld with closeOnRouteChange, and one session on
// each thread.
func watchingWorld(t *testing.T) (w *sessionWorld, first, second *player) {
	t.Helper()
	watch := func(c *Config) { c.WebSocket.CloseOnRouteChange = true }
	w = newSessionWorld(t, watch)
	first = w.play("/ws", "1")
	second = w.play("/ws", "2")
	first.wantEcho()
	second.wantEcho()
	return w, first, second
}

// settled waits until no watched route is in doubt.
func (w *sessionWorld) settled() {
	w.t.Helper()
	table := w.m.table
	is := func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		for _, watch := range table.watched.rounds {
			if watch.epoch != table.epoch {
				return false
			}
		}
		return true
	}
	waitFor(w.t, "the watched routes to be read", is)
}

// tell pushes that the hash has changed, and waits until it was read again.
func (w *sessionWorld) tell() {
	w.t.Helper()
	before := w.redis.count("HGET")
	w.redis.push(w.t, wgamedKey)
	again := func() bool { return w.redis.count("HGET") > before }
	waitFor(w.t, "the hash to be read", again)
	w.settled()
}

func TestASessionEndsWithItsRoute(t *testing.T) {
	w, first, second := watchingWorld(t)
	w.redis.hset(wgamedKey, "3", w.other) // another field of the same hash
	w.tell()
	first.wantEcho()
	w.redis.hset(wgamedKey, "1", w.other)
	w.redis.push(t, wgamedKey)
	first.wantEnd()
	w.settled()
	second.wantEcho()
	wantSessions(t, w.node, 0)

	moved := w.play("/ws", "1")
	moved.wantEcho()
	w.redis.del(wgamedKey)
	w.redis.push(t, wgamedKey)
	moved.wantEnd()
	second.wantEnd()
	wantSessions(t, w.other, 0)
	none := func() bool {
		w.m.table.mu.Lock()
		defer w.m.table.mu.Unlock()
		return len(w.m.table.watched.rounds) == 0 && len(w.m.table.watched.keys) == 0
	}
	waitFor(t, "the watches to go", none)
}

// However their requests found the node.
func TestSessionsEndWithTheirRouteWhateverWayTheyTook(t *testing.T) {
	w, first, second := watchingWorld(t)
	players := []*player{first}
	for _, token := range []string{"", "&token=1", "&token=2", "&token=" + strings.Repeat("x", maxLedQuery)} {
		for i := 0; i < 2; i++ {
			p := w.play("/ws", "1"+token)
			p.wantEcho()
			players = append(players, p)
		}
	}
	w.redis.hset(wgamedKey, "1", w.other)
	w.redis.push(t, wgamedKey)
	for _, p := range players {
		p.wantEnd()
	}
	second.wantEcho()
}

// What a shortcut says of its route is not made from the request again.
func TestASessionWatchesTheRouteOfItsShortcut(t *testing.T) {
	w, _, _ := watchingWorld(t)
	w.redis.hset("elsewhere", "5", w.node)
	query := "nodeName=wgamed&platform=dev&threadId=1"
	w.m.short.put(query, w.m.short.get(query), "elsewhere", "5")
	w.play("/ws", "1").wantEcho()
	w.m.table.mu.Lock()
	defer w.m.table.mu.Unlock()
	if w.m.table.watched.keys["elsewhere"]["5"] == nil {
		t.Error("it watches another one")
	}
}

// held is a connection that takes its time to be closed.
type held struct {
	net.Conn
	begun   chan bool
	release chan bool
}

// Close implements net.Conn.
func (c *held) Close() error {
	c.begun <- true
	<-c.release
	return c.Conn.Close()
}

// A client that speaks TLS and does not read holds up neither its node nor others.
func TestSessionsThatEndTogetherDoNotWaitForEachOther(t *testing.T) {
	client, _ := tcpPair(t)
	node, atNode := tcpPair(t)
	other, atOther := tcpPair(t)
	otherNode, _ := tcpPair(t)
	stuck := &held{Conn: client, begun: make(chan bool), release: make(chan bool)}
	closed := make(chan bool)
	end := func() {
		closeSessions([]*tunnel{{client: tls.Client(stuck, &tls.Config{}), node: node}, {client: other, node: otherNode}})
		closed <- true
	}
	go end()
	for i, far := range []net.Conn{atNode, atOther} {
		_ = far.SetReadDeadline(time.Now().Add(fakeRedisPatience))
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%d: it is not closed: %v", i, err)
		}
	}
	<-stuck.begun
	close(stuck.release)
	<-closed
}

func TestASessionGoesOnWithoutRedis(t *testing.T) {
	w, first, second := watchingWorld(t)
	w.redis.stop()
	w.down()
	first.wantEcho()
	second.wantEcho()
	w.redis.hset(wgamedKey, "2", w.node) // meanwhile
	w.redis.start()
	second.wantEnd()
	w.settled()
	first.wantEcho()
}

// down waits until the loss of Redis was noticed and the table has ticked.
func (w *sessionWorld) down() {
	w.t.Helper()
	gone := func() bool { return !w.m.table.connected() }
	waitFor(w.t, "the link to break", gone)
	before := w.m.table.now()
	ticked := func() bool { return w.m.table.now() > before }
	waitFor(w.t, "a tick", ticked)
}

func TestWhatRedisSaysOfItselfEndsNoSession(t *testing.T) {
	w, first, _ := watchingWorld(t)
	loading := func(_ *fakeRedisConn, _ []string) string {
		return "-LOADING Redis is loading the dataset in memory\r\n"
	}
	w.redis.handle("HGET", loading)
	asked := w.redis.count("HGET")
	w.redis.push(t, wgamedKey)
	again := func() bool { return w.redis.count("HGET") > asked && asksNothing(w.m.table) }
	waitFor(t, "the hash to be read", again)
	first.wantEcho()
}

func TestARouteThatMovesDuringTheHandshakeEndsItsSession(t *testing.T) {
	w, _, _ := watchingWorld(t)
	w.tell()
	w.m.table.mu.Lock()
	if leads := w.m.table.watched.keys[wgamedKey]["1"].dial; leads != w.node {
		t.Errorf("the first session leads to %q, want %q, known without a look", leads, w.node)
	}
	w.m.table.mu.Unlock()
	r, _, err := w.m.table.find(context.Background(), wgamedKey, "1")
	if err != nil {
		t.Fatal(err)
	}
	client, ours := tcpPair(t)
	_, node := tcpPair(t)
	session := &tunnel{client: ours, node: node, place: enter(everybody, "elsewhere:1", 0)}
	w.m.table.watch(session, &entry{key: r.key, field: r.field})
	begin(session)
	one := make([]byte, 1)
	if _, err := client.Read(one); err == nil || isTimeout(err) {
		t.Errorf("the session goes on: %v", err)
	}
	wantSessions(t, "elsewhere:1", 0)
}

func TestWithoutPushWatchedRoutesAreReadByAge(t *testing.T) {
	redis := newFakeRedis(t)
	w := newSessionWorld(t, func(c *Config) {
		c.WebSocket.CloseOnRouteChange = true
		c.Redis.Endpoints = []string{redis.addr}
	})
	redis.hset(wgamedKey, "1", w.node)
	redis.hset(wgamedKey, "2", w.other)
	first, second := w.play("/ws", "1"), w.play("/ws", "2")
	first.wantEcho()
	second.wantEcho()
	redis.hset(wgamedKey, "1", w.other)
	first.wantEnd()
	second.wantEcho()
}

func TestASessionOnATrueRouteAsksRedisNothing(t *testing.T) {
	redis := newFakeRedis(t)
	w := newSessionWorld(t, func(c *Config) {
		c.WebSocket.CloseOnRouteChange = true
		c.Redis.Endpoints = []string{redis.addr}
		c.Cache.TTL = "1h"
	})
	redis.hset(wgamedKey, "1", w.node)
	before := redis.count("HGET")
	for i := 0; i < 3; i++ {
		w.play("/ws", "1").wantEcho()
	}
	waitFor(t, "the look-ups to end", func() bool { return asksNothing(w.m.table) })
	if asked := redis.count("HGET") - before; asked != 1 {
		t.Errorf("Redis was asked %d times, want 1", asked)
	}
}
