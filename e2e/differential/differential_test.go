// Package differential plays requests of many shapes, byte for byte the same,
// through a static Traefik route and through the plugin's to the same node. What
// the node receives and what the client gets back must be the same, but for the
// differences that the README gives reasons for.
package differential

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// shape is a way to ask and a way to answer.
type shape struct {
	name    string
	client  func(*caller)
	node    func(*server)
	differs *difference // nil: not at all
}

// outcomes are what both ends have seen.
type outcomes struct{ node, client string }

func (o outcomes) String() string { return "the node:\n" + o.node + "the client:\n" + o.client }

func TestSameAsAStaticRoute(t *testing.T) {
	l := newLaboratory(t)
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			static := l.exchange(t, l.static, s)
			usual := asWritten.expected(static)
			want := usual
			if s.differs == asWritten {
				usual = static
			}
			if s.differs != nil {
				if want = s.differs.expected(want); want == usual {
					t.Errorf("%q makes no difference to this", s.differs.what)
				}
			}
			for _, time := range []string{"first", "second"} { // the short way is for a route that is known
				if got := l.exchange(t, l.plugin, s); got != want {
					t.Errorf("the plugin, the %s time:\n%v\nwant\n%v", time, got, want)
				}
			}
			if testing.Verbose() && s.differs == nil {
				t.Logf("seen:\n%v", want)
			}
		})
	}
}

// patience bounds what happens at once unless it never does.
const patience = 30 * time.Second

// laboratory is two Traefiks in front of one node. Neither keeps idle connections
// to it, so no exchange depends on the one before.
type laboratory struct {
	static, plugin *stack.Traefik
	node           *stack.RawNode
	current        atomic.Pointer[exchange]
}

func newLaboratory(t *testing.T) *laboratory {
	t.Helper()
	l := &laboratory{}
	node, err := stack.StartRawNodeAt("127.0.0.2:0", func(c net.Conn) { l.current.Load().serve(c) })
	must(t, err)
	t.Cleanup(node.Stop)
	redis, err := stack.StartRedis(stack.RedisOptions{})
	must(t, err)
	t.Cleanup(redis.Stop)
	_, err = redis.Do("SET", "node", node.Addr())
	must(t, err)
	l.node = node

	const everything = "PathRegexp(`^`)"
	static := stack.Dynamic{
		Routers: map[string]stack.Router{"everything": {Rule: everything, Service: "node"}},
		Services: map[string]any{"node": map[string]any{"loadBalancer": map[string]any{
			"serversTransport": "fresh",
			"servers":          []map[string]string{{"url": "http://" + node.Addr()}},
		}}},
	}
	l.static = start(t, static.YAML()+"  serversTransports:\n    fresh: {maxIdleConnsPerHost: -1}\n")
	l.plugin = start(t, stack.Dynamic{
		Routers: map[string]stack.Router{"everything": {Rule: everything, Middlewares: []string{"plugin"}}},
		Middlewares: map[string]stack.Options{"plugin": {
			"redis":            stack.Options{"endpoints": []string{redis.Addr()}},
			"key":              "node",
			"field":            "",
			"serversTransport": stack.Options{"maxIdleConnsPerHost": -1},
		}},
	}.YAML())
	return l
}

// start starts a Traefik that must be well when the test ends.
func start(t *testing.T, dynamic string) *stack.Traefik {
	t.Helper()
	traefik, err := stack.StartTraefik(stack.TraefikOptions{Dynamic: dynamic})
	must(t, err)
	t.Cleanup(func() {
		if err := traefik.Healthy(); err != nil {
			t.Error(err)
		}
		traefik.Stop()
	})
	return traefik
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exchange plays a shape through one of the Traefiks.
func (l *laboratory) exchange(t *testing.T, through *stack.Traefik, s shape) outcomes {
	t.Helper()
	x := &exchange{shape: s, cue: make(chan struct{}, 1), heard: make(chan struct{}, 1)}
	l.current.Store(x)
	conn, err := net.Dial("tcp", through.Addr())
	must(t, err)
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	c := &caller{Conn: conn, in: bufio.NewReader(conn), x: x}
	s.client(c)
	conn.Close()
	for deadline := time.Now().Add(patience); l.node.Open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a connection to the node stays open")
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return outcomes{node: x.seen.String(), client: c.seen.String()}
}

// exchange is a shape that is played.
type exchange struct {
	shape shape
	cue   chan struct{} // see caller.cue
	heard chan struct{} // see server.cue

	mu   sync.Mutex
	seen strings.Builder
}

// serve is the node.
func (x *exchange) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(patience))
	x.shape.node(&server{Conn: c, in: bufio.NewReader(c), x: x})
}

// caller is the client's end of an exchange.
type caller struct {
	net.Conn
	in   *bufio.Reader
	x    *exchange
	seen strings.Builder

	continued bool // it was told to go on
}

// note writes down what the client has seen.
func (c *caller) note(format string, args ...any) { fmt.Fprintf(&c.seen, format+"\n", args...) }

// say sends bytes.
func (c *caller) say(text string) {
	if _, err := io.WriteString(c, text); err != nil {
		c.note("cannot send: %s", fate(err))
	}
}

// hear reads an answer to its end, with the informational ones before it. It
// tells whether another may come.
func (c *caller) hear(method string) bool {
	m := c.hearHead()
	if m == nil {
		return false
	}
	m.readBody(c.in, method != "HEAD")
	c.note("%v", m)
	return !m.broken
}

// hearHead reads the head of an answer, and all of the informational ones before. 100
// Continue is written down once: the node says it, and so does net/http for Traefik,
// unless that comes too late.
func (c *caller) hearHead() *message {
	for {
		m, err := readHead(c.in)
		if err != nil {
			c.note("no answer: %s", fate(err))
			return nil
		}
		if !m.informational() {
			return m
		}
		if m.status() != "100" || !c.continued {
			c.note("%v", m)
		}
		c.continued = c.continued || m.status() == "100"
	}
}

// hearBytes reads so many bytes.
func (c *caller) hearBytes(count int) {
	bytes := make([]byte, count)
	n, err := io.ReadFull(c.in, bytes)
	c.note("bytes: %q", bytes[:n])
	if err != nil {
		c.note("and then %s", fate(err))
	}
}

// hearEnd reads until the connection ends.
func (c *caller) hearEnd() {
	rest, err := io.ReadAll(c.in)
	c.note("until the end: %q %s", rest, fate(err))
}

// isDone says that nothing more will come.
func (c *caller) isDone() { _ = c.Conn.(*net.TCPConn).CloseWrite() }

// cue tells a node that waits for it to go on.
func (c *caller) cue() { c.x.cue <- struct{}{} }

// await waits for the node's cue.
func (c *caller) await() {
	select {
	case <-c.x.heard:
	case <-time.After(patience):
		c.note("waited in vain for the node")
	}
}

// again asks Traefik itself on the same connection, to see whether it was kept.
func (c *caller) again() {
	c.say("GET /.generation HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if m, err := readHead(c.in); err != nil {
		c.note("the connection was closed")
	} else if strings.Contains(m.String(), "X-Config-Generation: ") {
		c.note("the connection was kept")
	} else {
		c.note("then came %v", m)
	}
}

// server is the node's end of a connection.
type server struct {
	net.Conn
	in *bufio.Reader
	x  *exchange
}

// note writes down what the node has seen.
func (s *server) note(format string, args ...any) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	fmt.Fprintf(&s.x.seen, format+"\n", args...)
}

// say sends bytes.
func (s *server) say(text string) { _, _ = io.WriteString(s, text) }

// hear reads a request to its end. It tells whether there was one.
func (s *server) hear() bool {
	m, err := readHead(s.in)
	if err != nil {
		return false
	}
	m.readBody(s.in, true)
	s.note("%v", m)
	return !m.broken
}

// hearHead reads the head of a request.
func (s *server) hearHead() *message {
	m, err := readHead(s.in)
	if err != nil {
		return nil
	}
	return m
}

// hearEnd reads until the connection ends.
func (s *server) hearEnd() {
	rest, err := io.ReadAll(s.in)
	s.note("until the end: %q %s", rest, fate(err))
}

// await waits for the client's cue.
func (s *server) await() {
	select {
	case <-s.x.cue:
	case <-time.After(patience):
		s.note("waited in vain for the client")
	}
}

// cue tells a client that waits for it to go on.
func (s *server) cue() { s.x.heard <- struct{}{} }

// message is a request or a response as it is on the wire.
type message struct {
	start    string
	fields   []string // as they came
	body     string
	trailers []string
	broken   bool   // nothing can follow on this connection
	ended    string // how the body ended, where that is worth a word
}

// readHead reads a message's first line and its header fields.
func readHead(in *bufio.Reader) (*message, error) {
	start, err := readLine(in)
	if err != nil {
		return nil, err
	}
	m := &message{start: start}
	m.fields, err = readFields(in)
	return m, err
}

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// readFields reads lines up to an empty one.
func readFields(in *bufio.Reader) ([]string, error) {
	var fields []string
	for {
		line, err := readLine(in)
		if err != nil || line == "" {
			return fields, err
		}
		fields = append(fields, line)
	}
}

// readBody reads the body, which a response to HEAD does not have.
func (m *message) readBody(in *bufio.Reader, has bool) {
	response := strings.HasPrefix(m.start, "HTTP/")
	length := m.field("Content-Length")
	var body []byte
	var err error
	switch {
	case !has || response && (m.status() == "204" || m.status() == "304"):
	case strings.EqualFold(m.field("Transfer-Encoding"), "chunked"):
		if body, err = io.ReadAll(httputil.NewChunkedReader(in)); err == nil {
			m.trailers, err = readFields(in)
		}
	case length != "":
		n, _ := strconv.Atoi(length)
		body = make([]byte, n)
		n, err = io.ReadFull(in, body)
		body = body[:n]
	case response:
		body, err = io.ReadAll(in)
		m.broken, m.ended = true, "by the end of the connection"
	}
	if err != nil {
		m.broken, m.ended = true, "cut short, "+fate(err)
	}
	m.body = string(body)
}

// field returns the value of a header field, or nothing.
func (m *message) field(name string) string {
	for _, f := range m.fields {
		if key, value, _ := strings.Cut(f, ":"); strings.EqualFold(key, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// status returns the status of a response.
func (m *message) status() string {
	_, rest, _ := strings.Cut(m.start, " ")
	status, _, _ := strings.Cut(rest, " ")
	return status
}

func (m *message) informational() bool {
	return strings.HasPrefix(m.status(), "1") && m.status() != "101"
}

// String shows a message with its fields in order of their names: the order on
// the wire is a map's. A long body is shown by its length and its hash.
func (m *message) String() string {
	body := m.body
	if len(body) > 100 {
		body = fmt.Sprintf("%d bytes, SHA-256 %x", len(body), sha256.Sum256([]byte(body)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s\n", m.start)
	for _, f := range sorted(m.fields) {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	if body != "" || m.ended != "" {
		fmt.Fprintf(&b, "  body: %q %s\n", body, m.ended)
	}
	for _, f := range sorted(m.trailers) {
		fmt.Fprintf(&b, "  trailer: %s\n", f)
	}
	return strings.TrimRight(b.String(), "\n")
}

// sorted returns fields by name, those of one name as they came; what a clock
// says is left out.
func sorted(fields []string) []string {
	fields = slices.Clone(fields)
	slices.SortStableFunc(fields, func(a, b string) int {
		nameA, _, _ := strings.Cut(a, ":")
		nameB, _, _ := strings.Cut(b, ":")
		return strings.Compare(nameA, nameB)
	})
	for i, f := range fields {
		if strings.HasPrefix(f, "Date: ") {
			fields[i] = "Date: now"
		}
	}
	return fields
}

// fate says how a connection ended, as far as it is the same every time: a close
// and a reset race.
func fate(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &timeout) && timeout.Timeout():
		return "time-out"
	default:
		return "the connection ended"
	}
}

// overHTTP2 asks in HTTP/2, with prior knowledge.
func overHTTP2(method, body string, trailer http.Header, fields ...string) func(*caller) {
	return func(c *caller) {
		transport := &http.Transport{
			DisableCompression: true,
			DialContext:        func(context.Context, string, string) (net.Conn, error) { return c.Conn, nil },
			Protocols:          new(http.Protocols),
		}
		transport.Protocols.SetUnencryptedHTTP2(true)
		defer transport.CloseIdleConnections()
		r, err := http.NewRequest(method, "http://game.example/game?a=b", nil)
		if body != "" {
			r, err = http.NewRequest(method, "http://game.example/game?a=b", io.MultiReader(strings.NewReader(body)))
		}
		if err != nil {
			c.note("%v", err)
			return
		}
		r.Trailer = trailer
		for _, f := range append([]string{"User-Agent: differential", "Accept-Encoding: identity"}, fields...) {
			name, value, _ := strings.Cut(f, ": ")
			r.Header.Add(name, value)
		}
		early := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			c.note("  %d %v", code, header)
			return nil
		}}
		resp, err := transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), early)))
		if err != nil {
			c.note("no answer: %v", err)
			return
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		if resp.Header.Get("Date") != "" {
			resp.Header.Set("Date", "now")
		}
		c.note("  %s %s %v, length %d, body %q %s, trailer %v", resp.Proto, resp.Status, resp.Header, resp.ContentLength, content, fate(err), resp.Trailer)
	}
}
