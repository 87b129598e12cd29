package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// fallingBack is a router whose own service is a node that stands for the old
// gateway, and whose middleware falls back to it.
func fallingBack(t *testing.T, old *stack.Node, options stack.Options) string {
	t.Helper()
	options["fallback"] = true
	path := route(t, options)
	routesMu.Lock()
	defer routesMu.Unlock()
	name := "test" + strings.TrimPrefix(path, "/ws")
	router := routes.Routers[name]
	router.Service = "old" + name
	routes.Routers[name] = router
	if routes.Services == nil {
		routes.Services = map[string]any{}
	}
	routes.Services[router.Service] = map[string]any{
		"loadBalancer": map[string]any{"servers": []map[string]string{{"url": "http://" + old.Addr()}}},
	}
	must(t, traefik.Reload(routes.YAML()))
	return path
}

// pluginsWords returns what the headers X-Dynamicforward-* of the last request say that
// a node saw.
func pluginsWords(t *testing.T, n *stack.Node) string {
	t.Helper()
	var words []string
	for name, values := range seen(t, n).Header {
		if strings.HasPrefix(name, "X-Dynamicforward") {
			words = append(words, fmt.Sprint(name, ": ", strings.Join(values, " | ")))
		}
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// Old gateway and plugin side by side: a platform moves over when its nodes are
// written to Redis, and back when they are removed.
func TestPlatformsMoveOverOneAfterTheOther(t *testing.T) {
	old := startNode(t, stack.NodeOptions{Name: "the old gateway"})
	project := nobody()
	path := fallingBack(t, old, stack.Options{"project": project})
	platforms := []string{"ios", "android", "web"}
	nodes := map[string]*stack.Node{}
	for _, platform := range platforms {
		nodes[platform] = startNode(t, stack.NodeOptions{Name: "a node of " + platform})
	}
	key := func(platform string) string { return project + "_" + platform + "_node_wgamed" }
	target := func(platform string) string { return path + "?nodeName=wgamed&threadId=7&platform=" + platform }
	moved := map[string]bool{}
	check := func(step string) {
		t.Helper()
		for _, platform := range platforms {
			want := old.Name()
			if moved[platform] {
				want = nodes[platform].Name()
			}
			for _, upgrade := range []bool{false, true} {
				if got := ask(t, upgrade, target(platform)); got != want {
					t.Errorf("%s: a request of %s, handshake %v, is answered by %s; want %s", step, platform, upgrade, got, want)
				}
			}
			// A thread that is not in Redis stays where it was.
			if got := ask(t, false, path+"?nodeName=wgamed&threadId=8&platform="+platform); got != old.Name() {
				t.Errorf("%s: another thread of %s is answered by %s", step, platform, got)
			}
		}
	}
	change := func(platform string, over bool, command string, args ...any) {
		t.Helper()
		do(t, redis, command, append([]any{key(platform)}, args...)...)
		moved[platform] = over
		eventually(t, command+" "+platform+" takes effect", func() bool {
			return (ask(t, false, target(platform)) == nodes[platform].Name()) == over
		})
		check(command + " " + platform)
	}
	check("before")
	for _, platform := range platforms {
		change(platform, true, "HSET", 7, nodes[platform].Addr())
	}
	change("android", false, "HDEL", 7)
	change("android", true, "HSET", 7, nodes["android"].Addr())
	change("web", false, "DEL")
}

// Where there is no route the old gateway is asked, and told why.
func TestTheOldGatewayIsToldWhy(t *testing.T) {
	old := startNode(t, stack.NodeOptions{Name: "the old gateway"})
	path := fallingBack(t, old, stack.Options{"errorStatus": 500})
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	withoutRedis := fallingBack(t, old, stack.Options{"redis": stack.Options{"endpoints": []string{refusing.Addr()}}})
	asked := 0
	for _, c := range []struct {
		target string
		reason string // of what falls back
		answer string // of what does not
	}{
		{path, "bad-request", ""},
		{path + "?nodeName=wgamed&platform=dev", "bad-request", ""},
		{path + "?threadId=1&platform=dev&nodeName=" + strings.Repeat("x", 257), "bad-request", ""},
		{path + query(nobody()), "unknown-node", ""},
		{path + place(t, "null"), "unknown-node", ""},
		{withoutRedis + query(nobody()), "redis-down", ""},
		{path + place(t, "no address"), "", badTarget},
		{path + place(t, "169.254.169.254:80"), "", badTarget},
		{path + place(t, refusing.Addr()), "", nodeDown},
		{path + place(t, node.Addr()), "", node.Name()},
	} {
		for i, upgrade := range []bool{false, true, false, true} {
			lines := []string{"X-Dynamicforward-Error: forged", "x-dynamicforward-error: forged again", "X-Dynamicforward-Node: forged"}
			if i >= 2 {
				lines = append(lines, "Connection: X-Dynamicforward-Error")
			}
			got := ask(t, upgrade, c.target, lines...)
			if c.reason == "" {
				if got != c.answer {
					t.Errorf("%s: got %s; want %s", c.target, got, c.answer)
				}
				continue
			}
			asked++
			if got != old.Name() {
				t.Errorf("%s: got %s; want the old gateway's answer", c.target, got)
				continue
			}
			if got, want := pluginsWords(t, old), "X-Dynamicforward-Error: "+c.reason; got != want {
				t.Errorf("%s: the old gateway saw %q; want %q", c.target, got, want)
			}
			if got := seen(t, old).RequestURI; got != c.target {
				t.Errorf("the old gateway saw %s; want %s", got, c.target)
			}
		}
	}
	if got := old.Count(); got != asked {
		t.Errorf("the old gateway got %d requests; want %d", got, asked)
	}
}

// What falls back is the whole request, and the whole answer comes back.
func TestABodyFallsBack(t *testing.T) {
	old := startNode(t, stack.NodeOptions{Name: "the old gateway", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, r.Method, " ", r.ContentLength, " ", len(body), " ", err)
	})})
	path := fallingBack(t, old, stack.Options{})
	for length, reader := range map[int64]io.Reader{
		1 << 20: strings.NewReader(strings.Repeat("x", 1<<20)),
		-1:      io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20))),
	} {
		request, err := http.NewRequest("PUT", traefik.URL()+path+query(nobody()), reader)
		must(t, err)
		request.ContentLength = length
		resp := newClient(t).do(t, request)
		if want := fmt.Sprint("PUT ", length, " ", 1<<20, " ", nil); resp.StatusCode != 418 || resp.body != want {
			t.Errorf("got %s %q; want %q", resp.Status, resp.body, want)
		}
	}
}

// A session with the old gateway goes on when its platform moves over; the next
// one is with the node.
func TestASessionWithTheOldGatewayGoesOn(t *testing.T) {
	old, n := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	path := fallingBack(t, old, stack.Options{})
	name := nobody()
	c, _ := open(t, old, path+query(name), nil)
	wantEcho(t, c, websocket.MessageText, []byte("before"))
	put(t, redis, name, n.Addr())
	eventually(t, "new sessions are with the node", func() bool { return ask(t, true, path+query(name)) == n.Name() })
	wantEcho(t, c, websocket.MessageText, []byte("after"))
}
