package stack

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// NodeOptions say what a game node is like. The zero value answers a plain
// request with "<p>hello, world!</p>" and echoes WebSocket messages.
type NodeOptions struct {
	// Name is sent in the response header X-Node; default: the address.
	Name string
	// Addr is where it listens; default: a free port of 127.0.0.1.
	Addr string
	// Body answers a request that asks for no upgrade.
	Body string
	// Handler, if there is one, answers such a request in place of Body.
	Handler http.Handler
	// Keep is how many requests Requests returns at most, the latest ones;
	// default: 1000.
	Keep int
}

// Node is a game node in this process: it answers plain requests, echoes
// WebSocket messages of up to 64 MiB, offers the subprotocol "chat", and
// remembers who came.
type Node struct {
	o    NodeOptions
	addr string

	mu       sync.Mutex
	listener net.Listener
	server   *http.Server
	conns    map[net.Conn]bool
	seen     []Seen
	count    int
	sessions map[*Session]bool
	arrived  chan struct{} // closed and replaced at every change of sessions
}

// Seen is a request as a node received it.
type Seen struct {
	Method, RequestURI, Host, Proto, RemoteAddr string
	Header                                      http.Header
}

// StartNode starts a node.
func StartNode(o NodeOptions) (*Node, error) {
	if o.Body == "" {
		o.Body = "<p>hello, world!</p>"
	}
	if o.Keep == 0 {
		o.Keep = 1000
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	n := &Node{o: o, addr: o.Addr, arrived: make(chan struct{})}
	if err := n.Start(); err != nil {
		return nil, err
	}
	return n, nil
}

// Start starts the node again at its address after Kill or Stop.
func (n *Node) Start() error {
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addr = l.Addr().String()
	n.conns, n.sessions = map[net.Conn]bool{}, map[*Session]bool{}
	n.listener = l
	n.server = &http.Server{
		Handler:     http.HandlerFunc(n.serve),
		ConnState:   n.track,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	go n.server.Serve(l)
	return nil
}

// Addr returns the node's address, host:port.
func (n *Node) Addr() string { return n.addr }

// Name returns what the node calls itself in X-Node.
func (n *Node) Name() string {
	if n.o.Name == "" {
		return n.addr
	}
	return n.o.Name
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

func (n *Node) track(c net.Conn, state http.ConnState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch state {
	case http.StateNew:
		n.conns[c] = true
	case http.StateClosed:
		delete(n.conns, c)
	}
}

func (n *Node) serve(w http.ResponseWriter, r *http.Request) {
	n.remember(r)
	w.Header().Set("X-Node", n.Name())
	switch {
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		n.play(w, r)
	case n.o.Handler != nil:
		n.o.Handler.ServeHTTP(w, r)
	default:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, n.o.Body)
	}
}

func (n *Node) remember(r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.count++
	if len(n.seen) >= 2*n.o.Keep {
		n.seen = append(n.seen[:0], n.seen[len(n.seen)-n.o.Keep:]...)
	}
	n.seen = append(n.seen, Seen{
		Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Proto: r.Proto,
		RemoteAddr: r.RemoteAddr, Header: r.Header.Clone(),
	})
}

// Requests returns the latest requests that the node has seen, upgrades
// included, oldest first.
func (n *Node) Requests() []Seen {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Seen(nil), n.seen[max(0, len(n.seen)-n.o.Keep):]...)
}

// Last returns the request that the node saw last, if it saw one.
func (n *Node) Last() (Seen, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.seen) == 0 {
		return Seen{}, false
	}
	return n.seen[len(n.seen)-1], true
}

// Count returns how many requests the node has seen.
func (n *Node) Count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count
}

// Sessions returns the WebSocket sessions that are open.
func (n *Node) Sessions() []*Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.sessions))
}

// Session waits for the session that was opened with the given request URI.
func (n *Node) Session(ctx context.Context, requestURI string) (*Session, error) {
	for {
		n.mu.Lock()
		for s := range n.sessions {
			if s.Request.RequestURI == requestURI {
				n.mu.Unlock()
				return s, nil
			}
		}
		arrived := n.arrived
		n.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, errors.New("the node has no session of " + requestURI)
		}
	}
}

// Kill ends the node as a crash of its machine's process would: it stops
// listening and resets every connection.
func (n *Node) Kill() {
	n.end(func(c net.Conn) {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // the close sends RST in place of FIN
		}
		_ = c.Close()
	})
}

// Stop ends the node and closes every connection.
func (n *Node) Stop() { n.end(func(c net.Conn) { _ = c.Close() }) }

func (n *Node) end(hangUp func(net.Conn)) {
	n.listener.Close()
	n.mu.Lock()
	conns := slices.Collect(maps.Keys(n.conns)) // upgraded ones included
	n.mu.Unlock()
	for _, c := range conns {
		hangUp(c)
	}
	n.server.Close()
}

// Session is a WebSocket session on a node, which echoes its messages until
// either side ends it.
type Session struct {
	Request Seen

	conn *websocket.Conn
	done chan struct{}
	err  error
}

func (n *Node) play(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{"chat"},
		InsecureSkipVerify: true, // any Origin may play
	})
	if err != nil {
		return // Accept has answered
	}
	conn.SetReadLimit(64 << 20)
	s := &Session{conn: conn, done: make(chan struct{}), Request: Seen{
		Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Proto: r.Proto,
		RemoteAddr: r.RemoteAddr, Header: r.Header,
	}}
	n.change(func() { n.sessions[s] = true })
	s.err = s.echo()
	_ = conn.CloseNow()
	n.change(func() {
		delete(n.sessions, s)
		delete(n.conns, r.Context().Value(connKey{}).(net.Conn))
	})
	close(s.done)
}

func (n *Node) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.arrived)
	n.arrived = make(chan struct{})
}

func (s *Session) echo() error {
	for {
		kind, message, err := s.conn.Read(context.Background())
		if err != nil {
			return err
		}
		if err := s.conn.Write(context.Background(), kind, message); err != nil {
			return err
		}
	}
}

// Send sends a text message to the client.
func (s *Session) Send(ctx context.Context, text string) error {
	return s.conn.Write(ctx, websocket.MessageText, []byte(text))
}

// Ping sends a ping and waits for the client's pong.
func (s *Session) Ping(ctx context.Context) error { return s.conn.Ping(ctx) }

// Close ends the session with a close frame and waits for the client's.
func (s *Session) Close(code websocket.StatusCode, reason string) error {
	return s.conn.Close(code, reason)
}

// CloseNow ends the session by closing its connection.
func (s *Session) CloseNow() error { return s.conn.CloseNow() }

// Ended returns a channel that is closed when the session has ended.
func (s *Session) Ended() <-chan struct{} { return s.done }

// Err returns what ended the session, once it has ended; see
// websocket.CloseStatus.
func (s *Session) Err() error {
	<-s.done
	return s.err
}
