package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// forwarder is what all ways to nodes share: the built-in catch-all. What takes
// time in it is compiled: one httputil.ReverseProxy for each address, made by the
// standard library with a rewriting function of its own.
type forwarder struct {
	fence     *fence
	transport *http.Transport // dials through the fence
	flush     time.Duration   // see Config.ResponseForwarding
	carriers  *sync.Pool      // of *httputil.ReverseProxy; see newCarriers
	lanes     *watchman
}

// maxWays bounds the addresses that a middleware knows the way to at a time.
const maxWays = 100000

// noLimit is a time in which everything happens.
const noLimit = 100 * 365 * 24 * time.Hour

// to returns the way to a node.
func (m *middleware) to(node *target) *way {
	if known := m.ways.get(node.address); known != nil {
		return known.(*way)
	}
	to := apartWay(m, node)
	m.ways.put(node.address, to)
	return to
}

// newWay makes the way to a node.
func newWay(m *middleware, node *target) *way {
	proxy := httputil.NewSingleHostReverseProxy(node.url)
	proxy.Transport = m.nodes.transport
	proxy.BufferPool = pooled
	proxy.FlushInterval = m.nodes.flush
	to := &way{node: node, header: []string{node.address}, proxy: proxy, gate: m.nodes.fence.gate(node.dial)}
	to.maxSessions = m.sessions.maxPerNode
	to.patience = m.nodes.transport.ResponseHeaderTimeout
	if to.patience == 0 {
		to.patience = noLimit
	}
	to.secure = node.url.Scheme == "https"
	to.asSent = m.passHostHeader && node.url.Path == "" && node.url.RawQuery == ""
	proxy.ErrorHandler = apartFailure(m, to)
	if !m.passHostHeader {
		proxy.Director = apartDirector(proxy.Director, node.url.Host)
	}
	if m.debugHeaders {
		// What stands on w is gone when an informational answer has been sent.
		proxy.ModifyResponse = apartDebug(m, to)
	}
	to.pressure = &pressure{}
	to.current = m.current
	return to
}

// attempt is what is known of a request that may be refused, or tried again at another
// node: each on the long way, and handshakes on the short one. Plain requests that take
// a shortcut have one if their node fails; see attemptOf.
type attempt struct {
	m      *middleware
	route  *route // nil: it took a shortcut; see routeOf
	found  string // how the route was found; "": it took a shortcut
	way    *way
	asked  *http.Request // with URL and Host as the client sent them; nil: what is forwarded says as much of the route
	second bool          // to the node that took over from one that could not be dialed
	body   *clientBody   // what the request brings, if it does
}

// lookAgainAfter bounds what a storm of requests to a node that does not answer
// costs Redis: those that were not even dialed read the route that seldom.
const lookAgainAfter = 100 * time.Millisecond

// again returns the attempt that comes after a, whose node could not be dialed: at
// the node that Redis names now. nil: it names no other.
func (a *attempt) again(r *http.Request, dialErr error) *attempt {
	known, err := a.routeOf(r)
	if err != nil {
		return nil
	}
	enough := time.Duration(0)
	if errors.Is(dialErr, errNotDialed) {
		enough = lookAgainAfter
	}
	route, err := a.m.table.findAgain(r.Context(), known.key, known.field, enough)
	if err != nil || route.node.address == a.way.node.address {
		return nil
	}
	return &attempt{m: a.m, route: route, found: foundMiss, way: a.m.to(route.node), second: true, body: a.body}
}

// debug puts the debugHeaders on an answer, if they are wanted.
func (a *attempt) debug(header http.Header) {
	if a.m.debugHeaders {
		header.Set(nodeHeader, a.way.node.address)
		header.Set(cacheHeader, a.found)
	}
}

// refuse answers a request whose attempts have failed.
func (a *attempt) refuse(w http.ResponseWriter, r *http.Request, err error) {
	route, ruleErr := a.routeOf(r)
	if ruleErr != nil {
		err = ruleErr
	}
	a.debug(w.Header())
	a.m.refuse(w, r, route.key, route.field, err)
}

// forward sends a request to its node.
func (m *middleware) forward(w http.ResponseWriter, r *http.Request, a *attempt) {
	r.Header[nodeHeader] = a.way.header
	if isUpgrade(r) {
		upgrade(m, a, w, r)
		return
	}
	// Or the proxy would begin a session that nobody counts or bounds. A node that says 101 all
	// the same is refused.
	delete(r.Header, "Upgrade")
	if r.ContentLength != 0 {
		a.body = &clientBody{body: r.Body, left: -1}
		if r.ProtoMajor == 1 {
			a.body.left = r.ContentLength
		}
		r.Body = a.reader()
	}
	a.try(w, r)
}

// try lets the proxy forward a request. It removes from what it forwards all that
// Connection names, so the node does not receive nodeHeader.
func (a *attempt) try(w http.ResponseWriter, r *http.Request) {
	r.Header["Connection"] = append(r.Header["Connection"], nodeHeader)
	r.Response = a.mark()
	a.way.proxy.ServeHTTP(w, r)
}

// attemptKey is the context key of mark.
type attemptKey struct{}

// mark makes what leads from a forwarded request back to its attempt: the request
// that nodeFailed gets is a copy, and the Response field, which means nothing on
// a server, goes along with it. The request's own context would have to be
// changed before the request is copied, which is one copy more.
func (a *attempt) mark() *http.Response {
	request := &http.Request{}
	return &http.Response{Request: request.WithContext(context.WithValue(context.Background(), attemptKey{}, a))}
}

// attemptOf returns the attempt of a request that was forwarded on a way.
func (m *middleware) attemptOf(out *http.Request, to *way) *attempt {
	if out.Response == nil {
		return &attempt{m: m, way: to}
	}
	from := out.Response.Request
	if from.URL != nil { // not mark's: see ledBy
		return &attempt{m: m, way: to, asked: from}
	}
	return from.Context().Value(attemptKey{}).(*attempt)
}

// routeOf returns the key and field that a request asks for, with the node that it
// was forwarded to. One that took a shortcut has to be read again.
func (a *attempt) routeOf(r *http.Request) (*route, error) {
	if a.route != nil {
		return a.route, nil
	}
	if a.asked != nil {
		r = a.asked
	}
	key, field, err := a.m.rule.apply(r)
	return &route{key: key, field: field, node: a.way.node}, err
}

// clientBody is what a request brings. It does not close what it reads: the
// transport closes a body when a dial fails, and the next attempt needs it. Nor does it
// read on where the end is known: the transport does, to see whether there is more than
// was said, and if the node's answer is on its way already, the server has closed the body
// and the answer is cut off (golang/go#40747). That of HTTP/2 closes none so early, and may
// have more to say: that the request is malformed.
type clientBody struct {
	body  io.ReadCloser
	left  int64       // bytes; negative: not known, or read on
	broke atomic.Bool // it ended before its end
}

// Read implements io.Reader.
func (b *clientBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.body.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil && err != io.EOF {
		b.broke.Store(true)
	}
	return n, err
}

// Close implements io.Closer.
func (b *clientBody) Close() error { return nil }

// reader returns the body of a request. Yaegi: a value of our own goes into a
// compiled struct's field by way of a variable of the field's type.
func (a *attempt) reader() io.ReadCloser {
	if a.body == nil {
		return nil
	}
	var body io.ReadCloser = a.body
	return body
}

// nodeFailed answers a request that the node did not. Where the node could not
// be dialed the route is read again from Redis, once, and the node that it names
// now is tried, if it is another one; nothing else ever is.
func (m *middleware) nodeFailed(w http.ResponseWriter, out *http.Request, err error, to *way) {
	a := m.attemptOf(out, to)
	if isDialError(err) && !a.second {
		if second := a.again(out, err); second != nil {
			second.try(w, second.asReceived(out))
			return
		}
	}
	err = nodeError(err, to.node)
	if a.body != nil && a.body.broke.Load() {
		err = errBadBody // whatever came of it, the node is not to blame
	}
	a.refuse(w, out, err)
}

// asReceived undoes what the proxy has done to a request: the node's path prefix,
// the client's address, and a body that reads as closed.
func (a *attempt) asReceived(out *http.Request) *http.Request {
	r := out.Clone(out.Context())
	r.Body = a.reader()
	if u, err := url.ParseRequestURI(out.RequestURI); err == nil {
		r.URL = u
	}
	passed := r.Header.Get("X-Forwarded-For")
	if last := strings.LastIndex(passed, ", "); last >= 0 {
		r.Header.Set("X-Forwarded-For", passed[:last])
	} else {
		r.Header.Del("X-Forwarded-For")
	}
	return r
}

// close lets go of the idle connections; those in use end by themselves.
func (f *forwarder) close() {
	f.transport.CloseIdleConnections()
}

// nodeError tells what the transport's error says of the node: that it is down,
// or, once it took the connection, that it did not answer in time. A client that
// went away says nothing of the node, and the fence and the census have their own
// words.
func nodeError(err error, node *target) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, errBadTarget) || errors.Is(err, errNodeFull) {
		return err
	}
	cause := errNodeDown
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && !isDialError(err) {
		cause = errNodeTimeout
	}
	return fmt.Errorf("%w: %s: %s", cause, node.address, err.Error())
}

// isDialError tells whether the connection was never made.
func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
