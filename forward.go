package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
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

// attempt is a request on its way to a node. It travels in the request's
// context, where nodeFailed finds it.
type attempt struct {
	hit   *hit
	r     *http.Request // as Traefik handed it over
	again bool          // the second and last attempt
}

// attemptKey is the context key of the attempt.
type attemptKey struct{}

// forward sends the request to the node of the hit.
func (m *middleware) forward(w http.ResponseWriter, r *http.Request, h *hit) {
	r.Header[nodeHeader] = h.header
	if isUpgrade(r) {
		m.upgrade(w, r, h)
		return
	}
	if r.ContentLength != 0 {
		r.Body = io.NopCloser(r.Body) // the transport closes it when a dial fails
	}
	m.try(w, &attempt{hit: h, r: r})
}

// try makes an attempt.
func (m *middleware) try(w http.ResponseWriter, a *attempt) {
	r := a.r.WithContext(context.WithValue(a.r.Context(), attemptKey{}, a))
	r.Header = a.r.Header.Clone() // the original is what Traefik's access log reads
	r.Header.Del(nodeHeader)
	if !m.passHostHeader {
		r.Host = a.hit.route.node.url.Host
	}
	defer endAborted(w)
	a.hit.proxy.ServeHTTP(w, r)
}

// endAborted ends the client's connection when the proxy has panicked with
// http.ErrAbortHandler, which says that a response broke off and must not look
// complete. The panic itself would do that too, but Yaegi writes a line to the
// log at ERROR for each panic that passes interpreted code, and any client could
// fill the log so. HTTP/2 has no connection to end: there the panic goes on.
func endAborted(w http.ResponseWriter) {
	reason := recover()
	if reason == nil {
		return
	}
	if reason != http.ErrAbortHandler || !endConnection(w) {
		panic(reason)
	}
}

// endConnection ends the client's connection. False: it cannot.
func endConnection(w http.ResponseWriter) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// nodeFailed answers a request that the node did not. Where the node could not
// be dialed the route is read again from Redis, once, and the node that it names
// now is tried, if it is another one; nothing else ever is.
func nodeFailed(w http.ResponseWriter, r *http.Request, err error) {
	a := r.Context().Value(attemptKey{}).(*attempt)
	m := a.hit.m
	if isDialError(err) && !a.again {
		route, findErr := m.table.findAgain(a.r.Context(), a.hit.route.key, a.hit.route.field)
		if findErr == nil && route.node.address != a.hit.route.node.address {
			h := m.hit(route)
			a.r.Header[nodeHeader] = h.header
			m.try(w, &attempt{hit: h, r: a.r, again: true})
			return
		}
	}
	m.refuse(w, a.r, a.hit.route.key, a.hit.route.field, nodeError(err, a.hit.route.node))
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
// went away says nothing of the node, and the fence has its own words.
func nodeError(err error, node *target) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, errBadTarget) {
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

// webSocketNames are the header names of a handshake as RFC 6455 spells them,
// where that is not Go's spelling. Some servers compare them with case.
var webSocketNames = []string{
	"Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol",
	"Sec-WebSocket-Extensions", "Sec-WebSocket-Accept",
}

// spellWebSocket gives the headers of a handshake their RFC spelling, as
// Traefik's own proxy does.
func spellWebSocket(header http.Header) {
	for _, name := range webSocketNames {
		if values := header.Values(name); len(values) > 0 {
			header.Del(name)
			header[name] = values
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
