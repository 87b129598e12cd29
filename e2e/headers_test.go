package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// forgery is what a client must not get through: the plugin's own headers, in all
// spellings that HTTP takes for the same, and in trailers.
var forgery = []string{
	"X-Dynamicforward-Node: forged", "x-dynamicforward-node: forged", "X-DYNAMICFORWARD-NODE: forged,forged",
	"X-Dynamicforward-Error: forged", "x-dynamicforward-Error: unknown-node forged",
	"X-Dynamicforward-Cache: forged", "X-Dynamicforward-Anything-Else: forged",
}

// wantNoForgery checks what a node, or the old gateway, has seen.
func wantNoForgery(t *testing.T, what string, header http.Header) {
	t.Helper()
	for name, values := range header {
		if strings.Contains(strings.ToLower(name), "dynamicforward") && (name != "X-Dynamicforward-Error" || len(values) != 1) {
			t.Errorf("%s: %s: %q got through", what, name, values)
		}
		if strings.Contains(strings.Join(values, ","), "forged") {
			t.Errorf("%s: %s: %q got through", what, name, values)
		}
	}
}

// Nothing that a client sends in the plugin's name reaches a node, the old
// gateway, or Traefik's access log: however it is asked, the first time and when
// the route is known, and when so many ask that the node gets lanes.
func TestNobodySeesWhatClientsForge(t *testing.T) {
	logFile := filepath.Join(t.TempDir(), "access.log")
	var mu sync.Mutex
	var trailers []http.Header
	reader := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		trailers = append(trailers, r.Trailer)
	})
	n := startNode(t, stack.NodeOptions{Name: "node", Handler: reader})
	old := startNode(t, stack.NodeOptions{Name: "old", Handler: reader})
	conf := stack.Game(redisAt(redis, stack.Options{"fallback": true, "debugHeaders": false}))
	conf.Routers["game"] = stack.Router{Rule: "Path(`/ws`)", Middlewares: []string{"wgame"}, Service: "old"}
	conf.Services = map[string]any{"old": map[string]any{"loadBalancer": map[string]any{"servers": []map[string]string{{"url": "http://" + old.Addr()}}}}}
	own := start(t, stack.TraefikOptions{
		Dynamic: conf.YAML(),
		Static: "accessLog:\n  filePath: " + logFile + "\n  format: json\n" +
			"  fields: {headers: {defaultMode: keep}}\n",
	})
	at := place(t, n.Addr())
	asked := 0
	for _, target := range []string{"/ws" + at, "/ws" + at, "/ws" + query(nobody()), "/ws?nodeName=x", "/ws" + place(t, "no address")} {
		for what, request := range map[string][]string{
			"a request":       {"GET " + target + " HTTP/1.1", "Host: game"},
			"HTTP/1.0":        {"GET " + target + " HTTP/1.0", "Host: game", "Connection: keep-alive"},
			"a handshake":     handshake(target),
			"an odd upgrade":  {"GET " + target + " HTTP/1.1", "Host: game", "Upgrade: websocket", "Connection: keep-alive"},
			"a body":          {"POST " + target + " HTTP/1.1", "Host: game", "Content-Length: 0"},
			"a chunked body":  {"POST " + target + " HTTP/1.1", "Host: game", "Transfer-Encoding: chunked", "Trailer: X-Dynamicforward-Node, X-Dynamicforward-Error"},
			"Connection":      {"GET " + target + " HTTP/1.1", "Host: game", "Connection: X-Dynamicforward-Node, x-dynamicforward-error"},
			"a real body":     {"POST " + target + " HTTP/1.1", "Host: game", "Content-Length: 4"},
			"a body upgraded": append(handshake(target)[:6:6], "Content-Length: 4"),
		} {
			c := dialTo(t, own)
			lines := append(request, forgery...)
			switch what {
			case "a chunked body":
				lines = append(lines, "", "4", "body", "0", "X-Dynamicforward-Node: forged", "X-Dynamicforward-Error: forged")
			case "a real body", "a body upgraded":
				lines = append(lines, "", "body")
			}
			c.send(t, lines...)
			resp := c.head(t)
			asked++
			for name := range resp.Header {
				if strings.HasPrefix(name, "X-Dynamicforward-") {
					t.Errorf("%s: the client saw %s", what, name)
				}
			}
			c.Close()
		}
	}
	often := askOften(t, "http://"+own.Addr()+"/ws"+at)
	asked += often
	for who, least := range map[*stack.Node]int{n: 18 + often, old: 18} {
		requests := who.Requests()
		if len(requests) < least {
			t.Errorf("%s has seen %d requests", who.Name(), len(requests))
		}
		for _, request := range requests {
			wantNoForgery(t, who.Name(), request.Header)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, trailer := range trailers {
		for name, values := range trailer { // what was announced is there, without a value
			if len(values) > 0 {
				t.Errorf("trailer %s: %q got through", name, values)
			}
		}
	}
	eventually(t, "every request is in the access log", func() bool {
		text, err := os.ReadFile(logFile)
		must(t, err)
		return strings.Count(string(text), `"RouterName":"game@file"`) == asked
	})
	for _, line := range accessLog(t, logFile) {
		if text := fmt.Sprint(line); strings.Contains(text, "forged") {
			t.Errorf("the access log has %s", text)
		}
	}
}

// askOften has many clients ask again and again, with forged headers half of the time:
// those who have none get the node its lanes. It returns how often they have asked.
func askOften(t *testing.T, url string) int {
	t.Helper()
	const clients, each = 16, 50
	var asking sync.WaitGroup
	for range clients {
		asking.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for i := range each {
				request, err := http.NewRequest(http.MethodGet, url, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for _, line := range forgery[:i%2*len(forgery)] {
					name, value, _ := strings.Cut(line, ": ")
					request.Header.Add(name, value)
				}
				response, err := client.Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if response.StatusCode != http.StatusOK {
					t.Error(response.Status)
				}
			}
		})
	}
	asking.Wait()
	return clients * each
}

// Nor the bare prefix, which is a header's name as well.
func TestTheBarePrefixIsDroppedToo(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	q := place(t, n.Addr())
	for _, upgrade := range []bool{false, false, true} {
		if got := ask(t, upgrade, path+q, "X-Dynamicforward-: forged"); got != n.Name() {
			t.Fatalf("got %s", got)
		}
		wantNoForgery(t, fmt.Sprint("handshake ", upgrade), seen(t, n).Header)
	}
}

// dialTo is dial for another Traefik.
func dialTo(t *testing.T, own *stack.Traefik) *wire {
	t.Helper()
	c, err := net.Dial("tcp", own.Addr())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return &wire{c, bufio.NewReader(c)}
}

// accessLog reads a log that Traefik has written as JSON.
func accessLog(t *testing.T, file string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	var lines []map[string]any
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var fields map[string]any
		must(t, json.Unmarshal([]byte(line), &fields))
		lines = append(lines, fields)
	}
	return lines
}

// What Connection names goes no further, but what Traefik and the plugin set is
// not the client's to name.
func TestConnectionCannotTakeAwayWhatIsSetHere(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	target := path + place(t, n.Addr())
	for _, connection := range []string{
		"X-Real-Ip, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Dynamicforward-Node, Upgrade",
		"x-real-ip, x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-dynamicforward-node, upgrade",
		"X-REAL-IP , X-FORWARDED-FOR,X-FORWARDED-PROTO,X-Forwarded-HOST\t,X-DYNAMICFORWARD-NODE,UPGRADE",
		"upgrade, Upgrade, keep-alive, close, X-Real-Ip, X-Real-Ip, X-Forwarded-For, X-Dynamicforward-Node",
		"Upgrade, Host, Connection, X-Forwarded-For, X-Real-Ip, X-Dynamicforward-Node, Content-Length, Transfer-Encoding",
	} {
		for what, request := range map[string][]string{
			"a request":   {"GET " + target + " HTTP/1.1", "Host: game.example.com", "Connection: " + connection},
			"a body":      {"POST " + target + " HTTP/1.1", "Host: game.example.com", "Content-Length: 4", "Connection: " + connection, "", "body"},
			"a handshake": {"GET " + target + " HTTP/1.1", "Host: game.example.com", "Connection: " + connection, "Upgrade: websocket", "Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Version: 13"},
			"two lines":   {"GET " + target + " HTTP/1.1", "Host: game.example.com", "Connection: Upgrade", "Connection: " + connection, "Upgrade: websocket", "Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Version: 13"},
			"forged":      {"GET " + target + " HTTP/1.1", "Host: game.example.com", "X-Real-Ip: 203.0.113.9", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Host: forged", "X-Forwarded-Proto: forged", "X-Dynamicforward-Node: forged", "Connection: " + connection},
		} {
			before := n.Count()
			c := dial(t)
			c.send(t, request...)
			resp := c.head(t)
			c.Close()
			if resp.StatusCode != 200 && resp.StatusCode != 101 {
				t.Errorf("%s, Connection: %s: got %s", what, connection, resp.Status)
			}
			if n.Count() != before+1 {
				t.Errorf("%s, Connection: %s: the node got %d requests", what, connection, n.Count()-before)
				continue
			}
			header := seen(t, n).Header
			wantNoForgery(t, what, header)
			for name, want := range map[string]string{"X-Real-Ip": "127.0.0.1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "game.example.com"} {
				if got := strings.Join(header.Values(name), " | "); got != want {
					t.Errorf("%s, Connection: %s: the node saw %s %q; want %q", what, connection, name, got, want)
				}
			}
			if got := header.Get("X-Forwarded-Proto"); got != "http" && got != "ws" {
				t.Errorf("%s, Connection: %s: the node saw X-Forwarded-Proto %q", what, connection, got)
			}
			connectionSeen := strings.Join(header.Values("Connection"), " | ")
			if resp.StatusCode == 101 && connectionSeen != "Upgrade" || resp.StatusCode == 200 && connectionSeen != "" {
				t.Errorf("%s, Connection: %s: the node saw Connection %q", what, connection, connectionSeen)
			}
		}
	}
}

// What belongs to the client's connection stays there (RFC 9110, 7.6.1).
func TestHopByHopHeadersGoNoFurther(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	target := path + place(t, n.Addr())
	hops := []string{
		"Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic Zm9vOmJhcg==",
		"Proxy-Authenticate: Basic", "TE: gzip", "Trailer: X-Later", "X-Hop: 1", "X-Other-Hop: 1", "X-Stays: 1",
	}
	for what, request := range map[string][]string{
		"a request":           {"GET " + target + " HTTP/1.1", "Host: game", "Connection: X-Hop, x-other-hop"},
		"a request once more": {"GET " + target + " HTTP/1.1", "Host: game", "Connection: X-Hop", "Connection: close, X-Other-Hop"},
		"a body":              {"POST " + target + " HTTP/1.1", "Host: game", "Connection: X-Hop, x-other-hop", "Content-Length: 0"},
		"a lonely Upgrade":    {"GET " + target + " HTTP/1.1", "Host: game", "Connection: X-Hop, x-other-hop", "Upgrade: websocket"},
		"an empty Upgrade":    {"GET " + target + " HTTP/1.1", "Host: game", "Connection: Upgrade, X-Hop, x-other-hop", "Upgrade: "},
		"a handshake":         append(handshake(target), "Connection: X-Hop, x-other-hop"),
	} {
		c := dial(t)
		c.send(t, append(request, hops...)...)
		resp := c.head(t)
		c.Close()
		header := seen(t, n).Header
		if header.Get("X-Stays") != "1" || resp.StatusCode != 200 && resp.StatusCode != 101 {
			t.Fatalf("%s: got %s, and the node saw %v", what, resp.Status, header)
		}
		for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Te", "Trailer", "X-Hop", "X-Other-Hop"} {
			if header[name] != nil {
				t.Errorf("%s: the node saw %s: %q", what, name, header[name])
			}
		}
		if what != "a handshake" && (header["Connection"] != nil || header["Upgrade"] != nil) {
			t.Errorf("%s: the node saw Connection %q, Upgrade %q", what, header["Connection"], header["Upgrade"])
		}
	}
}

// And what belongs to the node's connection stays there.
func TestTheNodesHopByHopHeadersGoNoFurther(t *testing.T) {
	path := usual(t)
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"+
			"Proxy-Authenticate: Basic\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok")
	})))
	target := path + place(t, n.Addr())
	for what, request := range map[string][]string{
		"a request":   {"GET " + target + " HTTP/1.1", "Host: game"},
		"a handshake": handshake(target),
	} {
		c := dial(t)
		c.send(t, request...)
		resp := c.receive(t)
		if resp.Header.Get("X-Stays") != "1" || resp.body != "ok" {
			t.Fatalf("%s: got %s %v %q", what, resp.Status, resp.Header, resp.body)
		}
		for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Authenticate", "Connection"} {
			if resp.Header[name] != nil {
				t.Errorf("%s: the client saw %s: %q", what, name, resp.Header[name])
			}
		}
		// The client's connection goes on.
		c.send(t, "GET "+path+place(t, node.Addr())+" HTTP/1.1", "Host: game")
		wantNode(t, c.receive(t), node)
	}
}
