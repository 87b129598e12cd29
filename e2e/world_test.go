package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	redigo "github.com/gomodule/redigo/redis"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// setup says what a world is like. The zero value: a Redis that pushes, which
// the plugin reaches directly. cache.ttl and cache.negativeTTL are an hour
// unless options.cache says otherwise, so that nothing is read again by age.
type setup struct {
	redis   stack.RedisOptions
	absent  bool          // Redis does not run yet when Traefik starts
	noPush  bool          // the plugin is a user that may not use CLIENT
	proxied bool          // the plugin reaches Redis through world.proxy
	link    stack.Options // redis.*, beside the endpoint and the user
	cache   stack.Options // cache.*
	options stack.Options // the other options of the middleware
	debug   bool          // Traefik tells about itself
}

// world is a Redis, two nodes named a and b, and a Traefik of a test's own.
type world struct {
	t       *testing.T
	conf    string
	redis   *stack.Redis
	proxy   *stack.RedisProxy // nil unless the setup asks for it
	a, b    *stack.Node
	traefik *stack.Traefik
	client  *http.Client
}

// begin makes a world.
func (s setup) begin(t *testing.T) *world {
	t.Helper()
	w := &world{
		t:     t,
		redis: startRedis(t, s.redis),
		a:     startNode(t, stack.NodeOptions{Name: "a", Keep: 10}),
		b:     startNode(t, stack.NodeOptions{Name: "b", Keep: 10}),
	}
	endpoint := w.redis.Addr()
	if s.proxied {
		w.proxy = started[*stack.RedisProxy](t)(stack.StartRedisProxy(endpoint))
		endpoint = w.proxy.Addr()
	}
	link := stack.Options{"endpoints": []string{endpoint}}
	if s.noPush {
		link["username"], link["password"] = "plain", "plain-secret"
		w.forbidClient()
	}
	maps.Copy(link, s.link)
	cache := stack.Options{"ttl": "1h", "negativeTTL": "1h"}
	maps.Copy(cache, s.cache)
	options := stack.Options{"redis": link, "cache": cache}
	maps.Copy(options, s.options)
	if s.absent {
		w.redis.Kill()
	}
	w.conf = stack.Game(options).YAML()
	w.traefik = start(t, stack.TraefikOptions{Dynamic: w.conf, Debug: s.debug})
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport, Timeout: time.Minute}
	return w
}

// forbidClient makes the user "plain", who may do all but what push needs.
func (w *world) forbidClient() {
	w.t.Helper()
	do(w.t, w.redis, "ACL", "SETUSER", "plain", "on", ">plain-secret", "~*", "&*", "+@all", "-client")
}

// key is the Redis key of a node on the platform dev.
func key(name string) string { return "game-server_dev_node_" + name }

// do sends a Redis command that must succeed.
func (w *world) do(command string, args ...any) any {
	w.t.Helper()
	return do(w.t, w.redis, command, args...)
}

// put makes a node the route of a name.
func (w *world) put(name string, n *stack.Node) {
	w.t.Helper()
	w.do("HSET", key(name), "1", n.Addr())
}

// warm puts so many routes to node a, asks for each, and returns their names.
func (w *world) warm(count int) []string {
	w.t.Helper()
	var names []string
	for range count {
		name := nobody()
		w.put(name, w.a)
		w.want(name, "a")
		names = append(names, name)
	}
	return names
}

// ask requests a node by name. It returns the name of the node that answered,
// or the status and the reason word of an answer of the plugin's own.
func (w *world) ask(name string) string {
	resp, err := w.client.Get(w.traefik.URL() + "/ws" + query(name))
	if err != nil {
		return "error: " + err.Error()
	}
	return outcome(resp)
}

// outcome reads a response to its end and says what it is in a word or two.
func outcome(resp *http.Response) string {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "error: " + err.Error()
	}
	if resp.StatusCode == 200 {
		return resp.Header.Get("X-Node")
	}
	reason, _, _ := strings.Cut(strings.TrimSpace(string(body)), ":")
	return fmt.Sprintf("%d %s", resp.StatusCode, reason)
}

// What ask returns where there is no node.
const (
	unknownNode = "404 unknown-node"
	badTarget   = "502 bad-target"
	nodeDown    = "502 node-down"
	redisDown   = "503 redis-down"
)

// want checks one request.
func (w *world) want(name, outcome string) {
	w.t.Helper()
	if got := w.ask(name); got != outcome {
		w.t.Fatalf("got %s; want %s", got, outcome)
	}
}

// becomes polls until a request has the outcome, and checks that the next ones
// have it, too. It returns how many requests had another one.
func (w *world) becomes(name, outcome string) int {
	w.t.Helper()
	polls, last := 0, ""
	for deadline := time.Now().Add(30 * time.Second); ; polls++ {
		if last = w.ask(name); last == outcome {
			break
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("still %s after %d requests; want %s", last, polls, outcome)
		}
	}
	for range 20 {
		w.want(name, outcome)
	}
	return polls
}

// hgets returns how many look-ups Redis has answered.
func (w *world) hgets() int {
	w.t.Helper()
	stats, err := w.redis.CommandStats()
	must(w.t, err)
	return stats["hget"]
}

// pings returns how many PINGs Redis has answered: the plugin's clock.
func (w *world) pings() int {
	w.t.Helper()
	stats, err := w.redis.CommandStats()
	must(w.t, err)
	return stats["ping"]
}

// clients returns Redis' connections but for the test's own.
func (w *world) clients() []string {
	w.t.Helper()
	own, err := redigo.Int64(w.do("CLIENT", "ID"), nil)
	must(w.t, err)
	list, err := redigo.String(w.do("CLIENT", "LIST"), nil)
	must(w.t, err)
	var found []string
	for line := range strings.Lines(list) {
		if !strings.HasPrefix(line, fmt.Sprintf("id=%d ", own)) {
			found = append(found, line)
		}
	}
	return found
}

// subscriber returns the id of the connection that waits for pushes, or "".
func (w *world) subscriber() string {
	w.t.Helper()
	for _, line := range w.clients() {
		if !strings.Contains(line, " sub=0 ") {
			id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
			return id
		}
	}
	return ""
}

// pushes waits until the plugin's link to Redis is up, with push.
func (w *world) pushes() {
	w.t.Helper()
	eventually(w.t, "Redis tracks what the plugin reads", func() bool {
		for _, line := range w.clients() {
			flags, _, _ := strings.Cut(line[strings.Index(line, " flags=")+len(" flags="):], " ")
			if strings.Contains(flags, "t") {
				return true
			}
		}
		return false
	})
}

// underLoad runs one from so many clients, over and over, while during runs,
// and fails the test for every error. It returns how many requests were made.
func (w *world) underLoad(clients int, one func() error, during func()) int64 {
	w.t.Helper()
	var requests, failed atomic.Int64
	var all sync.WaitGroup
	over := make(chan struct{})
	for range clients {
		all.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				requests.Add(1)
				if err := one(); err != nil && failed.Add(1) <= 5 {
					w.t.Error(err)
				}
			}
		})
	}
	func() {
		defer all.Wait()
		defer close(over)
		during()
	}()
	if failed.Load() > 5 {
		w.t.Errorf("%d of %d requests failed", failed.Load(), requests.Load())
	}
	return requests.Load()
}

// repeat runs one so many times, from so many clients, and fails the test for
// every error.
func (w *world) repeat(clients, times int, one func() error) {
	w.t.Helper()
	var begun, failed atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for begun.Add(1) <= int64(times) {
				if err := one(); err != nil && failed.Add(1) <= 5 {
					w.t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if failed.Load() > 5 {
		w.t.Errorf("%d of %d requests failed", failed.Load(), times)
	}
}

// asking returns a function for underLoad that asks for these names in turn and
// accepts the given outcomes.
func (w *world) asking(names []string, outcomes ...string) func() error {
	var next atomic.Int64
	return func() error {
		name := names[int(next.Add(1))%len(names)]
		got := w.ask(name)
		for _, o := range outcomes {
			if got == o {
				return nil
			}
		}
		return fmt.Errorf("%s: got %s; want %s", name, got, strings.Join(outcomes, " or "))
	}
}
