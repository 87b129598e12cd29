package dynamicforward

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/mna/redisc"
)

// testPatience ends what a test waits for, so that it fails instead of hanging.
func testPatience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fakeRedisPatience)
	end := func() { cancel() }
	t.Cleanup(end)
	return ctx
}

// A server that begins an answer and falls silent holds nobody up.
func TestHalfAnAnswerHoldsNobodyUp(t *testing.T) {
	for what, half := range map[string]string{
		"a length alone":       "$10",
		"a part of the value":  "$10\r\n10.0.0",
		"no end of the line":   "$10\r\n10.0.0.1:1",
		"a part of an array":   "*2\r\n$1\r\na\r\n",
		"an error without end": "-ERR some",
	} {
		redis := newPushingRedis(t)
		table := testTable(t, redis.addr, func(c *Config) { c.Redis.ReadTimeout = "100ms" })
		answer := half
		stall := func(c *fakeRedisConn, _ []string) string {
			c.hanging = true // from now on
			return answer
		}
		redis.handle("HGET", stall)
		_, _, err := table.find(testPatience(t), "a", "1")
		if !errors.Is(err, errRedisDown) {
			t.Fatalf("%s: got %v", what, err)
		}
		redis.handle("HGET", nil)
		redis.hset("a", "1", "10.0.0.1:1")
		await(t, table, "a", "1", "10.0.0.1:1")
	}
}

// The same where an answer has two parts: one to ASKING, and one to the question.
func TestHalfAnAnswerToASKINGHoldsNobodyUp(t *testing.T) {
	for _, silent := range []string{"ASKING", "HGET"} {
		c := newFakeCluster(t, 2)
		key := c.keyOn(0, 0)
		c.nodes[1].hset(key, "1", "10.0.0.1:1")
		table := c.table(t, func(config *Config) { config.Redis.ReadTimeout = "100ms" })
		c.mu.Lock()
		c.asks[redisc.Slot(key)] = 1
		c.asked[key] = true
		c.mu.Unlock()
		c.nodes[1].hang(silent)
		_, _, err := table.find(testPatience(t), key, "1")
		if !errors.Is(err, errRedisDown) {
			t.Fatalf("%s is not answered: got %v", silent, err)
		}
		c.nodes[1].heal()
		await(t, table, key, "1", "10.0.0.1:1")
	}
}

// lastRead is a connection that somebody closes while an answer is being read:
// one comes, and the connection is gone.
type lastRead struct {
	net.Conn
	reads int // until then
	gone  func()
}

// Read implements net.Conn.
func (c *lastRead) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.reads--
	if c.reads == 0 {
		c.gone()
	}
	return n, err
}

// landing is a linkOwner that keeps what has landed.
type landing struct{ errs chan error }

func (l *landing) turned()                       {}
func (l *landing) changed(_ *session, _ *change) {}
func (l *landing) landed(_ *lookup, _ *session, _ string, err error) {
	l.errs <- err
}

// A connection that ends in the moment in which an answer comes ends each look-up
// with a reason.
func TestAConnectionThatEndsWithAnAnswer(t *testing.T) {
	for _, c := range []struct {
		what    string
		asking  bool
		replies []string
	}{
		{"the only part of an answer", false, []string{"$1\r\na\r\n"}},
		{"the second part of an answer", true, []string{"+OK\r\n", "$1\r\na\r\n"}},
	} {
		server, end := tcpPair(t)
		ending := &lastRead{Conn: end, reads: len(c.replies)}
		var conn net.Conn = ending
		client := redis.NewConn(conn, time.Second, time.Second)
		ending.gone = func() { client.Close() }
		owner := &landing{errs: make(chan error, 2)}
		k := newLink(testSettings(t, "127.0.0.1:1", nil), "127.0.0.1:1", owner)
		s := newSession(k.endpoint, client, nil)
		s.sent = make(chan *lookup) // so that what is sent has been taken
		received := make(chan struct{})
		go k.receive(s, received)
		replies := c.replies
		asking := c.asking
		play := func() {
			_, _ = io.WriteString(server, replies[0])
			s.sent <- &lookup{asking: asking}
			for _, more := range replies[1:] {
				_, _ = io.WriteString(server, more)
			}
			s.sent <- &lookup{}
			close(s.sent)
		}
		go play()
		for i := 0; i < 2; i++ {
			which, err := choose(owner.errs, time.After(fakeRedisPatience))
			if which == 1 {
				t.Fatalf("%s: a look-up waits for ever", c.what)
			}
			if err == nil || !errors.Is(err.(error), errRedisDown) {
				t.Errorf("%s: got %v", c.what, err)
			}
		}
		<-received
		if s.err == nil || errors.Is(s.err, errPanic) {
			t.Errorf("%s: the session ended with %v", c.what, s.err)
		}
	}
}
