package e2e

import (
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// pause is how long a client waits before it reconnects. Without it 1,000 clients
// would measure how fast two cores can say no.
const pause = 500 * time.Millisecond

// Clients that reconnect for ever to a node that drops packets cost a bounded
// number of dials, goroutines, descriptors and look-ups. Other nodes are served
// meanwhile, and this one again as soon as it answers.
func TestANodeThatDropsPacketsCostsLittle(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc/net/tcp")
	}
	const clients = 1000
	w := setup{debug: true}.begin(t)
	full := started[*stack.Full](t)(stack.FullAddr())
	name, other := nobody(), nobody()
	w.do("HSET", key(name), "1", full.Addr())
	w.put(other, w.a)
	w.want(other, "a")
	goroutines, descriptors := held(t, w.traefik)
	looks := w.hgets()

	var refused, served atomic.Int64
	var all sync.WaitGroup
	stop := make(chan struct{})
	for i := range clients {
		all.Go(func() {
			for again := true; again; {
				switch got := w.knock(name, i%2 == 0); got {
				case nodeDown:
					refused.Add(1)
					select {
					case <-stop:
						again = false
					case <-time.After(pause):
					}
				case "back":
					served.Add(1)
					again = false
				default:
					t.Errorf("got %s", got)
					again = false
				}
			}
		})
	}
	defer all.Wait()
	defer close(stop)

	begin := time.Now()
	dialed := map[string]bool{}
	atOnce, mostGoroutines, mostDescriptors := 0, 0, 0
	eventually(t, "each client was refused five times", func() bool {
		time.Sleep(20 * time.Millisecond) // a look costs Traefik something, too
		ports, err := full.Dials()
		must(t, err)
		atOnce = max(atOnce, len(ports))
		for _, port := range ports {
			dialed[port] = true
		}
		g, d := held(t, w.traefik)
		mostGoroutines, mostDescriptors = max(mostGoroutines, g), max(mostDescriptors, d)
		w.want(other, "a")
		return refused.Load() > 5*clients
	})
	took := time.Since(begin)
	t.Logf("%d refused in %v: %d dials, %d at once; %d goroutines, then %d at most; %d descriptors, then %d; %d look-ups",
		refused.Load(), took.Round(time.Millisecond), len(dialed), atOnce, goroutines, mostGoroutines, descriptors, mostDescriptors, w.hgets()-looks)
	const dials, dialTimeout = 64, 2 * time.Second
	if atOnce > dials {
		t.Errorf("%d dials at once; want %d at most", atOnce, dials)
	}
	if want := dials + int(took/dialTimeout) + 1; len(dialed) > want {
		t.Errorf("%d dials; want %d at most", len(dialed), want)
	}
	if len(dialed) == 0 {
		t.Error("no dial was seen")
	}
	if mostDescriptors > descriptors+clients+2*dials {
		t.Errorf("%d descriptors; want about one for each client", mostDescriptors)
	}
	if mostGoroutines > goroutines+5*clients {
		t.Errorf("%d goroutines; want a few for each client at most", mostGoroutines)
	}
	if got, want := w.hgets()-looks, 2*dials+10*int(took/time.Second+1); got > want {
		t.Errorf("%d look-ups; want %d at most", got, want)
	}

	must(t, full.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Node", "back")
	})))
	w.becomes(name, "back")
	eventually(t, "every client is served", func() bool { return served.Load() == clients })
}

// knock asks for a node once, with a plain request or a handshake.
func (w *world) knock(name string, upgrade bool) string {
	request, err := http.NewRequest("GET", w.traefik.URL()+"/ws"+query(name), nil)
	if err != nil {
		return err.Error()
	}
	if upgrade {
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", "websocket")
	}
	resp, err := w.client.Do(request)
	if err != nil {
		return err.Error()
	}
	return outcome(resp)
}
