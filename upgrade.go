package dynamicforward

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"reflect"
	"regexp"
	"strings"
	"time"
)

// isUpgrade tells whether a request is the handshake of another protocol, which
// is not WebSocket alone. One with a body goes the way of plain requests. work asks the
// same.
func isUpgrade(r *http.Request) bool {
	if r.Header["Upgrade"] == nil || r.ContentLength != 0 || r.ProtoMajor != 1 {
		return false
	}
	connection := r.Header["Connection"]
	if len(connection) == 1 && connection[0] == "Upgrade" {
		return true // as Traefik's entry point leaves it
	}
	return namesUpgrade(connection)
}

// namesUpgrade tells whether Connection has upgrade among others.
func namesUpgrade(connection []string) bool {
	return strings.Contains(","+strings.ToLower(strings.ReplaceAll(strings.Join(connection, ","), " ", ""))+",", ",upgrade,")
}

// upgrade takes a handshake to its node and, where the node agrees, starts a
// session between the two connections: what is left of the request is those and
// what relays between them. An usher does so. a may be nil: then the handshake goes where
// a shortcut leads, and what is none, or has no shortcut, goes the long way. See handler for
// what a function is spared.
func upgrade(m *middleware, a *attempt, w http.ResponseWriter, r *http.Request) {
	u := <-ushers
	u.m = m
	u.a = a
	u.w = w
	u.r = r
	u.begin <- true
	if result := <-u.done; result != nil {
		conclude(m, a, w, r, result)
	}
}

// conclude ends a request that is not over with its handshake. One that has failed goes
// to the node that has taken over, as in nodeFailed: if the node could not be dialed it
// is looked up again, once.
func conclude(m *middleware, a *attempt, w http.ResponseWriter, r *http.Request, result *outcome) {
	switch {
	case result.unknown:
		longWay(m, w, r)
		return
	case result.panicked != nil:
		panic(result.panicked)
	case result.over != nil:
		<-result.over
		return
	case result.response != nil:
		decline(w, r, m.nodes, result.t, result.response)
		return
	}
	if a == nil {
		a = &attempt{m: m, way: result.way}
	}
	if isDialError(result.err) && !a.second {
		if second := a.again(r, result.err); second != nil {
			r.Header[nodeHeader] = second.way.header
			upgrade(m, second, w, r)
			return
		}
	}
	a.refuse(w, r, nodeError(result.err, a.way.node))
}

// abandon gives back what a session holds that was not to be.
func abandon(t *tunnel) {
	if t.client != nil {
		t.client.Close()
	}
	if t.node != nil {
		t.node.Close()
	}
	if t.place != nil {
		over(t)
	}
}

// withMore is for a client that has sent something already, which waits in buffered
// and perhaps in what wraps inner; for one whose connection is wrapped in nothing, when
// inner is nil; and for one that has gone.
func withMore(t *tunnel, inner net.Conn, buffered *bufio.Reader, err error) error {
	if err == nil && buffered.Buffered() > 0 {
		err = passOn(t.node, buffered)
	}
	if err == nil && inner != nil {
		err = unwrap(t.client, inner, t.node)
		t.client = inner
	}
	return err
}

// bound has a session keep to the websocket options, and returns what its request has
// to wait for.
func bound(t *tunnel, m *middleware, a *attempt, to *way, r *http.Request) *outcome {
	if limit := m.sessions.idleTimeout; limit > 0 {
		t.silence = newSilence(limit)
	}
	if m.sessions.closeOnRouteChange {
		at := entryOf(m.short, r)
		if at == nil { // it is new, or has gone meanwhile
			if a == nil {
				a = &attempt{m: m, way: to}
			}
			if route, err := a.routeOf(r); err == nil {
				at = &entry{key: route.key, field: route.field}
			}
		}
		if at != nil {
			m.table.watch(t, at)
		}
	}
	if !m.sessions.waitForEnd {
		return nil
	}
	t.over = make(chan struct{})
	return &outcome{over: t.over}
}

// nodeFull says that a node has no place for the session.
func nodeFull(to *way) error {
	return fmt.Errorf("%w: %s holds %d sessions", errNodeFull, to.node.address, to.maxSessions)
}

// overTLS speaks TLS on a connection to a node whose address is an https URL.
func overTLS(ctx context.Context, f *forwarder, node *target, conn net.Conn) (net.Conn, error) {
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

// notCopied are the headers that do not go to the node as they come: those that
// belong to one connection (RFC 9110, 7.6.1), what is left over from before it, and
// what work writes itself.
var notCopied = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true,
	"Proxy-Authorization": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Content-Length": true, "X-Forwarded-For": true, nodeHeader: true,
}

// usualHandshake is how large a handshake may be for its usher to keep the buffer that it
// was made in, in bytes.
const usualHandshake = 8 << 10

// Names of WebSocket's headers at the beginning of a line: as Go spells them, and as
// RFC 6455 does. Some servers compare them with case.
const (
	webSocketInGo = "\nSec-Websocket-"
	webSocketName = "\nSec-WebSocket-"
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

// directed is a request as far as the way to the node changes it: where its address
// has a path, or Host is the node's.
func directed(r *http.Request, to *way) *http.Request {
	target := *r.URL
	out := &http.Request{URL: &target, Host: r.Host, Header: http.Header{}}
	to.proxy.Director(out)
	if out.Host == "" {
		out.Host = target.Host
	}
	return out
}

// forwardedFor adds a client to X-Forwarded-For, if it is known.
func forwardedFor(before []string, client string) string {
	all := strings.Join(before, ", ")
	if client == "" {
		return all
	}
	return all + ", " + client
}

// rareHeaders are those that few handshakes have.
func rareHeaders(method string, te []string) string {
	headers := ""
	if te != nil && wantsTrailers(te) {
		headers += "Te: trailers\r\n"
	}
	if method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch {
		headers += "Content-Length: 0\r\n"
	}
	return headers
}

// withoutNamed is a copy without the headers that Connection names.
func withoutNamed(header http.Header) http.Header {
	rest := header.Clone()
	for _, name := range strings.Split(strings.Join(header["Connection"], ","), ",") {
		rest.Del(strings.TrimSpace(name))
	}
	return rest
}

// maxInformational is how many 1xx answers may come before the one that counts.
const maxInformational = 100

// maxAnswerHead is how large the head of a node's answer may be with the
// informational ones before it, in bytes: as large as http.Transport allows.
const maxAnswerHead = 10 << 20

// answerBuffer is what is read of an answer at first, in bytes: heads of usual size.
const answerBuffer = 1024

// agreement is the whole of an answer that goes to the client as it is, if toWebSocket is in
// it: a head that net/http would take, too (RFC 9110, 5.5 and 5.6.2), and nothing behind it.
// From ^ to $ a regular expression is matched in one pass, which costs less than to read
// the head line by line does when interpreted.
var agreement = regexp.MustCompile(`^HTTP/1\.1 101 [^\x00-\x08\x0a-\x1f\x7f]*\r\n` +
	`([-!#$%&'*+.^_\x60|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n$`)

// toWebSocket is what an agreement has to say.
var toWebSocket = []byte("\r\nUpgrade: " + webSocket + "\r\n")

// webSocket is what clients ask to switch to.
const webSocket = "websocket"

// parsedAnswer is any other one.
type parsedAnswer struct {
	response *http.Response
	reader   *bufio.Reader // what came with its head waits here
}

// parse reads the head of an answer whose first part was read, answerBuffer at the most, or
// could not be.
func parse(w http.ResponseWriter, r *http.Request, conn net.Conn, first []byte, err error) (*parsedAnswer, error) {
	if err != nil && len(first) == 0 {
		return nil, err
	}
	rest := &io.LimitedReader{R: conn, N: maxAnswerHead - int64(len(first))}
	reader := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(first), rest), answerBuffer) // copies all of first
	response, err := http.ReadResponse(reader, r)
	if err == nil && response.StatusCode < 200 {
		response, err = informational(w, r, reader, response)
	}
	if err != nil {
		return nil, answerError(err, rest)
	}
	rest.N = math.MaxInt64
	return &parsedAnswer{response: response, reader: reader}, nil
}

// agree has the client get the node's agreement, with what other middlewares have for it,
// and what the node has sent already.
func (a *parsedAnswer) agree(client net.Conn, more http.Header) error {
	addTo(a.response.Header, more)
	a.response.Body = nil
	text := &bytes.Buffer{}
	if err := a.response.Write(text); err != nil {
		return err
	}
	_, err := io.WriteString(client, strings.ReplaceAll(text.String(), webSocketInGo, webSocketName))
	if err == nil && a.reader.Buffered() > 0 {
		err = passOn(client, a.reader)
	}
	return err
}

// answerError says of a head that was not read to its end that it is too large.
func answerError(err error, limited *io.LimitedReader) error {
	if limited.N > 0 {
		return err
	}
	return fmt.Errorf("the head of the answer is larger than %d bytes", maxAnswerHead)
}

// informational takes an answer on whose status is below 200: the node's agreement;
// or one that goes to the client at once, and another follows. It returns the one that
// counts.
func informational(w http.ResponseWriter, r *http.Request, reader *bufio.Reader, response *http.Response) (*http.Response, error) {
	for i := 0; response.StatusCode != http.StatusSwitchingProtocols; i++ {
		if i == maxInformational {
			return nil, errors.New("too many informational answers")
		}
		inform(w, response)
		next, err := http.ReadResponse(reader, r)
		if err != nil {
			return nil, err
		}
		response = next
		if response.StatusCode >= 200 {
			return response, nil
		}
	}
	asked := r.Header["Upgrade"][0]
	got := response.Header["Upgrade"]
	if len(got) == 0 || got[0] != asked {
		err := disagreed(asked, response.Header.Get("Upgrade"))
		return response, err
	}
	return response, nil
}

// disagreed checks that the node switches to what the client has asked for, where the
// two are not written alike.
func disagreed(asked, got string) error {
	if strings.EqualFold(asked, got) {
		return nil
	}
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
func decline(w http.ResponseWriter, r *http.Request, nodes *forwarder, t *tunnel, response *http.Response) {
	defer abandon(t)
	giveUp := func() { t.node.Close() }
	stop := context.AfterFunc(r.Context(), giveUp)
	defer stop()
	// Yaegi: a value of our own goes into a compiled struct's field by way of a
	// variable of the field's type.
	var body io.ReadCloser = &declined{ReadCloser: response.Body, client: r.Context()}
	response.Body = body
	var transport http.RoundTripper = &answered{response}
	// The proxy would answer 502 by itself to a name of a protocol that is not ASCII.
	noHandshake := func(out *http.Request) { delete(out.Header, "Upgrade") }
	proxy := &httputil.ReverseProxy{Director: noHandshake, Transport: transport, FlushInterval: nodes.flush, BufferPool: pooled}
	proxy.ServeHTTP(w, r)
}

// addTo adds what other middlewares want the client to get to an answer.
func addTo(header, more http.Header) {
	for name, values := range more {
		header[name] = append(header[name], values...)
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// unwrap passes on what waits in the reader of a connection that Traefik's entry point
// has looked into; with a deadline that has passed nothing else is read.
func unwrap(client, inner net.Conn, node io.Writer) error {
	_ = inner.SetReadDeadline(longAgo)
	early := make([]byte, smallBuffer)
	var err error
	if n, _ := client.Read(early); n > 0 {
		err = passAllOn(client, node, early[:n])
	}
	_ = inner.SetReadDeadline(time.Time{})
	return err
}

// passAllOn writes what has been read, and what else can be.
func passAllOn(from io.Reader, to io.Writer, early []byte) error {
	for len(early) > 0 {
		if _, err := to.Write(early); err != nil {
			return err
		}
		early = early[:cap(early)]
		n, _ := from.Read(early)
		early = early[:n]
	}
	return nil
}

// wrapping returns which field of a connection of that kind has the one that it wraps, if
// Traefik's entry point has looked into it; else -1. It looked through a reader of 4 kB
// whether the client speaks TLS, which would stay for as long as the session. Something of
// the client's may wait there only if more waits before it: net/http reads one more byte
// while a request is served, and a wrapped reader reads all that there is.
func wrapping(kind reflect.Type) int {
	if kind.String() != "*tcp.peekConn" {
		return -1
	}
	field, some := kind.Elem().FieldByName("WriteCloser")
	if !some || len(field.Index) != 1 || !field.Type.Implements(netConn) {
		return -1
	}
	return field.Index[0]
}

// netConn is the type net.Conn.
var netConn = reflect.TypeOf((*net.Conn)(nil)).Elem()

// passOn writes what a reader has buffered.
func passOn(w io.Writer, reader *bufio.Reader) error {
	early, err := reader.Peek(reader.Buffered())
	if err != nil {
		return err
	}
	_, err = w.Write(early)
	return err
}
