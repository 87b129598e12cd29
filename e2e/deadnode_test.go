package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// deadNode makes a world in which a known route leads to a node that has died,
// and news of a change do not come.
func deadNode(t *testing.T) (w *world, name string, dead *stack.Node) {
	t.Helper()
	w = setup{noPush: true}.begin(t)
	dead = startNode(t, stack.NodeOptions{Name: "dead", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // so that each request dials
	})})
	name = nobody()
	w.put(name, dead)
	w.want(name, "dead")
	w.want(name, "dead")
	dead.Stop()
	return w, name, dead
}

// wantHgets checks how many look-ups something costs.
func (w *world) wantHgets(want int, what func()) {
	w.t.Helper()
	before := w.hgets()
	what()
	if got := w.hgets() - before; got != want {
		w.t.Errorf("%d look-ups; want %d", got, want)
	}
}

// When a node cannot be dialed its route is read again, once, and the node that
// it names now is tried.
func TestANodeThatHasMovedIsFound(t *testing.T) {
	w, name, _ := deadNode(t)
	w.put(name, w.b)
	w.wantHgets(1, func() { w.want(name, "b") })
	w.wantHgets(0, func() { w.want(name, "b") })
	if got := w.a.Count(); got != 0 {
		t.Errorf("another node got %d requests", got)
	}
}

// When the route has not changed the answer is node-down; nothing else is tried.
func TestADeadNodeIsAnsweredNodeDown(t *testing.T) {
	w, name, _ := deadNode(t)
	for range 3 {
		w.wantHgets(1, func() { w.want(name, nodeDown) })
	}
	if got := w.a.Count() + w.b.Count(); got != 0 {
		t.Errorf("other nodes got %d requests", got)
	}
}

// When the other node is dead as well that is the end of it.
func TestASecondDeadNodeIsTheLast(t *testing.T) {
	w, name, _ := deadNode(t)
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	w.do("HSET", key(name), "1", refusing.Addr())
	w.wantHgets(1, func() { w.want(name, nodeDown) })
	w.wantHgets(1, func() { w.want(name, nodeDown) })
}

// When the route has gone with its node the answer says that the node is down:
// that is what the request met.
func TestADeadNodeWhoseRouteHasGone(t *testing.T) {
	w, name, _ := deadNode(t)
	w.do("DEL", key(name))
	w.wantHgets(1, func() {
		if got := w.ask(name); got != nodeDown && got != unknownNode {
			t.Errorf("got %s; want %s or %s", got, nodeDown, unknownNode)
		}
	})
	w.want(name, unknownNode)
}

// The body of a request is not lost when its node has moved.
func TestABodyReachesTheNodeThatHasMoved(t *testing.T) {
	for _, size := range []int{1, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w, name, _ := deadNode(t)
			var got string
			reader := startNode(t, stack.NodeOptions{Name: "reader", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = string(body)
			})})
			w.put(name, reader)
			sent := strings.Repeat("x", size)
			resp, err := w.client.Post(w.traefik.URL()+"/ws"+query(name), "text/plain", strings.NewReader(sent))
			must(t, err)
			if o := outcome(resp); o != "reader" {
				t.Fatalf("got %s; want reader", o)
			}
			if got != sent {
				t.Errorf("of a body of %d bytes the node got %d", len(sent), len(got))
			}
		})
	}
}

// So with a body of unknown length.
func TestAChunkedBodyReachesTheNodeThatHasMoved(t *testing.T) {
	w, name, _ := deadNode(t)
	var got string
	reader := startNode(t, stack.NodeOptions{Name: "reader", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = string(body)
	})})
	w.put(name, reader)
	sent := strings.Repeat("0123456789", 10_000)
	request, err := http.NewRequest("POST", w.traefik.URL()+"/ws"+query(name), io.MultiReader(strings.NewReader(sent)))
	must(t, err)
	resp, err := w.client.Do(request)
	must(t, err)
	if o := outcome(resp); o != "reader" || got != sent {
		t.Fatalf("got %s, and the node %d of %d bytes", o, len(got), len(sent))
	}
}

// A handshake finds the node that has moved, too.
func TestAHandshakeReachesTheNodeThatHasMoved(t *testing.T) {
	w, name, _ := deadNode(t)
	w.put(name, w.b)
	w.wantHgets(1, func() {
		c, _, err := websocket.Dial(patience(t), "ws://"+w.traefik.Addr()+"/ws"+query(name), nil)
		must(t, err)
		defer c.CloseNow()
		wantEcho(t, c, websocket.MessageText, []byte("hello"))
	})
	if got := w.b.Count(); got != 1 {
		t.Errorf("the node got %d handshakes; want 1", got)
	}
}
