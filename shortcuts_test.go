package dynamicforward

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

// get returns where a shortcut leads, or nil.
func (s *shortcuts) get(query string) *way {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.known[query]
}

// has tells whether a query has a shortcut.
func (s *shortcuts) has(query string) bool { return s.get(query) != nil }

// remember makes a shortcut to a route.
func remember(t *table, r *route, short *shortcuts, query string) {
	t.remember(r, short, query, &way{})
}

// shortTable returns a table of a Redis with one route, that route, and shortcuts
// through the table.
func shortTable(t *testing.T) (*pushingRedis, *table, *route, *shortcuts) {
	t.Helper()
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	table := testTable(t, redis.addr, nil)
	short := newShortcuts(nil)
	table.join(context.Background(), short)
	return redis, table, found(t, table), short
}

// found returns the route a 1.
func found(t *testing.T, table *table) *route {
	t.Helper()
	r, _, err := table.find(context.Background(), "a", "1")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAShortcutEndsWithTheTruthOfItsRoute(t *testing.T) {
	redis, table, r, short := shortTable(t)
	remember(table, r, short, "q")
	if !short.has("q") {
		t.Fatal("no shortcut to a true route")
	}
	redis.move(t, "a", "1", "10.0.0.2:2")
	waitFor(t, "the news", func() bool { return !short.has("q") })

	remember(table, r, short, "q")
	if short.has("q") {
		t.Error("a shortcut to a route that has moved between the look-up and here")
	}
}

func TestShortcutsEndWithTheConnection(t *testing.T) {
	redis, table, r, short := shortTable(t)
	remember(table, r, short, "q")
	redis.disconnect()
	waitFor(t, "the end of the connection", func() bool { return !short.has("q") })
	redis.awaitCount("SUBSCRIBE", 2)
	waitFor(t, "the link", table.connected)
	if short.has("q") {
		t.Error("a shortcut that nobody has looked at since")
	}
	remember(table, found(t, table), short, "q")
	redis.move(t, "a", "1", "10.0.0.2:2")
	waitFor(t, "the news", func() bool { return !short.has("q") })
}

func TestShortcutsEndWithAFlush(t *testing.T) {
	redis, table, r, short := shortTable(t)
	remember(table, r, short, "q")
	redis.del("a")
	redis.push(t, "")
	waitFor(t, "the news", func() bool { return !short.has("q") })
}

func TestFewShortcutsLeadToARoute(t *testing.T) {
	_, table, r, short := shortTable(t)
	for i := 0; i < 3*maxPaths; i++ {
		remember(table, r, short, fmt.Sprint("q", i))
	}
	if n := len(short.known); n != maxPaths {
		t.Errorf("%d shortcuts, want %d", n, maxPaths)
	}
	if newest := fmt.Sprint("q", 3*maxPaths-1); !short.has(newest) {
		t.Error("the newest is not there")
	}
	for i := 0; i < 3; i++ {
		remember(table, r, short, "again")
	}
	if n := len(r.paths); n != maxPaths {
		t.Errorf("%d paths, want %d", n, maxPaths)
	}
}

// What is said of the route goes with the shortcut.
func TestTheEntryOfAShortcutEndsWithIt(t *testing.T) {
	redis, table, r, short := shortTable(t)
	asks := func(query string) *http.Request { return &http.Request{URL: &url.URL{RawQuery: query}} }
	remember(table, r, short, "q")
	if e := entryOf(short, asks("q")); e != nil {
		t.Errorf("an entry that nobody asks for: %+v", e)
	}
	short.entries = map[string]*entry{}
	remember(table, r, short, "q")
	if e := entryOf(short, asks("q")); e == nil || e.key != "a" || e.field != "1" {
		t.Fatalf("got %+v, want a 1", e)
	}
	redis.move(t, "a", "1", "10.0.0.2:2")
	waitFor(t, "the news", func() bool { return entryOf(short, asks("q")) == nil })
	for name, end := range map[string]func(){"forget": short.forget, "end": short.end} {
		remember(table, found(t, table), short, "q")
		if entryOf(short, asks("q")) == nil {
			t.Fatal("no entry")
		}
		end()
		if e := entryOf(short, asks("q")); e != nil {
			t.Errorf("after %s there is %+v", name, e)
		}
		short.entries = map[string]*entry{}
	}
}

func TestAHandlerThatIsNotUsedAnyMoreTakesNoShortcut(t *testing.T) {
	_, table, r, _ := shortTable(t)
	ctx, cancel := context.WithCancel(context.Background())
	short := newShortcuts(nil)
	table.join(ctx, short)
	remember(table, r, short, "q")
	known := reflect.ValueOf(short.all())
	cancel()
	waitFor(t, "the end", func() bool { return !short.has("q") })
	remember(table, r, short, "q")
	if short.has("q") {
		t.Error("nobody would take it away")
	}
	let := func() bool { return reflect.ValueOf(short.all()).Pointer() != known.Pointer() }
	waitFor(t, "the map to be let go of, which routes would keep", let)
	if known.Len() != 0 {
		t.Errorf("there are %d shortcuts left for those who have the map", known.Len())
	}
}

func TestAShortcutLeadsTheWayThatItWasLastGiven(t *testing.T) {
	_, table, r, short := shortTable(t)
	remember(table, r, short, "q")
	other := &way{}
	table.remember(r, short, "q", other)
	if short.get("q") != other {
		t.Error("it leads the way of before, to the lanes of that")
	}
}

func TestRequestsByLanesFollowTheirRoute(t *testing.T) {
	redis := redisWith(t, "game-server_dev_node_wgamed", "1", testNode(t, "old"))
	m, url, wgamedsWay := newLaneMiddleware(context.Background(), t, redis.addr, "")
	waitFor(t, "the link", m.table.connected)
	for _, name := range []string{"old", "new", "newer"} {
		if name != "old" {
			redis.move(t, "game-server_dev_node_wgamed", "1", testNode(t, name))
			waitFor(t, "the news", func() bool { return wgamedsWay() == nil })
		}
		for i := 0; i < 2*busyNode; i++ {
			if _, body := get(t, url); body != name {
				t.Fatalf("request %d went to %s, want %s", i, body, name)
			}
			press(wgamedsWay(), busyNode, time.Now().Add(time.Hour))
		}
		if len(lanesOf(wgamedsWay()).idle) != spareLanes+1 {
			t.Errorf("no lanes to %s", name)
		}
	}
}

// shortGateway serves a middleware whose next request to the url takes a shortcut
// to an address, where the long way leads to a node that says so.
func shortGateway(t *testing.T, to string, change func(c *Config)) (url string) {
	t.Helper()
	redis := redisWith(t, "game-server_dev_node_wgamed", "1", testNode(t, "long way"))
	config := testConfig(redis.addr)
	change(config)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(m.handler())
	t.Cleanup(gateway.Close)
	waitFor(t, "the link", m.table.connected)
	get(t, gateway.URL+"/ws?"+testQuery)
	if !m.short.has(testQuery) {
		t.Fatal("no shortcut after the first request")
	}
	node, err := parseTarget(to)
	if err != nil {
		t.Fatal(err)
	}
	m.short.put(testQuery, newWay(m, node), wgamedKey, "1")
	return gateway.URL + "/ws?" + testQuery
}

const testQuery = "nodeName=wgamed&threadId=1&platform=dev"

func TestOnlyAPlainRequestTakesAShortcut(t *testing.T) {
	for _, c := range []struct {
		what, method, body string
		header, value      string
		want               string
	}{
		{what: "a plain request", method: "GET", want: "shortcut"},
		{what: "one with a header of its own", method: "DELETE", header: "X-Dynamic", value: "1", want: "shortcut"},
		{what: "one with a body", method: "POST", body: "body", want: "long way"},
		{what: "one with a forged header, where there are no lanes", method: "GET", header: "X-Dynamicforward-Node", value: "10.0.0.9:9", want: "long way"},
		{what: "one that asks for another protocol", method: "GET", header: "Connection", value: "Upgrade", want: "long way"},
	} {
		url := shortGateway(t, testNode(t, "shortcut"), func(_ *Config) {})
		request, err := http.NewRequest(c.method, url, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			request.Header.Set(c.header, c.value)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if string(body) != c.want {
			t.Errorf("%s: %q, want %q", c.what, body, c.want)
		}
		if node := response.Header.Get("X-Saw-Node"); node != "" {
			t.Errorf("%s: the node was told %s", c.what, node)
		}
	}
}

func TestWhatAShortcutGoesBy(t *testing.T) {
	const long = maxShort
	usual, err := newRule(testConfig("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	fixed, err := newRule(&Config{Key: "a", Field: "b"})
	if err != nil {
		t.Fatal(err)
	}
	odd, err := newRule(&Config{Key: "{a}-{query.a}-{query.é}", Field: "{query.b)}"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule        *rule
		query, want string
		none        bool
	}{
		{rule: usual, query: testQuery, want: testQuery},
		{rule: usual, query: testQuery + "&token=abc", want: testQuery},
		{rule: usual, query: "token=abc&" + testQuery, want: testQuery},
		{rule: usual, query: "&" + testQuery + "&&", want: testQuery},
		{rule: usual, query: "a=1&nodeName=wgamed&=&b&threadId=1&c=2&platform=dev&d=3;", want: testQuery},
		{rule: usual, query: testQuery + "&token=" + strings.Repeat("x", long), want: testQuery},
		{rule: usual, query: "token=" + strings.Repeat("x", long) + "&" + testQuery, want: testQuery},
		{rule: usual, query: testQuery + "&token=" + strings.Repeat("x", maxLedQuery), none: true},
		{rule: usual, query: "platform=dev&x=%41+&threadId=1&nodeName=w%67amed", want: "platform=dev&threadId=1&nodeName=w%67amed"},
		// Of several values the first counts, but for those that cannot be read.
		{rule: usual, query: testQuery + "&nodeName=other", want: testQuery + "&nodeName=other"},
		{rule: usual, query: "nodeName=a;&nodeName=%&x=1&" + testQuery, want: "nodeName=a;&nodeName=%&" + testQuery},
		{rule: usual, query: "nodeName&" + testQuery, want: "nodeName&" + testQuery},
		// Names in disguise, and what may be taken for one.
		{rule: usual, query: "x=1&%6eodeName=a&" + testQuery, want: "%6eodeName=a&" + testQuery},
		{rule: usual, query: "a+b=1&c%=%&nodeName.x=a&" + testQuery, want: "a+b=1&c%=%&nodeName.x=a&" + testQuery},
		{rule: usual, query: "nodeNames=a&threadId_=1&platform2&mynodeName=b&" + testQuery, want: testQuery},
		{rule: usual, query: testQuery + "&nodeName=" + strings.Repeat("x", long), none: true},
		{rule: fixed, query: "", want: ""},
		{rule: fixed, query: "x=1&y=2", want: ""},
		{rule: odd, query: "c=1&b)=2&a=3&b=4&é=5", want: "b)=2&a=3&é=5"},
	} {
		got, some := shortcutOf(newShortcuts(c.rule), asking(c.query))
		if some == c.none || some && got != c.want {
			t.Errorf("%q: %q, %v, want %q", c.query, got, some, c.want)
		}
		sameNode(t, c.rule, c.query)
	}
}

// asking is a request with a query string.
func asking(query string) *http.Request {
	return &http.Request{URL: &url.URL{RawQuery: query}}
}

// sameNode fails the test unless what a shortcut goes by means what the query means.
func sameNode(t *testing.T, rule *rule, query string) {
	t.Helper()
	short, some := shortcutOf(newShortcuts(rule), asking(query))
	if !some {
		return
	}
	of := func(query string) string {
		key, field, err := rule.apply(asking(query))
		return fmt.Sprint(key, " ", field, " ", err)
	}
	if got, want := of(short), of(query); got != want {
		t.Errorf("%q leads to %s, %q to %s", short, got, query, want)
	}
}

// What key and field take from elsewhere is part of a shortcut, and nothing else is: two
// requests have the same one where they lead to the same node, of those that lead to one.
func TestAShortcutHasWhatCountsBesideTheQuery(t *testing.T) {
	const far = "9223372036854775807" // nobody has so many segments
	var requests []*http.Request
	for _, url := range []string{"http://a/x/y", "http://a:80/x/y?token=1", "http://b/x/y?token=2", "http://a/y/x", "http://a/x%0Ay/z", "http://a/x/y%0Az", "http://a/x", "http://a/xy", "http://a/x?a=y", "http://a/?a=yx", "http://a/x%20y/", "http://a/x%2Fy/z"} {
		for _, header := range []http.Header{{}, {"Shard": {"x"}, "B": {"ay"}}, {"Shard": {"xa"}, "B": {"y"}}, {"Shard": {"y", "x"}}, {"Cookie": {"shard=x; b=y"}}, {"Cookie": {"shard=y"}, "Shard": {"x"}}} {
			r := httptest.NewRequest("GET", url, nil)
			r.Header = header
			requests = append(requests, r)
		}
	}
	for _, key := range []string{"{header.Shard}", "{cookie.shard}", "{host}", "{path.1}", "{path.1}/{path.2}", "{path.2}/{path.1}", "{header.Shard}-{header.B}", "{header.Shard}{host}{cookie.shard}", "{a}{path.1}", "{path.1}{path." + far + "}"} {
		rule, err := newRule(&Config{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		short := newShortcuts(rule)
		some, same := 0, 0
		for _, one := range requests {
			of, ok := shortcutOf(short, one)
			key, _, err := rule.apply(one)
			if err != nil {
				continue
			}
			some++
			if !ok {
				t.Errorf("%s: %s has no shortcut", rule.names, one.URL)
			}
			for _, other := range requests {
				another, _, err := rule.apply(other)
				got, _ := shortcutOf(short, other)
				if got == of != (err == nil && another == key) {
					t.Errorf("%s: %s %v has the shortcut %q and %s %v has %q; keys %q, %q, %v", rule.names, one.URL, one.Header, of, other.URL, other.Header, got, key, another, err)
				} else if got == of && other != one {
					same++
				}
			}
		}
		if some == 0 && !strings.Contains(key, far) || some > 0 && same == 0 {
			t.Errorf("%s: %d requests lead somewhere, %d to the same", rule.names, some, same)
		}
	}
}

// What a query string and a path say is not mistaken for what the path alone does.
func TestAQueryStringIsNoShortcutOfAPath(t *testing.T) {
	redis := redisWith(t, "1", "n1", testNode(t, "the node"))
	for _, key := range []string{"1", "{a}"} {
		config := testConfig(redis.addr)
		config.Key, config.Field = key, "{path.1}"
		gateway := testGateway(t, config)
		waitFor(t, "the route", func() bool { _, body := get(t, gateway+"/n1?a=1"); return body == "the node" })
		for _, path := range []string{"/?/n1", "/?a=1/n1", "/?a=1%0A/n1", "/?a=1&/n1", "/?a=1", "/?", "/?n1"} {
			response, body := get(t, gateway+path)
			if response.StatusCode != http.StatusBadRequest {
				t.Errorf("key %s: %s: %d %q, want 400", key, path, response.StatusCode, body)
			}
		}
	}
}

// A node that could not be dialed is looked up by what the client has asked for, which
// a proxy changes: Host, and the path.
func TestADeadNodeIsLookedUpByWhatTheClientAskedFor(t *testing.T) {
	for _, c := range []struct{ field, value, path string }{
		{"{path.2}", "1", "/ws/1"},
		{"{host}", "game.example", "/"},
		{"{header.X-Thread}", "1", "/"},
		{"{threadId}", "1", "/?threadId=1"},
	} {
		for _, handshake := range []bool{false, true} {
			redis := redisWith(t, "key", c.value, "http://"+refused(t)+"/base")
			config := testConfig(redis.addr)
			config.Key, config.Field, config.PassHostHeader = "key", c.field, false
			ctx, cancel := context.WithCancel(context.Background())
			m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
			if err != nil {
				t.Fatal(err)
			}
			gateway := httptest.NewServer(m.handler())
			waitFor(t, "the link", m.table.connected)
			ask := func() string {
				request, err := http.NewRequest("GET", gateway.URL+c.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Host = "game.example"
				request.Header.Set("X-Thread", "1")
				if handshake {
					request.Header.Set("Connection", "Upgrade")
					request.Header.Set("Upgrade", "websocket")
				}
				_, body := do(t, request)
				return body
			}
			dead := ask()
			redis.hset("key", c.value, testNode(t, "alive")) // without a push, which would end the shortcut
			if n := len(m.short.all()); n != 1 || !strings.HasPrefix(dead, "node-down") {
				t.Errorf("%s: %d shortcuts, want one, after %q", c.field, n, dead)
			}
			if got := ask(); got != "alive" {
				t.Errorf("%s, handshake %v: got %q, want the node that Redis names", c.field, handshake, got)
			}
			gateway.Close()
			cancel()
		}
	}
}

func TestTokensMakeNoShortcutsOfTheirOwn(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(c *Config)
		want   int
	}{
		{"by default", func(_ *Config) {}, 1},
		{"with debugHeaders", func(c *Config) { c.DebugHeaders = true }, 0},
		{"with a header in the field", func(c *Config) { c.Field = "{header.X-Thread}" }, 1},
	} {
		redis := redisWith(t, "game-server_dev_node_wgamed", "1", testNode(t, "the node"))
		config := testConfig(redis.addr)
		c.change(config)
		ctx, cancel := context.WithCancel(context.Background())
		m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
		if err != nil {
			t.Fatal(err)
		}
		gateway := httptest.NewServer(m.handler())
		waitFor(t, "the link", m.table.connected)
		for i := 0; i < 2*maxPaths; i++ {
			response, _ := getForThread(t, fmt.Sprintf("%s/ws?%s&token=%d", gateway.URL, testQuery, i), "1")
			if response.StatusCode != http.StatusOK {
				t.Errorf("%s: request %d: %s", c.what, i, response.Status)
			}
		}
		if got := len(m.short.all()); got != c.want {
			t.Errorf("%s: %d shortcuts, want %d", c.what, got, c.want)
		}
		gateway.Close()
		cancel()
	}
}

// getForThread is get with a header X-Thread.
func getForThread(t *testing.T, url, thread string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Thread", thread)
	return do(t, request)
}

func TestARequestWithATokenTakesTheShortcut(t *testing.T) {
	for _, c := range []struct {
		query string
		taken bool
	}{
		{testQuery + "&token=1", true},
		{"token=1&" + testQuery, true},
		{testQuery + "&token=" + strings.Repeat("x", maxShort), true},
		{testQuery + "&token=" + strings.Repeat("x", maxLedQuery), false},
		{testQuery + "x&token=1", false},
		{testQuery + "&nodeName=other", false},
	} {
		url := shortGateway(t, testNode(t, "shortcut"), func(_ *Config) {})
		_, reader := rawClient(t, url[:strings.Index(url, "/ws")], "GET /ws?"+c.query+" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if (string(body) == "shortcut") != c.taken {
			t.Errorf("a handshake with %.20s: %q, by the shortcut: want %v", c.query, body, c.taken)
		}
		url = shortGateway(t, testNode(t, "shortcut"), func(_ *Config) {})
		if _, body := get(t, strings.Replace(url, testQuery, c.query, 1)); (body == "shortcut") != c.taken {
			t.Errorf("a plain request with %.20s: %q, by the shortcut: want %v", c.query, body, c.taken)
		}
	}
}

func TestAShortcutMayGoByTheQueryAndMore(t *testing.T) {
	for _, field := range []string{"{path.1}", "{header.X-Thread}"} {
		redis := redisWith(t, "n", "ws", testNode(t, "long way"))
		config := testConfig(redis.addr)
		config.Key, config.Field = "{nodeName}", field
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		m, err := newMiddleware(ctx, http.NotFoundHandler(), config, "test")
		if err != nil {
			t.Fatal(err)
		}
		gateway := serveMiddleware(t, m.handler())
		waitFor(t, "the link", m.table.connected)
		for token, want := range []string{"long way", "shortcut"} {
			if _, body := getForThread(t, fmt.Sprintf("%s/ws?nodeName=n&token=%d", gateway, token), "ws"); body != want {
				t.Errorf("field %s: request %d: got %q, want %q", field, token, body, want)
			}
			node, err := parseTarget(testNode(t, "shortcut"))
			if err != nil {
				t.Fatal(err)
			}
			for short := range m.short.all() {
				m.short.put(short, newWay(m, node), "n", "ws")
			}
		}
	}
}

func TestAShortcutPassesTheHostThatTheOptionAsksFor(t *testing.T) {
	url := shortGateway(t, testNode(t, "shortcut"), func(c *Config) { c.PassHostHeader = false })
	response, body := get(t, url)
	saw := strings.Split(response.Header.Get("X-Saw"), " | ")
	if body != "shortcut" || strings.Contains(url, saw[2]) {
		t.Errorf("%s: the node saw the client's host %s", body, saw[2])
	}
}

func TestAShortcutToADeadNodeLooksAgain(t *testing.T) {
	url := shortGateway(t, refused(t), func(_ *Config) {})
	response, body := get(t, url)
	if response.StatusCode != http.StatusOK || body != "long way" {
		t.Errorf("%d %q, want the node that Redis names", response.StatusCode, body)
	}
}
