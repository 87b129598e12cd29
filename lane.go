package dynamicforward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"os"
	"reflect"
	"sync"
	"time"
)

// A node that is asked for much gets lanes. A lane is a connection to the node, with
// a proxy and a buffer of its own, that carries plain GETs one after the other.
// http.Transport has two goroutines for each connection, and to wake them costs more
// than all that is interpreted on the short way; a lane has none. All other requests,
// and those that find no lane, go by the transport.
//
// The price is that nobody reads a lane between two requests. What a node sends there
// that nobody has asked for would be taken for the next answer, where the transport
// closes such a connection at once, if it can. So no lane that has been idle for long
// takes a request unread: a node that is asked for little gets none; those that are not
// used rest, and are read before they are used again; the watchman reads those that are
// idle when it comes by; and a node that has once said more than it was asked for has no
// lanes any more.
const (
	// laneTick is how often the watchman looks after the lanes. One that was idle
	// from one look to the next rests from then on, until it is needed or has rested
	// for idleConnTimeout; one whose client has gone, or whose node has not answered
	// in time, is closed at a look.
	laneTick = 100 * time.Millisecond
	// Of restLooks looks one is at a way all of whose lanes rest. A way is looked at no
	// more after emptyLooks looks in a row that have found no lane of it.
	restLooks  = 10
	emptyLooks = 10
	// busyNode is how many requests to a node within a tick have to find no lane for
	// the node to get one.
	busyNode = 16
	// maxLanes is how many a router may have to a node, unless maxIdleConnsPerHost
	// is less.
	maxLanes = 256
	// spareLanes are left idle. A request that finds more takes one. Another one may
	// be faster: then it waits for the next that is idle, or for a stand-in (see tick).
	spareLanes = 4
	// probes is how many idle lanes the watchman reads at a look, and probeTime how
	// long it takes to read one, since a deadline that has passed reads nothing. Where the
	// processor was taken away meanwhile it is tried again with twice as long, up to
	// maxProbeTime.
	probes       = 64
	probeTime    = time.Millisecond
	maxProbeTime = 16 * time.Millisecond
	// lostAfter is after how many looks in a row at which it was neither idle nor
	// under way a lane counts as lost. It is so for the moments in which an answer is
	// written to the client.
	lostAfter = 600
	// laneBuffer is the size of a lane's reader, and of the buffer that it makes requests
	// in, in bytes. Trailers of an answer have to fit in. For a larger request the other
	// one grows, until the next look at the lane.
	laneBuffer = 4096
)

// lanes are those of one way. A way has them from the first time that its node is busy:
// most never are, and the room for lanes takes more than a way does.
type lanes struct {
	idle     chan *lane // with room for twice as many as there may be
	make     func() *lane
	standIn  func() *lane
	trusted  func() bool   // the way may have lanes
	distrust func()        // the node has said more than it was asked for
	rest     time.Duration // how long a lane may; 0: for ever

	visits int // the watchman's
	empty  int // the watchman's: looks in a row that have found no lane

	mu      sync.Mutex
	open    map[*lane]bool // all but those at rest
	resting []*lane        // the one that has rested longest is the first
}

// pressure is how many requests of late a way has had that found no lane.
type pressure struct {
	mu     sync.Mutex
	missed int
	since  time.Time // the first of them, within a tick
	lanes  *lanes    // nil: the node has not been busy yet
}

// lane belongs to whoever has taken it out of idle or resting, which is a request or the
// watchman; but while that request is in under, to whoever takes it out there. A request
// that takes it sets asked.
//
// Yaegi: it does not know the way that it belongs to, nor do lanes: types that contain
// each other get mixed up.
type lane struct {
	header   []string // the value of nodeHeader
	proxy    *httputil.ReverseProxy
	settle   func()
	under    chan *http.Request // the request under way, for the watchman to look at
	asked    http.Header        // as Traefik sees it, of its latest request; nil: none since it was idle at a look
	odd      bool               // it has met something unusual: see settle
	over     bool               // it cannot take another request
	late     bool               // the node has not answered in time
	timeless bool               // the request in under is not waiting for an answer
	conn     net.Conn           // nil: it has not dialed yet

	// The watchman's.
	seen   *http.Request // in under at the last look
	since  time.Time     // the first look at it
	visit  int           // the latest that it was idle at
	rested time.Time     // since when it rests
	absent int           // looks in a row at which it was neither idle nor under way

	// The request's.
	gate      *gate
	transport *http.Transport
	flush     time.Duration
	limited   *io.LimitedReader
	reader    *bufio.Reader
	text      *bytes.Buffer // the request
	out       io.Writer     // where it goes
	fresh     bool          // this is the first request on its connection
	cut       bool          // its answer was not read to the end
}

// laneRoom is how many lanes a way may have.
func laneRoom(f *forwarder, to *way) int {
	room := maxLanes
	if kept := f.transport.MaxIdleConnsPerHost; kept < room {
		room = kept
	}
	if to.secure || room <= spareLanes {
		return 0
	}
	return room
}

// newLanes returns the lanes of a way, none yet.
func newLanes(f *forwarder, to *way, room int) *lanes {
	g := &lanes{open: map[*lane]bool{}, rest: f.transport.IdleConnTimeout}
	g.trusted = func() bool { return to.current() && f.lanes.distrusted.get(to.node.dial) == nil }
	g.distrust = func() { f.lanes.distrusted.put(to.node.dial, true) }
	g.make = func() *lane {
		l := newLane(f, to)
		l.settle = func() { settle(g, l) }
		return l
	}
	g.standIn = func() *lane {
		l := g.make()
		l.proxy.Transport = f.transport
		// It carries one request, and may wait long for that: no buffer of its own.
		l.proxy.BufferPool = pooled
		l.proxy.Director = func(out *http.Request) { // what its trip would do
			to.proxy.Director(out)
			withoutForged(l, out)
		}
		l.proxy.FlushInterval = f.flush
		l.odd = true
		l.over = true
		return l
	}
	g.idle = make(chan *lane, 2*room)
	return g
}

// newLane returns a lane that dials when it is asked first.
func newLane(f *forwarder, to *way) *lane {
	l := &lane{header: to.header, gate: to.gate, transport: f.transport, flush: f.flush}
	l.under = make(chan *http.Request, 1)
	l.limited = &io.LimitedReader{R: undialed}
	l.reader = bufio.NewReaderSize(l.limited, laneBuffer)
	l.text = bytes.NewBuffer(make([]byte, 0, laneBuffer))
	l.out = undialed
	// FlushInterval is for answers that are not here to their end: see unusual.
	l.proxy = &httputil.ReverseProxy{Director: to.proxy.Director, ErrorHandler: to.proxy.ErrorHandler, BufferPool: pooled}
	ownBuffer(l.proxy)
	ownTrip(l.proxy, newTrip(l))
	return l
}

// undialed is what a lane reads from and writes to before it has dialed: both fail.
var undialed = closedConn()

func closedConn() net.Conn {
	conn, other := net.Pipe()
	conn.Close()
	other.Close()
	return conn
}

// trip is an http.RoundTripper.
type trip struct {
	take func(r *http.Request) (*http.Response, error)
}

// RoundTrip implements http.RoundTripper.
func (t *trip) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.take(r)
	return response, err
}

// ownTrip gives a proxy a transport. Yaegi: in the struct in which it keeps an
// interpreted http.RoundTripper, a function costs less than a method does.
func ownTrip(proxy *httputil.ReverseProxy, take func(r *http.Request) (*http.Response, error)) {
	var transport http.RoundTripper = &trip{take: take}
	proxy.Transport = transport
	field := reflect.ValueOf(proxy).Elem().FieldByName("Transport")
	if field.Elem().Kind() != reflect.Struct {
		return // compiled
	}
	own := reflect.New(field.Elem().Type()).Elem()
	direct := own.FieldByName("WRoundTrip")
	function := reflect.ValueOf(take)
	if direct.IsValid() && direct.Type() == function.Type() {
		direct.Set(function)
		field.Set(own)
	}
}

// newTrip returns what takes a request over a lane to the node and the head of the
// answer back. It puts nodeHeader, which is for Traefik's access log, on the client's
// request alone, and sends nothing that has a name of its kind. See handler for why it is
// as short as it is.
func newTrip(l *lane) func(r *http.Request) (*http.Response, error) {
	under := l.under
	limited := l.limited
	reader := l.reader
	text := l.text
	forged := []byte(forgedStart)
	write := method((*http.Request)(nil), "Write").Interface().(func(*http.Request, io.Writer) error)
	contains := bytes.Contains
	bytesOf := method(text, "Bytes").Interface().(func(*bytes.Buffer) []byte)
	send := method(text, "WriteTo").Interface().(func(*bytes.Buffer, io.Writer) (int64, error))
	read := http.ReadResponse
	buffered := method(reader, "Buffered").Interface().(func(*bufio.Reader) int)
	var sink io.Writer = text // to make it one at each call costs more than the call
	address := l.header
	headLimit := int64(maxAnswerHead)
	return func(r *http.Request) (response *http.Response, err error) {
		l.asked[nodeHeader] = address
		under <- r
		limited.N = headLimit
		if write(r, sink) != nil {
			return unsendable(l, r)
		}
		if contains(bytesOf(text), forged) {
			return cleansed(l, r)
		}
		_, err = send(text, l.out)
		if err == nil {
			response, err = read(reader, r)
		}
		<-under
		if err == nil {
			if response.StatusCode >= 200 {
				if !response.Close {
					if response.ContentLength == int64(buffered(reader)) {
						return
					}
				}
			}
		}
		return unusual(l, r, response, err)
	}
}

// forgedStart is in the text of a request with a header that a client may not send.
const forgedStart = "\r\n" + headerPrefix

// errNotSent is why a lane has not sent a request.
var errNotSent = errors.New("the request could not be sent")

// unsendable is for a request that cannot be written down, such as one to a host that is
// no name. Traefik logs it, too, and without what is forged.
func unsendable(l *lane, r *http.Request) (*http.Response, error) {
	<-l.under
	l.text.Reset()
	withoutForged(l, r)
	response, err := failed(l, r, errNotSent)
	return response, err
}

// cleansed sends a request without the headers in it that are forged.
func cleansed(l *lane, r *http.Request) (*http.Response, error) {
	<-l.under
	l.text.Reset()
	withoutForged(l, r)
	response, err := l.proxy.Transport.RoundTrip(r)
	return response, err
}

// withoutForged drops the forged headers of a request that a lane carries, and from what
// Traefik sees of it.
func withoutForged(l *lane, r *http.Request) {
	dropForged(r.Header)
	dropForged(l.asked)
	l.asked[nodeHeader] = l.header
}

// failed ends a lane whose request has no answer, and returns the error. A connection
// that the node has closed while it was idle says nothing of the node: the request, a
// GET, is made once more by the transport, as that does with its own.
func failed(l *lane, r *http.Request, err error) (*http.Response, error) {
	if l.conn == nil {
		response, failure := first(l, r)
		return response, failure
	}
	closed := l.over
	l.odd = true
	l.over = true
	l.conn.Close()
	if gone := r.Context().Err(); gone != nil {
		return nil, gone
	}
	if l.late {
		return nil, fmt.Errorf("no answer in time: %w", os.ErrDeadlineExceeded)
	}
	if !closed && !l.fresh && l.limited.N == maxAnswerHead {
		l.proxy.FlushInterval = l.flush
		l.timeless = true
		l.under <- r // until it is settled
		response, failure := l.transport.RoundTrip(r)
		return response, failure
	}
	return nil, answerError(err, l.limited)
}

// first takes the first request of a lane, which dials.
func first(l *lane, r *http.Request) (*http.Response, error) {
	l.timeless = true
	l.under <- r
	conn, err := dial(r.Context(), l.gate)
	<-l.under
	l.timeless = false
	if err != nil {
		l.odd = true
		l.over = true
		return nil, err
	}
	l.conn = conn
	l.limited.R = conn
	l.reader.Reset(l.limited)
	l.text.Reset()
	l.out = conn
	l.fresh = true
	response, failure := l.proxy.Transport.RoundTrip(r)
	l.fresh = false
	return response, failure
}

// unusual takes an answer on that has not come; that is informational, and goes to the
// client at once; that is the last one of its connection; or that is not here to its
// end, so that it may have to be flushed on its way. What comes after the end of an
// answer is none that anybody has asked for.
func unusual(l *lane, r *http.Request, response *http.Response, err error) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	for i := 0; err == nil && response.StatusCode < 200; i++ {
		if response.StatusCode == http.StatusSwitchingProtocols || i == maxInformational {
			err = fmt.Errorf("an answer with status %d where none of its kind was asked for", response.StatusCode)
			break
		}
		if trace != nil && trace.Got1xxResponse != nil {
			_ = trace.Got1xxResponse(response.StatusCode, textproto.MIMEHeader(response.Header))
		}
		l.under <- r
		next, failure := http.ReadResponse(l.reader, r)
		<-l.under
		response = next
		err = failure
	}
	if err != nil {
		instead, failure := failed(l, r, err)
		return instead, failure
	}
	// Yaegi: a value of our own goes into a compiled struct's field by way of a
	// variable of the field's type.
	var body io.ReadCloser = &laneBody{l: l, body: response.Body, client: r.Context()}
	response.Body = body
	l.cut = true
	l.odd = true
	l.over = l.over || response.Close
	l.timeless = true
	l.proxy.FlushInterval = l.flush
	l.limited.N = math.MaxInt64
	l.under <- r // until it is settled
	return response, nil
}

// laneBody is the body of an unusual answer.
type laneBody struct {
	l      *lane
	body   io.ReadCloser
	client context.Context
}

// Read implements io.Reader. Of a client that has gone it says what the transport does.
func (b *laneBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err == io.EOF {
		b.l.cut = false
	} else if err != nil && b.client.Err() != nil {
		err = context.Canceled
	}
	return n, err
}

// Close implements io.Closer. It does not wait for the rest of an answer that nobody
// wants.
func (b *laneBody) Close() error {
	if b.l.cut {
		b.l.conn.Close()
	}
	err := b.body.Close()
	return err
}

// ride has a request that has taken a lane carried by it; handler does the same.
func ride(idle chan *lane, l *lane, w http.ResponseWriter, r *http.Request) {
	l.asked = r.Header
	l.proxy.ServeHTTP(w, r)
	if l.odd {
		l.settle()
		return
	}
	idle <- l
}

// settle decides whether a lane that has met something unusual can take another
// request.
func settle(g *lanes, l *lane) {
	if l.timeless {
		<-l.under
		l.timeless = false
	}
	more := l.reader.Buffered() > 0
	if l.conn != nil && more && !l.cut && !l.over {
		g.distrust()
	}
	if l.over || l.cut || more || !g.trusted() {
		end(g, l)
		return
	}
	l.odd = false
	l.proxy.FlushInterval = 0
	g.idle <- l
}

// settleOdd settles a lane, for handler.
func settleOdd(l *lane) { l.settle() }

// end closes a lane for good.
func end(g *lanes, l *lane) {
	if l.conn != nil {
		l.conn.Close()
	}
	g.mu.Lock()
	delete(g.open, l)
	g.mu.Unlock()
}

// withoutLane forwards a plain request that has found no idle lane, or that lanes do not
// carry: a GET by one after all, where the node is busy, or by the transport.
func withoutLane(m *middleware, w http.ResponseWriter, r *http.Request, to *way) {
	if r.Method == http.MethodGet {
		if g := busyLanes(m, to); g != nil {
			if l := freeLane(g, m.nodes.lanes); l != nil {
				ride(g.idle, l, w, r)
				return
			}
		}
	}
	proxy := m.nodes.carriers.Get().(*httputil.ReverseProxy)
	proxy.Director = to.proxy.Director
	proxy.ErrorHandler = to.proxy.ErrorHandler
	proxy.ServeHTTP(w, r) // if this panics, the proxy is not used again
	m.nodes.carriers.Put(proxy)
}

// busyLanes returns the lanes of a way whose node is busy, or nil.
func busyLanes(m *middleware, to *way) *lanes {
	p := to.pressure
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.since) > laneTick {
		p.since = now
		p.missed = 0
	}
	p.missed++
	if p.missed < busyNode {
		return nil
	}
	if p.lanes == nil {
		if room := laneRoom(m.nodes, to); room > 0 {
			p.lanes = apartLanes(m.nodes, to, room)
			m.short.open(to, p.lanes.idle)
		}
	}
	return p.lanes
}

// freeLane returns a lane that is idle, one that has rested, or a new one; nil: there is
// no room for more, or there are to be none. To read one that has rested takes longer than
// to dial a node that is near, but much less of the processor.
func freeLane(g *lanes, m *watchman) *lane {
	if len(g.idle) > spareLanes {
		l := <-g.idle
		return l
	}
	if !g.trusted() {
		return nil
	}
	for l := rouse(g); l != nil; l = rouse(g) {
		err := probe(l)
		if isTimeout(err) {
			return l
		}
		end(g, l)
		if err == nil {
			g.distrust()
			return nil
		}
	}
	g.mu.Lock()
	if len(g.open)+len(g.resting) >= cap(g.idle)/2 {
		g.mu.Unlock()
		return nil
	}
	l := g.make()
	g.open[l] = true
	g.mu.Unlock()
	m.watch(g)
	return l
}

// rouse takes the lane that rests since last, or returns nil.
func rouse(g *lanes) *lane {
	g.mu.Lock()
	defer g.mu.Unlock()
	last := len(g.resting) - 1
	if last < 0 {
		return nil
	}
	l := g.resting[last]
	g.resting[last] = nil
	g.resting = g.resting[:last]
	g.open[l] = true
	return l
}
