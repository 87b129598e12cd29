package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// observed is the static configuration with which the README shows the node in
// Traefik's own access log and metrics.
func observed(logFile string) string {
	return `accessLog:
  filePath: ` + logFile + `
  format: json
  fields:
    headers:
      names:
        X-Dynamicforward-Node: keep
metrics:
  prometheus:
    manualRouting: true
    addRoutersLabels: true
    headerLabels:
      node: X-Dynamicforward-Node
`
}

// stripping is the README's entry point whose middleware takes the header from
// every request before any router's own middlewares.
const stripping = `http:
  middlewares: [strip-node@file]
transport: {lifeCycle: {graceTimeOut: 1s}}
`

// withStripping adds that middleware to a configuration, and the metrics. The
// router for all that no other one matches is there because Traefik's own 404
// passes no middleware, but is logged and counted.
func withStripping(d stack.Dynamic) string {
	d.Routers["metrics"] = stack.Router{Rule: "Path(`/metrics`)", Service: "prometheus@internal"}
	rest := "  routers:\n    rest: {entryPoints: [web], rule: PathPrefix(`/`), priority: 1, service: nowhere}\n"
	return strings.Replace(d.YAML(), "  routers:\n", rest, 1) + `    strip-node:
      headers:
        customRequestHeaders:
          X-Dynamicforward-Node: ""
`
}

// metrics returns the lines of Traefik's metrics that begin with a name.
func metrics(t *testing.T, own *stack.Traefik, name string) []string {
	t.Helper()
	resp, err := newClient(t).Get(own.URL() + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	var lines []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, name+"{") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// count returns the value of the metric that has all these labels, summed up.
func count(lines []string, labels ...string) int {
	total := 0
next:
	for _, line := range lines {
		for _, label := range labels {
			if !strings.Contains(line, label) {
				continue next
			}
		}
		n := 0
		_, _ = fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &n)
		total += n
	}
	return total
}

// Traefik's own access log and metrics say which node served a request or a
// session, and which one did not.
func TestTraefikShowsTheNode(t *testing.T) {
	logFile := filepath.Join(t.TempDir(), "access.log")
	a, b := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	own := start(t, stack.TraefikOptions{
		Dynamic:    withStripping(stack.Game(redisAt(redis))),
		Static:     observed(logFile),
		EntryPoint: stripping,
	})
	c := newClient(t)
	var want, got []string // what the log's lines say, in order
	logged := func() {
		t.Helper()
		eventually(t, "every request is in the access log", func() bool {
			got = nil
			for _, line := range accessLog(t, logFile) {
				if line["RouterName"] == "game@file" {
					shown, _ := line["request_X-Dynamicforward-Node"].(string)
					got = append(got, shown)
				}
			}
			return len(got) == len(want)
		})
	}
	for range 3 { // the long way, then the short one
		for _, n := range []*stack.Node{a, b} {
			at := place(t, n.Addr())
			for range 3 {
				if got := status(t, c, own.URL()+"/ws"+at); got != 200 {
					t.Fatalf("got %d", got)
				}
				want = append(want, n.Addr())
			}
			resp, err := c.Post(own.URL()+"/ws"+at, "text/plain", strings.NewReader("body"))
			must(t, err)
			resp.Body.Close()
			want = append(want, n.Addr())
			session, _, err := websocket.Dial(patience(t), "ws://"+own.Addr()+"/ws"+at, nil)
			must(t, err)
			wantEcho(t, session, websocket.MessageText, []byte("hello"))
			must(t, session.CloseNow())
			want = append(want, n.Addr())
			logged() // a session's line comes when it has begun, which its client may see first
		}
	}
	status(t, c, own.URL()+"/ws"+place(t, refusing.Addr()))
	status(t, c, own.URL()+"/ws"+query(nobody()))
	status(t, c, own.URL()+"/ws")
	want = append(want, refusing.Addr(), "", "")

	logged()
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d of the access log shows node %q; want %q", i, got[i], want[i])
		}
	}
	for _, n := range []*stack.Node{a, b} {
		for _, series := range []string{"traefik_router_requests_total", "traefik_entrypoint_requests_total"} {
			lines := metrics(t, own, series)
			if got := count(lines, `node="`+n.Addr()+`"`); got != 15 {
				t.Errorf("%s counts %d requests for the node %s; want 15:\n%s", series, got, n.Addr(), strings.Join(lines, "\n"))
			}
		}
		for _, request := range n.Requests() {
			wantNoForgery(t, "the node", request.Header)
		}
	}
	if got := count(metrics(t, own, "traefik_router_requests_total"), `node="`+refusing.Addr()+`"`, `code="502"`); got != 1 {
		t.Errorf("the metrics count %d requests for the node that refuses; want 1", got)
	}
}

// With the middleware that strips it no client can make up a node in the access
// log or a label in the metrics: on routers with the plugin, on others, and where
// no other router matches.
func TestNobodyCanMakeUpANode(t *testing.T) {
	logFile := filepath.Join(t.TempDir(), "access.log")
	other := startNode(t, stack.NodeOptions{Name: "other"})
	conf := stack.Game(redisAt(redis))
	conf.Routers["other"] = stack.Router{Rule: "Path(`/other`)", Service: "other"}
	conf.Services = map[string]any{"other": map[string]any{"loadBalancer": map[string]any{"servers": []map[string]string{{"url": "http://" + other.Addr()}}}}}
	own := start(t, stack.TraefikOptions{Dynamic: withStripping(conf), Static: observed(logFile), EntryPoint: stripping})
	paths := map[string]int{
		"/ws" + place(t, node.Addr()): 200, "/ws" + query(nobody()): 404, "/ws": 400, "/other": 200, "/no/router": 503,
	}
	requests := 0
	for path, want := range paths {
		for _, name := range []string{"X-Dynamicforward-Node", "x-dynamicforward-node", "X-DYNAMICFORWARD-NODE"} {
			request, err := http.NewRequest("GET", own.URL()+path, nil)
			must(t, err)
			request.Header[name] = []string{"made-up-" + fmt.Sprint(requests)}
			if resp := newClient(t).do(t, request); resp.StatusCode != want {
				t.Errorf("%s: got %s; want %d", path, resp.Status, want)
			}
			requests++
		}
	}
	if got := other.Requests(); len(got) != 3 {
		t.Fatalf("the other router's server got %d requests", len(got))
	}
	wantNoForgery(t, "the other router's server", other.Requests()[0].Header)
	eventually(t, "every request is in the access log", func() bool {
		lines := 0
		for _, line := range accessLog(t, logFile) {
			path, _ := line["RequestPath"].(string)
			if path != "/metrics" && !strings.HasPrefix(path, "/.") {
				lines++
			}
		}
		return lines == requests
	})
	text, err := os.ReadFile(logFile)
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "made-up") {
			t.Errorf("the access log shows a node that a client made up: %s", line)
		}
	}
	for _, series := range []string{"traefik_entrypoint_requests_total", "traefik_router_requests_total", "traefik_service_requests_total"} {
		for _, line := range metrics(t, own, series) {
			if strings.Contains(line, "made-up") {
				t.Errorf("a client made a label: %s", line)
			}
		}
	}
}

// debugHeaders show the node and how its route was found, on every answer that a
// node gives; without them nothing does.
func TestDebugHeaders(t *testing.T) {
	own := startRedis(t, stack.RedisOptions{})
	n := startNode(t, stack.NodeOptions{})
	path := route(t, redisAt(own, stack.Options{"debugHeaders": true}))
	plain := route(t, redisAt(own))
	name := nobody()
	put(t, own, name, n.Addr())
	shown := func(path string, upgrade bool) string {
		c := dial(t)
		defer c.Close()
		request := []string{"GET " + path + query(name) + " HTTP/1.1", "Host: game"}
		if upgrade {
			request = handshake(path + query(name))
		}
		c.send(t, request...)
		header := c.head(t).Header
		return strings.Join(header.Values("X-Dynamicforward-Node"), " | ") + " " + strings.Join(header.Values("X-Dynamicforward-Cache"), " | ")
	}
	for i, want := range []string{"miss", "hit", "hit", "hit"} {
		if got := shown(path, i%2 == 1); got != n.Addr()+" "+want {
			t.Errorf("request %d: got %s; want %s %s", i, got, n.Addr(), want)
		}
	}
	own.Kill()
	for _, upgrade := range []bool{false, true} {
		eventually(t, "the route is a stale one", func() bool { return shown(path, upgrade) == n.Addr()+" stale" })
		if got := shown(plain, upgrade); got != " " {
			t.Errorf("without debugHeaders: got %s", got)
		}
	}
	for _, request := range n.Requests() {
		wantNoForgery(t, "the node", request.Header)
	}
}

// They are on the answer that counts, whoever gives it, and not on the informational
// ones before.
func TestDebugHeadersAfterInformationalAnswers(t *testing.T) {
	const hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
	path := route(t, stack.Options{"debugHeaders": true})
	for what, c := range map[string]struct {
		answer  string
		upgrade bool
		status  int
	}{
		"plain":    {answer: "HTTP/1.1 200 OK\r\nX-Dynamicforward-Node: the node's own\r\nContent-Length: 0\r\n\r\n", status: 200},
		"cut":      {answer: "", status: 502},
		"session":  {answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", upgrade: true, status: 101},
		"declined": {answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", upgrade: true, status: 403},
	} {
		for informational := range 3 {
			n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(conn net.Conn) {
				_, _ = io.WriteString(conn, strings.Repeat(hints, informational)+c.answer)
			})))
			target := path + place(t, n.Addr())
			request := []string{"GET " + target + " HTTP/1.1", "Host: game"}
			if c.upgrade {
				request = handshake(target)
			}
			conn := dial(t)
			conn.send(t, request...)
			for range informational {
				if resp := conn.head(t); resp.StatusCode != 103 || resp.Header.Get("X-Dynamicforward-Node") != "" {
					t.Errorf("%s: before the answer came %s with %v", what, resp.Status, resp.Header)
				}
			}
			resp := conn.head(t)
			got := fmt.Sprint(resp.StatusCode, resp.Header.Values("X-Dynamicforward-Node"), resp.Header.Values("X-Dynamicforward-Cache"))
			if want := fmt.Sprint(c.status, []string{n.Addr()}, []string{"miss"}); got != want {
				t.Errorf("%s after %d informational answers: got %s; want %s", what, informational, got, want)
			}
		}
	}
}
