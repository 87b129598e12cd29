package dynamicforward

import (
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// A session's buffers. Sessions are many and mostly idle, so each direction has
// a small one of its own. One that has much to carry borrows a large one, the
// size of Go's own copy buffer, until it falls silent.
const (
	smallBuffer = 512       // bytes
	largeBuffer = 32 * 1024 // bytes
	stint       = 16 * 1024 // bytes carried with the small buffer before its pace is looked at
	longStint   = 4 << 20   // the same with the large one
)

// A direction that carries a stint within busy has much to carry; one that is
// silent for quiet gives the large buffer back.
const (
	busy  = 50 * time.Millisecond
	quiet = time.Second
)

// lastWords is how long one side of a session may go on after the other has said
// that it is done.
const lastWords = 30 * time.Second

// tunnel is a session: two connections that are copied to each other, and what has
// to be given back when it ends.
type tunnel struct {
	client  net.Conn // nil: it has not started
	node    net.Conn
	half    atomic.Bool   // one side is done
	open    atomic.Int32  // directions that go on
	place   *crowd        // in the census; nil: it has none yet
	watched *watched      // with websocket.closeOnRouteChange
	silence *silence      // with websocket.idleTimeout
	over    chan struct{} // with websocket.waitForEnd; closed when it has ended
}

// silence is how long a session may be silent, and when it was last known to be
// anything else.
type silence struct {
	limit time.Duration
	since atomic.Int64 // Unix nanoseconds
}

// tunnels hands sessions over to the goroutine that starts them. Yaegi: a
// function's frame keeps its caller's alive, up to the one that began the
// goroutine, so what a request starts by itself keeps all that the request knew.
// This goroutine knows nothing but the two connections.
var (
	tunnels  = make(chan *tunnel)
	relaying sync.Once
)

// beginRelaying makes relay possible. It is not part of relay because a closure
// for each session costs more, interpreted, than all the rest of it.
func beginRelaying() {
	begin := func() { go relayAll() }
	relaying.Do(begin)
}

// relay starts a session: it copies between the two connections until both are
// done or one of them breaks.
func relay(t *tunnel) {
	t.open.Store(2)
	tunnels <- t
}

// relayAll starts the sessions that are handed over.
func relayAll() {
	defer recovered("starting sessions")
	for {
		t := <-tunnels
		stormed.add()
		up := newDirection(t, t.node, t.client)
		down := newDirection(t, t.client, t.node)
		go pump(up)
		go pump(down)
	}
}

// direction is one of the two in which a session carries.
type direction struct {
	t        *tunnel
	to, from net.Conn
	dst      io.Writer         // to
	src      *io.LimitedReader // from, until the end of the stint
	small    []byte
	began    time.Time // the stint
	done     bool
}

// newDirection returns a direction at the beginning of its first stint. What
// LimitReader and MultiWriter hide is that a connection has methods that would
// bring a buffer of 32 kB of their own.
func newDirection(t *tunnel, to, from net.Conn) *direction {
	d := &direction{t: t, to: to, from: from}
	d.dst = io.MultiWriter(to)
	d.src = &io.LimitedReader{R: from}
	d.small = make([]byte, smallBuffer)
	begin(d)
	return d
}

// begin begins a stint. What is carried in it cannot be seen from outside: with
// websocket.idleTimeout it breaks off twice within that time.
func begin(d *direction) {
	d.began = time.Now()
	d.src.N = stint
	t := d.t
	if t.silence == nil || t.half.Load() {
		return
	}
	_ = d.from.SetReadDeadline(d.began.Add(t.silence.limit / 2))
	if t.half.Load() { // meanwhile
		_ = d.from.SetReadDeadline(time.Now().Add(lastWords))
	}
}

// pump carries one direction, by compiled code. It is all that an idle session
// waits in, twice. Yaegi: each expression in it would cost the session 40 bytes, a
// defer a quarter of a kilobyte, and one more call around it stacks of 8 kB rather
// than 4.
func pump(d *direction) {
	for {
		n, err := io.CopyBuffer(d.dst, d.src, d.small)
		if goesOn(d, n, err) {
			continue
		}
		return
	}
}

// goesOn takes stock after a stint that carried n bytes, and begins the next one
// where there is more to come. When from is done, to is told so and has a while to
// finish; when either breaks both are closed.
func goesOn(d *direction, n int64, err error) bool {
	defer paused(d)
	d.done = true
	t := d.t
	if t.silence != nil {
		now := time.Now().UnixNano()
		if n > 0 {
			t.silence.since.Store(now)
		}
		// Neither direction has carried anything for all of the limit: it is over.
		if errors.Is(err, os.ErrDeadlineExceeded) && !t.half.Load() && now-t.silence.since.Load() < int64(t.silence.limit) {
			err = nil
			n = stint
			d.began = time.Time{}
		}
	}
	if err == nil && n == stint && time.Since(d.began) < busy {
		n, err = carryMuch(t, d.to, d.from)
	}
	if err != nil || n < stint {
		finish(t, d.to, d.from, err)
		return false
	}
	begin(d)
	d.done = false
	return true
}

// paused is deferred by goesOn. The last direction of a session that is done gives
// back what the session holds, however it came to its end.
func paused(d *direction) {
	t := d.t
	if r := recover(); r != nil {
		logFailure(errPanic, "panic while relaying a session: %v", r)
		t.close()
	}
	if !d.done || t.open.Add(-1) > 0 {
		return
	}
	everybody.leave(t.place)
	if t.watched != nil {
		t.watched.table.unwatch(t)
	}
	if t.over != nil {
		close(t.over)
	}
}

// largeBuffers are lent to the directions that have much to carry.
var largeBuffers = sync.Pool{New: func() interface{} { return make([]byte, largeBuffer) }}

// carryMuch copies with a large buffer until src falls silent. It returns what
// pump goes by: stint bytes where there may be more, less where src is done.
func carryMuch(t *tunnel, dst, src net.Conn) (int64, error) {
	buffer := largeBuffers.Get().([]byte)
	//lint:ignore SA6002 a pointer to the slice costs more than it saves, interpreted
	defer largeBuffers.Put(buffer)
	pause := quiet
	if t.silence != nil && t.silence.limit/2 < pause {
		pause = t.silence.limit / 2
	}
	for !t.half.Load() {
		_ = src.SetReadDeadline(time.Now().Add(pause))
		if t.half.Load() { // meanwhile
			_ = src.SetReadDeadline(time.Now().Add(lastWords))
		}
		n, err := io.CopyBuffer(io.MultiWriter(dst), io.LimitReader(src, longStint), buffer)
		if n > 0 && t.silence != nil {
			t.silence.since.Store(time.Now().UnixNano())
		}
		if isTimeout(err) && !t.half.Load() {
			_ = src.SetReadDeadline(time.Time{})
			return stint, nil
		}
		if err != nil || n < longStint {
			return 0, err
		}
	}
	return stint, nil
}

// close breaks both connections; the directions end by that.
func (t *tunnel) close() {
	t.client.Close()
	t.node.Close()
}

// abandon gives back the place of a session that was not started.
func abandon(t *tunnel) {
	if t.client == nil && t.place != nil {
		everybody.leave(t.place)
	}
}

// finish ends a direction. Neither side can hold the other one up for more than
// lastWords then: not by saying more, nor by not reading it.
func finish(t *tunnel, dst, src net.Conn, err error) {
	if err == nil && closeWrite(dst) {
		t.half.Store(true)
		_ = dst.SetReadDeadline(time.Now().Add(lastWords))
		_ = src.SetWriteDeadline(time.Now().Add(lastWords))
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
