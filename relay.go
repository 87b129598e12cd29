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
	stint       = 32 * 1024 // bytes carried with the small buffer before its pace is looked at
	longStint   = 4 << 20   // the same with the large one
)

// A direction that carries a stint within busy, 320 kB/s, has much to carry; one that is
// silent for quiet gives the large buffer back.
const (
	busy  = 100 * time.Millisecond
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
	ended   atomic.Int32  // directions that do not go on
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
var tunnels = make(chan *tunnel)

// What all sessions need begins when the package is loaded: begun by the first
// middleware, it would keep that one alive for good.
func init() {
	go relayAll()
	go hireUshers()
}

// relayAll starts the sessions that are handed over.
func relayAll() {
	defer recovered("starting sessions")
	for {
		t := <-tunnels
		countLeftovers(stormed)
		now := time.Now()
		up := &direction{t: t, to: t.node, from: t.client, began: now}
		up.dst = io.MultiWriter(t.node)
		up.src = &io.LimitedReader{R: t.client, N: stint}
		up.small = make([]byte, smallBuffer)
		down := &direction{t: t, to: t.client, from: t.node, began: now}
		down.dst = io.MultiWriter(t.client)
		down.src = &io.LimitedReader{R: t.node, N: stint}
		down.small = make([]byte, smallBuffer)
		if t.silence != nil {
			watchSilence(up)
			watchSilence(down)
		}
		go pump(up)
		go pump(down)
	}
}

// direction is one of the two in which a session carries. What LimitedReader and
// MultiWriter hide is that a connection has methods that would bring a buffer of 32 kB
// of their own.
type direction struct {
	t        *tunnel
	to, from net.Conn
	dst      io.Writer         // to
	src      *io.LimitedReader // from, until the end of the stint
	small    []byte
	began    time.Time // the stint
}

// watchSilence has a stint break off after half of websocket.idleTimeout: what is
// carried in it cannot be seen from outside.
func watchSilence(d *direction) {
	t := d.t
	if t.half.Load() {
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
// than 4. goesOn is such a call, so a session that has carried a stint has them for good.
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
// where there is more to come.
func goesOn(d *direction, n int64, err error) bool {
	if d.t.silence != nil {
		return carriesOn(d, n, err)
	}
	if n < stint {
		stop(d, err)
		return false
	}
	now := time.Now()
	if now.Sub(d.began) < busy {
		return carriesOn(d, n, err)
	}
	d.began = now
	d.src.N = stint
	return true
}

// carriesOn is goesOn for a direction that has much to carry, or whose silence counts.
func carriesOn(d *direction, n int64, err error) bool {
	defer caught(d)
	t := d.t
	if t.silence != nil {
		now := time.Now().UnixNano()
		if n > 0 {
			t.silence.since.Store(now)
		}
		// It ends when neither direction has carried anything for all of the limit.
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
		stop(d, err)
		return false
	}
	d.began = time.Now()
	d.src.N = stint
	if t.silence != nil {
		watchSilence(d)
	}
	return true
}

// caught is deferred by carriesOn: a panic ends the session.
func caught(d *direction) {
	if r := recover(); r != nil {
		logFailure(errPanic, "panic while relaying a session: %v", r)
		stop(d, errPanic)
	}
}

// stop ends a direction. The first of a session's that ends because from is done
// leaves the other one a while; else both connections are closed.
func stop(d *direction, err error) {
	last := d.t.ended.Add(1) == 2
	if err == nil && !last && saidDone(d) {
		return
	}
	d.to.Close()
	d.from.Close()
	if last {
		over(d.t)
	}
}

// over gives back what a session holds.
func over(t *tunnel) {
	leave(everybody, t.place)
	if t.watched != nil {
		t.watched.table.unwatch(t)
	}
	if t.over != nil {
		close(t.over)
	}
}

// saidDone tells one side of a session that the other is done. Neither can hold the
// other one up for more than lastWords then: not by saying more, nor by not reading
// it. False: it cannot be told.
func saidDone(d *direction) bool {
	if !closeWrite(d.to) {
		return false
	}
	d.t.half.Store(true)
	_ = d.to.SetReadDeadline(time.Now().Add(lastWords))
	_ = d.from.SetWriteDeadline(time.Now().Add(lastWords))
	return true
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
