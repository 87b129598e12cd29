package dynamicforward

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// serviceGateway serves a middleware whose catch-all is the router's service, which
// tells what it was called with in X-Saw.
func serviceGateway(t *testing.T, config *Config) string {
	t.Helper()
	config.CatchAll = "service"
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	service := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Saw", strings.Join([]string{r.URL.String(), r.RequestURI, r.Host, r.Header.Get(nodeHeader)}, " | "))
	}
	handler, err := New(ctx, http.HandlerFunc(service), config, "test")
	if err != nil {
		t.Fatal(err)
	}
	return serveMiddleware(t, handler)
}

func TestTheRoutersServiceGetsARewrittenRequest(t *testing.T) {
	redis := newPushingRedis(t)
	gateway := serviceGateway(t, testConfig(redis.addr))
	for i, c := range []struct{ value, path, url, uri, host string }{
		{"127.0.0.1:8888", "/ws", "http://127.0.0.1:8888/ws", "/ws", "127.0.0.1:8888"},
		{"[::1]:8888", "/ws", "http://[::1]:8888/ws", "/ws", "[::1]:8888"},
		{"game.example.com:80", "/a%2Fb", "http://game.example.com:80/a%2Fb", "/a%2Fb", "game.example.com:80"},
		{"https://game.example.com", "/ws", "https://game.example.com/ws", "/ws", "game.example.com:443"},
		{"https://game.example.com:8443", "/ws", "https://game.example.com:8443/ws", "/ws", "game.example.com:8443"},
		{"http://game.example.com", "/ws", "http://game.example.com/ws", "/ws", "game.example.com"},
		{"http://127.0.0.1:8888/lobby/", "/ws", "http://127.0.0.1:8888/lobby/ws", "/lobby/ws", "127.0.0.1:8888"},
		{"http://127.0.0.1:8888/a%2Fb", "/c%2Fd", "http://127.0.0.1:8888/a%2Fb/c%2Fd", "/a%2Fb/c%2Fd", "127.0.0.1:8888"},
	} {
		name := fmt.Sprintf("node%d", i)
		redis.hset("game-server_dev_node_"+name, "1", c.value)
		query := "?nodeName=" + name + "&threadId=1&platform=dev&odd=%zz&b=1+1"
		want := strings.Join([]string{c.url + query, c.uri + query, c.host, c.value}, " | ")
		for _, when := range []string{"unknown", "known"} {
			response, _ := get(t, gateway+c.path+query)
			if saw := response.Header.Get("X-Saw"); saw != want {
				t.Errorf("%s, %s: the service got\n%s\nwant\n%s", c.value, when, saw, want)
			}
		}
	}
}

func TestAServiceIsNotCalledWithoutANode(t *testing.T) {
	redis := newPushingRedis(t)
	for node, value := range map[string]string{
		"metadata": "169.254.169.254:80", "mapped": "[::ffff:169.254.169.254]:80", "outside": "11.0.0.1:80",
		"other": "other.example.com:80", "port": "game.example.com:81", "number": "2852039166:80", "nothing": "",
	} {
		redis.hset("game-server_dev_node_"+node, "1", value)
		config := testConfig(redis.addr)
		config.Targets.Allow = []string{"10.0.0.0/8", "game.example.com:80"}
		response, body := get(t, serviceGateway(t, config)+"/ws?threadId=1&platform=dev&nodeName="+node)
		want := "bad-target: "
		if value == "" {
			want = "unknown-node: "
		}
		if response.Header.Get("X-Saw") != "" || !strings.HasPrefix(body, want) {
			t.Errorf("%s: the service got %q, and the client %s %q", value, response.Header.Get("X-Saw"), response.Status, body)
		}
	}
}

func TestWhatSomebodyElseMayDial(t *testing.T) {
	for _, c := range []struct {
		allow   string // entries, separated by spaces
		address string
		want    bool
	}{
		{"", "10.0.0.1:80", true},
		{"", "169.254.169.254:80", false},
		{"", "[fe80::1]:80", false},
		{"", "[::ffff:a9fe:a9fe]:80", false},
		{"", "game.example.com:80", true},
		{"", "metadata.google.internal:80", false},
		{"", "Metadata.Google.Internal.:80", false},
		{"", "metadata:80", false},
		{"", "2852039166:80", false},
		{"", "0xa9fea9fe:80", false},
		{"", "169.254.43518:80", false},
		{"", "0251.0376.0251.0376:80", false},
		{"", "game.0x7f:80", false},
		{"", "node1:80", true},
		{"10.0.0.0/8", "10.1.2.3:80", true},
		{"10.0.0.0/8", "11.1.2.3:80", false},
		{"0.0.0.0/0 ::/0", "game.example.com:80", false}, // nobody here knows where it leads
		{"game.example.com", "Game.Example.com.:80", true},
		{"game.example.com:443", "game.example.com:443", true},
		{"game.example.com:443", "game.example.com:80", false},
		{"metadata.goog", "metadata.goog:80", false},
	} {
		f, err := newFence(&TargetsConfig{Allow: strings.Fields(c.allow)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.admit(c.address); (err == nil) != c.want {
			t.Errorf("allow %q, %s: got %v, want %v", c.allow, c.address, err, c.want)
		}
	}
}
