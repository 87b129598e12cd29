package dynamicforward

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
)

// usher takes handshakes to their nodes, one after the other, in a goroutine of its
// own.
//
// Yaegi: a call makes a frame with all variables and intermediate values of a function
// anew, and to make hundreds of them took longer than what a handshake uses them for. An
// usher's goroutine makes its frame once; a turn of its loop makes the variables that it
// declares, and nothing else. That is why all that most handshakes come through stands in
// one function, work, with its variables before the loop; what few need stands in functions
// of its own. An usher without work keeps what its last handshake has left in its frame
// until the next one.
type usher struct {
	begin chan bool
	done  chan *outcome

	// What is asked of it.
	m *middleware
	a *attempt // nil: the handshake goes where a shortcut leads
	w http.ResponseWriter
	r *http.Request

	t *tunnel // that of the handshake at hand
}

// outcome is what has come of a handshake. nil: a session has begun, or could not begin
// when the client's connection was taken over already. The request is over.
type outcome struct {
	unknown  bool           // it has to go the long way: no shortcut leads anywhere, it is no handshake, or has forged headers; nothing else counts
	way      *way           // where it went
	over     chan struct{}  // a session has begun; closed when it ends
	t        *tunnel        // to the node that has given response, in place of a session
	response *http.Response // nil: none
	err      error          // why there is no answer
	panicked interface{}    // what the usher has panicked with
}

// maxUshers is how many ushers without work stay.
const maxUshers = 32

// ushers are those without work, and wanted says that there may be none. Some may come
// back at the same moment and be too many; if there is no room for them they wait for it.
var (
	ushers = make(chan *usher, 2*maxUshers)
	wanted = make(chan bool)
)

// hireUshers sees to it that there is always an usher without work. Yaegi: a frame keeps
// the one alive that has called it, or begun its goroutine, so ushers are not begun by
// requests, nor by each other.
func hireUshers() {
	for {
		if len(ushers) == 0 {
			go work(&usher{begin: make(chan bool), done: make(chan *outcome)})
		}
		<-wanted
	}
}

// work is an usher's goroutine.
func work(u *usher) {
	defer resign(u)
	var (
		m                               *middleware
		a                               *attempt
		w                               http.ResponseWriter
		r, out                          *http.Request
		header, more                    http.Header
		connection, before, contentType []string
		usual, typed                    bool
		to                              *way
		t                               *tunnel
		place                           *crowd
		g                               *gate
		ctx, limited                    context.Context
		cancel                          context.CancelFunc
		conn, taken, inner              net.Conn
		text, client                    string
		stop                            func() bool
		size                            int
		answer                          []byte
		parsed                          *parsedAnswer
		buffered                        *bufio.ReadWriter
		result                          *outcome
		err, failure                    error
		kind, known                     reflect.Type // of taken, and of the one before
		field                           int          // of known: see wrapping
		up, down                        *direction
	)
	rest := &bytes.Buffer{}
	page := make([]byte, answerBuffer)
	// A handshake that is broken off has its connection closed by another goroutine, which
	// has to be through before conn is the next one's. Yaegi: what is handed to AfterFunc
	// as a function of a compiled type is not wrapped anew each time.
	gone := make(chan bool, 1)
	giveUp := context.CancelFunc(func() {
		conn.Close()
		gone <- true
	})
	for len(ushers) < maxUshers { // continue: the handshake at hand has come to its end
		u.t = nil
		ushers <- u
		<-u.begin
		if len(ushers) == 0 {
			wanted <- true
		}
		m = u.m
		a = u.a
		w = u.w
		r = u.r
		header = r.Header
		connection = header["Connection"]
		usual = len(connection) == 1 && connection[0] == "Upgrade" // as Traefik's entry point leaves it
		if a == nil {
			m.short.mu.RLock()
			to = m.short.known[r.URL.RawQuery]
			m.short.mu.RUnlock()
			if to == nil {
				to, _ = ledBy(m.short, r)
			}
			if to == nil || // not isUpgrade, which would cost a call:
				!usual && !namesUpgrade(connection) || header["Upgrade"] == nil || r.ContentLength != 0 || r.ProtoMajor != 1 {
				u.done <- &outcome{unknown: true}
				continue
			}
			if !usual {
				dropForged(header) // what Connection names is not in the text
			}
			header[nodeHeader] = to.header
		} else {
			to = a.way
		}

		// A place among the sessions of the node, as take gives it.
		t = &tunnel{}
		u.t = t
		everybody.mu.Lock()
		place = everybody.nodes[to.gate.address]
		if place == nil || to.maxSessions > 0 {
			place = take(everybody, to.gate.address, to.maxSessions)
		} else {
			place.count++
		}
		everybody.mu.Unlock()
		t.place = place
		if place == nil {
			u.done <- &outcome{way: to, err: nodeFull(to)}
			continue
		}

		// A connection to it, as dial makes it.
		g = to.gate
		ctx = r.Context()
		if g.load.Add(1) > maxDials || !g.literal {
			conn, err = g.dialInTurn(ctx)
		} else {
			conn, err = g.fence.dialer.DialContext(ctx, "tcp", g.address)
			if g.load.Add(-1) >= maxDials-1 || err != nil {
				g.leave(false, err)
			}
		}
		t.node = conn
		if err == nil && to.secure {
			conn, err = overTLS(ctx, m.nodes, to.node, conn)
			t.node = conn
		}
		if err != nil {
			abandon(t)
			u.done <- &outcome{way: to, err: err}
			continue
		}

		// The handshake as the node gets it: as the client sent it, but for the headers
		// that Traefik's own proxy changes too. The request stays as it is. Headers that
		// clients may not send show in the text: by a shortcut no name was looked at.
		out = r
		if !to.asSent {
			out = directed(r, to)
		}
		if !usual {
			header = withoutNamed(header)
		}
		text = r.Method + " " + out.URL.RequestURI() + " HTTP/1.1\r\nHost: " + out.Host + "\r\nConnection: Upgrade\r\nUpgrade: " + r.Header["Upgrade"][0] + "\r\n"
		client, _, _ = net.SplitHostPort(r.RemoteAddr)
		before = header["X-Forwarded-For"]
		if before != nil {
			client = forwardedFor(before, client)
		}
		if client != "" {
			text += "X-Forwarded-For: " + client + "\r\n"
		}
		if r.Header["Te"] != nil || r.Method != http.MethodGet {
			text += rareHeaders(r.Method, r.Header["Te"])
		}
		rest.Reset()
		_ = header.WriteSubset(rest, notCopied) // a buffer takes everything
		text = strings.ReplaceAll(text+rest.String()+"\r\n", webSocketInGo, webSocketName)
		if len(text) > usualHandshake {
			rest = &bytes.Buffer{}
		}
		if a == nil && strings.Contains(text, forgedStart) {
			abandon(t)
			u.done <- &outcome{unknown: true}
			continue
		}

		// The answer. Most agree, in one piece with nothing behind it, and go to the client
		// as they are, whatever else their headers say: parse is for all others, and for
		// where something has to be added. The client may go away meanwhile; it may have sent
		// something already, which waits.
		limited, cancel = context.WithTimeout(ctx, to.patience)
		stop = context.AfterFunc(limited, giveUp)
		_, err = conn.Write([]byte(text))
		size, failure = conn.Read(page)
		answer = page[:size]
		more = w.Header()
		contentType, typed = more["Content-Type"]
		parsed = nil
		if failure != nil || !agreement.Match(answer) || !bytes.Contains(answer, toWebSocket) ||
			r.Header["Upgrade"][0] != webSocket || m.debugHeaders ||
			len(more) > 1 || len(more) == 1 && (!typed || len(contentType) > 0) { // Traefik has nil there, so that nobody guesses one
			parsed, failure = parse(w, r, conn, answer, failure)
		}
		if !stop() {
			<-gone
			err = limited.Err()
		}
		cancel()
		if err == nil {
			err = failure
		}
		if err != nil {
			abandon(t)
			u.done <- &outcome{way: to, err: err}
			continue
		}
		if parsed != nil {
			if a != nil && m.debugHeaders {
				a.debug(parsed.response.Header)
			}
			if parsed.response.StatusCode != http.StatusSwitchingProtocols {
				u.done <- &outcome{way: to, t: t, response: parsed.response}
				continue
			}
		}

		// The session: the client's connection is taken over, and without what it wraps,
		// where that can be. What either side has sent already goes first.
		taken, buffered, err = http.NewResponseController(w).Hijack()
		if err != nil {
			abandon(t)
			u.done <- &outcome{way: to, err: fmt.Errorf("the client's connection cannot be taken over: %w", err)}
			continue
		}
		t.client = taken
		if parsed == nil {
			_, err = taken.Write(answer)
		} else {
			err = parsed.agree(taken, more)
		}
		kind = reflect.TypeOf(taken)
		if kind != known {
			known = kind
			field = wrapping(kind)
		}
		inner = nil
		if field >= 0 {
			inner = reflect.ValueOf(taken).Elem().Field(field).Interface().(net.Conn)
		}
		if err != nil || inner == nil || buffered.Reader.Buffered() > 0 {
			err = withMore(t, inner, buffered.Reader, err)
			if err != nil {
				abandon(t)
				logFailure(errNodeDown, "%s: a session could not start: %s", m.name, err.Error())
				u.done <- nil
				continue
			}
		} else {
			t.client = inner
		}
		result = nil
		if m.sessions.bounded {
			result = bound(t, m, a, to, r)
		}
		t.plain = !to.secure && r.TLS == nil
		up = <-pumps
		if len(pumps) == 0 {
			pumpsWanted <- true
		}
		down = <-pumps
		if len(pumps) == 0 {
			pumpsWanted <- true
		}
		up.t = t
		up.to = conn
		up.from = t.client
		up.dst = io.MultiWriter(conn)
		up.src.R = t.client
		up.src.N = stint
		down.t = t
		down.to = t.client
		down.from = conn
		down.dst = io.MultiWriter(t.client)
		down.src.R = conn
		down.src.N = stint
		if t.silence != nil {
			wake(up, t.silence.untold)
			wake(down, t.silence.untold)
		}
		up.again <- true
		down.again <- true
		u.done <- result
	}
}

// resign is deferred by work: an usher that panics leaves nothing open, and its panic
// goes to the request.
func resign(u *usher) {
	cause := recover()
	if cause == nil {
		return
	}
	if u.t != nil {
		abandon(u.t)
	}
	u.done <- &outcome{panicked: cause}
}
