package e2e

import (
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// outageTime is how long Redis is away in these tests.
const outageTime = 5 * time.Second

// Redis hangs: known routes go on, and what is unknown is answered at once.
func TestRedisHangs(t *testing.T) {
	redisHangs(setup{proxied: true}.begin(t))
}

func redisHangs(w *world) {
	names := w.warm(20)
	requests := w.underLoad(4, w.asking(names, "a"), func() {
		begin := time.Now()
		must(w.t, w.redis.Pause())
		resume := func() {
			if err := w.redis.Resume(); err != nil {
				w.t.Error(err)
			}
		}
		func() {
			defer resume()
			w.unknownIsRefusedAtOnce()
			time.Sleep(outageTime - time.Since(begin))
		}()
		w.becomes(nobody(), unknownNode)
	})
	w.t.Logf("%d requests for known routes meanwhile", requests)
	w.put(names[0], w.b)
	w.becomes(names[0], "b")
	w.becomes(names[1], "a")
}

// unknownIsRefusedAtOnce waits for the answer redis-down and checks that none
// that follows waits for Redis: if each waited for an attempt to reach it, there
// would be as many attempts as requests.
func (w *world) unknownIsRefusedAtOnce() {
	w.t.Helper()
	eventually(w.t, "the answer redis-down", func() bool { return w.ask(nobody()) == redisDown })
	before := w.proxy.Count()
	for range 100 {
		w.want(nobody(), redisDown)
	}
	if attempts := w.proxy.Count() - before; attempts > 20 {
		w.t.Errorf("%d attempts to reach Redis during 100 requests", attempts)
	}
}

// Redis dies and comes back with other data: known routes go on, and what has
// changed is right again.
func TestRedisDies(t *testing.T) {
	redisDies(setup{proxied: true}.begin(t), nil)
}

// redisDies kills Redis; seed, if there is one, is what has to be there
// beside routes when it starts again.
func redisDies(w *world, seed func()) {
	names := w.warm(20)
	moved, gone, quiet, new, kept := names[0], names[1], names[2], nobody(), names[3:]
	w.want(new, unknownNode)
	either := w.asking([]string{moved}, "a", "b")
	same := w.asking(kept, "a")
	request := func() error {
		if err := either(); err != nil {
			return err
		}
		return same()
	}
	requests := w.underLoad(4, request, func() {
		begin := time.Now()
		w.redis.Kill()
		w.unknownIsRefusedAtOnce()
		for range 20 {
			w.want(moved, "a")
			w.want(gone, "a")
			w.want(new, redisDown) // what was missing may be there by now
		}
		time.Sleep(outageTime - time.Since(begin))
		must(w.t, w.redis.Restart(func(do func(string, ...any) (any, error)) error {
			for _, name := range kept {
				if _, err := do("HSET", key(name), "1", w.a.Addr()); err != nil {
					return err
				}
			}
			for _, name := range []string{moved, quiet, new} {
				if _, err := do("HSET", key(name), "1", w.b.Addr()); err != nil {
					return err
				}
			}
			return nil
		}))
		if seed != nil {
			seed()
		}
		w.becomes(nobody(), unknownNode) // Redis is there again
		w.want(quiet, "b")               // what nobody has asked for since is right at once
		w.want(gone, unknownNode)
		w.want(new, "b")
		w.becomes(moved, "b")
	})
	w.t.Logf("%d requests for known routes meanwhile", 2*requests)
	w.put(moved, w.a)
	w.becomes(moved, "a")
}

// A known route is used for staleTTL, and no longer.
func TestAKnownRouteEndsWithStaleTTL(t *testing.T) {
	for ttl, outcome := range map[string]string{"0": redisDown, "3s": redisDown, "24h": "a"} {
		t.Run(ttl, func(t *testing.T) {
			w := setup{proxied: true, cache: stack.Options{"staleTTL": ttl}}.begin(t)
			name := w.warm(1)[0]
			w.pushes()
			w.redis.Kill()
			eventually(t, "the answer redis-down", func() bool { return w.ask(nobody()) == redisDown })
			if ttl == "24h" {
				time.Sleep(outageTime)
			}
			w.becomes(name, outcome)
		})
	}
}

// Traefik starts without Redis: the answer is redis-down until Redis is there.
func TestStartWithoutRedis(t *testing.T) {
	w := setup{absent: true, proxied: true}.begin(t)
	w.unknownIsRefusedAtOnce()
	must(t, w.redis.Restart(nil))
	name := nobody()
	w.put(name, w.a)
	w.becomes(name, "a")
	w.put(name, w.b)
	w.becomes(name, "b")
}

// The link is open, but nothing goes through it in either direction.
func TestALinkThatIsHalfDead(t *testing.T) {
	aLinkThatIsHalfDead(setup{proxied: true}.begin(t))
}

func aLinkThatIsHalfDead(w *world) {
	names := w.warm(20)
	w.underLoad(4, w.asking(names[1:], "a"), func() {
		for i := range 2 {
			w.proxy.Stall()
			to := []*stack.Node{w.b, w.a}[i%2]
			w.put(names[0], to)
			w.unknownIsRefusedAtOnce()
			w.proxy.Flow()
			w.becomes(names[0], to.Name())
			w.becomes(nobody(), unknownNode)
		}
	})
}
