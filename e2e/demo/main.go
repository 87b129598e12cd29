// The demo starts the real Traefik with the plugin, a Redis and two game
// nodes, sends a player through, and serves until Ctrl-C. Run it by make demo.
//
// DEMO_ONCE=1 ends it after the check; its exit code tells the result.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/coder/websocket"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Getenv("DEMO_ONCE") == "1")
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nThe demo failed: %v\n", err)
		os.Exit(1)
	}
}

const (
	key    = "game-server_dev_node_wgamed"
	thread = "1"
	path   = "/ws?nodeName=wgamed&threadId=1&platform=dev"
)

// demo is what runs while the demo does.
type demo struct {
	out          io.Writer
	store        *store
	first, other *stack.Node
	traefik      *stack.Traefik
}

// run plays the demo, and unless once is set goes on serving until ctx ends.
func run(ctx context.Context, out io.Writer, once bool) (err error) {
	d := &demo{out: out}
	defer d.stop()
	defer func() {
		switch {
		case ctx.Err() != nil && err != nil:
			err = errors.New("interrupted")
		case err != nil && d.traefik != nil:
			err = fmt.Errorf("%w\n\nThe end of Traefik's log:\n%s", err, d.traefik.Tail(20))
		}
	}()
	if err := d.start(); err != nil {
		return err
	}
	if err := d.acceptance(ctx); err != nil {
		return err
	}
	if err := d.webSocket(ctx); err != nil {
		return err
	}
	if err := d.traefik.Healthy(); err != nil {
		return err
	}
	if once {
		return nil
	}
	d.suggest()
	<-ctx.Done()
	d.say("\nEnding.\n")
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func (d *demo) start() (err error) {
	if d.store, err = startStore(); err != nil {
		return err
	}
	d.say("%-9s %s on %s\n", "Redis", d.store.what, d.store.addr)
	if d.first, err = stack.StartNode(stack.NodeOptions{Name: "first"}); err != nil {
		return err
	}
	if d.other, err = stack.StartNode(stack.NodeOptions{Name: "second", Body: "<p>hello from the second node!</p>"}); err != nil {
		return err
	}
	d.say("%-9s %s and %s\n", "nodes", d.first.Addr(), d.other.Addr())

	o := stack.TraefikOptions{
		Dynamic: stack.Game(stack.Options{"redis": stack.Options{"endpoints": []string{d.store.addr}}}).YAML(),
	}
	note := ""
	if isFree("8080") {
		o.Addr = "127.0.0.1:8080"
	} else {
		note = ", as 8080 is in use"
	}
	if d.traefik, err = stack.StartTraefik(o); err != nil {
		return err
	}
	d.say("%-9s with the plugin on %s%s\n", "Traefik", d.traefik.Addr(), note)
	return nil
}

// isFree tells whether nothing listens on a port of localhost, by either
// address that this name has.
func isFree(port string) bool {
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if errors.Is(err, syscall.EADDRINUSE) {
			return false
		}
		if err == nil {
			l.Close()
		}
	}
	return true
}

func (d *demo) stop() {
	if d.traefik != nil {
		d.traefik.Stop()
	}
	for _, n := range []*stack.Node{d.first, d.other} {
		if n != nil {
			n.Stop()
		}
	}
	if d.store != nil {
		d.store.stop()
	}
}

// redisCLI is how a person says a Redis command.
func (d *demo) redisCLI(command ...string) string {
	_, port, _ := net.SplitHostPort(d.store.addr)
	return "redis-cli -p " + port + " " + strings.Join(command, " ")
}

func (d *demo) curl() string {
	return "curl -ig 'localhost:" + d.traefik.Port() + path + "'"
}

// acceptance is the acceptance test: one HSET, one request, one answer.
func (d *demo) acceptance(ctx context.Context) error {
	d.say("\nOne line in Redis makes a node reachable:\n\n")
	d.say("  $ %s\n", d.redisCLI("HSET", key, thread, d.first.Addr()))
	if err := d.store.hset(key, thread, d.first.Addr()); err != nil {
		return fmt.Errorf("HSET: %w", err)
	}
	d.say("  $ %s\n", d.curl())
	response, err := d.request(ctx)
	if err != nil {
		return err
	}
	d.say("%s\n", indent(response, "  "))
	for _, want := range []string{"HTTP/1.1 200 OK", "<p>hello, world!</p>"} {
		if !strings.Contains(response, want) {
			return fmt.Errorf("the response has no %q", want)
		}
	}
	d.say("\n  ok: HTTP/1.1 200 OK, from the node in Redis\n")
	return nil
}

// request sends the request with curl or, where there is none, itself, and
// returns the response as it came.
func (d *demo) request(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if curl, err := exec.LookPath("curl"); err == nil {
		cmd := exec.CommandContext(ctx, curl, "-sS", "--noproxy", "*", "-ig", "localhost:"+d.traefik.Port()+path)
		var said bytes.Buffer
		cmd.Stderr = &said
		response, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("curl: %w: %s", err, bytes.TrimSpace(said.Bytes()))
		}
		return string(response), nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.traefik.Addr())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost:%s\r\nConnection: close\r\n\r\n", path, d.traefik.Port())
	response, err := io.ReadAll(conn)
	return string(response), err
}

// webSocket opens a session and sends a message each way.
func (d *demo) webSocket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	url := "ws://localhost:" + d.traefik.Port() + path
	d.say("\nA WebSocket session to the same node, which echoes:\n\n  %s\n", url)
	conn, response, err := websocket.Dial(ctx, strings.Replace(url, "localhost", "127.0.0.1", 1),
		&websocket.DialOptions{Host: "localhost:" + d.traefik.Port()})
	if err != nil {
		return fmt.Errorf("the WebSocket handshake: %w", err)
	}
	defer conn.CloseNow()
	d.say("  %s\n", response.Status)
	const hello = "hello, node"
	if err := conn.Write(ctx, websocket.MessageText, []byte(hello)); err != nil {
		return fmt.Errorf("sending a WebSocket message: %w", err)
	}
	d.say("  > %s\n", hello)
	_, echo, err := conn.Read(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the WebSocket echo: %w", err)
	}
	d.say("  < %s\n", echo)
	if string(echo) != hello {
		return fmt.Errorf("the node echoed %q for %q", echo, hello)
	}
	if err := conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		return fmt.Errorf("closing the WebSocket: %w", err)
	}
	d.say("\n  ok: switched, echoed, closed in good order\n")
	return nil
}

// suggest prints what a person may do next.
func (d *demo) suggest() {
	d.say(`
Now you, in another terminal. Ask for the node:

  %s

Move it to the second demo node, ask again; move it back the same way:

  %s
  %s

Take it away, and the answer is 404 unknown-node:

  %s

Sessions that are open stay where they are. Nothing reloads.
`,
		d.curl(),
		d.redisCLI("HSET", key, thread, d.other.Addr()),
		d.redisCLI("HSET", key, thread, d.first.Addr()),
		d.redisCLI("HDEL", key, thread))
	if _, err := exec.LookPath("redis-cli"); err != nil {
		d.say("\n(redis-cli is in Debian's package redis-tools.)\n")
	}
	d.say("\nCtrl-C ends everything.\n")
}

func indent(text, by string) string {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(text, "\r", "")), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(by+line, " ")
	}
	return strings.Join(lines, "\n")
}

// store is the demo's Redis: the real one, or miniredis where there is none.
type store struct {
	what, addr string
	hset       func(key, field, value string) error
	stop       func()
}

func startStore() (*store, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		m, err := miniredis.Run()
		if err != nil {
			return nil, err
		}
		return &store{
			what: "none installed, so an embedded one (miniredis)",
			addr: m.Addr(),
			hset: func(key, field, value string) error { m.HSet(key, field, value); return nil },
			stop: m.Close,
		}, nil
	}
	r, err := stack.StartRedis(stack.RedisOptions{})
	if err != nil {
		return nil, err
	}
	return &store{
		what: "redis-server",
		addr: r.Addr(),
		hset: func(key, field, value string) error { _, err := r.Do("HSET", key, field, value); return err },
		stop: r.Stop,
	}, nil
}
