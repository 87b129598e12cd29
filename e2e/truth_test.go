package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	redigo "github.com/gomodule/redigo/redis"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// Two writers flip a route as fast as they can while it is asked for. Once they
// have stopped, and a last write of another key has come through, no request
// gets an old value.
func TestNoOldValueAfterTheNews(t *testing.T) {
	w := setup{proxied: true}.begin(t)
	noOldValueAfterTheNews(w, 200)
}

// The same where the answers of look-ups are overtaken by the news.
func TestNoOldValueAfterTheNewsWithSlowLookups(t *testing.T) {
	w := setup{proxied: true}.begin(t)
	w.warm(1)
	w.proxy.SetLookupDelay(7 * time.Millisecond)
	noOldValueAfterTheNews(w, 200)
}

func noOldValueAfterTheNews(w *world, rounds int) {
	w.t.Helper()
	const writes = 200 // by each writer in a round
	names := w.warm(2)
	flipped, marker := names[0], names[1]
	writers := []redigo.Conn{w.dialRedis(), w.dialRedis()}
	nodes := []*stack.Node{w.a, w.b}

	// settled is the one right answer while a round is over, else "".
	var settled atomic.Value
	settled.Store("")
	var checked atomic.Int64
	wrong := map[int]bool{}
	var wrongMu sync.Mutex
	round := atomic.Int64{}
	request := func() error {
		in := round.Load() // first: what is right in it is settled later, and unsettled before the next
		right := settled.Load().(string)
		got := w.ask(flipped)
		if got != "a" && got != "b" {
			return fmt.Errorf("round %d: got %s", in, got)
		}
		if right == "" || round.Load() != in {
			return nil
		}
		checked.Add(1)
		if got != right {
			wrongMu.Lock()
			wrong[int(in)] = true
			wrongMu.Unlock()
			return fmt.Errorf("round %d: an old value after the news: %s", in, got)
		}
		return nil
	}
	w.underLoad(4, request, func() {
		for r := range rounds {
			settled.Store("")
			round.Store(int64(r))
			var both sync.WaitGroup
			var failed [2]error
			for i, c := range writers {
				both.Go(func() {
					for n := range writes {
						if _, err := c.Do("HSET", key(flipped), "1", nodes[(n+i+r)%2].Addr()); err != nil {
							failed[i] = err
							return
						}
					}
				})
			}
			both.Wait()
			must(w.t, errors.Join(failed[:]...))
			mark := nodes[(r+1)%2]
			w.put(marker, mark)
			for deadline := time.Now().Add(30 * time.Second); w.ask(marker) != mark.Name(); {
				if time.Now().After(deadline) {
					w.t.Fatalf("round %d: the last write is not in effect", r)
				}
			}
			settled.Store(w.holds(flipped))
			for enough := checked.Load() + 20; checked.Load() < enough && !w.t.Failed(); {
				if err := request(); err != nil {
					w.t.Error(err)
				}
			}
		}
	})
	w.t.Logf("%d of %d rounds right; %d requests checked", rounds-len(wrong), rounds, checked.Load())
}

// dialRedis makes another connection to Redis.
func (w *world) dialRedis() redigo.Conn {
	w.t.Helper()
	c, err := redigo.Dial("tcp", w.redis.Addr())
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	return c
}

// holds returns the name of the node that Redis holds.
func (w *world) holds(name string) string {
	w.t.Helper()
	address, err := redigo.String(w.do("HGET", key(name), "1"), nil)
	must(w.t, err)
	return map[string]string{w.a.Addr(): "a", w.b.Addr(): "b"}[address]
}

// When the connection that receives the news is killed alone, a change made
// right after it is in effect, and nobody notices.
func TestPushConnectionKilled(t *testing.T) {
	w := setup{}.begin(t)
	names := w.warm(10)
	w.underLoad(2, w.asking(names[1:], "a"), func() {
		for i := range 20 {
			eventually(t, "the plugin is subscribed", func() bool { return w.subscriber() != "" })
			w.pushes()
			w.do("CLIENT", "KILL", "ID", w.subscriber())
			to := []*stack.Node{w.b, w.a}[i%2]
			w.put(names[0], to)
			w.becomes(names[0], to.Name())
		}
	})
}

// The same for the connection that looks routes up.
func TestLookupConnectionKilled(t *testing.T) {
	w := setup{}.begin(t)
	names := w.warm(10)
	w.underLoad(2, w.asking(names[1:], "a"), func() {
		for i := range 5 {
			w.pushes()
			w.do("CLIENT", "KILL", "TYPE", "normal")
			to := []*stack.Node{w.b, w.a}[i%2]
			w.put(names[0], to)
			w.becomes(names[0], to.Name())
		}
	})
}

// What was read again after a reconnect, and had not changed, is true from then
// on like what was read for the first time.
func TestAChangeAfterAReconnectIsInEffect(t *testing.T) {
	w := setup{}.begin(t)
	names := w.warm(10)
	w.pushes()
	lost := w.subscriber()
	w.do("CLIENT", "KILL", "ID", lost)
	eventually(t, "the plugin is subscribed again", func() bool { s := w.subscriber(); return s != "" && s != lost })
	w.pushes()
	for _, name := range names {
		hgets := w.hgets()
		eventually(t, "the route is read again", func() bool { w.want(name, "a"); return w.hgets() > hgets })
		w.want(name, "a")
	}
	for _, name := range names {
		w.put(name, w.b)
		w.becomes(name, "b")
	}
}

// A push connection that is open but silent is found, and changes are seen
// again.
func TestPushConnectionSilent(t *testing.T) {
	w := setup{proxied: true}.begin(t)
	names := w.warm(10)
	w.pushes()
	w.underLoad(2, w.asking(names[1:], "a"), func() {
		if held := w.proxy.HoldSubscribed(); held != 1 {
			t.Fatalf("%d connections are subscribed; want 1", held)
		}
		w.put(names[0], w.b)
		w.becomes(names[0], "b")
	})
}

// A push connection that is lost while it is made is no proof that Redis cannot
// push: with push, what was known is soon true again.
func TestPushConnectionLostWhileItIsMade(t *testing.T) {
	w := setup{proxied: true}.begin(t)
	name := w.warm(1)[0]
	w.pushes()
	w.proxy.HangUp(1)
	w.proxy.Cut()
	w.pushes()
	w.put(name, w.b)
	w.becomes(name, "b")
}

// SWAPDB pushes nothing. What it changed is right at the latest when the link
// to Redis was made anew.
func TestSwapDBIsSeenAfterAReconnect(t *testing.T) {
	w := setup{}.begin(t)
	name := w.warm(1)[0]
	gone := w.warm(1)[0]
	w.do("SELECT", 1)
	w.put(name, w.b)
	w.do("SWAPDB", 0, 1)
	w.do("SELECT", 0)
	w.do("CLIENT", "KILL", "TYPE", "normal")
	w.becomes(name, "b")
	w.becomes(gone, unknownNode)
}

// Behind a balancer that leads the two connections to different servers no push
// would ever come: the plugin notices, says so, and goes by age.
func TestConnectionsToDifferentServers(t *testing.T) {
	servers := []*stack.Redis{startRedis(t, stack.RedisOptions{}), startRedis(t, stack.RedisOptions{})}
	balancer := started[*stack.RedisProxy](t)(stack.StartRedisProxy(servers[0].Addr(), servers[1].Addr()))
	own := start(t, stack.TraefikOptions{Dynamic: stack.Game(stack.Options{
		"redis": stack.Options{"endpoints": []string{balancer.Addr()}},
		"cache": stack.Options{"ttl": "200ms", "negativeTTL": "200ms"},
	}).YAML()})
	nodes := []*stack.Node{startNode(t, stack.NodeOptions{Name: "a"}), startNode(t, stack.NodeOptions{Name: "b"})}
	name, c := nobody(), newClient(t)
	for i := range 10 {
		to := nodes[i%2]
		for _, r := range servers {
			put(t, r, name, to.Addr())
		}
		eventually(t, "the change is in effect on two servers", func() bool {
			resp, err := c.Get(own.URL() + "/ws" + query(name))
			must(t, err)
			return outcome(resp) == to.Name()
		})
	}
	if !hasLine(own.Log(), "does not push changes", "different servers", balancer.Addr()) {
		t.Error("the log does not say that Redis does not push, and why")
	}
	if lines := strings.Count(own.Log(), "does not push"); lines != 1 {
		t.Errorf("the log says %d times that Redis does not push; want once", lines)
	}
}

// What has changed is unknown until Redis has told its new value. If Redis does
// not, the answer is 503 rather than perhaps the wrong node.
func TestAChangedRouteIsUnknownUntilItIsRead(t *testing.T) {
	w := setup{proxied: true}.begin(t)
	names := w.warm(3)
	w.pushes()
	w.proxy.SetLookupDelay(time.Hour)
	w.put(names[0], w.b)
	eventually(t, "the change is in effect", func() bool { return w.ask(names[0]) != "a" })
	for range 20 {
		w.want(names[0], redisDown)
		w.want(names[1], "a")
	}
	w.proxy.SetLookupDelay(0)
	w.becomes(names[0], "b")
	w.becomes(names[1], "a")
}

// Redis remembers only so many keys that it has to tell about. To forget one it
// says that it has changed; the plugin does not read it again for nobody, as
// that would make Redis forget the next one, and so on.
func TestASmallTrackingTableIsNoStorm(t *testing.T) {
	const tracked, known = 10_000, 15_000
	w := setup{redis: stack.RedisOptions{Args: []string{"--tracking-table-max-keys", strconv.Itoa(tracked)}}}.begin(t)
	var names []string
	for range known {
		name := nobody()
		w.put(name, w.a)
		names = append(names, name)
	}
	w.ask(nobody())
	before := w.hgets()
	w.repeat(4, known, w.asking(names, "a"))
	cost := w.hgets() - before
	t.Logf("%d look-ups for %d requests, each for another route", cost, known)
	if cost > 2*known {
		t.Errorf("%d requests cost %d look-ups", known, cost)
	}
	// Nobody asks any more, so that nothing is to be read any more.
	eventually(t, "the look-ups end when the requests have", func() bool {
		pings, before := w.pings(), w.hgets()
		eventually(t, "two PINGs of each connection", func() bool { return w.pings() >= pings+4 })
		after := w.hgets()
		t.Logf("%d look-ups without any request", after-before)
		return after == before
	})
	w.put(names[0], w.b)
	w.becomes(names[0], "b")
}
