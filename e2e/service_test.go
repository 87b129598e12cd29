package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// readmeNginx returns the README's nginx configuration, which listens at ADDR.
func readmeNginx(t *testing.T) string {
	t.Helper()
	root, err := stack.Root()
	must(t, err)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	must(t, err)
	_, block, _ := strings.Cut(string(readme), "```nginx\n")
	block, _, _ = strings.Cut(block, "```")
	const listen = "listen 127.0.0.1:8081;"
	if !strings.Contains(block, listen) {
		t.Fatalf("the README has no nginx configuration with %q", listen)
	}
	return strings.Replace(block, listen, "listen ADDR;", 1)
}

// serviceRoute adds a router with catchAll: service whose service is nginx, as the
// README shows it, and returns its path.
func serviceRoute(t *testing.T) string {
	t.Helper()
	nginx := started[*stack.Nginx](t)(stack.StartNginx(readmeNginx(t)))
	path := routeBelow(t, stack.Options{"catchAll": "service"})
	routesMu.Lock()
	defer routesMu.Unlock()
	name := "test" + strings.TrimPrefix(path, "/ws")
	if routes.Services == nil {
		routes.Services = map[string]any{}
	}
	routes.Services[name] = map[string]any{"loadBalancer": map[string]any{"servers": []map[string]string{{"url": "http://" + nginx.Addr()}}}}
	router := routes.Routers[name]
	router.Service = name
	routes.Routers[name] = router
	must(t, traefik.Reload(routes.YAML()))
	return path
}

// With catchAll: service a forwarder that goes by Host takes requests to their
// nodes, as they are.
func TestServiceForwardsByHost(t *testing.T) {
	path := serviceRoute(t)
	a, b := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	c := newClient(t)

	for _, n := range []*stack.Node{a, b} {
		target := path + "/x%2Fy" + place(t, n.Addr()) + "&odd=%zz&plus=1+1"
		wantNode(t, c.get(t, target), n)
		saw := seen(t, n)
		if saw.RequestURI != target || saw.Host != n.Addr() {
			t.Errorf("the node saw %s at %s; want %s at %s", saw.RequestURI, saw.Host, target, n.Addr())
		}
		for name, want := range map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1", "X-Forwarded-Host": traefik.Addr(), "X-Dynamicforward-Node": "",
		} {
			if got := saw.Header.Get(name); got != want {
				t.Errorf("the node saw %s %q; want %q", name, got, want)
			}
		}
	}

	q := place(t, "http://"+a.Addr()+"/lobby%2F1/")
	wantNode(t, c.get(t, path+"/x%2Fy"+q), a)
	if got, want := seen(t, a).RequestURI, "/lobby%2F1"+path+"/x%2Fy"+q; got != want {
		t.Errorf("with a path prefix the node saw %s; want %s", got, want)
	}
}

func TestServiceFollowsANodeThatMoves(t *testing.T) {
	path := serviceRoute(t)
	a, b := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	name := nobody()
	c := newClient(t)
	put(t, redis, name, a.Addr())
	wantNode(t, c.get(t, path+query(name)), a)
	put(t, redis, name, b.Addr())
	eventually(t, "requests go to the new node", func() bool { return c.get(t, path+query(name)).Header.Get("X-Node") == b.Name() })
	wantAnswer(t, c.get(t, path+query(nobody())), 404, "unknown-node")
	wantAnswer(t, c.get(t, path+place(t, "169.254.169.254:80")), 502, "bad-target")
	wantAnswer(t, c.get(t, path+place(t, "metadata.google.internal:80")), 502, "bad-target")
}

func TestServiceCarriesSessions(t *testing.T) {
	path := serviceRoute(t)
	a, b := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	for _, n := range []*stack.Node{a, b, a} {
		c, s := open(t, n, path+place(t, n.Addr()), nil)
		wantEcho(t, c, websocket.MessageText, []byte("hello, node"))
		if s.Request.Host != n.Addr() || s.Request.Header.Get("X-Dynamicforward-Node") != "" {
			t.Errorf("the node saw Host %s and %v", s.Request.Host, s.Request.Header)
		}
	}
}

// The service goes by a Host that the client has no say in.
func TestServiceDoesNotSeeTheClientsHost(t *testing.T) {
	path := serviceRoute(t)
	n, other := startNode(t, stack.NodeOptions{}), startNode(t, stack.NodeOptions{})
	target := path + place(t, n.Addr())
	for _, first := range []string{"GET " + target + " HTTP/1.1", "GET http://" + other.Addr() + target + " HTTP/1.1"} {
		c := dial(t)
		c.send(t, first, "Host: "+other.Addr(), "X-Dynamicforward-Node: "+other.Addr(), "X-Forwarded-Host: "+other.Addr())
		wantNode(t, c.receive(t), n)
	}
	if other.Count() != 0 {
		t.Errorf("the client led %d requests elsewhere", other.Count())
	}
}
