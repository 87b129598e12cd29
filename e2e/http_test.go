package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// seen returns the request that a node saw last.
func seen(t *testing.T, n *stack.Node) stack.Seen {
	t.Helper()
	request, ok := n.Last()
	if !ok {
		t.Fatal("the node has seen no request")
	}
	return request
}

func TestNodeSeesTheClientsHost(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	request, err := http.NewRequest("GET", traefik.URL()+path+place(t, n.Addr()), nil)
	must(t, err)
	request.Host = "game.example.com"

	wantNode(t, newClient(t).do(t, request), n)
	if got := seen(t, n).Host; got != "game.example.com" {
		t.Errorf("the node saw Host %q; want the client's", got)
	}
}

func TestPassHostHeaderFalseGivesTheNodesAddress(t *testing.T) {
	path := route(t, stack.Options{"passHostHeader": false})
	n := startNode(t, stack.NodeOptions{})
	request, err := http.NewRequest("GET", traefik.URL()+path+place(t, n.Addr()), nil)
	must(t, err)
	request.Host = "game.example.com"

	wantNode(t, newClient(t).do(t, request), n)
	if got := seen(t, n).Host; got != n.Addr() {
		t.Errorf("the node saw Host %q; want its own address %s", got, n.Addr())
	}
}

func TestNodeSeesTheClientsAddress(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	request, err := http.NewRequest("GET", traefik.URL()+path+place(t, n.Addr()), nil)
	must(t, err)
	// What a client that nobody trusts says about itself counts for nothing.
	request.Header.Set("X-Real-Ip", "203.0.113.9")
	request.Header.Set("X-Forwarded-For", "203.0.113.9")

	wantNode(t, newClient(t).do(t, request), n)
	for _, name := range []string{"X-Real-Ip", "X-Forwarded-For"} {
		if got := seen(t, n).Header.Values(name); len(got) != 1 || got[0] != "127.0.0.1" {
			t.Errorf("the node saw %s %q; want 127.0.0.1, once and without a port", name, got)
		}
	}
}

// A client cannot have the headers dropped by calling them its own
// connection's (CVE-2024-45410).
func TestClientCannotHideItsAddress(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	c := dial(t)
	c.send(t, "GET "+path+place(t, n.Addr())+" HTTP/1.1", "Host: localhost",
		"Connection: keep-alive, X-Real-Ip, X-Forwarded-For, X-Forwarded-Proto")
	wantNode(t, c.receive(t), n)
	for name, want := range map[string]string{
		"X-Real-Ip": "127.0.0.1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http",
	} {
		if got := seen(t, n).Header.Get(name); got != want {
			t.Errorf("the node saw %s %q; want %q", name, got, want)
		}
	}
}

func TestNodeSeesTheClientsAddressBehindATrustedProxy(t *testing.T) {
	own := start(t, stack.TraefikOptions{
		Dynamic:    stack.Game(redisAt(redis)).YAML(),
		EntryPoint: "forwardedHeaders: {trustedIPs: [127.0.0.1]}",
	})
	n := startNode(t, stack.NodeOptions{})
	request, err := http.NewRequest("GET", own.URL()+"/ws"+place(t, n.Addr()), nil)
	must(t, err)
	request.Header.Set("X-Real-Ip", "203.0.113.9")
	request.Header.Set("X-Forwarded-For", "203.0.113.9")

	wantNode(t, newClient(t).do(t, request), n)
	if got := seen(t, n).Header.Get("X-Real-Ip"); got != "203.0.113.9" {
		t.Errorf("the node saw X-Real-Ip %q; want what the proxy said", got)
	}
	if got := strings.Join(seen(t, n).Header.Values("X-Forwarded-For"), ", "); got != "203.0.113.9, 127.0.0.1" {
		t.Errorf("the node saw X-Forwarded-For %q; want what the proxy said, and the proxy", got)
	}
}

func TestNodeSeesHTTP11(t *testing.T) {
	path := usual(t)
	for _, proto := range []string{"HTTP/1.1", "HTTP/1.0"} {
		n := startNode(t, stack.NodeOptions{})
		c := dial(t)
		c.send(t, "GET "+path+place(t, n.Addr())+" "+proto, "Host: localhost")
		wantNode(t, c.receive(t), n)
		if got := seen(t, n).Proto; got != "HTTP/1.1" {
			t.Errorf("for a client's %s the node saw %s; want HTTP/1.1", proto, got)
		}
	}
}

func TestClientCannotSpeakInThePluginsName(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	request, err := http.NewRequest("GET", traefik.URL()+path+place(t, n.Addr()), nil)
	must(t, err)
	for _, name := range []string{"X-Dynamicforward-Node", "X-Dynamicforward-Error", "x-dynamicforward-other"} {
		request.Header[name] = []string{"10.0.0.1:80"}
	}

	resp := newClient(t).do(t, request)
	wantNode(t, resp, n)
	for name := range seen(t, n).Header {
		if strings.HasPrefix(name, "X-Dynamicforward-") {
			t.Errorf("the node saw %s", name)
		}
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "X-Dynamicforward-") {
			t.Errorf("the client saw %s", name)
		}
	}
}

func TestQueryReachesTheNodeUnchanged(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	for _, rest := range []string{
		"&b=2&a=1&a=0", "&plus=1+1&slash=%2F&lower=%2f&utf8=%E4%BD%A0", "&empty=&none&=x", "&broken=%zz&cut=%e",
	} {
		target := path + place(t, n.Addr()) + rest
		c := dial(t)
		c.send(t, "GET "+target+" HTTP/1.1", "Host: localhost")
		wantNode(t, c.receive(t), n)
		if got := seen(t, n).RequestURI; got != target {
			t.Errorf("the node saw\n%s; want\n%s", got, target)
		}
	}
}

func TestParametersAreDecoded(t *testing.T) {
	path := usual(t)
	for name, encoded := range map[string]string{
		"wgame a":  "wgame+a",
		"wgame b":  "wgame%20b",
		"wgame&c":  "%77game%26c",
		"游戏":       "%E6%B8%B8%E6%88%8F",
		"a{b}*[c]": "a{b}*[c]",
		"\"'\\":    "%22%27%5c",
	} {
		put(t, redis, name, node.Addr())
		resp := get(t, path+"?platform=%64ev&threadId=%31&nodeName="+encoded)
		if resp.StatusCode != 200 {
			t.Errorf("nodeName=%s: got %s: %s; want node %q", encoded, resp.Status, resp.body, name)
		}
	}
}

func TestFirstOfARepeatedParameterCounts(t *testing.T) {
	path := usual(t)
	first, second := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	a, b := nobody(), nobody()
	put(t, redis, a, first.Addr())
	put(t, redis, b, second.Addr())

	wantNode(t, get(t, path+query(a)+"&nodeName="+b+"&threadId=9&platform=live"), first)
	wantNode(t, get(t, path+"?nodeName="+b+query(a)[len("?nodeName="+a):]+"&nodeName="+a), second)
}

func TestParameterNamesAreCaseSensitive(t *testing.T) {
	path := usual(t)
	name := nobody()
	put(t, redis, name, node.Addr())
	wantAnswer(t, get(t, path+"?nodename="+name+"&threadId=1&platform=dev"), 400, "bad-request")
}

func TestLocationIsNotRewritten(t *testing.T) {
	path := usual(t)
	var location string
	n := startNode(t, stack.NodeOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusFound)
	})})
	for _, location = range []string{"http://" + n.Addr() + "/elsewhere?a=b", "/ws?nodeName=other", "../up"} {
		resp := get(t, path+place(t, n.Addr()))
		if got := resp.Header.Get("Location"); resp.StatusCode != 302 || got != location {
			t.Errorf("got %s to %q; want 302 to %q as the node said it", resp.Status, got, location)
		}
	}
}

func TestResponseComesThrough(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "the node itself is busy")
	})})
	resp := get(t, path+place(t, n.Addr()))
	if resp.StatusCode != 503 || resp.body != "the node itself is busy" || resp.Header.Get("Retry-After") != "7" ||
		fmt.Sprint(resp.Header.Values("Set-Cookie")) != "[a=1 b=2]" {
		t.Errorf("got %s %v: %q", resp.Status, resp.Header, resp.body)
	}
}

func TestBodyReachesTheNode(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // whole, before the answer begins: HTTP/1.1 is half duplex
		fmt.Fprint(w, r.Method, " ", r.ContentLength, " ", string(body))
		if err != nil {
			fmt.Fprint(w, " ", err)
		}
	})})
	body := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for length, reader := range map[int64]io.Reader{
		int64(len(body)): strings.NewReader(body),
		-1:               io.MultiReader(strings.NewReader(body)), // chunked
	} {
		request, err := http.NewRequest("POST", traefik.URL()+path+place(t, n.Addr()), reader)
		must(t, err)
		request.ContentLength = length
		resp := newClient(t).do(t, request)
		if want := fmt.Sprintf("POST %d %s", length, body); resp.body != want {
			t.Errorf("with a length of %d, the node got %d bytes that begin with %.40q; want %d with %.40q",
				length, len(resp.body), resp.body, len(want), want)
		}
	}
}

// A response that has no end yet is seen as it comes.
func TestResponseIsStreamed(t *testing.T) {
	path := usual(t)
	more := make(chan struct{})
	n := startNode(t, stack.NodeOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		select {
		case <-more:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "second\n")
	})})
	c := newClient(t)
	resp, err := c.Get(traefik.URL() + path + place(t, n.Addr()))
	must(t, err)
	defer resp.Body.Close()
	first := make([]byte, len("first\n"))
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatalf("the first part did not come before the second was written: %v", err)
	}
	close(more)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(first)+string(rest) != "first\nsecond\n" {
		t.Fatalf("got %q and then %q, %v", first, rest, err)
	}
}

// Moving, removing and adding a node is one Redis command.
func TestNodeMoves(t *testing.T) {
	path := usual(t)
	a, b := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	name := nobody()
	c := newClient(t)
	at := func(n *stack.Node) func() bool {
		return func() bool { return c.get(t, path+query(name)).Header.Get("X-Node") == n.Name() }
	}

	put(t, redis, name, a.Addr())
	wantNode(t, c.get(t, path+query(name)), a)
	put(t, redis, name, b.Addr())
	eventually(t, "requests go to the new node", at(b))
	do(t, redis, "HDEL", "game-server_dev_node_"+name, "1")
	eventually(t, "a removed node is unknown", func() bool { return c.get(t, path+query(name)).StatusCode == 404 })
	put(t, redis, name, a.Addr())
	eventually(t, "requests go to the node that is there again", at(a))
}

func TestAddressForms(t *testing.T) {
	path := usual(t)
	_, port, _ := strings.Cut(node.Addr(), ":")
	for _, value := range []string{
		node.Addr(), " " + node.Addr() + "\n", "\t" + node.Addr() + "\r\n", "localhost:" + port,
		"http://" + node.Addr(), "http://" + node.Addr() + "/", " http://" + node.Addr(),
	} {
		resp := get(t, path+place(t, value))
		if resp.StatusCode != 200 {
			t.Errorf("address %q: got %s: %s", value, resp.Status, resp.body)
		}
	}
}

func TestAddressWithAPathPrefix(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	for value, prefix := range map[string]string{
		"http://" + n.Addr() + "/lobby":   "/lobby",
		"http://" + n.Addr() + "/lobby/":  "/lobby",
		"http://" + n.Addr() + "/a/b%20c": "/a/b%20c",
	} {
		q := place(t, value)
		wantNode(t, get(t, path+q), n)
		if got, want := seen(t, n).RequestURI, prefix+path+q; got != want {
			t.Errorf("address %s: the node saw %s; want %s", value, got, want)
		}
	}
}

func TestRedisPasswordAndDatabase(t *testing.T) {
	locked := startRedis(t, stack.RedisOptions{Password: "correct horse"})
	do(t, locked, "ACL", "SETUSER", "game", "on", ">battery staple", "~*", "+@all")
	name := nobody()
	put(t, locked, name, node.Addr())
	do(t, locked, "SELECT", "3")
	put(t, locked, name+"of3", node.Addr())
	for _, c := range []struct {
		what    string
		options stack.Options
		query   string
		status  int
	}{
		{"password", stack.Options{"password": "correct horse"}, query(name), 200},
		{"password and db", stack.Options{"password": "correct horse", "db": 3}, query(name + "of3"), 200},
		{"another db", stack.Options{"password": "correct horse", "db": 3}, query(name), 404},
		{"username", stack.Options{"username": "game", "password": "battery staple"}, query(name), 200},
		{"username, wrong password", stack.Options{"username": "game", "password": "correct horse"}, query(name), 503},
		{"wrong password", stack.Options{"password": "wrong"}, query(name), 503},
		{"no password", stack.Options{}, query(name), 503},
	} {
		c.options["endpoints"] = []string{locked.Addr()}
		path := route(t, stack.Options{"redis": c.options})
		if resp := get(t, path+c.query); resp.StatusCode != c.status {
			t.Errorf("%s: got %s: %s; want %d", c.what, resp.Status, resp.body, c.status)
		}
	}
}

func TestKeyAndFieldTemplates(t *testing.T) {
	do(t, redis, "HSET", "shooter_dev_node_a", "1", node.Addr())
	do(t, redis, "HSET", "shooter:a", "node/1", node.Addr())
	do(t, redis, "HSET", "nodes", "a", node.Addr())
	do(t, redis, "SET", "address:a", node.Addr())
	for _, c := range []struct {
		options stack.Options
		query   string
	}{
		{stack.Options{"project": "shooter"}, "?nodeName=a&threadId=1&platform=dev"},
		{stack.Options{"project": "shooter", "key": "{project}:{name}", "field": "node/{n}"}, "?name=a&n=1"},
		{stack.Options{"key": "nodes", "field": "{node}"}, "?node=a"},
		{stack.Options{"key": "nodes", "field": "a"}, ""},
		{stack.Options{"key": "address:{node}", "field": ""}, "?node=a"},
	} {
		if resp := get(t, route(t, c.options)+c.query); resp.StatusCode != 200 {
			t.Errorf("%v: got %s: %s", c.options, resp.Status, resp.body)
		}
	}
}
