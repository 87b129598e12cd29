package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// stillUsable checks that a connection, after all that the test sent over it,
// is still the first one, and carries one more request.
func (c *client) stillUsable(t *testing.T, path string) {
	t.Helper()
	wantNode(t, c.get(t, path+place(t, node.Addr())), node)
	if n := c.dials.Load(); n != 1 {
		t.Errorf("the client had to connect %d times; an answer is no reason to close", n)
	}
}

func TestBadParameters(t *testing.T) {
	path := usual(t)
	c := newClient(t)
	for name, query := range map[string]string{
		"no query":            "",
		"nodeName missing":    "?threadId=1&platform=dev",
		"threadId missing":    "?nodeName=wgamed&platform=dev",
		"platform missing":    "?nodeName=wgamed&threadId=1",
		"nodeName empty":      "?nodeName=&threadId=1&platform=dev",
		"nodeName bare":       "?nodeName&threadId=1&platform=dev",
		"threadId empty":      "?nodeName=wgamed&threadId=&platform=dev",
		"first empty":         "?nodeName=&nodeName=wgamed&threadId=1&platform=dev",
		"257 bytes":           "?nodeName=" + strings.Repeat("x", 257) + "&threadId=1&platform=dev",
		"10 kB":               "?nodeName=" + strings.Repeat("x", 10<<10) + "&threadId=1&platform=dev",
		"10 kB thread":        "?nodeName=wgamed&threadId=" + strings.Repeat("1", 10<<10) + "&platform=dev",
		"257 bytes of UTF-8":  "?nodeName=" + strings.Repeat("%C3%A9", 128) + "x&threadId=1&platform=dev",
		"not UTF-8":           "?nodeName=wgame%ff&threadId=1&platform=dev",
		"cut UTF-8":           "?nodeName=wgame%C3&threadId=1&platform=dev",
		"overlong UTF-8":      "?nodeName=%C0%AF&threadId=1&platform=dev",
		"surrogate":           "?nodeName=%ED%A0%80&threadId=1&platform=dev",
		"NUL":                 "?nodeName=wgame%00d&threadId=1&platform=dev",
		"new line":            "?nodeName=wgamed%0d%0aDEL%20x&threadId=1&platform=dev",
		"DEL":                 "?nodeName=wgamed%7f&threadId=1&platform=dev",
		"C1 control":          "?nodeName=wgamed%C2%85&threadId=1&platform=dev",
		"tab in the platform": "?nodeName=wgamed&threadId=1&platform=de%09v",
		"broken percent":      "?nodeName=wgame%zz&threadId=1&platform=dev",
	} {
		t.Run(name, func(t *testing.T) {
			wantAnswer(t, c.get(t, path+query), 400, "bad-request", "wgame", "xxx")
		})
	}
	c.stillUsable(t, path)
}

// The longest values there may be are looked up like any other.
func TestLongestParameters(t *testing.T) {
	path := usual(t)
	for _, name := range []string{strings.Repeat("x", 256), strings.Repeat("é", 128)} {
		put(t, redis, name, node.Addr())
		wantNode(t, get(t, path+query(name)), node)
	}
}

func TestUnknownNode(t *testing.T) {
	path := usual(t)
	c := newClient(t)
	for name, query := range map[string]string{
		"no such hash":  query(nobody()),
		"no such field": strings.Replace(place(t, node.Addr()), "threadId=1", "threadId=2", 1),
		"null":          place(t, "null"),
		"NULL":          place(t, "NULL"),
		"empty":         place(t, ""),
		"white space":   place(t, " \r\n\t"),
		"null in space": place(t, " null\n"),
	} {
		t.Run(name, func(t *testing.T) {
			wantAnswer(t, c.get(t, path+query), 404, "unknown-node", "null", "NULL")
		})
	}
	c.stillUsable(t, path)
}

func TestBadTarget(t *testing.T) {
	path := usual(t)
	c := newClient(t)
	for _, value := range []string{
		"wgame", "127.0.0.1", "Null", "nil", "0",
		"127.0.0.1:", ":80", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:http", "127.0.0.1:80:81",
		"127.0.0.1:80 127.0.0.1:81", "127.0.0.1:80,127.0.0.1:81", "127.0.0.1:80\n127.0.0.1:81", "127.0.0.1:80\x00",
		"127.0.0.1:80/path", "127.0.0.1:80?a=b", "127.0.0.1:80#a", "me@127.0.0.1:80", "\xff\xfe:80", "a b:80",
		"::1:80", "[::1", "[::1]", "[127.0.0.1]x:80",
		"http://", "http:///path", "http://me:secret@127.0.0.1:80", "http://127.0.0.1:80/?a=b", "http://127.0.0.1:99999",
		"ftp://127.0.0.1:80", "unix:///run/node.sock", "file:///etc/passwd", "//127.0.0.1:80",
	} {
		t.Run(fmt.Sprintf("%q", value), func(t *testing.T) {
			wantAnswer(t, c.get(t, path+place(t, value)), 502, "bad-target")
		})
	}
	c.stillUsable(t, path)
}

// An entry of a type that the plugin does not read.
func TestWrongType(t *testing.T) {
	hash, str := usual(t), route(t, stack.Options{"key": "type_{nodeName}", "field": ""})
	a, b := nobody(), nobody()
	do(t, redis, "SET", "game-server_dev_node_"+a, node.Addr())
	do(t, redis, "HSET", "type_"+b, "1", node.Addr())
	c := newClient(t)

	wantAnswer(t, c.get(t, hash+query(a)), 502, "bad-target", "WRONGTYPE")
	wantAnswer(t, c.get(t, str+query(b)), 502, "bad-target", "WRONGTYPE")
	c.stillUsable(t, hash)
}

func TestNodeRefuses(t *testing.T) {
	path := usual(t)
	q := place(t, started[*stack.Refusing](t)(stack.RefusingAddr()).Addr())
	c := newClient(t)
	for range 3 {
		wantAnswer(t, c.get(t, path+q), 502, "node-down", "refused")
	}
	c.stillUsable(t, path)
}

// The node that was refused a moment ago is there: the next request goes to it.
func TestNodeComesBack(t *testing.T) {
	path := usual(t)
	n := startNode(t, stack.NodeOptions{})
	q := place(t, n.Addr())
	c := newClient(t)
	wantNode(t, c.get(t, path+q), n)
	n.Kill()
	eventually(t, "a killed node is down", func() bool { return c.get(t, path+q).StatusCode == 502 })
	wantAnswer(t, c.get(t, path+q), 502, "node-down")
	must(t, n.Start())
	eventually(t, "the node that is back gets its requests", func() bool { return c.get(t, path+q).StatusCode == 200 })
	c.stillUsable(t, path)
}

// A machine that has gone does not refuse; it says nothing.
func TestNodeTakesNoConnection(t *testing.T) {
	path := route(t, stack.Options{"serversTransport": stack.Options{
		"forwardingTimeouts": stack.Options{"dialTimeout": "300ms"},
	}})
	q := place(t, started[*stack.Full](t)(stack.FullAddr()).Addr())
	c := newClient(t)
	wantAnswer(t, c.get(t, path+q), 502, "node-down", "timeout")
	c.stillUsable(t, path)
}

func TestNodeHangs(t *testing.T) {
	path := route(t, stack.Options{"serversTransport": stack.Options{
		"forwardingTimeouts": stack.Options{"responseHeaderTimeout": "1s"},
	}})
	q := place(t, started[*stack.RawNode](t)(stack.HangingNode()).Addr())
	c := newClient(t)
	wantAnswer(t, c.get(t, path+q), 504, "node-timeout")
	c.stillUsable(t, path)
}

// A client that does not wait for a node that hangs does not keep the
// connection to it.
func TestClientGivesUpOnANodeThatHangs(t *testing.T) {
	path := usual(t)
	var arrived atomic.Bool // a connection alone may be one that the transport keeps
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		arrived.Store(true)
		_, _ = io.Copy(io.Discard, c)
	})))
	c := dial(t)
	c.send(t, "GET "+path+place(t, n.Addr())+" HTTP/1.1", "Host: localhost")
	eventually(t, "the request is at the node", arrived.Load)
	c.Close()
	eventually(t, "the node's connection is closed", func() bool { return n.Open() == 0 })
}

func TestNodeClosesWithoutAnAnswer(t *testing.T) {
	path := usual(t)
	for name, serve := range map[string]func(net.Conn){
		"at once":           func(net.Conn) {},
		"after the request": stack.AfterRequest(func(net.Conn) {}),
		"with a reset": stack.AfterRequest(func(c net.Conn) {
			_ = c.(*net.TCPConn).SetLinger(0)
		}),
		"in the response's head": stack.AfterRequest(func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
		}),
		"after nonsense": stack.AfterRequest(func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			n := started[*stack.RawNode](t)(stack.StartRawNode(serve))
			c := newClient(t)
			wantAnswer(t, c.get(t, path+place(t, n.Addr())), 502, "node-down", "EOF", "reset", "SSH")
			c.stillUsable(t, path)
		})
	}
}

// A response that the node cut short must not look complete.
func TestNodeClosesMidResponse(t *testing.T) {
	path := usual(t)
	for name, n := range map[string]*stack.RawNode{
		"with a length": started[*stack.RawNode](t)(stack.CutShortNode()),
		"chunked": started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n")
		}))),
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := newClient(t).Get(traefik.URL() + path + place(t, n.Addr()))
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return // cut before the head was through: no complete response either
			}
			must(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the client got %s %q and %v; want an unexpected EOF", resp.Status, body, err)
			}
		})
	}
	wantNode(t, get(t, path+place(t, node.Addr())), node)
}

func TestRedisDown(t *testing.T) {
	sayTo := func(answer string) func(net.Conn) {
		return func(c net.Conn) {
			buf := make([]byte, 4096)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := io.WriteString(c, answer); err != nil {
					return
				}
			}
		}
	}
	for name, start := range map[string]func(net.Conn){
		"refuses":               nil,
		"hangs":                 func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"closes at once":        func(net.Conn) {},
		"closes when asked":     func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) },
		"cuts its answer short": func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)); _, _ = io.WriteString(c, "$14\r\n127.0") },
		"answers with an error": sayTo("-LOADING Redis is loading the dataset in memory\r\n"),
		"forbids":               sayTo("-NOPERM this user has no permissions to run the 'hget' command\r\n"),
		"wants a password":      sayTo("-NOAUTH Authentication required.\r\n"),
		"is no Redis":           sayTo("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"answers with a number": sayTo(":1\r\n"),
		"answers with a list":   sayTo("*1\r\n$1\r\na\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			var at stopper
			if start == nil {
				at = started[*stack.Refusing](t)(stack.RefusingAddr())
			} else {
				at = started[*stack.RawNode](t)(stack.StartRawNode(start))
			}
			path := route(t, stack.Options{"redis": stack.Options{
				"endpoints": []string{at.Addr()}, "readTimeout": "200ms",
			}})
			c := newClient(t)
			for range 3 {
				wantAnswer(t, c.get(t, path+query("wgamed")), 503, "redis-down", "LOADING", "NOPERM", "NOAUTH")
			}
			c.stillUsable(t, usual(t))
		})
	}
}

// A Redis that closes each connection is not asked over and over.
func TestRedisThatClosesIsNotHammered(t *testing.T) {
	closing := started[*stack.RawNode](t)(stack.StartRawNode(func(net.Conn) {}))
	path := route(t, stack.Options{"redis": stack.Options{"endpoints": []string{closing.Addr()}}})
	c := newClient(t)
	const requests = 200
	begun := time.Now()
	for range requests {
		wantAnswer(t, c.get(t, path+query("wgamed")), 503, "redis-down")
	}
	// It tries again after a wait that grows up to a second.
	if n, most := closing.Count(), 20+5*int(time.Since(begun)/time.Second); n > most {
		t.Errorf("the plugin connected %d times for %d requests; want %d at most", n, requests, most)
	}
}

func TestRedisComesBack(t *testing.T) {
	own := startRedis(t, stack.RedisOptions{})
	path := route(t, redisAt(own))
	name := nobody()
	c := newClient(t)
	answers := func(n *stack.Node) func() bool {
		return func() bool { return c.get(t, path+query(name)).Header.Get("X-Node") == n.Name() }
	}
	// Each time another name, which no table can know.
	renew := func(do func(string, ...any) (any, error)) error {
		_, err := do("HSET", "game-server_dev_node_"+name, "1", node.Addr())
		return err
	}

	must(t, renew(own.Do))
	wantNode(t, c.get(t, path+query(name)), node)

	must(t, own.Pause())
	name = nobody()
	wantAnswer(t, c.get(t, path+query(name)), 503, "redis-down")
	must(t, own.Resume())
	must(t, renew(own.Do))
	eventually(t, "look-ups work after a pause", answers(node))

	own.Kill()
	name = nobody()
	wantAnswer(t, c.get(t, path+query(name)), 503, "redis-down")
	must(t, own.Restart(renew))
	eventually(t, "look-ups work after a restart", answers(node))

	c.stillUsable(t, usual(t))
}

func TestErrorStatus(t *testing.T) {
	path := route(t, stack.Options{
		"errorStatus":      500,
		"serversTransport": stack.Options{"forwardingTimeouts": stack.Options{"responseHeaderTimeout": "1s"}},
	})
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	withoutRedis := route(t, stack.Options{
		"errorStatus": 500, "redis": stack.Options{"endpoints": []string{refusing.Addr()}},
	})
	for _, c := range []struct {
		path   string
		status int
		reason string
	}{
		{path + "?nodeName=wgamed", 500, "bad-request"},
		{path + query(nobody()), 500, "unknown-node"},
		{withoutRedis + query(nobody()), 500, "redis-down"},
		{path + place(t, "no address"), 502, "bad-target"},
		{path + place(t, refusing.Addr()), 502, "node-down"},
		{path + place(t, started[*stack.RawNode](t)(stack.HangingNode()).Addr()), 504, "node-timeout"},
	} {
		t.Run(c.reason, func(t *testing.T) { wantAnswer(t, get(t, c.path), c.status, c.reason) })
	}
	wantNode(t, get(t, path+place(t, node.Addr())), node)
}

// HEAD has the answer's head alone, and the connection goes on behind it.
func TestHeadIsAnswered(t *testing.T) {
	path := usual(t)
	c := dial(t)
	c.send(t, "HEAD "+path+query(nobody())+" HTTP/1.1", "Host: localhost")
	resp, err := http.ReadResponse(c.in, &http.Request{Method: "HEAD"})
	must(t, err)
	if resp.StatusCode != 404 {
		t.Errorf("got %s; want 404", resp.Status)
	}
	c.send(t, "GET "+path+place(t, node.Addr())+" HTTP/1.1", "Host: localhost")
	wantNode(t, c.receive(t), node)
}

// A request whose body was not read is answered, and what follows it on the
// connection is not taken for a part of that body.
func TestAnswerToARequestWithABody(t *testing.T) {
	path := usual(t)
	c := dial(t)
	for _, q := range []string{query(nobody()), "", place(t, "no address")} {
		c.send(t, "POST "+path+q+" HTTP/1.1", "Host: localhost", "Content-Length: 5", "", "hello"+
			"GET "+path+place(t, node.Addr())+" HTTP/1.1", "Host: localhost")
		if resp := c.receive(t); resp.StatusCode < 400 {
			t.Fatalf("got %s: %s", resp.Status, resp.body)
		}
		wantNode(t, c.receive(t), node)
	}
}
