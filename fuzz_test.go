package dynamicforward

import (
	"net"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/gomodule/redigo/redis"
)

// Fuzzing runs compiled: make fuzz. What it found is in testdata/fuzz.

func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"{project}_{platform}_node_{nodeName}", "{", "}", "{}", "{{a}}", "{path.2}{host}", "{header.X}{cookie.y}", "a\x00"} {
		f.Add(text)
	}
	check := func(t *testing.T, text string) {
		parsed, err := parseTemplate("key", text, "game-server")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "key: ") {
				t.Errorf("%q: the error does not name the option: %v", text, err)
			}
			return
		}
		var b strings.Builder // what was parsed, written back
		for _, p := range parsed.parts {
			switch p.source {
			case fromTemplate:
				b.WriteString(p.text)
			default:
				b.WriteString("{}")
			}
		}
		if strings.Count(b.String(), "{}") != strings.Count(text, "{")-strings.Count(text, "{project}") {
			t.Errorf("%q: read as %q", text, b.String())
		}
	}
	f.Fuzz(check)
}

func FuzzKey(f *testing.F) {
	for _, query := range []string{"nodeName=a&threadId=1&platform=dev", "nodeName=%ff", "nodeName=a%00&threadId=1", "&&&=&nodeName", "nodeName=a;threadId=1", "nodeName=a&threadId=1&platform=dev&nodeName=b", "nodeName=%&threadId=1&platform=dev&nodeName=b"} {
		f.Add(query)
	}
	rule, err := newRule(testConfig("127.0.0.1:1"))
	if err != nil {
		f.Fatal(err)
	}
	check := func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.URL = &url.URL{Path: "/ws", RawQuery: query}
		key, field, err := rule.apply(r)
		if err == nil {
			sameNode(t, rule, query)
		}
		if err != nil {
			if answerTo(err).cause != errBadRequest || strings.IndexFunc(err.Error(), unicode.IsControl) >= 0 {
				t.Errorf("%q: %v", query, err)
			}
			return
		}
		values := r.URL.Query()
		if key != "game-server_"+values.Get("platform")+"_node_"+values.Get("nodeName") || field != values.Get("threadId") {
			t.Errorf("%q: got %q, %q", query, key, field)
		}
		if faultOf(field) != "" || strings.IndexFunc(key, unicode.IsControl) >= 0 || len(key) > 2*maxValue+20 {
			t.Errorf("%q: let through %q, %q", query, key, field)
		}
	}
	f.Fuzz(check)
}

func FuzzTarget(f *testing.F) {
	for _, value := range []string{"127.0.0.1:80", "[::1]:80", "http://a/b", "https://a:1/%2f", "null", "a:80/x", "http://u@a", "http://[::1%25x]:1", "a:80\r\nX: y"} {
		f.Add(value)
	}
	check := func(t *testing.T, value string) {
		node, err := parseTarget(value)
		if err != nil {
			if cause := answerTo(err).cause; cause != errBadTarget && cause != errUnknownNode {
				t.Errorf("%q: %v", value, err)
			}
			return
		}
		again, err := url.Parse(node.url.String())
		if err != nil || again.Host != node.url.Host || again.Scheme != node.url.Scheme || again.Path != node.url.Path {
			t.Errorf("%q: read as %s, which is not the same: %v", value, node.url, err)
		}
		if strings.IndexFunc(node.url.Host, unicode.IsControl) >= 0 || node.url.Hostname() == "" || node.url.User != nil {
			t.Errorf("%q: let through %s", value, node.url)
		}
	}
	f.Fuzz(check)
}

func FuzzPermit(f *testing.F) {
	for _, entry := range []string{"10.0.0.0/8", "10.1.2.0/24:7000-7999", "[fd00::/8]:7000", "fd00::/8", "game.example.com:443", "1.2.3.4"} {
		f.Add(entry)
	}
	check := func(t *testing.T, entry string) {
		p, err := parsePermit(entry)
		if err != nil {
			return
		}
		if p.low < 1 || p.high > 65535 || p.low > p.high || (p.name == "") != p.network.IsValid() {
			t.Errorf("%q: read as %+v", entry, p)
		}
		wall := &fence{allow: []permit{p}}
		if wall.permits(p.name, netip.MustParseAddr("169.254.169.254"), "80") {
			t.Errorf("%q lets the metadata address through", entry)
		}
	}
	f.Fuzz(check)
}

func FuzzReply(f *testing.F) {
	for _, reply := range []string{
		respArray(respBulk("message"), respBulk(invalidations), respArray(respBulk("a"), respBulk("b"))),
		respArray(respBulk("message"), respBulk(invalidations), "*-1\r\n"),
		respArray(respBulk("pong"), respBulk("")), "-ERR x\r\n", "$5\r\nab", "*2\r\n*-1\r\n:1\r\n", "+OK\r\n", "*3\r\n:1\r\n:2\r\n:3\r\n",
	} {
		f.Add(reply)
	}
	check := func(t *testing.T, reply string) {
		if longNumber(reply) {
			t.Skip("a length that only takes memory: the link recovers from what Go cannot allocate")
		}
		client, server := net.Pipe()
		defer client.Close()
		send := func() {
			_ = server.SetDeadline(time.Now().Add(time.Second))
			_, _ = server.Write([]byte(reply))
			server.Close()
		}
		go send()
		c, err := readChange(redis.NewConn(client, time.Second, time.Second).(redis.ConnWithTimeout), time.Second)
		if err == nil && c != nil && !c.all && len(c.keys) > len(reply) {
			t.Errorf("%q: %d keys", reply, len(c.keys))
		}
		if err != nil && c != nil {
			t.Errorf("%q: both news and an error: %v", reply, err)
		}
	}
	f.Fuzz(check)
}

// longNumber tells whether there are five digits in a row.
func longNumber(text string) bool {
	digits := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			digits = 0
			continue
		}
		digits++
		if digits == 5 {
			return true
		}
	}
	return false
}
