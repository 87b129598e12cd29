package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// routeBelow is route, but for every path below the one that it returns, too. Below is
// after a slash: /ws3 is not to take what is for /ws31.
func routeBelow(t *testing.T, options stack.Options) string {
	t.Helper()
	path := route(t, options)
	routesMu.Lock()
	defer routesMu.Unlock()
	name := "test" + strings.TrimPrefix(path, "/ws")
	routes.Routers[name] = stack.Router{Rule: "Path(`" + path + "`) || PathPrefix(`" + path + "/`)", Middlewares: []string{name}}
	must(t, traefik.Reload(routes.YAML()))
	return path
}

// ask sends a request or, if it is one, a handshake, with more header lines, and
// returns the name of the node that answered, or what the plugin answered.
func ask(t *testing.T, upgrade bool, target string, lines ...string) string {
	t.Helper()
	c := dial(t)
	defer c.Close()
	request := []string{"GET " + target + " HTTP/1.1"}
	if upgrade {
		request = handshake(target)[:1]
		lines = append(lines, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: "+sampleKey, "Sec-WebSocket-Version: 13")
	}
	if !strings.HasPrefix(strings.Join(lines, "\n"), "Host:") {
		lines = append([]string{"Host: game.example.com"}, lines...)
	}
	c.send(t, append(request, lines...)...)
	resp := c.head(t)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.Header.Get("X-Node")
	}
	return outcome(resp)
}

// A query with a token, which is never the same, leads where it would without, and
// elsewhere at once when its route does.
func TestTokensFollowTheRoute(t *testing.T) {
	path := usual(t)
	a := startNode(t, stack.NodeOptions{Name: "a"})
	b := startNode(t, stack.NodeOptions{Name: "b"})
	name := nobody()
	token := 0
	asked := func(upgrade bool) string {
		token++
		if token%3 == 0 {
			return ask(t, upgrade, fmt.Sprintf("%s?token=%d&%s", path, token, query(name)[1:]))
		}
		return ask(t, upgrade, fmt.Sprintf("%s%s&token=%d", path, query(name), token))
	}
	for _, n := range []*stack.Node{a, b, a} {
		put(t, redis, name, n.Addr())
		eventually(t, "the route leads to "+n.Name(), func() bool { return asked(false) == n.Name() })
		for i := range 20 {
			if got := asked(i%2 == 0); got != n.Name() {
				t.Fatalf("request %d goes to %s; want %s", token, got, n.Name())
			}
		}
	}
	do(t, redis, "DEL", "game-server_dev_node_"+name)
	eventually(t, "there is no route any more", func() bool { return asked(false) == unknownNode })
	if got := asked(true); got != unknownNode {
		t.Errorf("a handshake goes to %s; want %s", got, unknownNode)
	}
}

// A key and a field can be made of any part of a request, and the same query
// leads to another node when that part is another one.
func TestKeysFromAnyPartOfARequest(t *testing.T) {
	a := startNode(t, stack.NodeOptions{Name: "a"})
	b := startNode(t, stack.NodeOptions{Name: "b"})
	table := nobody()
	do(t, redis, "HSET", table, "a", a.Addr(), "b", b.Addr(),
		"a.example.com", a.Addr(), "b.example.com", b.Addr(), "::1", a.Addr(),
		"游戏", a.Addr(), "a b", a.Addr(), "a/b", b.Addr(), "a-b-a.example.com-b", b.Addr())
	const badRequest = "400 bad-request"
	for _, c := range []struct {
		field string
		asks  [][]string // path below the route and query, header lines, outcome
	}{
		{"{header.X-Shard}", [][]string{
			{"?q=1", "X-Shard: a", "a"}, {"?q=1", "X-Shard: b", "b"}, {"?q=1", "x-shard:  a ", "a"},
			{"?q=1", "X-Shard: b", "X-Shard: a", "b"}, {"?q=1", "X-SHARD: 游戏", "a"},
			{"?q=1", "X-Shard: nobody", unknownNode}, {"?q=1", "X-Shard: A", unknownNode},
			{"?q=1", badRequest}, {"?q=1", "X-Shard:", badRequest}, {"?q=1", "X-Shard:", "X-Shard: a", badRequest},
			{"?X-Shard=a", badRequest}, {"?q=1", "X-Shard: a\tb", badRequest}, {"?q=1", "X-Shard: \xff", badRequest},
			{"?q=1", "X-Shard: a" + strings.Repeat("x", 256), badRequest}, {"?q=1", "X-Shard: " + strings.Repeat("x", 256), unknownNode},
		}},
		{"{cookie.shard}", [][]string{
			{"?q=1", "Cookie: shard=a", "a"}, {"?q=1", "Cookie: shard=b", "b"}, {"?q=1", "Cookie: x=1; shard=a; y=2", "a"},
			{"?q=1", "Cookie: x=1", "Cookie: shard=b", "b"}, {"?q=1", "Cookie: shard=b; shard=a", "b"},
			{"?q=1", "Cookie: shard=nobody", unknownNode}, {"?q=1", "Cookie: Shard=a", badRequest},
			{"?q=1", badRequest}, {"?q=1", "Cookie: shard=", badRequest}, {"?shard=a", "Cookie: x=1", badRequest},
		}},
		{"{host}", [][]string{
			{"?q=1", "Host: a.example.com", "a"}, {"?q=1", "Host: b.example.com", "b"}, {"?q=1", "Host: A.Example.COM:8080", "a"},
			{"?q=1", "Host: [::1]:8080", "a"}, {"?q=1", "Host: [::1]", "a"},
			{"?host=a.example.com", "Host: localhost", unknownNode}, {"?q=1", "Host: localhost", "X-Forwarded-Host: a.example.com", unknownNode},
		}},
		{"{path.2}", [][]string{
			{"/a?q=1", "a"}, {"/b?q=1", "b"}, {"/%61/b", "a"}, {"/a%20b", "a"}, {"/%E6%B8%B8%E6%88%8F/", "a"},
			{"/nobody", unknownNode}, {"/A", unknownNode}, {"", badRequest}, {"/", badRequest}, {"?a", badRequest}, {"/a%09b", badRequest},
		}},
		{"{query.shard}", [][]string{
			{"?shard=a", "a"}, {"?shard=b", "b"}, {"?shard=b&shard=a", "b"}, {"?shard=a&token=1", "a"}, {"?shard=a&token=2", "a"}, {"?token=1&shard=a", "a"}, {"?token=1&shard=b", "b"}, {"?token=1", badRequest}, {"?Shard=a", badRequest}, {"?q=1", "Shard: a", badRequest},
		}},
		{"{header.X-Shard}-{cookie.shard}-{host}-{path.2}", [][]string{
			{"/b?q=1", "Host: a.example.com", "X-Shard: a", "Cookie: shard=b", "b"},
			{"/a?q=1", "Host: a.example.com", "X-Shard: a", "Cookie: shard=b", unknownNode},
			{"/b?q=1", "Host: a.example.com", "Cookie: shard=b", badRequest},
		}},
	} {
		for what, options := range map[string]stack.Options{
			"a field": {"key": table, "field": c.field},
			"a key":   {"key": table + ":" + c.field, "field": ""},
		} {
			path := routeBelow(t, options)
			if what == "a key" {
				for _, field := range []string{"a", "b", "a.example.com", "b.example.com", "::1", "游戏", "a b", "a/b", "a-b-a.example.com-b"} {
					do(t, redis, "SET", table+":"+field, do(t, redis, "HGET", table, field))
				}
			}
			for _, one := range append(c.asks, c.asks...) { // and again, when what was found is known
				lines, want := one[1:len(one)-1], one[len(one)-1]
				for _, upgrade := range []bool{false, true} {
					if got := ask(t, upgrade, path+one[0], lines...); got != want {
						t.Errorf("%s as %s: %s %q, handshake %v: got %s; want %s", c.field, what, one[0], lines, upgrade, got, want)
					}
				}
			}
		}
	}
}

// With an empty field a node is one string in Redis, read with GET; adding,
// moving and removing it is one command as with a hash.
func TestANodeIsAString(t *testing.T) {
	w := setup{options: stack.Options{"project": "lobby", "key": "{project}:{nodeName}", "field": ""}}.begin(t)
	name := nobody()
	w.want(name, unknownNode)
	for _, c := range []struct {
		value   string
		outcome string
	}{
		{w.a.Addr(), "a"}, {w.b.Addr(), "b"}, {" http://" + w.a.Addr() + "\n", "a"}, {"null", unknownNode}, {"no address", badTarget}, {w.b.Addr(), "b"},
	} {
		w.do("SET", "lobby:"+name, c.value)
		w.becomes(name, c.outcome)
	}
	w.do("DEL", "lobby:"+name)
	w.becomes(name, unknownNode)
	if got := w.hgets(); got != 0 {
		t.Errorf("%d HGETs; want GET alone", got)
	}
	w.do("HSET", "lobby:"+name, "1", w.a.Addr())
	w.becomes(name, badTarget)
}

// What comes from labels is text, lists included.
func TestOptionsGivenAsText(t *testing.T) {
	_, port, _ := strings.Cut(node.Addr(), ":")
	options := stack.Options{
		"project":      "text",
		"key":          "{project}_{platform}_node_{nodeName}",
		"field":        "{threadId}",
		"redis":        stack.Options{"endpoints": redis.Addr(), "db": "0", "readTimeout": "1"},
		"cache":        stack.Options{"maxEntries": "10", "ttl": "2", "negativeTTL": "100ms", "staleTTL": "0"},
		"targets":      stack.Options{"allow": "10.0.0.0/8, 127.0.0.1:" + port},
		"fallback":     "false",
		"errorStatus":  "503",
		"debugHeaders": "true",
		"serversTransport": stack.Options{
			"insecureSkipVerify": "true", "maxIdleConnsPerHost": "-1",
			"forwardingTimeouts": stack.Options{"dialTimeout": "1", "responseHeaderTimeout": "5s", "idleConnTimeout": "1"},
		},
	}
	path := route(t, options)
	good, forbidden := nobody(), nobody()
	do(t, redis, "HSET", "text_dev_node_"+good, "1", node.Addr())
	do(t, redis, "HSET", "text_dev_node_"+forbidden, "1", startNode(t, stack.NodeOptions{}).Addr())

	resp := get(t, path+query(good))
	wantNode(t, resp, node)
	if got := resp.Header.Get("X-Dynamicforward-Node"); got != node.Addr() {
		t.Errorf(`debugHeaders: "true": X-Dynamicforward-Node is %q`, got)
	}
	wantOutcome(t, get(t, path+query(nobody())), "503 unknown-node")
	wantOutcome(t, get(t, path+query(forbidden)), badTarget)
}

func wantOutcome(t *testing.T, resp *response, want string) {
	t.Helper()
	reason, _, _ := strings.Cut(resp.body, ":")
	if got := fmt.Sprint(resp.StatusCode, " ", reason); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

// A template that cannot be read takes its own router away, and the log says
// which option, which template and where in it.
func TestATemplateThatCannotBeRead(t *testing.T) {
	conf := stack.Game(redisAt(redis))
	var want [][]string // by router
	for option, templates := range map[string]map[string]string{
		"key": {
			"{project}_{platform": `at character 11`, "a}b": "at character 2", "a{}": "{} at character 2",
			"x_{node name}": "{node name} at character 3", "{body.x}": "{body.x} at character 1", "游戏{path.0}": "{path.0} at character 7",
			"{header.Host}": "use {host}", "": "must not be empty",
		},
		"field": {
			"{threadId}{": "at character 11", "{a{threadId}": "{a{threadId} at character 1", "{query.}": "{query.} at character 1",
			"{path.one}": "{path.one} at character 1", "{nonsense.threadId}": "{nonsense.threadId} at character 1",
		},
	} {
		for template, where := range templates {
			name := fmt.Sprintf("bad%d", len(want))
			conf.Routers[name] = stack.Router{Rule: "Path(`/" + name + "`)", Middlewares: []string{name}}
			conf.Middlewares[name] = redisAt(redis, stack.Options{option: template})
			want = append(want, []string{"routerName=" + name + "@file", option + ": ", template, where})
		}
	}
	own := start(t, stack.TraefikOptions{Dynamic: conf.YAML(), AllowErrors: true})
	refused := strings.Join(own.Errors(), "\n")
	c := newClient(t)
	for i, words := range want {
		if !hasLine(refused, words...) {
			t.Errorf("no line of the log has all of %q:\n%s", words, refused)
		}
		if got := status(t, c, fmt.Sprintf("%s/bad%d%s", own.URL(), i, place(t, node.Addr()))); got != 404 {
			t.Errorf("%q: the router answers %d; want it gone", words, got)
		}
	}
	if got := status(t, c, own.URL()+"/ws"+place(t, node.Addr())); got != 200 {
		t.Errorf("the router beside them answers %d", got)
	}
}

// status requests a URL and returns the status of the response.
func status(t *testing.T, c *client, url string) int {
	t.Helper()
	resp, err := c.Get(url)
	must(t, err)
	resp.Body.Close()
	return resp.StatusCode
}
