package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// hostileSeed makes a run what the last one was. Request i is the same in every
// run with the same seed, whatever the others are.
const hostileSeed = 20260

// attack is one hostile request.
type attack struct {
	text string
	end  ending
	head bool // the first answer has no body
}

// ending says what the client does once it has sent its text.
type ending int

const (
	// asksAgain sends a request that is well, which closes the connection, and
	// reads every answer. There must be one.
	asksAgain ending = iota
	// reads is asksAgain without that request, for a text after which nothing can
	// be said, or which is answered before it is sent whole. There need not be an
	// answer.
	reads
	// halfCloses is reads, after it has said that nothing more will come.
	halfCloses
	// resets breaks the connection at once.
	resets
	// resetsInTheAnswer breaks it when the answer begins.
	resetsInTheAnswer
)

// front is a Traefik under attack, and the nodes behind it.
type front struct {
	t       *testing.T
	traefik *stack.Traefik
	nodes   []*stack.Node // that see whatever gets through
	queries []string      // of names of all kinds, those of good nodes first
	slow    string        // of a node that never answers
	big     string        // of a node with a long answer
	raw     []string      // of nodes that misbehave

	mu      sync.Mutex
	answers map[string]int
	wrong   int
}

func newFront(t *testing.T) *front {
	f := &front{t: t, answers: map[string]int{}}
	quick := stack.Options{"forwardingTimeouts": stack.Options{
		"dialTimeout": "1s", "responseHeaderTimeout": "1s", "idleConnTimeout": "1s",
	}}
	n := startNode(t, stack.NodeOptions{Keep: 50_000})
	old := startNode(t, stack.NodeOptions{Keep: 50_000})
	big := startNode(t, stack.NodeOptions{Keep: 50_000, Body: strings.Repeat("0123456789abcdef", 1<<15)})
	f.nodes = []*stack.Node{n, old, big}
	conf := stack.Game(redisAt(redis, stack.Options{"serversTransport": quick}))
	conf.Routers["fallback"] = stack.Router{Rule: "Path(`/fallback`)", Middlewares: []string{"fallback"}, Service: "old"}
	conf.Middlewares["fallback"] = redisAt(redis, stack.Options{"serversTransport": quick, "fallback": true})
	conf.Services = map[string]any{"old": map[string]any{"loadBalancer": map[string]any{"servers": []map[string]string{{"url": "http://" + old.Addr()}}}}}
	conf.Routers["parts"] = stack.Router{Rule: "PathPrefix(`/parts`)", Middlewares: []string{"parts"}}
	conf.Middlewares["parts"] = redisAt(redis, stack.Options{"serversTransport": quick,
		"key": "parts-{host}-{path.2}", "field": "{header.X-Shard}-{cookie.shard}"})
	do(t, redis, "HSET", "parts-game-a", "1-1", n.Addr())
	f.traefik = start(t, stack.TraefikOptions{Dynamic: conf.YAML(), Debug: true})

	rawNode := func(serve func(net.Conn)) string {
		return place(t, started[*stack.RawNode](t)(stack.StartRawNode(serve)).Addr())
	}
	say := func(text string) string {
		return rawNode(stack.AfterRequest(func(c net.Conn) { _, _ = io.WriteString(c, text) }))
	}
	refusing := started[*stack.Refusing](t)(stack.RefusingAddr())
	f.big = place(t, big.Addr())
	f.slow = place(t, started[*stack.RawNode](t)(stack.HangingNode()).Addr())
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nX-Node: raw\r\n"
	f.raw = []string{
		rawNode(func(net.Conn) {}), say(""), say("SSH-2.0-x\r\n"), say("HTTP/1.1 200 OK\r\nContent-"), say("HTTP/1.1 999 \r\nX-Node: raw\r\n\r\n"),
		say("HTTP/1.1 200 OK\r\nX-Node: raw\r\nContent-Length: 100\r\n\r\nshort"),
		say("HTTP/1.1 200 OK\r\nX-Node: raw\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
		say("HTTP/1.1 200 OK\r\nX-Node: raw\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
		say("HTTP/1.1 200 OK\r\nX-Node: raw\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Node: smuggled\r\nContent-Length: 0\r\n\r\n"),
		say(strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100)),
		say(switching + "Upgrade: h2c\r\n\r\n"), say(switching + "\r\n"), say(switching + "Upgrade: websocket\r\n\r\n\x81\x05hello"),
		say(switching + "Upgrade: websocket\r\nContent-Length: 5\r\n\r\nhello"), say(switching + "Upgrade: websocket\r\nUpgrade: \x01\r\n\r\n"),
		say("HTTP/1.1 403 Forbidden\r\nX-Node: raw\r\nContent-Length: 1\r\n\r\nx"), say("HTTP/1.0 200 OK\r\nX-Node: raw\r\n\r\nuntil the end"),
	}
	f.queries = append([]string{
		place(t, n.Addr()), place(t, "http://"+n.Addr()+"/prefix"), query(nobody()), query("wgamed"), "", "?nodeName=x&platform=dev",
		place(t, "null"), place(t, "no address"), place(t, "169.254.169.254:80"), place(t, "0.0.0.0:80"), place(t, refusing.Addr()),
	}, f.raw...)
	return f
}

// choice returns one of these.
func choice[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// noise returns up to max random bytes.
func noise(r *rand.Rand, max int) string {
	b := make([]byte, r.IntN(max+1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// target is the target of a request that is well, to any name.
func (f *front) target(r *rand.Rand) string {
	switch r.IntN(100) {
	case 0:
		return "/ws" + f.slow
	case 1:
		return "/ws" + f.big
	case 2, 3, 4:
		return choice(r, "/", "/ws/", "/WS", "/nowhere", "/ws%2f", "//ws", "/./ws", "/parts/../ws") + f.queries[0]
	}
	return choice(r, "/ws", "/ws", "/ws", "/fallback", "/parts/a", "/parts") + choice(r, f.queries...)
}

// request is a request that is well but for more lines in its head.
func (f *front) request(r *rand.Rand, method string, lines ...string) string {
	return method + " " + f.target(r) + " HTTP/1.1\r\nHost: game\r\n" + strings.Join(append(lines, "", ""), "\r\n")
}

// shapes are the kinds of attacks.
var shapes = []func(f *front, r *rand.Rand) attack{
	// A request line that is none.
	func(f *front, r *rand.Rand) attack {
		line := choice(r,
			"GET", "GET ", "GET /ws", "GET  "+f.target(r)+"  HTTP/1.1", "GET /ws HTTP/9.9", "GET /ws HTTP/1.1.1", "GET /ws HTTP/", "GET /ws http/1.1",
			"get /ws HTTP/1.1", "G@T /ws HTTP/1.1", "GET ws HTTP/1.1", "GET /ws HTTP/1.1 more", " GET /ws HTTP/1.1", "GET\t/ws\tHTTP/1.1",
			"GET /ws\x00 HTTP/1.1", "GET /ws\x7f HTTP/1.1", "GET /ws HTTP/2.0", "GET /ws HTTP/0.9",
			"HTTP/1.1 200 OK", "GET http:// HTTP/1.1", "GET http://[::1 HTTP/1.1", "GET :80 HTTP/1.1", noise(r, 200))
		return attack{text: line + choice(r, "\r\n", "\n", "\r\r\n") + "Host: game\r\n\r\n", end: choice(r, reads, halfCloses)}
	},
	// HTTP/2 or TLS from the first byte, and what only looks so.
	func(_ *front, r *rand.Rand) attack {
		return attack{text: choice(r, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"+noise(r, 600), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+noise(r, 100)), end: resets}
	},
	// A head that is huge, or has more lines than anybody needs.
	func(f *front, r *rand.Rand) attack {
		var lines []string
		switch r.IntN(40) {
		case 0:
			lines = []string{"X-Huge: " + strings.Repeat("x", 2<<20)}
		case 1:
			return attack{text: "GET /ws?nodeName=" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\nHost: game\r\n\r\n", end: reads}
		case 2:
			for i := range 20_000 {
				lines = append(lines, fmt.Sprintf("X-Many-%d: %d", i, i))
			}
		default:
			for i := range r.IntN(300) {
				lines = append(lines, fmt.Sprintf("X-Many-%d: %s", i%100, strings.Repeat("x", r.IntN(200))))
			}
		}
		return attack{text: f.request(r, "GET", lines...), end: reads}
	},
	// Lines of a head that are none.
	func(f *front, r *rand.Rand) attack {
		line := choice(r, "no colon", ": no name", "Na me: x", "X-Space : x", "X\x00: x", "X-Nul: a\x00b", "X-Control: a\x01\x1f\x7fb", " X-Folded: x", "X: "+noise(r, 50),
			"X-Bare: a\rb", "Host: another", "Host: ", "Host: a b", "Host: \x01", "Cookie: shard=\x80; =; ;;; shard", "X-Shard: "+noise(r, 20), "Expect: 100-continue", "Expect: a miracle")
		return attack{text: f.request(r, "GET", "X-Shard: 1", line), end: choice(r, reads, halfCloses)}
	},
	// Escapes that mean nothing, and control characters.
	func(f *front, r *rand.Rand) attack {
		bad := choice(r, "%", "%z", "%zz", "%e", "%%", "%00", "%0d%0aSET%20x%20y", "%c0%af", "%ff", "%u0041", "\x01", "\x7f", "\x80\xff", "%2e%2e%2f", "\"", "<", "{}", "|", "^", "`", "#", "\\", "\t")
		target := choice(r,
			"/ws?nodeName="+bad+"&threadId=1&platform=dev", "/ws"+f.queries[0]+"&x="+bad, "/ws?"+bad, "/ws?"+bad+"="+bad,
			"/ws"+bad+f.queries[0], "/parts/"+bad, "/parts/"+bad+f.queries[0], "/"+bad+"/ws", "/fallback?nodeName=a"+bad+"b&threadId=1&platform=dev")
		return attack{text: "GET " + target + " HTTP/1.1\r\nHost: game\r\nX-Shard: 1\r\nCookie: shard=1\r\n\r\n", end: reads}
	},
	// Many parameters.
	func(f *front, r *rand.Rand) attack {
		var q strings.Builder
		q.WriteString(choice(r, f.queries[0], "?"))
		for i := range 1 << r.IntN(14) {
			fmt.Fprintf(&q, "%s%x=%d", choice(r, "&", "&", ";"), i, i)
		}
		return attack{text: "GET /ws" + q.String() + " HTTP/1.1\r\nHost: game\r\n\r\n", end: asksAgain}
	},
	// Parameters of 10 kB.
	func(f *front, r *rand.Rand) attack {
		long := strings.Repeat(choice(r, "x", "%41", "é", "%C3%A9", "+"), 10<<10/3)
		target := choice(r, "/ws?nodeName="+long+"&threadId=1&platform=dev", "/ws?nodeName=wgamed&threadId="+long+"&platform=dev",
			"/fallback?nodeName=wgamed&threadId=1&platform="+long, "/ws"+f.queries[0]+"&"+long+"=1", "/ws"+f.queries[0]+"&x="+long)
		return attack{text: "GET " + target + " HTTP/1.1\r\nHost: game\r\n\r\n", end: asksAgain}
	},
	// Semicolons, and other ways to write a query.
	func(f *front, r *rand.Rand) attack {
		target := choice(r, "/ws?nodeName=wgamed;threadId=1;platform=dev", "/ws"+strings.ReplaceAll(f.queries[0], "&", ";"), "/ws"+f.queries[0]+";nodeName=other",
			"/ws?;;;", "/ws?&&&", "/ws?=&=&", "/ws??nodeName=wgamed", "/ws"+strings.ReplaceAll(f.queries[0], "=", "=="), "/ws"+strings.ReplaceAll(f.queries[0], "=", "[]="), "/ws;x=1"+f.queries[0])
		return attack{text: "GET " + target + " HTTP/1.1\r\nHost: game\r\n\r\n", end: asksAgain}
	},
	// A body whose end the two sides could see in different places.
	func(f *front, r *rand.Rand) attack {
		smuggled := "GET /smuggled HTTP/1.1\r\nHost: game\r\n\r\n"
		head := choice(r,
			[]string{"Content-Length: 4", "Content-Length: 5"}, []string{"Content-Length: 4, 5"}, []string{"Content-Length: 4, 4"}, []string{"Content-Length: 4", "Content-Length: 4"},
			[]string{"Content-Length: +4"}, []string{"Content-Length: -1"}, []string{"Content-Length: 0x4"}, []string{"Content-Length: 4 "}, []string{"Content-Length: four"},
			[]string{"Content-Length: 99999999999999999999"}, []string{"Content-Length:"}, []string{"Content-Length : 4"}, []string{"Content\x00-Length: 4"},
			[]string{"Transfer-Encoding: chunked", "Content-Length: 4"}, []string{"Content-Length: 4", "Transfer-Encoding: chunked"},
			[]string{"Transfer-Encoding: chunked", "Transfer-Encoding: identity"}, []string{"Transfer-Encoding: chunked, identity"}, []string{"Transfer-Encoding: identity"},
			[]string{"Transfer-Encoding: xchunked"}, []string{"Transfer-Encoding: gzip, chunked"}, []string{"Transfer-Encoding:\x0bchunked"}, []string{"Transfer-Encoding : chunked"},
			[]string{"Transfer-Encoding: chunked", "Connection: Transfer-Encoding"}, []string{"Content-Length: 4", "Connection: Content-Length"},
			[]string{"Transfer-Encoding: chunked", "Connection: close, Upgrade", "Upgrade: websocket"}, []string{"Content-Length: 4", "Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"},
		)
		body := choice(r, "0\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n", "4;x=y\r\nbody\r\n0\r\nX-Trailer: x\r\n\r\n", "0\r\n\r\n"+smuggled, "body", "body"+smuggled, "5\r\nbody\r\n0\r\n\r\n",
			"-1\r\n", "ffffffffffffffffff\r\n", "4\nbody\n0\n\n", "0x4\r\nbody\r\n0\r\n\r\n", "4\r\nbodyGET /smuggled HTTP/1.1\r\n", "")
		return attack{text: f.request(r, choice(r, "POST", "GET", "PUT", "DELETE", "OPTIONS"), head...) + body, end: choice(r, reads, halfCloses)}
	},
	// Several requests at once, one of them no good.
	func(f *front, r *rand.Rand) attack {
		text := ""
		for range 1 + r.IntN(8) {
			text += f.request(r, choice(r, "GET", "POST"), "Content-Length: 0")
		}
		return attack{text: text + choice(r, "", "\r\n\r\n", noise(r, 50)), end: reads}
	},
	// A client that is done before its request is.
	func(f *front, r *rand.Rand) attack {
		text := f.request(r, "POST", choice(r, "Content-Length: 1000", "Transfer-Encoding: chunked"), "Expect: "+choice(r, "", "100-continue"))
		return attack{text: text[:len(text)-r.IntN(len(text))] + choice(r, "", "3e8\r\n") + noise(r, 300), end: choice(r, halfCloses, resets)}
	},
	// A client that goes away in the middle of the body, or waits for nothing.
	func(f *front, r *rand.Rand) attack {
		text := "POST " + choice(r, "/ws", "/fallback") + choice(r, f.queries[0], f.big, f.slow, f.raw[5]) + " HTTP/1.1\r\nHost: game\r\n"
		text += choice(r, "Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nffff\r\n") + strings.Repeat("x", r.IntN(60_000))
		return attack{text: text, end: choice(r, halfCloses, resets)}
	},
	// A client that goes away in the middle of the answer.
	func(f *front, r *rand.Rand) attack {
		method := choice(r, "GET", "POST")
		return attack{text: method + " /ws" + f.big + " HTTP/1.1\r\nHost: game\r\nContent-Length: 0\r\n\r\n", end: resetsInTheAnswer}
	},
	// Half closed, but whole.
	func(f *front, r *rand.Rand) attack {
		return attack{text: choice(r, f.request(r, "GET"), strings.Join(handshake(f.target(r)), "\r\n")+"\r\n\r\n"), end: halfCloses}
	},
	// Handshakes that are none.
	func(f *front, r *rand.Rand) attack {
		upgrade := choice(r, "websocket", "WebSocket", "h2c", "TLS/1.2", "", "websocket, h2c", "\x01", "a b", noise(r, 20))
		lines := []string{
			"Upgrade: " + upgrade, "Connection: " + choice(r, "Upgrade", "upgrade, close", "keep-alive, Upgrade", "close", "", "Upgrade, Sec-WebSocket-Key", "Upgrade,,,", "Upgrade"+noise(r, 5)),
			"Sec-WebSocket-Key: " + choice(r, sampleKey, "", "short", noise(r, 20)), "Sec-WebSocket-Version: " + choice(r, "13", "8", "", "x"),
			choice(r, "X: x", "Upgrade: websocket", "Connection: close", "Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked", "Expect: 100-continue", "Sec-WebSocket-Protocol: other", "Sec-WebSocket-Key: "+sampleKey, "Trailer: x", "TE: trailers"),
		}
		method := choice(r, "GET", "GET", "GET", "POST", "HEAD", "CONNECT", "OPTIONS")
		return attack{
			text: method + " " + f.target(r) + choice(r, " HTTP/1.1", " HTTP/1.1", " HTTP/1.0") + "\r\nHost: game\r\n" + strings.Join(append(lines, "", ""), "\r\n") + choice(r, "", "hello", "\x81\x85\x00\x00\x00\x00hello"),
			end:  choice(r, halfCloses, resets, resetsInTheAnswer), head: method == "HEAD",
		}
	},
	// Sessions that break off.
	func(f *front, r *rand.Rand) attack {
		return attack{
			text: strings.Join(handshake("/ws"+choice(r, choice(r, f.raw...), f.queries[0], f.queries[1])), "\r\n") + "\r\n\r\n" + choice(r, "", string(frame("hello", true)), noise(r, 5000)),
			end:  choice(r, halfCloses, resets, resetsInTheAnswer, resetsInTheAnswer, resetsInTheAnswer),
		}
	},
	// HTTP/1.0, and without a Host.
	func(f *front, r *rand.Rand) attack {
		return attack{text: choice(r, "GET", "POST") + " " + f.target(r) + choice(r, " HTTP/1.0\r\n", " HTTP/1.0\r\nConnection: keep-alive\r\n", " HTTP/1.0\r\nHost: game\r\n", " HTTP/1.1\r\n") + "\r\n", end: reads}
	},
	// Targets in the other forms.
	func(f *front, r *rand.Rand) attack {
		method := choice(r, "GET", "CONNECT", "OPTIONS", "TRACE", "PURGE", "HEAD")
		target := choice(r, "http://evil.example.com"+f.target(r), "http://169.254.169.254"+f.target(r), "https://game"+f.target(r), "ftp://game"+f.target(r), "*", "game:80", "169.254.169.254:80", "http://user:pass@game"+f.target(r), "//evil.example.com"+f.target(r), f.target(r))
		return attack{text: method + " " + target + " HTTP/1.1\r\nHost: " + choice(r, "game", "other", "169.254.169.254") + "\r\n\r\n", end: reads, head: method == "HEAD"}
	},
	// Headers that are not the client's to send.
	func(f *front, r *rand.Rand) attack {
		lines := append(slices.Clone(forgery), "X-Real-Ip: 203.0.113.9", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Host: forged", "Connection: "+choice(r, "X-Real-Ip, X-Dynamicforward-Node", "Upgrade, x-dynamicforward-error", "close"), "Trailer: X-Dynamicforward-Node")
		r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		if r.IntN(2) == 0 {
			return attack{text: f.request(r, "GET", append(lines, "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey)...), end: halfCloses}
		}
		return attack{text: f.request(r, choice(r, "GET", "POST"), append(lines, "Content-Length: 0")...), end: reads}
	},
	// Names that do not exist, and parts of requests that are nothing.
	func(f *front, r *rand.Rand) attack {
		return attack{text: "GET " + choice(r, "/ws", "/fallback", "/parts/a") + query(fmt.Sprintf("made-up-%x", r.Uint64())) + " HTTP/1.1\r\nHost: " + choice(r, "game", "GAME:80", "[::1]:80", "made-up") +
			"\r\nX-Shard: " + choice(r, "1", "", strings.Repeat("x", 300)) + "\r\nCookie: " + choice(r, "shard=1", "shard=", "shard=\"a b\"", "shard") + "\r\n\r\n", end: asksAgain}
	},
	// A request that is well, but for a few bytes.
	func(f *front, r *rand.Rand) attack {
		text := []byte(choice(r, f.request(r, "GET", "X-Shard: 1", "Cookie: shard=1"), f.request(r, "POST", "Content-Length: 4")+"body", strings.Join(handshake(f.target(r)), "\r\n")+"\r\n\r\n"))
		for range 1 + r.IntN(5) {
			at := r.IntN(len(text))
			switch r.IntN(3) {
			case 0:
				text[at] = byte(r.Uint32())
			case 1:
				text = slices.Delete(text, at, at+1)
			default:
				text = slices.Insert(text, at, byte(r.Uint32()))
			}
		}
		return attack{text: string(text), end: halfCloses}
	},
}

// attackNumber makes the attack of a number.
func (f *front) attackNumber(i int) attack {
	r := rand.New(rand.NewPCG(hostileSeed, uint64(i)))
	return shapes[i%len(shapes)](f, r)
}

// launch sends an attack and looks at every answer.
func (f *front) launch(a attack) error {
	c, err := net.Dial("tcp", f.traefik.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	tcp := c.(*net.TCPConn)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	text := a.text
	if a.end == asksAgain {
		text += "GET /ws" + f.queries[0] + " HTTP/1.1\r\nHost: game\r\nConnection: close\r\n\r\n"
	}
	_, err = io.WriteString(c, text) // an error: it was answered, or not, before it was sent whole
	switch a.end {
	case resets:
		return tcp.SetLinger(0)
	case resetsInTheAnswer:
		_ = c.SetReadDeadline(time.Now().Add(time.Second)) // where the request is not whole there is none
		start := make([]byte, 100)
		if n, _ := io.ReadFull(c, start); n >= len("HTTP/1.1 200") {
			f.note("reset in a " + string(start[len("HTTP/1.1 "):len("HTTP/1.1 200")]))
		}
		return tcp.SetLinger(0)
	case halfCloses:
		_ = tcp.CloseWrite()
	case reads:
		// So that the connection ends where the text was a whole request. Where
		// it was not, this is a part of it, and the end of everything.
		if err == nil {
			_, _ = io.WriteString(c, "\r\n\r\nGET /ws HTTP/1.1\r\nHost: game\r\nConnection: close\r\n\r\n")
		}
		defer tcp.SetLinger(0)
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	}
	return f.readAnswers(c, a)
}

// readAnswers reads to the end of a connection.
func (f *front) readAnswers(c net.Conn, a attack) error {
	in := bufio.NewReader(c)
	asked := &http.Request{Method: "GET"}
	if a.head {
		asked.Method = "HEAD"
	}
	for n := 0; ; n++ {
		_, err := in.Peek(1)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return fmt.Errorf("no end after %d answers", n)
			}
			if n == 0 && a.end == asksAgain {
				return fmt.Errorf("no answer: %w", err)
			}
			if n == 0 {
				f.note("no answer")
			}
			return nil
		}
		resp, err := http.ReadResponse(in, asked)
		if err != nil && n == 0 && strings.Contains(err.Error(), `"\x15\x03`) {
			f.note("an alert of TLS") // to what may be a client of TLS
			return nil
		}
		if err != nil {
			return fmt.Errorf("answer %d is no HTTP: %w", n, err)
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			f.note("101 " + kindOf(resp.Header.Get("X-Node")))
			return nil // what follows is between the client and the node
		}
		if resp.StatusCode < 200 {
			n--
			continue
		}
		body, err := io.ReadAll(resp.Body)
		answer, allowed := explain(resp, string(body), err, a)
		f.note(answer)
		if !allowed {
			return fmt.Errorf("answer %d (error: %v) is %s %v: %.300q", n, err, resp.Status, resp.Header, body)
		}
		if err != nil || a.head && resp.Close { // net/http sends a body to what it cannot read as a HEAD
			return nil
		}
		asked = &http.Request{Method: "GET"}
	}
}

func kindOf(node string) string {
	if node == "" || node == "raw" {
		return "from a node that misbehaves"
	}
	return "from a node"
}

// ownAnswers is the table of answers, but for node-full: no middleware here has
// websocket.maxPerNode.
var ownAnswers = map[string]int{
	"bad-request": 400, "unknown-node": 404, "bad-target": 502, "node-down": 502, "node-timeout": 504, "redis-down": 503,
}

// explain tells whose answer it is, and whether it may be.
func explain(resp *http.Response, body string, cut error, a attack) (string, bool) {
	node := resp.Header.Get("X-Node")
	if node != "" {
		// A client that says that it is done has gone to net/http, and with it its
		// request, on a static route too: see "done within an answer" in differential.
		gone := a.end == halfCloses
		return fmt.Sprint(resp.StatusCode, " ", kindOf(node)), node != "smuggled" && (cut == nil || node == "raw" || gone)
	}
	reason, _, _ := strings.Cut(body, ":")
	if status, ours := ownAnswers[reason]; ours {
		return fmt.Sprint(resp.StatusCode, " ", reason), resp.StatusCode == status && strings.Count(body, "\n") == 1 && !strings.Contains(body, "127.0.0.1") && cut == nil
	}
	if resp.Request.Method == "HEAD" && body == "" {
		return fmt.Sprint(resp.StatusCode, " to HEAD"), resp.StatusCode != 500
	}
	whose := fmt.Sprint(resp.StatusCode, " from Traefik")
	text := http.StatusText(resp.StatusCode)
	switch resp.StatusCode {
	case 200: // net/http to OPTIONS *
		return whose, strings.HasPrefix(a.text, "OPTIONS * ") && body == ""
	case 400, 413, 417, 431, 501, 505: // net/http, which may break the connection after the text
		return whose, body == "" || strings.HasPrefix(body, fmt.Sprint(resp.StatusCode, " ", text)) ||
			body == text || body == text+"\n" || body == "Unsupported transfer encoding"
	case 404: // no such router
		return whose, body == "404 page not found\n" || body == ""
	case 499: // the client has gone
		return whose, body == "Client Closed Request"
	case 500, 502: // the fallback's service, to a body that cannot be read; a panic's answer ends with a new line
		return whose, strings.Contains(a.text, "/fallback") && body == text
	}
	return whose, false
}

func (f *front) note(answer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[answer]++
}

// siege sends so many attacks over a bounded number of connections at a time.
func (f *front) siege(from, to int) {
	f.t.Helper()
	next := atomic.Int64{}
	next.Store(int64(from))
	var all sync.WaitGroup
	for range 24 {
		all.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= to {
					return
				}
				a := f.attackNumber(i)
				if err := f.launch(a); err != nil {
					f.mu.Lock()
					if f.wrong++; f.wrong <= 10 {
						f.t.Errorf("request %d (shape %d), %.300q: %v", i, i%len(shapes), a.text, err)
					}
					f.mu.Unlock()
				}
			}
		})
	}
	all.Wait()
}

// wantWell checks that known routes are what they were.
func (f *front) wantWell() {
	f.t.Helper()
	for range 3 {
		resp, err := newClient(f.t).Get(f.traefik.URL() + "/ws" + f.queries[0])
		must(f.t, err)
		if got := outcome(resp); got != f.nodes[0].Name() {
			f.t.Errorf("a known route is answered by %s; want %s", got, f.nodes[0].Name())
		}
		c := dialTo(f.t, f.traefik)
		c.send(f.t, handshake("/ws"+f.queries[0])...)
		wantSwitched(f.t, c.head(f.t))
		_, err = c.Write(frame("hello", true))
		must(f.t, err)
		wantFrame(f.t, c, "hello")
		c.Close()
	}
}

// held is what a Traefik holds: goroutines and descriptors.
func held(t *testing.T, own *stack.Traefik) (int, int) {
	t.Helper()
	goroutines, err := own.Goroutines()
	must(t, err)
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", own.Pid()))
	if err != nil {
		return goroutines, 0 // no such thing on this system
	}
	return goroutines, len(descriptors)
}

// 20,000 hostile requests leave Traefik alive and well: no panic, no answer that
// is not in the table of answers or net/http's own, nothing forged at a node,
// nothing left behind.
func TestHostileRequests(t *testing.T) {
	total := 20_000
	if testing.Short() {
		total = 2000
	}
	f := newFront(t)
	f.wantWell()
	f.siege(0, 10*len(shapes)) // what stays after the first of each kind: pools, idle connections
	f.wantWell()
	goroutines, descriptors := held(f.t, f.traefik)

	f.siege(10*len(shapes), total)
	must(t, f.traefik.Healthy())
	f.wantWell()
	var answers []string
	for answer, count := range f.answers {
		answers = append(answers, fmt.Sprintf("%6d %s", count, answer))
	}
	slices.Sort(answers)
	t.Logf("%d requests, %d wrong:\n%s", total, f.wrong, strings.Join(answers, "\n"))
	if f.wrong > 10 {
		t.Errorf("%d answers were wrong", f.wrong)
	}
	for _, n := range f.nodes {
		for _, request := range n.Requests() {
			wantNoForgery(t, n.Name(), request.Header)
			if strings.Contains(request.RequestURI, "smuggled") {
				t.Errorf("%s saw %s", n.Name(), request.RequestURI)
			}
			if got := request.Header.Get("X-Real-Ip"); got != "127.0.0.1" {
				t.Errorf("%s saw X-Real-Ip %q", n.Name(), got)
			}
			if t.Failed() {
				break
			}
		}
	}
	nowGoroutines, nowDescriptors := 0, 0
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		nowGoroutines, nowDescriptors = held(f.t, f.traefik)
		if nowGoroutines <= goroutines+20 && nowDescriptors <= descriptors+20 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d goroutines and %d descriptors; want about %d and %d", nowGoroutines, nowDescriptors, goroutines, descriptors)
			break
		}
	}
	t.Logf("goroutines %d, then %d; descriptors %d, then %d", goroutines, nowGoroutines, descriptors, nowDescriptors)
}

// A client that breaks its body off, or sends one that cannot be read, says
// nothing of the node.
func TestABodyThatBreaksOffIsNotTheNodesFault(t *testing.T) {
	path := usual(t)
	for what, lines := range map[string][]string{
		"broken off": {"Content-Length: 1000", "", "0123456789"},
		"no chunks":  {"Transfer-Encoding: chunked", "", "zz", "body"},
	} {
		name := nobody()
		put(t, redis, name, node.Addr())
		for range 3 {
			c := dial(t)
			c.send(t, append([]string{"POST " + path + query(name) + " HTTP/1.1", "Host: game"}, lines...)...)
			must(t, c.Conn.(*net.TCPConn).CloseWrite())
			text, err := io.ReadAll(c.in)
			must(t, err)
			if strings.Contains(string(text), "node-down") {
				t.Errorf("%s: the answer is\n%s", what, text)
			}
		}
		if hasLine(traefik.Log(), "node-down", key(name)) {
			t.Errorf("%s: the log says that the node is down", what)
		}
	}
}

// http2 is a client that speaks HTTP/2 without TLS, which Traefik takes from
// clients that know.
func http2(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// The same over HTTP/2, which is what every client of an HTTPS entry point
// speaks.
func TestHostileRequestsOverHTTP2(t *testing.T) {
	f := newFront(t)
	c := http2(t)
	for i, q := range append(append([]string{f.slow, f.big}, f.queries...), f.queries...) {
		r := rand.New(rand.NewPCG(hostileSeed, uint64(i)))
		request, err := http.NewRequest(choice(r, "GET", "POST"), f.traefik.URL()+choice(r, "/ws", "/fallback")+q, nil)
		must(t, err)
		for _, line := range append([]string{"X-Real-Ip: forged"}, forgery...) {
			name, value, _ := strings.Cut(line, ": ")
			request.Header.Add(name, value)
		}
		resp, err := c.Do(request)
		if err != nil {
			if !slices.Contains(f.raw, q) { // whose answer may have broken off
				t.Errorf("%s: %v", q, err)
			}
			continue
		}
		if resp.ProtoMajor != 2 {
			t.Fatalf("got %s", resp.Proto)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if answer, allowed := explain(resp, string(body), err, attack{}); !allowed {
			t.Errorf("%s: got %s %s %.300q, %v", q, answer, resp.Status, body, err)
		}
	}
	for _, n := range f.nodes {
		for _, request := range n.Requests() {
			wantNoForgery(t, n.Name(), request.Header)
		}
	}
	f.wantWell()
}

// An answer that breaks off, on either side, is an error for an HTTP/2 client and
// no panic in the log.
func TestAnswersThatBreakOffOverHTTP2(t *testing.T) {
	own := start(t, stack.TraefikOptions{Dynamic: stack.Game(redisAt(redis)).YAML()})
	cut := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n")
	})))
	var serving atomic.Int64
	endless := startNode(t, stack.NodeOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Add(-1)
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, strings.Repeat("0123456789abcdef", 1024))
		}
	})})
	c := http2(t)
	for range 3 {
		resp, err := c.Get(own.URL() + "/ws" + place(t, cut.Addr()))
		if err == nil {
			body, readErr := io.ReadAll(resp.Body)
			resp.Body.Close()
			err = readErr
			if err == nil {
				t.Errorf("an answer that the node cut short looks complete: %s %q", resp.Status, body)
			}
		}
		resp, err = c.Get(own.URL() + "/ws" + place(t, endless.Addr()))
		must(t, err)
		_, err = io.CopyN(io.Discard, resp.Body, 100_000)
		must(t, err)
		resp.Body.Close()
	}
	eventually(t, "the node is told that the clients have gone", func() bool { return serving.Load() == 0 })
}
