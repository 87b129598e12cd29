package e2e

import (
	"io"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// A failure is logged with what is needed to find it.
func TestFailuresAreLogged(t *testing.T) {
	path := usual(t)
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	for _, c := range []struct {
		reason, value string
		want          []string
	}{
		{"unknown-node", "null", nil},
		{"bad-target", "no address", []string{"no address"}},
		{"node-down", refusing.Addr(), []string{refusing.Addr()}},
	} {
		name := nobody()
		put(t, redis, name, c.value)
		want := append(c.want, c.reason, "game-server_dev_node_"+name, `"1"`, "test")
		want[len(want)-1] = "wgame@file"
		// The line may be left out when another of its kind was written less
		// than a second ago.
		eventually(t, "a log line with "+strings.Join(want, ", "), func() bool {
			get(t, path+query(name))
			return hasLine(traefik.Log(), want...)
		})
	}
	eventually(t, "a log line that names the missing parameter", func() bool {
		get(t, path+"?nodeName=wgamed&platform=dev")
		return hasLine(traefik.Log(), "bad-request", "threadId", "wgame@file")
	})
}

// hasLine tells whether one line of a log has all the words.
func hasLine(log string, words ...string) bool {
next:
	for line := range strings.Lines(log) {
		for _, word := range words {
			if !strings.Contains(line, word) && !strings.Contains(line, strings.ReplaceAll(word, `"`, `\"`)) {
				continue next
			}
		}
		return true
	}
	return false
}

// However many fail, a reason has one line a second.
func TestFailuresDoNotFloodTheLog(t *testing.T) {
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	conf := stack.Game(redisAt(redis))
	conf.Routers["noredis"] = stack.Router{Rule: "Path(`/noredis`)", Middlewares: []string{"noredis"}}
	conf.Middlewares["noredis"] = stack.Options{"redis": stack.Options{"endpoints": []string{refusing.Addr()}}}
	own := start(t, stack.TraefikOptions{Dynamic: conf.YAML()})
	targets := map[string]string{
		"bad-request":  "/ws",
		"unknown-node": "/ws" + query(nobody()),
		"bad-target":   "/ws" + place(t, "no address"),
		"node-down":    "/ws" + place(t, refusing.Addr()),
		"redis-down":   "/noredis" + query(nobody()),
	}
	c := newClient(t)
	begin := time.Now()
	for time.Since(begin) < 3*time.Second {
		for _, target := range targets {
			resp, err := c.Get(own.URL() + target)
			must(t, err)
			resp.Body.Close()
		}
	}
	took := time.Since(begin)
	most := int(took/time.Second) + 2 // one for the second begun, one for what Traefik logs while it starts
	for reason := range targets {
		lines := 0
		for line := range strings.Lines(own.Log()) {
			if strings.Contains(line, reason) {
				lines++
			}
		}
		if lines < 1 || lines > most {
			t.Errorf("%s: %d log lines in %v; want 1 to %d", reason, lines, took, most)
		}
	}
	if total := strings.Count(own.Log(), "\n"); total > 100 {
		t.Errorf("the log has %d lines", total)
	}
}

// A client that does not wait for the rest of an answer is no failure, so nothing
// is said of it, not even at DEBUG.
func TestClientsThatLeaveAreNotLogged(t *testing.T) {
	accesses := filepath.Join(t.TempDir(), "access.log")
	own := start(t, stack.TraefikOptions{Dynamic: stack.Game(redisAt(redis)).YAML(), LogLevel: "DEBUG", AccessLog: accesses})
	slow := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nthe start")
		_, _ = io.Copy(io.Discard, c)
	})))
	target := "/ws" + place(t, slow.Addr())
	for what, request := range map[string][]string{"plain": {"GET " + target + " HTTP/1.1", "Host: game"}, "upgrade": handshake(target)} {
		before := len(accessLog(t, accesses))
		c, err := net.Dial("tcp", own.Addr())
		must(t, err)
		_, err = io.WriteString(c, strings.Join(request, "\r\n")+"\r\n\r\n")
		must(t, err)
		_, err = c.Read(make([]byte, 1))
		must(t, err)
		must(t, c.Close())
		eventually(t, "the request is over", func() bool {
			return slices.ContainsFunc(accessLog(t, accesses)[before:], func(line map[string]any) bool { return line["RouterName"] == "game@file" })
		})
		if at := strings.Index(own.Log(), "httputil: "); at >= 0 {
			t.Errorf("%s: the log says %.200s", what, own.Log()[at:])
		}
	}
}

// A password is in no log line, whatever Redis says about it.
func TestPasswordIsNotLogged(t *testing.T) {
	const right, wrong = "s3cret-right", "s3cret-wrong"
	locked := startRedis(t, stack.RedisOptions{Password: right})
	conf := stack.Dynamic{Routers: map[string]stack.Router{}, Middlewares: map[string]stack.Options{}}
	for name, options := range map[string]stack.Options{
		"right": {"endpoints": []string{locked.Addr()}, "password": right},
		"wrong": {"endpoints": []string{locked.Addr()}, "password": wrong},
		"user":  {"endpoints": []string{locked.Addr()}, "username": "somebody", "password": wrong},
	} {
		conf.Routers[name] = stack.Router{Rule: "Path(`/" + name + "`)", Middlewares: []string{name}}
		conf.Middlewares[name] = stack.Options{"redis": options}
	}
	own := start(t, stack.TraefikOptions{Dynamic: conf.YAML()})
	c := newClient(t)
	for name, status := range map[string]int{"right": 404, "wrong": 503, "user": 503} {
		request := own.URL() + "/" + name + query(nobody())
		resp, err := c.Get(request)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("password %s: got %s; want %d", name, resp.Status, status)
		}
	}
	eventually(t, "the refused password is logged as such", func() bool {
		resp, err := c.Get(own.URL() + "/wrong" + query(nobody()))
		must(t, err)
		resp.Body.Close()
		return regexp.MustCompile(`redis-down.*WRONGPASS|WRONGPASS`).MatchString(own.Log())
	})
	if at := strings.Index(own.Log(), "s3cret"); at >= 0 {
		t.Errorf("the log tells a password: %.200s", own.Log()[max(0, at-100):])
	}
}
