package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// 200 reloads of Traefik's configuration under load, with 500 sessions open,
// are noticed by nobody.
func TestReloads(t *testing.T) {
	w := setup{debug: true}.begin(t)
	name := reloads(w, 500, 200)
	w.put(name, w.b)
	w.becomes(name, "b")
}

// reloads returns the name of a route that was in use all the time.
func reloads(w *world, sessions, reloads int) string {
	w.t.Helper()
	const warmUp, batch = 20, 20
	names := w.warm(20)
	var open []*websocket.Conn
	for range sessions {
		c, _, err := websocket.Dial(patience(w.t), "ws://"+w.traefik.Addr()+"/ws"+query(names[0]), nil)
		must(w.t, err)
		defer c.CloseNow()
		open = append(open, c)
	}
	reload := func(times int) {
		for range times {
			must(w.t, w.traefik.Reload(w.conf))
		}
	}
	var before, after footprint
	began := time.Now()
	looked := 0
	requests := w.underLoad(4, w.asking(names, "a"), func() {
		reload(warmUp)
		before = w.footprint()
		for range reloads / batch {
			hgets := w.hgets()
			reload(batch)
			if n := w.hgets() - hgets; n > 0 {
				looked += n
				w.t.Logf("%d look-ups during %d reloads", n, batch)
			}
		}
		after = w.footprint()
	})
	w.t.Logf("%d requests meanwhile; before: %v; after: %v", requests, before, after)
	// A route in use is read again once a minute, reloads or not.
	if minutes := int(time.Since(began)/time.Minute) + 1; looked > minutes*len(names) {
		w.t.Errorf("%d look-ups of %d known routes during %d reloads", looked, len(names), reloads)
	}
	if after.links != before.links {
		w.t.Errorf("%d connections to Redis before, %d after", before.links, after.links)
	}
	if after.goroutines > before.goroutines+reloads/2 {
		w.t.Errorf("%d goroutines before, %d after", before.goroutines, after.goroutines)
	}
	if after.heap > before.heap+mostHeap(reloads) {
		w.t.Errorf("a live heap of %d bytes before, %d after", before.heap, after.heap)
	}
	for i, c := range open {
		wantEcho(w.t, c, websocket.MessageText, fmt.Appendf(nil, "still here: %d", i))
	}
	return names[0]
}

// mostHeap is by how many bytes so many reloads may make the live heap grow: 64 kB each,
// and what it differs by from one moment to the next.
func mostHeap(reloads int) int { return 8<<20 + reloads<<16 }

// footprint is what Traefik holds.
type footprint struct{ goroutines, heap, links int }

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %.1f MB of live heap, %d connections to Redis", f.goroutines, float64(f.heap)/1e6, f.links)
}

func (w *world) footprint() (f footprint) {
	w.t.Helper()
	var err error
	f.heap, err = w.traefik.LiveHeap()
	must(w.t, err)
	f.goroutines, err = w.traefik.Goroutines()
	must(w.t, err)
	f.links = len(w.clients())
	return f
}

// All routers with the same settings share a table and its connections, and one
// that comes with a reload finds what the others know.
func TestRoutersShareATable(t *testing.T) {
	w := setup{}.begin(t)
	name := w.warm(1)[0]
	hgets, links := w.hgets(), len(w.clients())
	conf := stack.Game(stack.Options{
		"redis": stack.Options{"endpoints": []string{w.redis.Addr()}},
		"cache": stack.Options{"ttl": "1h", "negativeTTL": "1h"},
	})
	for i := range 20 {
		one := fmt.Sprintf("one%d", i)
		conf.Routers[one] = stack.Router{Rule: "Path(`/" + one + "`)", Middlewares: []string{"wgame"}}
	}
	must(t, w.traefik.Reload(conf.YAML()))
	for i := range 20 {
		resp, err := w.client.Get(fmt.Sprintf("%s/one%d%s", w.traefik.URL(), i, query(name)))
		must(t, err)
		if got := outcome(resp); got != "a" {
			t.Errorf("router %d: got %s; want a", i, got)
		}
	}
	if got := w.hgets() - hgets; got != 0 {
		t.Errorf("%d look-ups of a route that was known", got)
	}
	if got := len(w.clients()); got != links {
		t.Errorf("%d connections to Redis for one router, %d for 21", links, got)
	}
	w.put(name, w.b)
	w.becomes(name, "b")
}
