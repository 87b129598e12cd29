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
		h.body = io.NopCloser(r.Body) // the transport closes it when a dial fails
		r.Body = h.body
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
	if r.ProtoMajor == 1 {
		defer endAborted(w)
	}
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

// endAborted ends the client's connection when the proxy has panicked with
// http.ErrAbortHandler, which says that a response broke off and must not look
// complete. The panic itself would do that too, but Yaegi writes a line to the
// log at ERROR for each panic that passes interpreted code, and any client could
// fill the log so. HTTP/2 has no connection to end: there the panic has to go on,
// untouched, or Traefik takes it for one of another kind and logs the whole stack.
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
func nodeFailed(w http.ResponseWriter, out *http.Request, err error) {
	h := hitOf(out)
	m := h.m
	if isDialError(err) && !h.second {
		route, findErr := m.table.findAgain(out.Context(), h.route.key, h.route.field)
		if findErr == nil && route.node.address != h.route.node.address {
			second := m.newHit(route)
			second.second = true
			m.try(w, asReceived(out, h.body), second)
			return
		}
	}
	m.refuse(w, out, h.route.key, h.route.field, nodeError(err, h.route.node))
}

// asReceived undoes what the proxy has done to a request: the node's path prefix,
// the client's address, and a body that reads as closed.
func asReceived(out *http.Request, body io.ReadCloser) *http.Request {
	r := out.Clone(out.Context())
	r.Body = body
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
