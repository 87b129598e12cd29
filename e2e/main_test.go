// Package e2e tests the plugin, promise by promise, in the real Traefik with
// the real Redis. A test asks for a route with the options it needs and for
// entries in Redis of its own, so that all tests but a few share one Traefik.
//
// Run it with -count=1: the test cache does not see a change of the plugin,
// which Traefik reads, not the compiler.
package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// What most tests share: one Traefik, one Redis and one node that behaves.
var (
	traefik *stack.Traefik
	redis   *stack.Redis
	node    *stack.Node

	routes   stack.Dynamic // the shared Traefik's configuration
	routesMu sync.Mutex
)

func TestMain(m *testing.M) {
	os.Exit(tidily(func() int { return run(m) }))
}

// tidily runs what returns the exit code of the tests, and fails if that leaves a
// temporary file.
func tidily(run func() int) int {
	dir, err := os.MkdirTemp("", "dynamicforward-e2e-")
	if err != nil {
		return cannot(err)
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return cannot(err)
	}
	code := run()
	left, err := os.ReadDir(dir)
	if err != nil {
		return cannot(err)
	}
	if len(left) > 0 {
		return cannot(fmt.Errorf("the tests have left %d temporary files; the first is %s", len(left), filepath.Join(dir, left[0].Name())))
	}
	if err := os.Remove(dir); err != nil {
		return cannot(err)
	}
	return code
}

func run(m *testing.M) int {
	var err error
	if redis, err = stack.StartRedis(stack.RedisOptions{}); err != nil {
		return cannot(err)
	}
	defer redis.Stop()
	if node, err = stack.StartNode(stack.NodeOptions{Name: "shared"}); err != nil {
		return cannot(err)
	}
	defer node.Stop()
	routes = stack.Game(redisAt(redis))
	if traefik, err = stack.StartTraefik(stack.TraefikOptions{Dynamic: routes.YAML()}); err != nil {
		return cannot(err)
	}
	defer traefik.Stop()
	code := m.Run()
	if err := traefik.Healthy(); err != nil {
		return cannot(fmt.Errorf("after all tests: %w", err))
	}
	return code
}

func cannot(err error) int {
	fmt.Fprintf(os.Stderr, "e2e: %v\n", err)
	return 1
}

// redisAt returns the options that make the plugin use r, with more options
// merged in.
func redisAt(r *stack.Redis, more ...stack.Options) stack.Options {
	o := stack.Options{"redis": stack.Options{"endpoints": []string{r.Addr()}}}
	for _, m := range more {
		maps.Copy(o, m)
	}
	return o
}

// watch shows Traefik's log when the test fails, and fails it when Traefik is
// not well afterwards.
func watch(t *testing.T, traefik *stack.Traefik) {
	t.Helper()
	t.Cleanup(func() {
		if err := traefik.Healthy(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of Traefik's log:\n%s", traefik.Tail(25))
		}
	})
}

var serial atomic.Int64

// route adds a router to the shared Traefik, with a middleware that has these
// options and, unless they name another, the shared Redis. It returns the
// path that the router matches. After the test the next reload takes it away: what its
// middleware would dial then is a port that somebody else may have got.
func route(t *testing.T, options stack.Options) string {
	t.Helper()
	watch(t, traefik)
	if options["redis"] == nil {
		options = redisAt(redis, options)
	}
	routesMu.Lock()
	defer routesMu.Unlock()
	n := serial.Add(1)
	path := fmt.Sprintf("/ws%d", n)
	name := fmt.Sprintf("test%d", n)
	routes.Routers[name] = stack.Router{Rule: "Path(`" + path + "`)", Middlewares: []string{name}}
	routes.Middlewares[name] = options
	t.Cleanup(func() {
		routesMu.Lock()
		defer routesMu.Unlock()
		delete(routes.Routers, name)
		delete(routes.Middlewares, name)
	})
	must(t, traefik.Reload(routes.YAML()))
	return path
}

// usual returns the path of the router that has nothing but redis.endpoints.
func usual(t *testing.T) string {
	t.Helper()
	watch(t, traefik)
	return "/ws"
}

// start starts a Traefik of the test's own.
func start(t *testing.T, o stack.TraefikOptions) *stack.Traefik {
	t.Helper()
	own, err := stack.StartTraefik(o)
	must(t, err)
	t.Cleanup(own.Stop)
	watch(t, own)
	return own
}

// startRedis starts a Redis of the test's own.
func startRedis(t *testing.T, o stack.RedisOptions) *stack.Redis {
	t.Helper()
	r, err := stack.StartRedis(o)
	must(t, err)
	t.Cleanup(r.Stop)
	return r
}

// startNode starts a node of the test's own.
func startNode(t *testing.T, o stack.NodeOptions) *stack.Node {
	t.Helper()
	n, err := stack.StartNode(o)
	must(t, err)
	t.Cleanup(n.Stop)
	return n
}

// stopper is what the stack starts.
type stopper interface {
	Addr() string
	Stop()
}

// started takes what a function of the stack returned and stops it when the
// test ends.
func started[S stopper](t *testing.T) func(S, error) S {
	t.Helper()
	return func(s S, err error) S {
		t.Helper()
		must(t, err)
		t.Cleanup(s.Stop)
		return s
	}
}

// place writes value into the shared Redis as the address of a node that
// nobody else uses, and returns the query that asks for it.
func place(t *testing.T, value string) string {
	t.Helper()
	name := nobody()
	put(t, redis, name, value)
	return query(name)
}

// nobody returns the name of a node that is not in Redis.
func nobody() string { return fmt.Sprintf("node%d", serial.Add(1)) }

// query asks for thread 1 of a node on the platform dev.
func query(name string) string {
	return "?nodeName=" + url.QueryEscape(name) + "&threadId=1&platform=dev"
}

// put writes the address of thread 1 of a node on the platform dev.
func put(t *testing.T, r *stack.Redis, name, value string) {
	t.Helper()
	do(t, r, "HSET", "game-server_dev_node_"+name, "1", value)
}

// do sends a Redis command that must succeed.
func do(t *testing.T, r *stack.Redis, command string, args ...any) any {
	t.Helper()
	reply, err := r.Do(command, args...)
	must(t, err)
	return reply
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for something that is about to happen.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for this: %s", what)
		}
	}
}

// response is a response, read to its end.
type response struct {
	*http.Response
	body string
}

// client is a client with one connection, which it keeps and counts.
type client struct {
	*http.Client
	dials atomic.Int64
}

func newClient(t *testing.T) *client {
	c := &client{}
	transport := &http.Transport{
		MaxConnsPerHost:    1,
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c.dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	c.Client = &http.Client{
		Transport:     transport,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(transport.CloseIdleConnections)
	return c
}

// get requests a path of the shared Traefik.
func (c *client) get(t *testing.T, path string) *response {
	t.Helper()
	request, err := http.NewRequest("GET", traefik.URL()+path, nil)
	must(t, err)
	return c.do(t, request)
}

func (c *client) do(t *testing.T, request *http.Request) *response {
	t.Helper()
	resp, err := c.Do(request)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return &response{resp, string(body)}
}

// get requests a path of the shared Traefik on a connection of its own.
func get(t *testing.T, path string) *response {
	t.Helper()
	return newClient(t).get(t, path)
}

// wire is a connection to the shared Traefik for bytes as they are.
type wire struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T) *wire {
	t.Helper()
	c, err := net.Dial("tcp", traefik.Addr())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return &wire{c, bufio.NewReader(c)}
}

// send writes lines, each ended by CR LF, and an empty one.
func (w *wire) send(t *testing.T, lines ...string) {
	t.Helper()
	_, err := io.WriteString(w, strings.Join(lines, "\r\n")+"\r\n\r\n")
	must(t, err)
}

// head reads the head of a response.
func (w *wire) head(t *testing.T) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(w.in, nil)
	must(t, err)
	return resp
}

// receive reads a response to its end.
func (w *wire) receive(t *testing.T) *response {
	t.Helper()
	resp := w.head(t)
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return &response{resp, string(body)}
}

// wantNode checks that a node that behaves has answered.
func wantNode(t *testing.T, resp *response, n *stack.Node) {
	t.Helper()
	if resp.StatusCode != 200 || resp.Header.Get("X-Node") != n.Name() {
		t.Fatalf("got %s from node %q: %s; want 200 from node %q",
			resp.Status, resp.Header.Get("X-Node"), resp.body, n.Name())
	}
}

// wantAnswer checks an answer of the plugin's own: its status, and one line
// of plain text that begins with the reason word and tells no secrets.
func wantAnswer(t *testing.T, resp *response, status int, reason string, secrets ...string) {
	t.Helper()
	if resp.StatusCode != status || !strings.HasPrefix(resp.body, reason) {
		t.Fatalf("got %s: %q; want %d %s", resp.Status, resp.body, status, reason)
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
		t.Errorf("Content-Type is %q; want text/plain", kind)
	}
	if strings.Count(resp.body, "\n") != 1 || !strings.HasSuffix(resp.body, "\n") {
		t.Errorf("the body is not one line: %q", resp.body)
	}
	if got, want := resp.Header.Get("Retry-After"), map[string]string{"redis-down": "1", "node-full": "1"}[reason]; got != want {
		t.Errorf("Retry-After is %q; want %q", got, want)
	}
	for _, secret := range append(secrets, "127.0.0.1", "game-server", "_node_", redis.Port()) {
		if strings.Contains(resp.body, secret) {
			t.Errorf("the body tells %q: %q", secret, resp.body)
		}
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "X-Dynamicforward-") {
			t.Errorf("the response has the header %s", name)
		}
	}
}
