package dynamicforward

import (
	"io"
	"math"
	"net"
	"reflect"
	"sync"
	"time"
)

// relayBuffer is the size of a session's buffer for each direction, in bytes.
// Sessions are many and mostly idle, so it is small; what is larger goes in
// several pieces.
const relayBuffer = 1024

// lastWords is how long one side of a session may go on after the other has said
// that it is done.
const lastWords = 30 * time.Second

// pair is a session's two connections.
type pair struct {
	client net.Conn
	node   net.Conn
}

// sessions hands the pairs over to the goroutine that starts sessions. Yaegi: a
// function's frame keeps its caller's alive, up to the one that began the
// goroutine, so what a request starts by itself keeps all that the request knew.
// This goroutine knows nothing but the pair.
var (
	sessions      = make(chan pair)
	startSessions sync.Once
)

// relay starts a session: it copies between the two connections until both are
// done or one of them breaks.
func relay(client, node net.Conn) {
	start := func() { go relayAll() }
	startSessions.Do(start)
	sessions <- pair{client: client, node: node}
}

// relayAll starts the sessions that are handed over.
func relayAll() {
	defer recovered("starting sessions")
	for {
		p := <-sessions
		go pump(p.node, p.client)
		go pump(p.client, p.node)
	}
}

// pump copies one direction. When src is done, dst is told so and has a while to
// finish; when either breaks both are closed. The copying itself is compiled,
// and LimitReader and MultiWriter hide the methods with which a connection would
// bring a buffer of 32 kB of its own.
func pump(dst, src net.Conn) {
	defer recovered("relaying a session")
	_, err := io.CopyBuffer(io.MultiWriter(dst), io.LimitReader(src, math.MaxInt64), make([]byte, relayBuffer))
	if err == nil && closeWrite(dst) {
		_ = dst.SetReadDeadline(time.Now().Add(lastWords))
		return
	}
	dst.Close()
	src.Close()
}

// closeWrite says on a connection that nothing more will come. False: it cannot.
// Yaegi: an assertion to an interface of our own never holds for a compiled type.
func closeWrite(conn net.Conn) bool {
	method := reflect.ValueOf(conn).MethodByName("CloseWrite")
	if !method.IsValid() {
		return false
	}
	results := method.Call(nil)
	return len(results) == 1 && results[0].IsNil()
}
