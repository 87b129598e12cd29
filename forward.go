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

// maxProxies bounds the addresses that a forwarder knows at a time.
const maxProxies = 100000

// forwarder sends requests to nodes: the built-in catch-all. What takes time in
// it is compiled: one httputil.ReverseProxy for each address, made by the
// standard library with a rewriting function of its own.
type forwarder struct {
	fence     *fence
	transport *http.Transport // dials through the fence
	buffers   httputil.BufferPool
	proxies   memo // address -> *httputil.ReverseProxy
}

// forward sends a request to the node of a hit.
func (m *middleware) forward(w http.ResponseWriter, r *http.Request, h *hit) {
	r.Header[nodeHeader] = h.header
	if isUpgrade(r) {
		m.upgrade(w, r, h)
		return
	}
	if r.ContentLength != 0 {
		h = m.newHit(h.route)
		h.body = &clientBody{body: r.Body}
		r.Body = h.reader()
	}
	m.try(w, r, h)
}

// try lets the proxy forward a request. It removes from what it forwards all that
// Connection names, so the node does not receive nodeHeader.
func (m *middleware) try(w http.ResponseWriter, r *http.Request, h *hit) {
	r.Header["Connection"] = append(r.Header["Connection"], nodeHeader)
	if !m.passHostHeader {
		r.Host = h.route.node.url.Host
	}
	r.Response = h.mark
	h.proxy.ServeHTTP(w, r)
}

// hitKey is the context key of newMark.
type hitKey struct{}

// newMark makes what leads from a forwarded request back to its hit: the request
// that nodeFailed gets is a copy, and the Response field, which means nothing on
// a server, goes along with it. A context value does the same, but costs every
// request three calls; this costs it an assignment.
func newMark(h *hit) *http.Response {
	request := &http.Request{}
	return &http.Response{Request: request.WithContext(context.WithValue(context.Background(), hitKey{}, h))}
}

// hitOf returns the hit of a forwarded request.
func hitOf(r *http.Request) *hit {
	return r.Response.Request.Context().Value(hitKey{}).(*hit)
}

// clientBody is what a request brings. It does not close what it reads: the
// transport closes a body when a dial fails, and the next attempt needs it.
type clientBody struct {
	body  io.ReadCloser
	broke atomic.Bool // it ended before its end
}

// Read implements io.Reader.
func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil && err != io.EOF {
		b.broke.Store(true)
	}
	return n, err
}

// Close implements io.Closer.
func (b *clientBody) Close() error { return nil }

// reader returns the body of a hit's request. Yaegi: a value of our own goes into
// a compiled struct's field by way of a variable of the field's type.
func (h *hit) reader() io.ReadCloser {
	if h.body == nil {
		return nil
	}
	var body io.ReadCloser = h.body
	return body
}

// nodeFailed answers a request that the node did not. Where the node could not
// be dialed the route is read again from Redis, once, and the node that it names
// now is tried, if it is another one; nothing else ever is.
func nodeFailed(w http.ResponseWriter, out *http.Request, err error) {
	h := hitOf(out)
	m := h.m
	if isDialError(err) && !h.second {
		if route := m.lookAgain(out.Context(), h.route, err); route != nil {
			second := m.newHit(route)
			second.second = true
			second.body = h.body
			m.try(w, asReceived(out, second), second)
			return
		}
	}
	err = nodeError(err, h.route.node)
	if h.body != nil && h.body.broke.Load() {
		err = errBadBody // whatever came of it, the node is not to blame
	}
	m.refuse(w, out, h.route.key, h.route.field, err)
}

// lookAgainAfter bounds what a storm of requests to a node that does not answer
// costs Redis: those that were not even dialed read the route that seldom.
const lookAgainAfter = 100 * time.Millisecond

// lookAgain reads the route of a node that could not be dialed again. It returns
// the one that Redis has now, if that leads to another node, or else nil.
func (m *middleware) lookAgain(ctx context.Context, r *route, err error) *route {
	enough := time.Duration(0)
	if errors.Is(err, errNotDialed) {
		enough = lookAgainAfter
	}
	found, findErr := m.table.findAgain(ctx, r.key, r.field, enough)
	if findErr != nil || found.node.address == r.node.address {
		return nil
	}
	return found
}

// asReceived undoes what the proxy has done to a request: the node's path prefix,
// the client's address, and a body that reads as closed.
func asReceived(out *http.Request, h *hit) *http.Request {
	r := out.Clone(out.Context())
	r.Body = h.reader()
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

// to returns the proxy to a node.
func (f *forwarder) to(node *target) *httputil.ReverseProxy {
	if known := f.proxies.get(node.address); known != nil {
		return known.(*httputil.ReverseProxy)
	}
	proxy := httputil.NewSingleHostReverseProxy(node.url)
	proxy.Transport = f.transport
	proxy.BufferPool = f.buffers
	proxy.ErrorHandler = nodeFailed
	f.proxies.put(node.address, proxy)
	return proxy
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

// webSocketNames are the header names of a handshake as Go spells them, and as
// RFC 6455 does. Some servers compare them with case.
var webSocketNames = [][2]string{
	{"Sec-Websocket-Key", "Sec-WebSocket-Key"},
	{"Sec-Websocket-Version", "Sec-WebSocket-Version"},
	{"Sec-Websocket-Protocol", "Sec-WebSocket-Protocol"},
	{"Sec-Websocket-Extensions", "Sec-WebSocket-Extensions"},
	{"Sec-Websocket-Accept", "Sec-WebSocket-Accept"},
}

// spellWebSocket gives the headers of a handshake their RFC spelling, as
// Traefik's own proxy does.
func spellWebSocket(header http.Header) {
	for _, names := range webSocketNames {
		if values := header[names[0]]; values != nil {
			delete(header, names[0])
			header[names[1]] = values
		}
	}
}

// bufferSize is httputil's own default, and Traefik's.
const bufferSize = 32 * 1024

// bufferPool keeps the proxies from making a buffer for each response.
type bufferPool struct {
	pool sync.Pool
}

func newBufferPool() *bufferPool {
	return &bufferPool{pool: sync.Pool{New: func() interface{} { return make([]byte, bufferSize) }}}
}

// Get implements httputil.BufferPool.
func (b *bufferPool) Get() []byte {
	buffer := b.pool.Get().([]byte)
	return buffer
}

// Put implements httputil.BufferPool.
func (b *bufferPool) Put(buffer []byte) {
	//lint:ignore SA6002 a pointer to the slice costs more than it saves, interpreted
	b.pool.Put(buffer)
}
