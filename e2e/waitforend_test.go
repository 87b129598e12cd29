package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// waiting is a Traefik with three routers to the same node: a static one, and the
// plugin's with and without websocket.waitForEnd. On each, inFlightReq lets one
// request in at a time.
type waiting struct {
	t       *testing.T
	traefik *stack.Traefik
	yaml    string
	node    *stack.Node
	query   string
	log     string
}

func newWaiting(t *testing.T) *waiting {
	w := &waiting{t: t, node: startNode(t, stack.NodeOptions{}), log: filepath.Join(t.TempDir(), "access.log")}
	w.query = place(t, w.node.Addr())
	conf := stack.Dynamic{
		Routers: map[string]stack.Router{
			"static": {Rule: "Path(`/static`)", Middlewares: []string{"one"}, Service: "node"},
			"waits":  {Rule: "Path(`/waits`)", Middlewares: []string{"one", "waits"}},
			"starts": {Rule: "Path(`/starts`)", Middlewares: []string{"one", "starts"}},
		},
		Services: map[string]any{"node": map[string]any{"loadBalancer": map[string]any{"servers": []map[string]string{{"url": "http://" + w.node.Addr()}}}}},
		Middlewares: map[string]stack.Options{
			"waits":  redisAt(redis, stack.Options{"websocket": stack.Options{"waitForEnd": true}}),
			"starts": redisAt(redis),
		},
	}
	w.yaml = conf.YAML() + "    one: {inFlightReq: {amount: 1}}\n"
	w.traefik = start(t, stack.TraefikOptions{Dynamic: w.yaml, AccessLog: w.log})
	return w
}

// play sends a handshake to a router, and returns the session, or what was said
// instead.
func (w *waiting) play(router string) (net.Conn, *bufio.Reader, int) {
	w.t.Helper()
	c, err := net.Dial("tcp", w.traefik.Addr())
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	must(w.t, c.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = io.WriteString(c, strings.Join(handshake("/"+router+w.query), "\r\n")+"\r\n\r\n")
	must(w.t, err)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	must(w.t, err)
	return c, in, resp.StatusCode
}

// lines are those of the access log about a router.
func (w *waiting) lines(router string) []map[string]any {
	w.t.Helper()
	var lines []map[string]any
	for _, line := range accessLog(w.t, w.log) {
		if line["RouterName"] == router+"@file" {
			lines = append(lines, line)
		}
	}
	return lines
}

// With waitForEnd a session is a request that goes on to Traefik, as on a static
// route: it is counted by inFlightReq, and logged when it ends. A reload of Traefik
// ends neither.
func TestWaitForEndIsWhatAStaticRouteDoes(t *testing.T) {
	w := newWaiting(t)
	said := map[string]map[string]any{}
	for _, router := range []string{"static", "waits"} {
		c, in, status := w.play(router)
		if status != 101 {
			t.Fatalf("%s: got %d", router, status)
		}
		if _, _, status := w.play(router); status != 429 {
			t.Errorf("%s: a second session got %d; want 429", router, status)
		}
		eventually(t, "the refusal is logged", func() bool { return len(w.lines(router)) == 1 })
		began := time.Now()
		must(t, w.traefik.Reload(w.yaml+"# again\n"))
		_, err := c.Write(frame("hello", true))
		must(t, err)
		got := make([]byte, 7)
		_, err = io.ReadFull(in, got)
		must(t, err)
		if !strings.HasSuffix(string(got), "hello") || len(w.lines(router)) != 1 {
			t.Errorf("%s: got %q, and %v is logged", router, got, w.lines(router))
		}
		open := time.Since(began)
		c.Close()
		eventually(t, "the session is logged", func() bool { return len(w.lines(router)) == 2 })
		said[router] = w.lines(router)[1]
		if length, _ := said[router]["Duration"].(float64); time.Duration(length) < open {
			t.Errorf("%s: a length of %v is logged; want %v at least", router, time.Duration(length), open)
		}
		again, _, status := w.play(router)
		if status != 101 {
			t.Errorf("%s: after the session's end another one got %d", router, status)
		}
		again.Close()
		eventually(t, "the last session is logged", func() bool { return len(w.lines(router)) == 3 })
	}
	for _, field := range []string{"DownstreamStatus", "OriginStatus", "RequestMethod", "ClientHost"} {
		if got, want := said["waits"][field], said["static"][field]; got != want {
			t.Errorf("%s is logged as %v, for a static route as %v", field, got, want)
		}
		t.Logf("%s: %v", field, said["waits"][field])
	}
}

// Without it the request is over, and logged, while its session goes on.
func TestWithoutWaitForEndARequestIsOverWhenItsSessionStarts(t *testing.T) {
	w := newWaiting(t)
	for n := 1; n <= 3; n++ {
		if _, _, status := w.play("starts"); status != 101 {
			t.Fatalf("session %d got %d", n, status)
		}
		eventually(t, "the start of the session is logged", func() bool { return len(w.lines("starts")) == n })
	}
	if open := len(w.node.Sessions()); open != 3 {
		t.Errorf("%d sessions are open; want 3", open)
	}
}
