package dynamicforward

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"reflect"
	"strings"
	"time"
)

// isUpgrade tells whether a request is the handshake of another protocol, which
// is not WebSocket alone. One with a body goes the way of plain requests.
func isUpgrade(r *http.Request) bool {
	if r.Header["Upgrade"] == nil || r.ContentLength != 0 || r.ProtoMajor != 1 {
		return false
	}
	connection := r.Header["Connection"]
	if len(connection) == 1 && connection[0] == "Upgrade" {
		return true // as Traefik's entry point leaves it
	}
	return strings.Contains(","+strings.ToLower(strings.ReplaceAll(strings.Join(connection, ","), " ", ""))+",", ",upgrade,")
}

// handshake is a node's answer to a handshake, and the connection it came on.
type handshake struct {
	conn     net.Conn
	reader   *bufio.Reader // what the node sent after its answer may be in it
	response *http.Response
}

// upgrade takes a handshake to its node and, where the node agrees, starts a
// session between the two connections: what is left of the request is those and
// what relays between them. As in nodeFailed a node that cannot be dialed is looked
// up again, once. It returns what the request has to wait for; nil: nothing. Its
// caller waits, and keeps nothing of it meanwhile but the request.
//
// What a handshake that succeeds goes through here are functions: see handler.
func upgrade(w http.ResponseWriter, r *http.Request, a *attempt) chan struct{} {
	t := &tunnel{}
	defer abandon(t)
	shake, err := shakeHands(a, t, w, r)
	if err != nil && isDialError(err) {
		if second := a.again(r, err); second != nil {
			a = second
			r.Header[nodeHeader] = a.way.header
			abandon(t)
			shake, err = shakeHands(a, t, w, r)
		}
	}
	if err == nil && shake.response.StatusCode == http.StatusSwitchingProtocols {
		err = agreed(shake, r)
	}
	if err != nil {
		a.refuse(w, r, nodeError(err, a.way.node))
		return nil
	}
	if a.m.debugHeaders {
		a.debug(shake.response.Header)
	}
	if shake.response.StatusCode != http.StatusSwitchingProtocols {
		shake.decline(w, r, a.m.nodes)
		return nil
	}
	client, err := switchTo(shake, w)
	if err != nil {
		logFailure(errNodeDown, "%s: a session could not start: %s", a.m.name, err.Error())
		return nil
	}
	t.client = client
	t.node = shake.conn
	if limit := a.m.sessions.idleTimeout; limit > 0 {
		t.silence = &silence{limit: limit}
		t.silence.since.Store(time.Now().UnixNano())
	}
	if a.m.sessions.closeOnRouteChange {
		a.watch(t, r)
	}
	if a.m.sessions.waitForEnd {
		t.over = make(chan struct{})
	}
	relay(t)
	return t.over
}

// watch has a session end when its route does.
func (a *attempt) watch(t *tunnel, r *http.Request) {
	route, err := a.routeOf(r)
	if err == nil {
		a.m.table.watch(t, route)
	}
}

// shakeHands sends a handshake to a node that has a place for the session, and
// reads the answer; informational ones before it go to the client at once. The client
// may go away meanwhile; it may have sent something already, which waits.
func shakeHands(a *attempt, t *tunnel, w http.ResponseWriter, r *http.Request) (*handshake, error) {
	ctx := r.Context()
	nodes := a.m.nodes
	t.place = everybody.enter(a.way.node.dial, a.m.sessions.maxPerNode)
	if t.place == nil {
		return nil, fmt.Errorf("%w: %s holds %d sessions", errNodeFull, a.way.node.address, a.m.sessions.maxPerNode)
	}
	conn, err := dialNode(ctx, nodes, a.way.node)
	if err != nil {
		return nil, err
	}
	if wait := nodes.transport.ResponseHeaderTimeout; wait > 0 {
		_ = conn.SetDeadline(time.Now().Add(wait))
	}
	giveUp := func() { conn.Close() }
	stop := context.AfterFunc(ctx, giveUp)
	shake, err := exchange(w, conn, handshakeRequest(r, a.way))
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return shake, nil
}

// dialNode connects to a node, with TLS where its address is an https URL.
func dialNode(ctx context.Context, f *forwarder, node *target) (net.Conn, error) {
	conn, err := f.fence.dial(ctx, "tcp", node.dial)
	if err != nil || node.url.Scheme != "https" {
		return conn, err
	}
	config := f.transport.TLSClientConfig.Clone()
	if config.ServerName == "" {
		config.ServerName = node.url.Hostname()
	}
	limited, cancel := context.WithTimeout(ctx, f.transport.TLSHandshakeTimeout)
	defer cancel()
	safe := tls.Client(conn, config)
	if err := safe.HandshakeContext(limited); err != nil {
		conn.Close()
		return nil, err
	}
	return safe, nil
}

// removeHopByHop removes the headers that belong to one connection (RFC 9110,
// 7.6.1), what Connection names besides, and what is left over from before it.
func removeHopByHop(header http.Header) {
	connection := header["Connection"]
	if len(connection) != 1 || connection[0] != "Upgrade" {
		for _, name := range strings.Split(strings.Join(connection, ","), ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	delete(header, "Connection")
	delete(header, "Proxy-Connection")
	delete(header, "Keep-Alive")
	delete(header, "Proxy-Authenticate")
	delete(header, "Proxy-Authorization")
	delete(header, "Te")
	delete(header, "Trailer")
	delete(header, "Transfer-Encoding")
	delete(header, "Upgrade")
}

// Headers that every handshake has in common.
var (
	connectionUpgrade = []string{"Upgrade"}
	noUserAgent       = []string{""} // or Go says its own
	teTrailers        = []string{"trailers"}
)

// wantsTrailers tells whether TE says that the client takes trailers: the one thing
// of it that goes along, as with plain requests.
func wantsTrailers(te []string) bool {
	for _, token := range strings.Split(strings.Join(te, ","), ",") {
		if strings.EqualFold(strings.TrimSpace(token), "trailers") {
			return true
		}
	}
	return false
}

// handshakeRequest is the handshake as the node gets it: as the client sent it,
// but for the headers that Traefik's own proxy changes too.
func handshakeRequest(r *http.Request, to *way) *http.Request {
	out := r.Clone(context.Background())
	out.Close = false // or Connection: close goes along
	to.proxy.Director(out)
	header := out.Header
	upgrade := header["Upgrade"]
	te := header["Te"]
	removeHopByHop(header)
	header["Connection"] = connectionUpgrade
	header["Upgrade"] = upgrade
	if te != nil && wantsTrailers(te) {
		header["Te"] = teTrailers
	}
	delete(header, nodeHeader)
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err == nil {
		if before := header["X-Forwarded-For"]; before != nil {
			client = strings.Join(before, ", ") + ", " + client
		}
		header["X-Forwarded-For"] = []string{client}
	}
	if header["User-Agent"] == nil {
		header["User-Agent"] = noUserAgent
	}
	spellWebSocket(header)
	return out
}

// maxInformational is how many 1xx answers may come before the one that counts.
const maxInformational = 100

// exchange writes a request and reads its answer. Informational ones go to the client.
func exchange(w http.ResponseWriter, conn net.Conn, request *http.Request) (*handshake, error) {
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	for i := 0; i < maxInformational; i++ {
		response, err := http.ReadResponse(reader, request)
		if err != nil {
			return nil, err
		}
		if response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			return &handshake{conn: conn, reader: reader, response: response}, nil
		}
		inform(w, response)
	}
	return nil, errors.New("too many informational answers")
}

// agreed checks that the node switches to what the client asked for.
func agreed(s *handshake, r *http.Request) error {
	asked := r.Header.Get("Upgrade")
	got := s.response.Header.Get("Upgrade")
	if asked == got || strings.EqualFold(asked, got) {
		return nil
	}
	s.conn.Close()
	return fmt.Errorf("switches to %q when asked for %q", got, asked)
}

// inform passes an informational answer on. Its headers are not those of the answer
// that follows.
func inform(w http.ResponseWriter, response *http.Response) {
	header := w.Header()
	for name, values := range response.Header {
		header[name] = values
	}
	w.WriteHeader(response.StatusCode)
	for name := range response.Header {
		delete(header, name)
	}
}

// answered is a transport that has its answer already.
type answered struct{ response *http.Response }

// RoundTrip implements http.RoundTripper.
func (a *answered) RoundTrip(_ *http.Request) (*http.Response, error) { return a.response, nil }

// declined is the body of an answer that is no agreement, for as long as its client
// is there. What a proxy's transport would say of one that has gone is said here, or
// the proxy would write to Traefik's log.
type declined struct {
	io.ReadCloser
	client context.Context
}

// Read implements io.Reader.
func (d *declined) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && d.client.Err() != nil {
		err = context.Canceled
	}
	return n, err
}

// decline passes an answer on that is no agreement, whole and as it comes, for as
// long as the client is there: a proxy of the standard library does, which is
// handed the answer.
func (s *handshake) decline(w http.ResponseWriter, r *http.Request, nodes *forwarder) {
	defer s.conn.Close()
	giveUp := func() { s.conn.Close() }
	stop := context.AfterFunc(r.Context(), giveUp)
	defer stop()
	// Yaegi: a value of our own goes into a compiled struct's field by way of a
	// variable of the field's type.
	var body io.ReadCloser = &declined{ReadCloser: s.response.Body, client: r.Context()}
	s.response.Body = body
	var transport http.RoundTripper = &answered{s.response}
	unchanged := func(_ *http.Request) {}
	proxy := &httputil.ReverseProxy{Director: unchanged, Transport: transport, FlushInterval: nodes.flush, BufferPool: pooled}
	proxy.ServeHTTP(w, r)
}

// switchTo takes the client's connection over and returns it. What either side
// has sent already goes first.
func switchTo(s *handshake, w http.ResponseWriter) (net.Conn, error) {
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.conn.Close()
		return nil, err
	}
	for name, values := range w.Header() { // what other middlewares want the client to get
		s.response.Header[name] = append(s.response.Header[name], values...)
	}
	s.response.Body = nil
	err = s.response.Write(buffered)
	if err == nil {
		err = passOn(buffered, s.reader)
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = passOn(s.conn, buffered.Reader)
	}
	if err == nil {
		client, err = unwrap(client, s.conn)
	}
	if err != nil {
		client.Close()
		s.conn.Close()
		return nil, err
	}
	return client, nil
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// unwrap returns a client's connection without the reader of 4 kB through which
// Traefik's entry point looked whether the client speaks TLS, and which would stay
// for as long as the session. What the client has said already may wait there, and
// goes to the node; with a deadline that has passed nothing else is read. Any other
// connection stays what it is.
func unwrap(client net.Conn, node io.Writer) (net.Conn, error) {
	wrapper := reflect.Indirect(reflect.ValueOf(client))
	if wrapper.Type().String() != "tcp.peekConn" {
		return client, nil
	}
	field := wrapper.FieldByName("WriteCloser")
	if !field.IsValid() {
		return client, nil
	}
	inner, ok := field.Interface().(net.Conn)
	if !ok {
		return client, nil
	}
	_ = inner.SetReadDeadline(longAgo)
	early := make([]byte, smallBuffer)
	for {
		n, err := client.Read(early)
		if n > 0 {
			if _, err := node.Write(early[:n]); err != nil {
				return client, err
			}
		}
		if err != nil {
			break
		}
	}
	_ = inner.SetReadDeadline(time.Time{})
	return inner, nil
}

// passOn writes what a reader has buffered.
func passOn(w io.Writer, reader *bufio.Reader) error {
	waiting := reader.Buffered()
	if waiting == 0 {
		return nil
	}
	early, err := reader.Peek(waiting)
	if err != nil {
		return err
	}
	_, err = w.Write(early)
	return err
}
