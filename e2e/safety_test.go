package e2e

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// Without targets.allow what is in Redis leads everywhere but to addresses that
// belong to the machine's own network or give its cloud credentials away,
// however they are written; with it, only to what it lists.
func TestWhereWhatIsInRedisMayLead(t *testing.T) {
	n := startNode(t, stack.NodeOptions{})
	_, port, _ := strings.Cut(n.Addr(), ":")
	for _, c := range []struct {
		allow   any
		outcome string // of an address that leads to n
		values  []string
	}{
		{nil, n.Name(), []string{n.Addr(), "localhost:" + port, "[::ffff:127.0.0.1]:" + port, "http://" + n.Addr() + "/lobby"}},
		{nil, badTarget, []string{
			"169.254.169.254:80", "http://169.254.169.254/latest/meta-data", "https://169.254.169.254", "[::ffff:169.254.169.254]:80",
			"[::ffff:a9fe:a9fe]:80", "[64:ff9b::a9fe:a9fe]:80", "[fd00:ec2::254]:80", "[fd20:ce::254]:80", "100.100.100.200:80", "168.63.129.16:80", "169.254.1.1:80",
			"[fe80::1]:80", "[fe80::1%25lo]:80", "224.0.0.1:80", "[ff02::1]:80", "255.255.255.255:80",
			"0.0.0.0:" + port, "[::]:" + port, "[::ffff:0.0.0.0]:" + port, "0.0.0.1:" + port, "http://0.0.0.0:" + port + "/",
		}},
		{[]string{"127.0.0.0/8"}, n.Name(), []string{n.Addr(), "localhost:" + port, "[::ffff:127.0.0.1]:" + port}},
		{[]string{"10.0.0.0/8", "127.0.0.1:" + port}, n.Name(), []string{n.Addr()}},
		{"10.0.0.0/8,127.0.0.1:1-65535", n.Name(), []string{n.Addr()}},
		{[]string{"localhost:" + port}, n.Name(), []string{"localhost:" + port, "LocalHost:" + port}},
		{[]string{"localhost"}, badTarget, []string{n.Addr()}},
		{[]string{"10.0.0.0/8"}, badTarget, []string{n.Addr(), "localhost:" + port, "http://" + n.Addr(), "[::ffff:127.0.0.1]:" + port, "11.0.0.1:80"}},
		{[]string{"127.0.0.1:1-1023"}, badTarget, []string{n.Addr(), "localhost:" + port}},
		{[]string{"0.0.0.0/0", "::/0", "169.254.169.254"}, badTarget, []string{"169.254.169.254:80", "0.0.0.0:" + port, "[fd00:ec2::254]:80", "[::]:" + port}},
		{[]string{"0.0.0.0/0"}, n.Name(), []string{n.Addr()}},
	} {
		options := stack.Options{}
		if c.allow != nil {
			options["targets"] = stack.Options{"allow": c.allow}
		}
		path := route(t, options)
		for _, value := range c.values {
			q := place(t, value)
			before := n.Count()
			for _, upgrade := range []bool{false, false, true} {
				if got := ask(t, upgrade, path+q); got != c.outcome {
					t.Errorf("allow %v, address %s, handshake %v: got %s; want %s", c.allow, value, upgrade, got, c.outcome)
				}
			}
			if got := n.Count() - before; c.outcome == badTarget && got != 0 {
				t.Errorf("allow %v, address %s: the node got %d requests", c.allow, value, got)
			}
		}
	}
}

// A forbidden address is logged as an error, with the key to look at.
func TestAForbiddenAddressIsLogged(t *testing.T) {
	path := route(t, stack.Options{"targets": stack.Options{"allow": []string{"10.0.0.0/8"}}})
	name := nobody()
	put(t, redis, name, node.Addr())
	eventually(t, "an error in the log that names the key, the field, the address and the option", func() bool {
		get(t, path+query(name))
		return hasLine(traefik.Log(), " ERR ", "bad-target", "targets.allow", key(name), node.Addr(), `field "1"`)
	})
}

// A proxy in the environment is not used: it would go round the fence.
func TestAProxyInTheEnvironmentIsNotUsed(t *testing.T) {
	proxy := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})))
	url := "http://" + proxy.Addr()
	own := start(t, stack.TraefikOptions{
		Dynamic: stack.Game(redisAt(redis)).YAML(),
		Env:     []string{"HTTP_PROXY=" + url, "http_proxy=" + url, "HTTPS_PROXY=" + url, "https_proxy=" + url, "NO_PROXY=", "no_proxy="},
	})
	for _, value := range []string{"169.254.169.254:80", "https://169.254.169.254", "http://169.254.169.254/latest/meta-data"} {
		resp, err := newClient(t).Get(own.URL() + "/ws" + place(t, value))
		must(t, err)
		if got := outcome(resp); got != badTarget {
			t.Errorf("address %s: got %s; want %s", value, got, badTarget)
		}
	}
	if got := proxy.Count(); got != 0 {
		t.Errorf("the proxy got %d connections", got)
	}
}

// Cause by cause, the table of answers; and not a word of an address, a key or a
// secret in any of them, head and body, to whatever kind of request.
func TestAnswersTellNoSecrets(t *testing.T) {
	const password, username = "s3cret-password", "s3cret-user"
	locked := startRedis(t, stack.RedisOptions{Password: password})
	do(t, locked, "ACL", "SETUSER", username, "on", ">"+password, "~game-server_*", "&*", "+@all")
	full := started[*stack.Full](t)(stack.FullAddr())
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	hanging := started[*stack.RawNode](t)(stack.HangingNode())
	closing := started[*stack.RawNode](t)(stack.StartRawNode(func(net.Conn) {}))
	link := func(addr string, more ...string) stack.Options {
		o := stack.Options{"endpoints": []string{addr}, "username": username, "password": password}
		for i := 0; i < len(more); i += 2 {
			o[more[i]] = more[i+1]
		}
		return o
	}
	timeouts := stack.Options{"forwardingTimeouts": stack.Options{"dialTimeout": "300ms", "responseHeaderTimeout": "1s"}}
	options := func(redis stack.Options, more ...any) stack.Options {
		o := stack.Options{"redis": redis, "serversTransport": timeouts}
		for i := 0; i < len(more); i += 2 {
			o[more[i].(string)] = more[i+1]
		}
		return o
	}
	path := route(t, options(link(locked.Addr())))
	fenced := route(t, options(link(locked.Addr()), "targets", stack.Options{"allow": []string{"10.9.8.0/24", "s3cret-name.example.com:443"}}))
	foreign := route(t, options(link(locked.Addr()), "project", "s3cret-project")) // keys that the user may not read
	at := func(value string) string {
		name := nobody()
		put(t, locked, name, value)
		return path + query(name)
	}
	wrongType := nobody()
	do(t, locked, "SET", key(wrongType), "s3cret-value")
	inside := nobody()
	put(t, locked, inside, node.Addr())

	cases := []struct {
		what   string
		target string
		status int
		line   string
	}{
		{"no parameters", path, 400, "bad-request: parameter platform is missing"},
		{"one is missing", path + "?nodeName=s3cret-node&platform=dev", 400, "bad-request: parameter threadId is missing"},
		{"one is too long", path + "?platform=dev&threadId=1&nodeName=" + strings.Repeat("s3cret", 100), 400, "bad-request: parameter nodeName is longer than 256 bytes"},
		{"no UTF-8", path + "?platform=dev&threadId=1&nodeName=s3cret%ff", 400, "bad-request: parameter nodeName is not valid UTF-8"},
		{"control", path + "?platform=dev&threadId=1&nodeName=s3cret%0a", 400, "bad-request: parameter nodeName has a control character"},
		{"no such key", path + query("s3cret-node"), 404, "unknown-node: no such node: check platform, nodeName, threadId"},
		{"null", at("null"), 404, "unknown-node: no such node: check platform, nodeName, threadId"},
		{"no address", at("s3cret-value"), 502, "bad-target: the node's entry in Redis cannot be used"},
		{"user in an address", at("http://s3cret:s3cret@" + node.Addr()), 502, "bad-target: the node's entry in Redis cannot be used"},
		{"wrong type", path + query(wrongType), 502, "bad-target: the node's entry in Redis cannot be used"},
		{"metadata", at("169.254.169.254:80"), 502, "bad-target: the node's entry in Redis cannot be used"},
		{"outside targets.allow", fenced + query(inside), 502, "bad-target: the node's entry in Redis cannot be used"},
		{"refused", at(refusing.Addr()), 502, "node-down: the node cannot be reached"},
		{"full", at(full.Addr()), 502, "node-down: the node cannot be reached"},
		{"closes", at(closing.Addr()), 502, "node-down: the node cannot be reached"},
		{"no such name", at("s3cret-name.invalid:80"), 502, "node-down: the node cannot be reached"},
		{"no TLS", at("https://" + closing.Addr()), 502, "node-down: the node cannot be reached"},
		{"a certificate of nobody's", at("https://" + tlsNode(t)), 502, "node-down: the node cannot be reached"},
		{"hangs", at(hanging.Addr()), 504, "node-timeout: the node did not answer in time"},
		{"no Redis", route(t, options(link(refusing.Addr()))) + query("s3cret-node"), 503, "redis-down: the node cannot be looked up right now"},
		{"Redis hangs", route(t, options(link(hanging.Addr(), "readTimeout", "300ms"))) + query("s3cret-node"), 503, "redis-down: the node cannot be looked up right now"},
		{"wrong password", route(t, options(link(locked.Addr(), "password", "s3cret-wrong"))) + query("s3cret-node"), 503, "redis-down: the node cannot be looked up right now"},
		{"no permission", foreign + query("s3cret-node"), 503, "redis-down: the node cannot be looked up right now"},
	}
	secrets := []string{
		"127.0.0.1", "localhost", "169.254", "10.9.8", "s3cret", "game-server", "_node_", "node_", "dev_", inside, wrongType,
		":" + locked.Port(), ":" + redis.Port(), "WRONGTYPE", "WRONGPASS", "NOPERM", "NOAUTH", "dial", "tcp", "refused", "lookup", "x509", "EOF", "targets",
	}
	for _, n := range []stopper{full, refusing, hanging, closing, node} {
		_, port, _ := strings.Cut(n.Addr(), ":")
		secrets = append(secrets, ":"+port)
	}
	for _, c := range cases {
		for what, request := range map[string][]string{
			"GET":         {"GET " + c.target + " HTTP/1.1", "Host: game", "Connection: close"},
			"HEAD":        {"HEAD " + c.target + " HTTP/1.1", "Host: game", "Connection: close"},
			"POST":        {"POST " + c.target + " HTTP/1.1", "Host: game", "Connection: close", "Content-Length: 4", "", "body"},
			"HTTP/1.0":    {"GET " + c.target + " HTTP/1.0", "Host: game"},
			"a handshake": append(handshake(c.target), "Connection: close"),
		} {
			wire := dial(t)
			wire.send(t, request...)
			text, err := io.ReadAll(wire.in)
			must(t, err)
			wire.Close()
			head, body, _ := strings.Cut(string(text), "\r\n\r\n")
			wantBody := c.line + "\n"
			if what == "HEAD" {
				wantBody = ""
			}
			if _, after, _ := strings.Cut(head, " "); !strings.HasPrefix(after, fmt.Sprint(c.status, " ")) || body != wantBody {
				t.Errorf("%s, %s: got\n%s\nwant %d and %q", c.what, what, text, c.status, wantBody)
			}
			for _, secret := range secrets {
				if strings.Contains(strings.ReplaceAll(string(text), http.StatusText(c.status), ""), secret) {
					t.Errorf("%s, %s: the answer tells %q:\n%s", c.what, what, secret, text)
				}
			}
			for line := range strings.Lines(head) {
				name, _, isField := strings.Cut(line, ":")
				switch name {
				case "Content-Type", "Content-Length", "X-Content-Type-Options", "Date", "Connection", "Retry-After":
				default:
					if isField {
						t.Errorf("%s, %s: the answer has the header %s", c.what, what, strings.TrimSpace(line))
					}
				}
			}
		}
	}
}

// tlsNode is the address of a server whose certificate nobody trusts.
func tlsNode(t *testing.T) string {
	t.Helper()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // which clients do not trust it
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}
