package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// A route moves 1,000 times while it is used: each move is in effect, and once
// the new node has answered, the old one never does.
func TestEachMoveIsInEffect(t *testing.T) {
	w := setup{}.begin(t)
	everyMoveIsInEffect(w, 1000)
}

func everyMoveIsInEffect(w *world, moves int) {
	w.t.Helper()
	name := w.warm(1)[0]
	nodes := []*stack.Node{w.a, w.b}
	// A move is begun before its HSET, and confirmed by an answer of its node.
	var begun, confirmed atomic.Int64
	request := func() error {
		before := confirmed.Load()
		got := w.ask(name)
		if got != "a" && got != "b" {
			return fmt.Errorf("got %s", got)
		}
		if begun.Load() == before && got != nodes[before%2].Name() {
			return fmt.Errorf("after move %d was in effect the old node answered", before)
		}
		return nil
	}
	old := 0
	w.underLoad(2, request, func() {
		for move := int64(1); move <= int64(moves); move++ {
			to := nodes[move%2]
			begun.Store(move)
			w.put(name, to)
			for deadline := time.Now().Add(30 * time.Second); w.ask(name) != to.Name(); old++ {
				if time.Now().After(deadline) {
					w.t.Fatalf("move %d is not in effect", move)
				}
			}
			confirmed.Store(move)
			for range 3 {
				w.want(name, to.Name())
			}
		}
	})
	w.t.Logf("%d moves; %d requests after the reply to HSET went to the old node", moves, old)
}

// Whatever changes a key, the change is in effect.
func TestEachKindOfChangeIsInEffect(t *testing.T) {
	w := setup{}.begin(t)
	everyKindOfChange(w)
}

func everyKindOfChange(w *world) {
	for _, c := range []struct {
		kind   string
		before string // "a", or unknownNode: nothing is there
		change func(w *world, name string)
		after  string
	}{
		{"HSET", "a", func(w *world, name string) { w.do("HSET", key(name), "1", w.b.Addr()) }, "b"},
		{"HSET of a node that was not there", unknownNode, func(w *world, name string) { w.do("HSET", key(name), "1", w.a.Addr()) }, "a"},
		{"HSET of null", "a", func(w *world, name string) { w.do("HSET", key(name), "1", "null") }, unknownNode},
		{"HDEL", "a", func(w *world, name string) { w.do("HDEL", key(name), "1") }, unknownNode},
		{"DEL", "a", func(w *world, name string) { w.do("DEL", key(name)) }, unknownNode},
		{"UNLINK", "a", func(w *world, name string) { w.do("UNLINK", key(name)) }, unknownNode},
		{"RENAME away", "a", func(w *world, name string) { w.do("RENAME", key(name), key(name)+"-away") }, unknownNode},
		{"RENAME onto", "a", func(w *world, name string) {
			w.do("HSET", key(name)+"-new", "1", w.b.Addr())
			w.do("RENAME", key(name)+"-new", key(name))
		}, "b"},
		{"RENAME onto nothing", unknownNode, func(w *world, name string) {
			w.do("HSET", key(name)+"-new", "1", w.b.Addr())
			w.do("RENAME", key(name)+"-new", key(name))
		}, "b"},
		{"COPY over", "a", func(w *world, name string) {
			w.do("HSET", key(name)+"-new", "1", w.b.Addr())
			w.do("COPY", key(name)+"-new", key(name), "REPLACE")
		}, "b"},
		{"MOVE", "a", func(w *world, name string) { w.do("MOVE", key(name), 1) }, unknownNode},
		{"a script", "a", func(w *world, name string) {
			w.do("EVAL", "return redis.call('HSET', KEYS[1], '1', ARGV[1])", 1, key(name), w.b.Addr())
		}, "b"},
		{"a transaction", "a", func(w *world, name string) {
			w.do("MULTI")
			w.do("HSET", key(name), "1", w.b.Addr())
			w.do("EXEC")
		}, "b"},
		{"SET over the hash", "a", func(w *world, name string) { w.do("SET", key(name), w.b.Addr()) }, badTarget},
		{"SET and back", "a", func(w *world, name string) {
			w.do("SET", key(name), w.b.Addr())
			w.becomes(name, badTarget)
			w.do("DEL", key(name))
			w.do("HSET", key(name), "1", w.b.Addr())
		}, "b"},
		{"PEXPIRE of the past", "a", func(w *world, name string) { w.do("PEXPIRE", key(name), -1) }, unknownNode},
		{"the expiry", "a", func(w *world, name string) { w.do("PEXPIRE", key(name), 100) }, unknownNode},
		{"the expiry of what was read meanwhile", "a", func(w *world, name string) {
			w.do("PEXPIRE", key(name), 5000)
			w.want(name, "a")
		}, unknownNode},
		{"FLUSHDB", "a", func(w *world, _ string) { w.do("FLUSHDB") }, unknownNode},
		{"FLUSHDB ASYNC", "a", func(w *world, _ string) { w.do("FLUSHDB", "ASYNC") }, unknownNode},
		{"FLUSHALL", "a", func(w *world, _ string) { w.do("FLUSHALL") }, unknownNode},
		{"HSET after a FLUSHDB", "a", func(w *world, name string) {
			w.do("FLUSHDB")
			w.becomes(name, unknownNode)
			w.do("HSET", key(name), "1", w.b.Addr())
		}, "b"},
		{"eviction", "a", func(w *world, _ string) {
			w.do("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
			w.do("CONFIG", "SET", "maxmemory", "1")
			eventually(w.t, "Redis has evicted everything", func() bool { return w.do("DBSIZE").(int64) == 0 })
			w.do("CONFIG", "SET", "maxmemory", "0")
		}, unknownNode},
	} {
		w.t.Run(strings.ReplaceAll(c.kind, " ", "_"), func(t *testing.T) {
			inner := *w
			inner.t = t
			name := nobody()
			if c.before == "a" {
				inner.put(name, w.a)
			}
			for range 3 {
				inner.want(name, c.before)
			}
			c.change(&inner, name)
			inner.becomes(name, c.after)
		})
	}
}

// Where field is empty the key is a string, and a change of it is in effect.
func TestEachChangeOfAStringIsInEffect(t *testing.T) {
	w := setup{options: stack.Options{"key": "node:{nodeName}", "field": ""}}.begin(t)
	name := nobody()
	w.want(name, unknownNode)
	w.do("SET", "node:"+name, w.a.Addr())
	w.becomes(name, "a")
	w.do("SET", "node:"+name, w.b.Addr())
	w.becomes(name, "b")
	w.do("APPEND", "node:"+name, "9999999")
	w.becomes(name, badTarget)
	w.do("SET", "node:"+name, w.a.Addr())
	w.becomes(name, "a")
	w.do("DEL", "node:"+name)
	w.becomes(name, unknownNode)
	w.do("HSET", "node:"+name, "1", w.a.Addr())
	w.becomes(name, badTarget)
}

// 5,000 requests over 50 routes that are known cost Redis nothing.
func TestKnownRoutesCostRedisNothing(t *testing.T) {
	w := setup{}.begin(t)
	knownRoutesCostNothing(w)
}

func knownRoutesCostNothing(w *world) {
	w.t.Helper()
	const requests = 5000
	names := w.warm(50)
	w.want(nobody(), unknownNode)
	measure := func() map[string]int {
		must(w.t, w.redis.Resetstat())
		w.repeat(8, requests, w.asking(names, "a"))
		stats, err := w.redis.CommandStats()
		must(w.t, err)
		for _, expected := range []string{"ping", "info", "config|resetstat"} {
			delete(stats, expected)
		}
		return stats
	}
	stats := measure()
	if len(stats) > 0 {
		w.t.Logf("again, as routes in use are read once a minute: %v", stats)
		stats = measure()
	}
	if len(stats) > 0 {
		w.t.Errorf("%d requests for known routes made Redis execute %v", requests, stats)
	}
}

// 2,000 requests at once for a route that is not known cost one look-up, and
// one of them that goes away takes nothing from the others.
func TestOneLookupForManyRequests(t *testing.T) {
	w := setup{proxied: true, link: stack.Options{"readTimeout": "30s"}}.begin(t)
	oneLookupForMany(w)
}

func oneLookupForMany(w *world) {
	w.t.Helper()
	const requests = 2000
	w.warm(1)
	name := nobody()
	w.put(name, w.b)
	var conns []net.Conn
	for range requests {
		c, err := net.Dial("tcp", w.traefik.Addr())
		must(w.t, err)
		defer c.Close()
		must(w.t, c.SetDeadline(time.Now().Add(time.Minute)))
		conns = append(conns, c)
	}
	before := w.hgets()
	w.proxy.SetLookupDelay(2 * time.Second)
	for _, c := range conns {
		_, err := io.WriteString(c, "GET /ws"+query(name)+" HTTP/1.1\r\nHost: game\r\nConnection: close\r\n\r\n")
		must(w.t, err)
	}
	conns[0].Close()
	for i, c := range conns[1:] {
		answer, err := io.ReadAll(c)
		must(w.t, err)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") || !strings.Contains(string(answer), "\r\nX-Node: b\r\n") {
			w.t.Fatalf("request %d: %.300s", i+1, answer)
		}
	}
	if got := w.hgets() - before; got != 1 {
		w.t.Errorf("%d requests at once for one route cost %d look-ups; want 1", requests, got)
	}
}
