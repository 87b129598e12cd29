package dynamicforward

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// What the plugin needs of redigo, so that it is seen to work interpreted as it
// does compiled. Each patch in patches/ names the test here that fails,
// interpreted, without it; ci/patches.sh proves that.

// TestRedigoDialsWithEveryOption also stands for loading the package at all.
func TestRedigoDialsWithEveryOption(t *testing.T) {
	server := newFakeRedis(t)
	server.user("traefik", "secret")
	server.handle("CLIENT", func(_ *fakeRedisConn, _ []string) string { return "+OK\r\n" })

	c, err := redis.Dial("tcp", server.addr,
		redis.DialConnectTimeout(fakeRedisPatience),
		redis.DialReadTimeout(fakeRedisPatience),
		redis.DialWriteTimeout(fakeRedisPatience),
		redis.DialKeepAlive(time.Minute),
		redis.DialUsername("traefik"),
		redis.DialPassword("secret"),
		redis.DialClientName("dynamicforward"),
		redis.DialDatabase(3))
	if err != nil {
		t.Fatal(err)
	}
	closeRedigo(t, c)
	want := "AUTH traefik secret, CLIENT SETNAME dynamicforward, SELECT 3"
	if got := strings.Join(server.commands(), ", "); got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	server.awaitOpen(0)
}

func TestRedigoDialsWithOurOwnDialer(t *testing.T) {
	server := newFakeRedis(t)
	dialed := ""
	dialer := &net.Dialer{Timeout: fakeRedisPatience}
	c := dialRedigo(t, server, redis.DialContextFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed = addr
		return dialer.DialContext(ctx, network, addr)
	}))
	closeRedigo(t, c)
	if dialed != server.addr {
		t.Errorf("dialed %q, want %q", dialed, server.addr)
	}
}

func TestRedigoDialFails(t *testing.T) {
	server := newFakeRedis(t)
	server.user("default", "secret")
	for _, password := range []string{"", "wrong"} {
		c, err := redis.Dial("tcp", server.addr, redis.DialPassword(password), redis.DialDatabase(1))
		if err == nil {
			c.Close()
			t.Fatalf("password %q was accepted", password)
		}
		if _, ok := err.(redis.Error); !ok {
			t.Errorf("password %q: %v is not an error reply", password, err)
		}
	}
	server.awaitOpen(0)

	server.stop()
	_, err := redis.Dial("tcp", server.addr)
	if err == nil {
		t.Fatal("dialed a server that is not there")
	}
	if _, ok := err.(redis.Error); ok {
		t.Errorf("%v is taken for an error reply", err)
	}
}

func TestRedigoDialsTLS(t *testing.T) {
	// httptest has a certificate for 127.0.0.1.
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	server := newFakeRedisTLS(t, &tls.Config{Certificates: web.TLS.Certificates})
	server.hset("hash", "field", "value")
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())

	c := dialRedigo(t, server, redis.DialUseTLS(true),
		redis.DialTLSHandshakeTimeout(fakeRedisPatience), redis.DialTLSConfig(&tls.Config{RootCAs: roots}))
	value, err := redis.String(c.Do("HGET", "hash", "field"))
	if err != nil || value != "value" {
		t.Errorf("got %q, %v", value, err)
	}
	closeRedigo(t, c)

	if _, err := redis.Dial("tcp", server.addr, redis.DialUseTLS(true)); err == nil {
		t.Error("trusted an unknown certificate")
	}
	server.awaitOpen(0)
}

func TestRedigoTLSHandshakeTimesOut(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	// Nobody accepts: the kernel takes the connection, and no handshake begins.
	_, err = redis.Dial("tcp", listener.Addr().String(),
		redis.DialUseTLS(true), redis.DialTLSHandshakeTimeout(20*time.Millisecond))
	if err == nil || !strings.Contains(err.Error(), "TLS handshake timeout") {
		t.Errorf("got %v, want a time-out", err)
	}
}

// A status reply (+OK) is no error, and an error reply (-ERR) is one, leaves the
// connection in order, and has the type redis.Error.
func TestRedigoTellsErrorRepliesFromStatusReplies(t *testing.T) {
	server := newFakeRedis(t)
	c := dialRedigo(t, server)
	server.hset("hash", "field", "value")
	server.handle("SHOUT", func(_ *fakeRedisConn, _ []string) string { return "+ERR is how this status begins\r\n" })

	ask := func(how string, do func(name string, args ...interface{}) (interface{}, error)) {
		if reply, err := do("SELECT", 0); err != nil || reply != "OK" {
			t.Errorf("%s: SELECT: got %v, %v", how, reply, err)
		}
		if reply, err := redis.String(do("SHOUT")); err != nil || reply != "ERR is how this status begins" {
			t.Errorf("%s: SHOUT: got %v, %v", how, reply, err)
		}
		_, err := do("GET", "hash")
		if err == nil || !strings.HasPrefix(err.Error(), "WRONGTYPE ") {
			t.Fatalf("%s: GET of a hash: got %v, want WRONGTYPE", how, err)
		}
		if _, ok := err.(redis.Error); !ok {
			t.Errorf("%s: GET of a hash: %v is no redis.Error", how, err)
		}
		if _, err := redis.String(do("HGET", "hash", "none")); err != redis.ErrNil {
			t.Errorf("%s: HGET of no field: got %v, want redis.ErrNil", how, err)
		}
		if value, err := redis.String(do("HGET", "hash", "field")); err != nil || value != "value" {
			t.Errorf("%s: HGET: got %q, %v", how, value, err)
		}
		if err := c.Err(); err != nil {
			t.Errorf("%s: the connection is broken: %v", how, err)
		}
	}

	ask("Do", func(name string, args ...interface{}) (interface{}, error) {
		return c.Do(name, args...)
	})
	ask("DoWithTimeout", func(name string, args ...interface{}) (interface{}, error) {
		return redis.DoWithTimeout(c, fakeRedisPatience, name, args...)
	})
	ask("DoContext", func(name string, args ...interface{}) (interface{}, error) {
		return redis.DoContext(c, context.Background(), name, args...)
	})
	ask("Receive", func(name string, args ...interface{}) (interface{}, error) {
		sendRedigo(t, c, name, args...)
		return c.Receive()
	})
	ask("ReceiveWithTimeout", func(name string, args ...interface{}) (interface{}, error) {
		sendRedigo(t, c, name, args...)
		return redis.ReceiveWithTimeout(c, fakeRedisPatience)
	})
	ask("ReceiveContext", func(name string, args ...interface{}) (interface{}, error) {
		sendRedigo(t, c, name, args...)
		return redis.ReceiveContext(c, context.Background())
	})

	// Do after Send answers with its own reply and the first error of them all.
	sendRedigo(t, c, "GET", "hash")
	reply, err := c.Do("PING")
	if reply != "PONG" || err == nil || !strings.HasPrefix(err.Error(), "WRONGTYPE ") {
		t.Errorf("Do after Send: got %v, %v", reply, err)
	}
	closeRedigo(t, c)
}

// An error inside an array stays a value of its type.
func TestRedigoReadsNestedReplies(t *testing.T) {
	server := newFakeRedis(t)
	server.handle("NEST", func(_ *fakeRedisConn, _ []string) string {
		return respArray(respBulk("invalidate"), respArray(respBulk("a"), respBulk("b")), respNil, "*-1\r\n", ":-12\r\n", "-ERR inside\r\n", "+OK\r\n", "*0\r\n")
	})
	c := dialRedigo(t, server)
	values, err := redis.Values(c.Do("NEST"))
	if err != nil || len(values) != 8 {
		t.Fatalf("got %v, %v", values, err)
	}
	if name, err := redis.String(values[0], nil); err != nil || name != "invalidate" {
		t.Errorf("0: got %v, %v", name, err)
	}
	keys, err := redis.Strings(values[1], nil)
	if err != nil || strings.Join(keys, " ") != "a b" {
		t.Errorf("1: got %v, %v", keys, err)
	}
	if values[2] != nil || values[3] != nil {
		t.Errorf("2, 3: got %v, %v, want nil", values[2], values[3])
	}
	if n, err := redis.Int(values[4], nil); err != nil || n != -12 {
		t.Errorf("4: got %v, %v", n, err)
	}
	if inside, ok := values[5].(redis.Error); !ok || string(inside) != "ERR inside" {
		t.Errorf("5: got %T %v", values[5], values[5])
	}
	if values[6] != "OK" {
		t.Errorf("6: got %v", values[6])
	}
	if none, err := redis.Values(values[7], nil); err != nil || len(none) != 0 {
		t.Errorf("7: got %v, %v", none, err)
	}
	closeRedigo(t, c)
}

// Whatever is no RESP breaks the connection, and is not taken for an answer.
func TestRedigoBrokenProtocolIsNoErrorReply(t *testing.T) {
	for _, broken := range []string{"?\r\n", "\r\n", "+no carriage return\n", "$x\r\n", "$3\r\nlonger\r\n", ":\r\n", ":-\r\n", ":1x\r\n", "*x\r\n"} {
		raw := broken
		server := newFakeRedis(t)
		server.handle("BREAK", func(_ *fakeRedisConn, _ []string) string { return raw })
		c := dialRedigo(t, server)
		_, err := c.Do("BREAK")
		if err == nil || !strings.HasPrefix(err.Error(), "redigo: ") {
			t.Fatalf("%q: got %v", raw, err)
		}
		if _, ok := err.(redis.Error); ok {
			t.Errorf("%q: %v is taken for an error reply", raw, err)
		}
		if c.Err() == nil {
			t.Errorf("%q: the connection is still used", raw)
		}
		server.awaitOpen(0)
	}
}

func TestRedigoServerHangsUpInTheMiddleOfAReply(t *testing.T) {
	server := newFakeRedis(t)
	server.set("key", "0123456789")
	for n := 0; n < 8; n++ {
		server.cut("GET", n)
		c := dialRedigo(t, server)
		_, err := c.Do("GET", "key")
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: got %v", n, err)
		}
		if c.Err() == nil {
			t.Errorf("after %d bytes: the connection is still used", n)
		}
	}
	server.heal()
	c := dialRedigo(t, server)
	if value, err := redis.String(c.Do("GET", "key")); err != nil || value != "0123456789" {
		t.Errorf("got %q, %v", value, err)
	}
	closeRedigo(t, c)
}

func TestRedigoServerHangs(t *testing.T) {
	server := newFakeRedis(t)
	server.hang("*")
	c := dialRedigo(t, server, redis.DialReadTimeout(20*time.Millisecond))
	_, err := c.Do("PING")
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want a time-out", err)
	}
	if c.Err() == nil {
		t.Error("the connection is still used")
	}
	server.awaitOpen(0)
}

// Large replies do not fit into redigo's read buffer.
func TestRedigoReadsLargeReplies(t *testing.T) {
	server := newFakeRedis(t)
	large := strings.Repeat("0123456789", 10000)
	server.set("key", large)
	server.handle("STATUS", func(_ *fakeRedisConn, _ []string) string { return "+" + large + "\r\n" })
	server.handle("ERROR", func(_ *fakeRedisConn, _ []string) string { return "-" + large + "\r\n" })
	c := dialRedigo(t, server)
	if value, err := redis.String(c.Do("GET", "key")); err != nil || value != large {
		t.Errorf("bulk: got %d bytes, %v", len(value), err)
	}
	if value, err := redis.String(c.Do("STATUS")); err != nil || value != large {
		t.Errorf("status: got %d bytes, %v", len(value), err)
	}
	if _, err := c.Do("ERROR"); err == nil || err.Error() != large {
		t.Error("error: not what was sent")
	}
	closeRedigo(t, c)
}

func TestRedigoWritesArguments(t *testing.T) {
	server := newFakeRedis(t)
	c := dialRedigo(t, server)
	args := []interface{}{"text", []byte("bytes\r\n$1"), 7, int64(-8), 1.5, true, false, nil, uint16(9), time.Second}
	want := []string{"text", "bytes\r\n$1", "7", "-8", "1.5", "1", "0", "", "9", "1s"}
	for i := range args {
		if got, err := redis.String(c.Do("PING", args[i])); err != nil || got != want[i] {
			t.Errorf("%v: got %q, %v", args[i], got, err)
		}
	}
	closeRedigo(t, c)
}

// One goroutine sends and another receives, which is how many requests share a
// connection.
func TestRedigoPipelines(t *testing.T) {
	server := newFakeRedis(t)
	c := dialRedigo(t, server)
	const n = 300
	received := make(chan error, 1)
	go func() {
		for i := 0; i < n; i++ {
			got, err := redis.String(c.Receive())
			if err == nil && got != strconv.Itoa(i) {
				err = errors.New("got " + got + ", want " + strconv.Itoa(i))
			}
			if err != nil {
				received <- err
				return
			}
		}
		received <- nil
	}()
	for i := 0; i < n; i++ {
		if err := c.Send("PING", strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 || i == n-1 {
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := awaitRedigo(t, received); err != nil {
		t.Error(err)
	}
	closeRedigo(t, c)
}

func TestRedigoCloseEndsReceive(t *testing.T) {
	server := newFakeRedis(t)
	server.hang("PING")
	c := dialRedigo(t, server)
	received := make(chan error, 1)
	sendRedigo(t, c, "PING")
	go func() {
		_, err := redis.ReceiveWithTimeout(c, 0)
		received <- err
	}()
	server.awaitCount("PING", 1)
	closeRedigo(t, c)
	if err := awaitRedigo(t, received); err == nil {
		t.Error("received something")
	}
	if _, err := c.Do("PING"); err == nil {
		t.Error("a closed connection works")
	}
	server.awaitOpen(0)
}

// DoContext and ReceiveContext start a goroutine of their own: a panic in there
// would end Traefik.
func TestRedigoContextEndsCommand(t *testing.T) {
	server := newFakeRedis(t)
	server.hang("PING")
	for n, how := range []string{"DoContext", "ReceiveContext"} {
		c := dialRedigo(t, server)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		receive := how == "ReceiveContext"
		if receive {
			sendRedigo(t, c, "PING")
		}
		run := func() {
			var err error
			if receive {
				_, err = redis.ReceiveContext(c, ctx)
			} else {
				_, err = redis.DoContext(c, ctx, "PING")
			}
			done <- err
		}
		go run()
		server.awaitCount("PING", n+1)
		cancel()
		if err := awaitRedigo(t, done); err != context.Canceled {
			t.Errorf("%s: got %v, want %v", how, err, context.Canceled)
		}
		if c.Err() == nil {
			t.Errorf("%s: the connection is still used", how)
		}
	}
	server.awaitOpen(0)
}

// The idle list is emptied from the front by Get, from the back by what does not
// fit into it, and at once by Close.
func TestRedigoPoolTakesIdleConnectionsAgain(t *testing.T) {
	server := newFakeRedis(t)
	server.hset("hash", "field", "value")
	borrowed := 0
	pool := redigoPool(server)
	pool.TestOnBorrow = func(c redis.Conn, _ time.Time) error {
		borrowed++
		_, err := c.Do("PING")
		return err
	}
	// One idle connection, then two.
	for _, n := range []int{1, 1, 2, 2} {
		conns := []redis.Conn{}
		for i := 0; i < n; i++ {
			conns = append(conns, pool.Get())
		}
		for _, c := range conns {
			value, err := redis.String(c.Do("HGET", "hash", "field"))
			if err != nil || value != "value" {
				t.Fatalf("got %q, %v", value, err)
			}
			closeRedigo(t, c)
		}
		server.awaitOpen(n)
	}
	if borrowed != 4 {
		t.Errorf("%d connections were used again, want 4", borrowed)
	}

	// A connection that died while idle is replaced.
	server.disconnect()
	server.awaitOpen(0)
	c := pool.Get()
	if value, err := redis.String(c.Do("HGET", "hash", "field")); err != nil || value != "value" {
		t.Errorf("after a disconnect: got %q, %v", value, err)
	}
	closeRedigo(t, c)
	server.awaitOpen(1)
}

func TestRedigoPoolDropsWhatIsTooMuch(t *testing.T) {
	server := newFakeRedis(t)
	for _, idle := range []int{0, 2} {
		pool := redigoPool(server)
		pool.MaxIdle = idle
		conns := []redis.Conn{pool.Get(), pool.Get(), pool.Get()}
		for _, c := range conns {
			if _, err := c.Do("PING"); err != nil {
				t.Fatal(err)
			}
		}
		server.awaitOpen(3)
		for _, c := range conns {
			closeRedigo(t, c)
		}
		server.awaitOpen(idle)
		if n := pool.IdleCount(); n != idle {
			t.Errorf("%d idle connections, want %d", n, idle)
		}
		server.disconnect()
		server.awaitOpen(0)
	}
}

func TestRedigoPoolCloses(t *testing.T) {
	server := newFakeRedis(t)
	pool := redigoPool(server)
	conns := []redis.Conn{pool.Get(), pool.Get()}
	for _, c := range conns {
		closeRedigo(t, c)
	}
	server.awaitOpen(2)
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	server.awaitOpen(0)
	if err := pool.Get().Err(); err == nil {
		t.Error("a closed pool gives connections")
	}
}

// One at a time waits: the pool waits in a select, which two goroutines must not come to
// at the same moment when it is interpreted (choose.go). The plugin has no pool.
func TestRedigoPoolWaitsForAConnection(t *testing.T) {
	server := newFakeRedis(t)
	pool := redigoPool(server)
	pool.MaxActive = 1
	pool.Wait = true
	const turns = 10
	held := pool.Get()
	for i := 0; i < turns; i++ {
		next := make(chan redis.Conn, 1)
		done := make(chan error, 1)
		wait := func() {
			c, err := pool.GetContext(context.Background())
			next <- c
			done <- err
		}
		go wait()
		if _, err := held.Do("PING"); err != nil {
			t.Fatal(err)
		}
		if len(next) > 0 {
			t.Fatal("got a connection while the only one was held")
		}
		closeRedigo(t, held)
		if err := awaitRedigo(t, done); err != nil {
			t.Fatal(err)
		}
		held = <-next
	}
	closeRedigo(t, held)
	if n := server.count("PING"); n != turns {
		t.Errorf("%d commands arrived, want %d", n, turns)
	}
	server.awaitOpen(1)
	if waited := pool.Stats().WaitCount; waited == 0 {
		t.Error("nobody waited")
	}
}

// Get always gives a connection; where there is none, it is one whose every
// method says why.
func TestRedigoPoolWithoutServer(t *testing.T) {
	server := newFakeRedis(t)
	server.stop()
	pool := redigoPool(server)
	ctx := context.Background()
	calls := map[string]func(c redis.Conn) error{
		"Err": func(c redis.Conn) error { return c.Err() },
		"Do": func(c redis.Conn) error {
			_, err := c.Do("HGET", "hash", "field")
			return err
		},
		"DoContext": func(c redis.Conn) error {
			_, err := redis.DoContext(c, ctx, "HGET", "hash", "field")
			return err
		},
		"DoWithTimeout": func(c redis.Conn) error {
			_, err := redis.DoWithTimeout(c, time.Second, "HGET", "hash", "field")
			return err
		},
		"Send":  func(c redis.Conn) error { return c.Send("HGET", "hash", "field") },
		"Flush": func(c redis.Conn) error { return c.Flush() },
		"Receive": func(c redis.Conn) error {
			_, err := c.Receive()
			return err
		},
		"ReceiveContext": func(c redis.Conn) error {
			_, err := redis.ReceiveContext(c, ctx)
			return err
		},
		"ReceiveWithTimeout": func(c redis.Conn) error {
			_, err := redis.ReceiveWithTimeout(c, time.Second)
			return err
		},
	}
	for name, call := range calls {
		c := pool.Get()
		err := call(c)
		var refused *net.OpError
		if !errors.As(err, &refused) {
			t.Errorf("%s: got %v, want why the dial failed", name, err)
		}
		closeRedigo(t, c)
	}
	if n := pool.ActiveCount(); n != 0 {
		t.Errorf("%d connections are counted, want none", n)
	}
}

func dialRedigo(t *testing.T, server *fakeRedis, options ...redis.DialOption) redis.Conn {
	t.Helper()
	bounded := []redis.DialOption{
		redis.DialConnectTimeout(fakeRedisPatience),
		redis.DialReadTimeout(fakeRedisPatience),
		redis.DialWriteTimeout(fakeRedisPatience),
	}
	c, err := redis.Dial("tcp", server.addr, append(bounded, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func redigoPool(server *fakeRedis) *redis.Pool {
	return &redis.Pool{
		MaxIdle:     2,
		IdleTimeout: time.Hour,
		Dial: func() (redis.Conn, error) {
			return redis.Dial("tcp", server.addr,
				redis.DialConnectTimeout(fakeRedisPatience),
				redis.DialReadTimeout(fakeRedisPatience),
				redis.DialWriteTimeout(fakeRedisPatience))
		},
	}
}

func sendRedigo(t *testing.T, c redis.Conn, name string, args ...interface{}) {
	t.Helper()
	if err := c.Send(name, args...); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func closeRedigo(t *testing.T, c redis.Conn) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func awaitRedigo(t *testing.T, result chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(fakeRedisPatience):
		t.Fatal("waited in vain")
	}
	return nil
}
