package dynamicforward

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/traefik/genconf/dynamic"
	"github.com/traefik/genconf/dynamic/tls"
)

// testConfig is the smallest useful configuration.
func testConfig(endpoint string) *Config {
	config := CreateConfig()
	config.Redis.Endpoints = []string{endpoint}
	return config
}

// testGateway serves a middleware until the test ends, and is its address.
func testGateway(t *testing.T, config *Config) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	handler, err := New(ctx, http.NotFoundHandler(), config, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return serveMiddleware(t, handler)
}

// serveMiddleware serves what New made until the test ends, and is its address.
func serveMiddleware(t *testing.T, handler http.Handler) string {
	t.Helper()
	gateway := httptest.NewServer(handler)
	t.Cleanup(gateway.Close)
	return gateway.URL
}

// testNode starts a node that says name and what it was asked, and returns its
// address.
func testNode(t *testing.T, name string) string {
	t.Helper()
	answer := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", strings.Join([]string{r.Method, r.RequestURI, r.Host, r.Proto, string(body)}, " | "))
		w.Header().Set("X-Saw-Node", r.Header.Get(nodeHeader))
		w.Header().Set("X-Saw-For", strings.Join(r.Header["X-Forwarded-For"], " | "))
		_, _ = io.WriteString(w, name)
	}
	node := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(node.Close)
	return node.Listener.Addr().String()
}

// get asks and returns the response with its body.
func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, request)
}

// do makes a request.
func do(t *testing.T, request *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// refused is an address at which connections are refused until the test ends: its port is
// that of a connection to somewhere else, so nobody who listens gets it meanwhile. A gateway
// at the address that its own node is said to have would ask itself for ever. Nor has a fake
// Redis had it lately, or will soon: what is known of that would be known of this.
func refused(t *testing.T) string {
	t.Helper()
	listener := listenAlone(t)
	var others []net.Conn                                                     // and the one that is found
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}} // bound, so no client shares it either
	for {
		conn, err := dialer.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, conn)
		addr := conn.LocalAddr().String()
		if !givenLately(addr) {
			free := func() {
				givenOut.Store(addr, time.Now())
				for _, conn := range others {
					conn.Close()
				}
				listener.Close()
			}
			t.Cleanup(free)
			return addr
		}
	}
}

func TestNobodyListensWhereConnectionsAreRefused(t *testing.T) {
	addr := refused(t)
	if _, err := net.Dial("tcp", addr); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("dialed: %v", err)
	}
	if listener, err := net.Listen("tcp", addr); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("listens: %v, %v", listener, err)
	}
}

const wgamed = "/ws?nodeName=wgamed&threadId=1&platform=dev"

func TestARequestReachesTheNodeInRedis(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", testNode(t, "first"))
	redis.hset("game-server_dev_node_wgamed", "2", testNode(t, "second"))
	gateway := testGateway(t, testConfig(redis.addr))

	response, body := get(t, gateway+wgamed)
	if response.StatusCode != http.StatusOK || body != "first" {
		t.Errorf("got %s %q", response.Status, body)
	}
	want := "GET | " + wgamed + " | " + strings.TrimPrefix(gateway, "http://") + " | HTTP/1.1 |"
	if saw := response.Header.Get("X-Saw"); saw != want {
		t.Errorf("the node saw %q, want %q", saw, want)
	}
	if saw := response.Header.Get("X-Saw-Node"); saw != "" {
		t.Errorf("the node saw its address, %q", saw)
	}
	if _, body = get(t, gateway+"/ws?nodeName=wgamed&threadId=2&platform=dev"); body != "second" {
		t.Errorf("another thread: got %q", body)
	}
}

func TestHostIsTheNodesAddressWhereTheClientsIsNotPassed(t *testing.T) {
	redis := newFakeRedis(t)
	node := testNode(t, "first")
	redis.hset("game-server_dev_node_wgamed", "1", "http://"+node+"/prefix/")
	config := testConfig(redis.addr)
	config.PassHostHeader = false
	response, _ := get(t, testGateway(t, config)+wgamed)
	if saw, want := response.Header.Get("X-Saw"), "GET | /prefix"+wgamed+" | "+node+" | HTTP/1.1 |"; saw != want {
		t.Errorf("the node saw %q, want %q", saw, want)
	}
}

func TestAnswersByCause(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("game-server_dev_node_null", "1", "null")
	redis.hset("game-server_dev_node_text", "1", "no address at all")
	redis.set("game-server_dev_node_string", "127.0.0.1:80")
	redis.hset("game-server_dev_node_down", "1", refused(t))
	dead := testConfig(refused(t))
	for _, c := range []struct {
		name        string
		node        string
		config      *Config
		errorStatus int
		want        int
		wantBody    string
	}{
		{name: "missing parameter", node: "", want: 400, wantBody: "bad-request: parameter nodeName is missing"},
		{name: "no key", node: "nobody", want: 404, wantBody: "unknown-node: no such node: check platform, nodeName, threadId"},
		{name: "null", node: "null", want: 404, wantBody: "unknown-node: no such node: check platform, nodeName, threadId"},
		{name: "no address", node: "text", want: 502, wantBody: "bad-target: the node's entry in Redis cannot be used"},
		{name: "no hash", node: "string", want: 502, wantBody: "bad-target: the node's entry in Redis cannot be used"},
		{name: "refused", node: "down", want: 502, wantBody: "node-down: the node cannot be reached"},
		{name: "no Redis", node: "wgamed", config: dead, want: 503, wantBody: "redis-down: the node cannot be looked up right now"},
		{name: "no key, as OpenResty", node: "nobody", errorStatus: 500, want: 500, wantBody: "unknown-node: no such node: check platform, nodeName, threadId"},
		{name: "missing, as OpenResty", node: "", errorStatus: 500, want: 500, wantBody: "bad-request: parameter nodeName is missing"},
		{name: "no Redis, as OpenResty", node: "wgamed", config: dead, errorStatus: 500, want: 500, wantBody: "redis-down: the node cannot be looked up right now"},
		{name: "refused, as OpenResty", node: "down", errorStatus: 500, want: 502, wantBody: "node-down: the node cannot be reached"},
		{name: "no hash, as OpenResty", node: "string", errorStatus: 500, want: 502, wantBody: "bad-target: the node's entry in Redis cannot be used"},
	} {
		config := testConfig(redis.addr)
		if c.config != nil {
			config = c.config
		}
		config.ErrorStatus = c.errorStatus
		response, body := get(t, testGateway(t, config)+"/ws?threadId=1&platform=dev&nodeName="+c.node)
		if response.StatusCode != c.want || body != c.wantBody+"\n" {
			t.Errorf("%s: got %d %q, want %d %q", c.name, response.StatusCode, body, c.want, c.wantBody)
		}
		wantRetry := ""
		if strings.HasPrefix(body, "redis-down") {
			wantRetry = "1"
		}
		if retry := response.Header.Get("Retry-After"); retry != wantRetry {
			t.Errorf("%s: Retry-After is %q, want %q", c.name, retry, wantRetry)
		}
		if kind := response.Header.Get("Content-Type"); kind != "text/plain; charset=utf-8" {
			t.Errorf("%s: Content-Type is %q", c.name, kind)
		}
	}
}

func TestANodeThatDoesNotAnswerInTime(t *testing.T) {
	redis := newFakeRedis(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // takes connections, and nothing else
	redis.hset("game-server_dev_node_wgamed", "1", listener.Addr().String())
	config := testConfig(redis.addr)
	config.ServersTransport = &dynamic.ServersTransport{ForwardingTimeouts: &dynamic.ForwardingTimeouts{ResponseHeaderTimeout: "50ms"}}
	response, body := get(t, testGateway(t, config)+wgamed)
	if response.StatusCode != 504 || body != "node-timeout: the node did not answer in time\n" {
		t.Errorf("got %d %q", response.StatusCode, body)
	}
}

func TestAResponseThatTheNodeCutsShortIsNotComplete(t *testing.T) {
	redis := newFakeRedis(t)
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "short")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	node := httptest.NewServer(http.HandlerFunc(cut))
	defer node.Close()
	redis.hset("game-server_dev_node_wgamed", "1", node.Listener.Addr().String())
	response, err := http.Get(testGateway(t, testConfig(redis.addr)) + wgamed)
	if err != nil {
		return // nothing of it was sent on yet
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("%q looks complete", body)
	}
}

func TestABodyThatBreaksOffIsTheClientsFault(t *testing.T) {
	gateway := sessionGateway(t, testNode(t, "first"))
	answered := 0
	for _, body := range []string{"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "Content-Length: 100\r\n\r\nshort"} {
		conn, reader := rawClient(t, gateway, "POST "+wgamed+" HTTP/1.1\r\nHost: a\r\n"+body)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(reader)
		if strings.Contains(string(answer), "node-down") || len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
			t.Errorf("%q: got %q", body, answer)
		}
		if len(answer) > 0 {
			answered++
		}
	}
	if answered == 0 {
		t.Error("no answer at all")
	}
}

// A server closes a body when the answer begins; but one of HTTP/2, which does not, says
// there of a body that has more than was said.
func TestABodyIsNotReadBeyondItsEnd(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", testNode(t, "first"))
	waits := func(_ http.ResponseWriter, r *http.Request) { // with its answer, which else could come before the failure
		_, _ = io.Copy(io.Discard, r.Body)
		choose(r.Context().Done(), time.After(fakeRedisPatience))
	}
	patient := httptest.NewServer(http.HandlerFunc(waits))
	defer patient.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	handler, err := New(ctx, http.NotFoundHandler(), testConfig(redis.addr), "test")
	if err != nil {
		t.Fatal(err)
	}
	redis.hset("game-server_dev_node_wgamed", "2", patient.Listener.Addr().String())
	for _, c := range []struct {
		version, code int
		thread        string
	}{{1, 200, "1"}, {2, 400, "2"}} {
		closed, end := io.Pipe()
		end.CloseWithError(http.ErrBodyReadAfterClose)
		path := "/ws?nodeName=wgamed&platform=dev&threadId=" + c.thread
		r := httptest.NewRequest("POST", path, io.MultiReader(strings.NewReader("payload"), closed))
		r.ContentLength = int64(len("payload"))
		r.ProtoMajor = c.version
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		saw := w.Header().Get("X-Saw")
		if w.Code != c.code || c.code == 200 && (!strings.HasSuffix(saw, " | payload") || w.Body.String() != "first") {
			t.Errorf("HTTP/%d: got %d %q, the node saw %q", c.version, w.Code, w.Body.String(), saw)
		}
	}
}

func TestClientsCannotSpeakInThePluginsName(t *testing.T) {
	redis := newPushingRedis(t)
	saw := make(chan http.Header, 1)
	listen := func(_ http.ResponseWriter, r *http.Request) { saw <- r.Header }
	node := httptest.NewServer(http.HandlerFunc(listen))
	defer node.Close()
	redis.hset("game-server_dev_node_wgamed", "1", node.Listener.Addr().String())
	gateway := testGateway(t, testConfig(redis.addr))
	for i := 0; i < 3; i++ { // the long way, then the short one
		r, err := http.NewRequest("GET", gateway+wgamed, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"X-Dynamicforward-Node": {"a"}, "X-Dynamicforward-Other": {"b"}, "X-Dynamicforward-": {"e"}, "X-Drive": {"c"}, "X-Dynamicforward": {"d"}}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		header := <-saw
		for name := range header {
			if strings.HasPrefix(name, headerPrefix) || name == "Connection" {
				t.Errorf("the node received %s: %s", name, header.Get(name))
			}
		}
		if header.Get("X-Drive") != "c" || header.Get("X-Dynamicforward") != "d" {
			t.Errorf("the node received %v", header)
		}
	}
}

func TestWhatHasNoRouteFallsBack(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", testNode(t, "first"))
	redis.hset("game-server_dev_node_text", "1", "no address at all")
	old := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "old gateway: "+r.Header.Get(errorHeader)+" "+r.Header.Get(nodeHeader))
	}
	for _, c := range []struct{ query, endpoint, want string }{
		{"?nodeName=wgamed&threadId=1&platform=dev", redis.addr, "first"},
		{"?nodeName=nobody&threadId=1&platform=dev", redis.addr, "old gateway: unknown-node "},
		{"?nodeName=nobody", redis.addr, "old gateway: bad-request "},
		{"?nodeName=wgamed&threadId=1&platform=dev", refused(t), "old gateway: redis-down "},
		{"?nodeName=text&threadId=1&platform=dev", redis.addr, "bad-target: the node's entry in Redis cannot be used\n"},
	} {
		config := testConfig(c.endpoint)
		config.Fallback = true
		ctx, cancel := context.WithCancel(context.Background())
		handler, err := New(ctx, http.HandlerFunc(old), config, "test")
		if err != nil {
			t.Fatal(err)
		}
		gateway := httptest.NewServer(handler)
		if _, body := get(t, gateway.URL+"/ws"+c.query); body != c.want {
			t.Errorf("%s: got %q, want %q", c.query, body, c.want)
		}
		gateway.Close()
		cancel()
	}
}

func TestDebugHeadersShowTheNodeAndHowItWasFound(t *testing.T) {
	redis := newPushingRedis(t)
	node := testNode(t, "first")
	redis.hset("game-server_dev_node_wgamed", "1", node)
	config := testConfig(redis.addr)
	config.DebugHeaders = true
	gateway := testGateway(t, config)
	for _, want := range []string{"miss", "hit", "hit"} {
		response, _ := get(t, gateway+wgamed)
		if got := response.Header.Get(nodeHeader) + " " + response.Header.Get(cacheHeader); got != node+" "+want {
			t.Errorf("got %s, want %s", got, node+" "+want)
		}
	}
	redis.stop()
	waitFor(t, "stale", func() bool {
		response, _ := get(t, gateway+wgamed)
		return response.Header.Get(cacheHeader) == "stale"
	})
	config.DebugHeaders = false
	response, _ := get(t, testGateway(t, config)+wgamed)
	if got := response.Header.Get(nodeHeader) + response.Header.Get(cacheHeader); got != "" {
		t.Errorf("without debugHeaders: %s", got)
	}
}

func TestDebugHeadersShowTheNodeThatTookOver(t *testing.T) {
	redis := newFakeRedis(t)
	gone := refused(t)
	config := testConfig(redis.addr)
	config.Cache.TTL = "1h" // this Redis does not push
	config.DebugHeaders = true
	gateway := testGateway(t, config)
	for thread, upgrade := range map[string]bool{"1": false, "2": true} {
		path := "/ws?nodeName=wgamed&platform=dev&threadId=" + thread
		request := "GET " + path + " HTTP/1.1\r\nHost: game\r\n\r\n"
		if upgrade {
			request = handshakeText(path)
		}
		redis.hset(wgamedKey, thread, gone)
		response, _ := get(t, gateway+path)
		if got := response.Header.Get(nodeHeader); response.StatusCode != 502 || got != gone {
			t.Fatalf("before: %s, node %q", response.Status, got)
		}
		node := testNode(t, "second")
		redis.hset(wgamedKey, thread, node)
		_, reader := rawClient(t, gateway, request)
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		shown := strings.Join(response.Header[nodeHeader], " | ") + " " + strings.Join(response.Header[cacheHeader], " | ")
		if response.StatusCode != 200 || shown != node+" miss" {
			t.Errorf("got %s, shown %s; want %s miss", response.Status, shown, node)
		}
	}
}

func TestForbiddenTargetsAreRefusedAtTheDial(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", testNode(t, "first"))
	redis.hset("game-server_dev_node_meta", "1", "169.254.169.254:80")
	config := testConfig(redis.addr)
	want := "bad-target: the node's entry in Redis cannot be used\n"
	if response, body := get(t, testGateway(t, config)+"/ws?nodeName=meta&threadId=1&platform=dev"); response.StatusCode != 502 || body != want {
		t.Errorf("metadata: got %s %q", response.Status, body)
	}
	config.Targets.Allow = []string{"10.0.0.0/8"}
	if response, body := get(t, testGateway(t, config)+wgamed); response.StatusCode != 502 || body != want {
		t.Errorf("outside targets.allow: got %s %q", response.Status, body)
	}
	config.Targets.Allow = []string{"10.0.0.0/8", "127.0.0.1"}
	if response, body := get(t, testGateway(t, config)+wgamed); response.StatusCode != 200 || body != "first" {
		t.Errorf("within targets.allow: got %s %q", response.Status, body)
	}
}

func TestBadOptionsAreNamed(t *testing.T) {
	for _, c := range []struct {
		set  func(c *Config)
		want string
	}{
		{func(c *Config) { c.Redis.Endpoints = nil }, "redis.endpoints: missing: set a host:port such as 127.0.0.1:6379, or unix:///path"},
		{func(c *Config) { c.Redis.Endpoints = []string{"a:1", "b:1"} }, "redis.endpoints: one server has one address, and here are 2: set redis.sentinel.masterName if they are Sentinels, redis.cluster if they are a Cluster, or leave one"},
		{func(c *Config) { c.Redis.Endpoints = []string{"localhost"} }, `redis.endpoints: "localhost" is no host:port`},
		{func(c *Config) { c.Redis.Endpoints = []string{":6379"} }, `redis.endpoints: ":6379" is no host:port`},
		{func(c *Config) { c.Redis.Username = "u" }, "redis.username: needs redis.password"},
		{func(c *Config) { c.Redis.DB = -1 }, "redis.db: -1 is no database"},
		{func(c *Config) { c.Redis.DialTimeout = "soon" }, `redis.dialTimeout: "soon" is no duration: use one such as 1s or 250ms`},
		{func(c *Config) { c.Redis.ReadTimeout = "-1s" }, `redis.readTimeout: "-1s" is no duration`},
		{func(c *Config) { c.Redis.WriteTimeout = "0" }, "redis.writeTimeout: must be more than 0"},
		{func(c *Config) { c.Cache.MaxEntries = 0 }, "cache.maxEntries: 0 leaves no place for a route"},
		{func(c *Config) { c.Cache.TTL = "x" }, `cache.ttl: "x" is no duration`},
		{func(c *Config) { c.Cache.NegativeTTL = "x" }, `cache.negativeTTL: "x" is no duration`},
		{func(c *Config) { c.Cache.StaleTTL = "x" }, `cache.staleTTL: "x" is no duration`},
		{func(c *Config) { c.Key = "" }, "key: must not be empty"},
		{func(c *Config) { c.Key = "a_{nodeName" }, `key: "a_{nodeName" has a { without a } after it, at character 3`},
		{func(c *Config) { c.Key = "{x}a}b" }, `key: "{x}a}b" has a } without a { before it, at character 5`},
		{func(c *Config) { c.Key = "a{}" }, `key: "a{}" has {} at character 2: unknown placeholder: use {project}, {host}`},
		{func(c *Config) { c.Key = "{node name}" }, `key: "{node name}" has {node name} at character 1: unknown placeholder`},
		{func(c *Config) { c.Field = "{body.x}" }, `field: "{body.x}" has {body.x} at character 1: unknown placeholder`},
		{func(c *Config) { c.Key = "{a\xff}" }, `key: "{a\xff}" has {a` + "\xff" + `} at character 1: unknown placeholder`},
		{func(c *Config) { c.Field = "{query.}" }, `field: "{query.}" has {query.} at character 1: unknown placeholder`},
		{func(c *Config) { c.Field = "{path.0}" }, `field: "{path.0}" has {path.0} at character 1: path segments are numbered from 1`},
		{func(c *Config) { c.Field = "{header.host}" }, `field: "{header.host}" has {header.host} at character 1: use {host}`},
		{func(c *Config) { c.Key = "a\nb" }, `key: "a\nb" has a control character`},
		{func(c *Config) { c.Project = "" }, `key: "{project}_{platform}_node_{nodeName}" has {project} at character 1: the option project must be`},
		{func(c *Config) { c.Targets.Allow = []string{"10.0.0.0/33"} }, `targets.allow: "10.0.0.0/33" cannot be read: use a network`},
		{func(c *Config) { c.Targets.Allow = []string{"10.0.0.0/8:0"} }, `targets.allow: "10.0.0.0/8:0" has no port or range of ports within 1 to 65535`},
		{func(c *Config) { c.WebSocket.IdleTimeout = "soon" }, `websocket.idleTimeout: "soon" is no duration: use one such as 1s or 250ms`},
		{func(c *Config) { c.WebSocket.IdleTimeout = "500ms" }, "websocket.idleTimeout: 500ms is too short to tell silence: use 1s or more, or 0 for never"},
		{func(c *Config) { c.WebSocket.MaxPerNode = -1 }, "websocket.maxPerNode: -1 is no number of sessions: use 1 or more, or 0 for no limit"},
		{func(c *Config) { c.CatchAll = "Service" }, `catchAll: "Service" is none: use builtin`},
		{func(c *Config) {
			c.CatchAll = "service"
			c.ServersTransport = &dynamic.ServersTransport{InsecureSkipVerify: true}
		}, "serversTransport: with catchAll: service"},
		{func(c *Config) {
			c.CatchAll = "service"
			c.ResponseForwarding = &dynamic.ResponseForwarding{FlushInterval: "1s"}
		}, "responseForwarding: with catchAll: service"},
		{func(c *Config) {
			c.CatchAll = "service"
			c.WebSocket.IdleTimeout = "1m"
		}, "websocket: with catchAll: service"},
		{func(c *Config) {
			c.CatchAll = "service"
			c.WebSocket.MaxPerNode = 1
		}, "websocket: with catchAll: service"},
		{func(c *Config) {
			c.CatchAll = "service"
			c.WebSocket.CloseOnRouteChange = true
		}, "websocket: with catchAll: service"},
		{func(c *Config) {
			c.CatchAll = "service"
			c.WebSocket.WaitForEnd = true
		}, "websocket: with catchAll: service"},
		{func(c *Config) {
			c.CatchAll = "service"
			c.Fallback = true
		}, "fallback: with catchAll: service"},
		{func(c *Config) { c.ResponseForwarding = &dynamic.ResponseForwarding{FlushInterval: "soon"} }, `responseForwarding.flushInterval: "soon" is no duration`},
		{func(c *Config) { c.ErrorStatus = 200 }, "errorStatus: 200 is no error status"},
		{func(c *Config) { c.ErrorStatus = 600 }, "errorStatus: 600 is no error status"},
		{func(c *Config) {
			c.ServersTransport = &dynamic.ServersTransport{RootCAs: []string{"-----BEGIN nothing"}}
		}, "serversTransport.rootCAs: no certificate found"},
		{func(c *Config) { c.ServersTransport = &dynamic.ServersTransport{RootCAs: []string{"/no/such/file"}} }, "serversTransport.rootCAs: open /no/such/file"},
		{func(c *Config) { c.ServersTransport = &dynamic.ServersTransport{PeerCertURI: "spiffe://x"} }, "serversTransport.peerCertURI: not supported"},
		{func(c *Config) {
			c.ServersTransport = &dynamic.ServersTransport{Certificates: tls.Certificates{{CertFile: "a"}}}
		}, "serversTransport.certificates: each needs both"},
		{func(c *Config) {
			c.ServersTransport = &dynamic.ServersTransport{ForwardingTimeouts: &dynamic.ForwardingTimeouts{DialTimeout: "x"}}
		}, `serversTransport.forwardingTimeouts.dialTimeout: "x" is no duration`},
	} {
		config := testConfig("127.0.0.1:1")
		c.set(config)
		ctx, cancel := context.WithCancel(context.Background())
		handler, err := New(ctx, http.NotFoundHandler(), config, "test")
		cancel()
		if err == nil || !strings.HasPrefix(err.Error(), "dynamicforward test: "+c.want) || handler != nil {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestHowOftenResponsesAreFlushed(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 100 * time.Millisecond, "250ms": 250 * time.Millisecond, "1": time.Second, "0": 0, "-1": -time.Second,
	} {
		config := testConfig("127.0.0.1:1")
		if text != "" {
			config.ResponseForwarding = &dynamic.ResponseForwarding{FlushInterval: text}
		}
		ctx, cancel := context.WithCancel(context.Background())
		m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
		if err != nil {
			t.Fatal(err)
		}
		node, err := parseTarget("127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		if got := m.to(node).proxy.FlushInterval; got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
		cancel()
	}
}

func TestABareNumberIsSeconds(t *testing.T) {
	config := testConfig("127.0.0.1:1")
	config.Redis.ReadTimeout = "2"
	settings, err := newRedisSettings(&config.Redis)
	if err != nil || settings.readTimeout.String() != "2s" || settings.dialTimeout.String() != "1s" {
		t.Errorf("got %+v, %v", settings, err)
	}
}

func TestABodyGoesToTheNodeThatTookOver(t *testing.T) {
	redis := newFakeRedis(t)
	gone := refused(t)
	redis.hset("game-server_dev_node_wgamed", "1", gone)
	config := testConfig(redis.addr)
	config.Cache.TTL = "1h" // this Redis does not push
	gateway := testGateway(t, config)
	if response, _ := get(t, gateway+wgamed); response.StatusCode != 502 {
		t.Fatalf("before: %s", response.Status)
	}
	redis.hset("game-server_dev_node_wgamed", "1", testNode(t, "second"))
	before := redis.count("HGET")
	response, err := http.Post(gateway+wgamed, "text/plain", strings.NewReader("payload"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	want := "POST | " + wgamed + " | " + strings.TrimPrefix(gateway, "http://") + " | HTTP/1.1 | payload"
	if saw := response.Header.Get("X-Saw"); response.StatusCode != 200 || saw != want || response.Header.Get("X-Saw-For") != "127.0.0.1" {
		t.Errorf("got %s, the node saw %q", response.Status, saw)
	}
	if n := redis.count("HGET") - before; n != 1 {
		t.Errorf("read %d times, want once", n)
	}
}
