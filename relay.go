package dynamicforward

import (
	"io"
	"math"
	"net"
	"reflect"
	"time"
)

// relayBuffer is the size of a session's buffer for each direction, in bytes.
// Sessions are many and mostly idle, so it is small; what is larger goes in
// several pieces.
const relayBuffer = 1024

// lastWords is how long one side of a session may go on after the other has said
// that it is done.
const lastWords = 30 * time.Second

// relay starts a session: it copies between the two connections until both are
// done or one of them breaks. It names nothing else, so that nothing of the
// handshake stays alive for as long as the session does.
func relay(client, node net.Conn) {
	go pump(node, client)
	go pump(client, node)
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
