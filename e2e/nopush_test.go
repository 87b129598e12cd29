package e2e

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// Where Redis may not push, the log says so once, why, and what to look at.
func TestNoPushIsLogged(t *testing.T) {
	w := setup{noPush: true}.begin(t)
	w.warm(1)
	for range 3 {
		w.do("CLIENT", "KILL", "TYPE", "normal")
		w.becomes(nobody(), unknownNode)
	}
	must(t, w.traefik.Reload(w.conf))
	w.becomes(nobody(), unknownNode)
	if !hasLine(w.traefik.Log(), w.redis.Addr(), "does not push changes", "cache.ttl", "NOPERM", "redis.username") {
		t.Error("the log does not say that Redis does not push, and why")
	}
	if lines := strings.Count(w.traefik.Log(), "does not push"); lines != 1 {
		t.Errorf("the log says %d times that Redis does not push; want once", lines)
	}
}

// young makes entries count for a tenth of a second.
var young = stack.Options{"ttl": "100ms", "negativeTTL": "100ms"}

// Without push a change is in effect when the ttl is over.
func TestNoPushEachKindOfChangeIsInEffect(t *testing.T) {
	everyKindOfChange(setup{noPush: true, cache: young}.begin(t))
}

func TestNoPushEachMoveIsInEffect(t *testing.T) {
	everyMoveIsInEffect(setup{noPush: true, cache: young}.begin(t), 100)
}

// No request that begins when the ttl is over since a change gets the old node,
// and none fails, however the look-ups dawdle.
func TestNoPushTTLIsTheBoundOnTruth(t *testing.T) {
	for _, dawdle := range []time.Duration{0, 750 * time.Millisecond} {
		t.Run(fmt.Sprint(dawdle), func(t *testing.T) {
			const ttl = time.Second
			w := setup{noPush: true, proxied: true, cache: stack.Options{"ttl": ttl.String()}}.begin(t)
			name := w.warm(1)[0]
			w.proxy.SetLookupDelay(dawdle)
			nodes := []*stack.Node{w.a, w.b}
			type move struct {
				to    *stack.Node
				since time.Time // when HSET was answered
			}
			var now, begun atomic.Pointer[move]
			now.Store(&move{w.a, time.Now()})
			begun.Store(now.Load())
			request := func() error {
				at, m := time.Now(), now.Load()
				got := w.ask(name)
				if got != "a" && got != "b" {
					return fmt.Errorf("got %s", got)
				}
				if at.Sub(m.since) > ttl && begun.Load() == m && got != m.to.Name() {
					return fmt.Errorf("got the old node %v after the change", at.Sub(m.since))
				}
				return nil
			}
			w.underLoad(2, request, func() {
				for i := range 5 {
					m := &move{to: nodes[(i+1)%2]}
					begun.Store(m)
					w.put(name, m.to)
					m.since = time.Now()
					now.Store(m)
					// Until it was in effect and then read again.
					w.becomes(name, m.to.Name())
					hgets := w.hgets()
					eventually(t, "the route is read again", func() bool { return w.hgets() >= hgets+2 })
				}
			})
		})
	}
}

// Two writers flip a route; when they have stopped and the ttl is over, no
// request gets an old value.
func TestNoPushNoOldValueAfterTheTTL(t *testing.T) {
	const ttl = 100 * time.Millisecond
	w := setup{noPush: true, cache: young}.begin(t)
	name := w.warm(1)[0]
	writers := []func(n int){}
	for i := range 2 {
		c := w.dialRedis()
		writers = append(writers, func(n int) {
			if _, err := c.Do("HSET", key(name), "1", []*stack.Node{w.a, w.b}[(n+i)%2].Addr()); err != nil {
				t.Error(err)
			}
		})
	}
	w.underLoad(4, w.asking([]string{name}, "a", "b"), func() {
		for round := range 20 {
			done := make(chan struct{})
			for _, write := range writers {
				go func() {
					defer func() { done <- struct{}{} }()
					for n := range 200 + round {
						write(n)
					}
				}()
			}
			<-done
			<-done
			right := w.holds(name)
			time.Sleep(ttl)
			for range 20 {
				w.want(name, right)
			}
		}
	})
}

// Within the ttl known routes cost Redis nothing.
func TestNoPushKnownRoutesCostRedisNothing(t *testing.T) {
	knownRoutesCostNothing(setup{noPush: true}.begin(t))
}

// In steady use a route is read about once in each ttl, however many ask.
func TestNoPushSteadyUseIsOneLookupPerTTL(t *testing.T) {
	w := setup{noPush: true, cache: stack.Options{"ttl": "1s"}}.begin(t)
	names := w.warm(10)
	pings, hgets := w.pings(), w.hgets()
	requests := w.underLoad(4, w.asking(names, "a"), func() {
		eventually(t, "five PINGs", func() bool { return w.pings() >= pings+5 })
	})
	looked, seconds := w.hgets()-hgets, w.pings()-pings
	t.Logf("%d look-ups for %d requests over 10 routes in %d PINGs", looked, requests, seconds)
	// A route is read again at half its ttl: twice between two PINGs.
	if most := 10 * 2 * (seconds + 1); looked > most {
		t.Errorf("%d look-ups; want %d at most", looked, most)
	}
}

func TestNoPushOneLookupForManyRequests(t *testing.T) {
	oneLookupForMany(setup{noPush: true, proxied: true, link: stack.Options{"readTimeout": "30s"}}.begin(t))
}

func TestNoPushRedisHangs(t *testing.T) {
	redisHangs(setup{noPush: true, proxied: true, cache: young}.begin(t))
}

func TestNoPushRedisDies(t *testing.T) {
	w := setup{noPush: true, proxied: true, cache: young}.begin(t)
	redisDies(w, w.forbidClient)
}

func TestNoPushALinkThatIsHalfDead(t *testing.T) {
	aLinkThatIsHalfDead(setup{noPush: true, proxied: true, cache: young}.begin(t))
}

func TestNoPushAFloodOfUnknownNames(t *testing.T) {
	aFloodOfUnknownNames(setup{noPush: true, debug: true, cache: fewEntries, link: unhurried}.begin(t), 20_000)
}

func TestNoPushReloads(t *testing.T) {
	reloads(setup{noPush: true, debug: true}.begin(t), 50, 40)
}
