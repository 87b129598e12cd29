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
		if t.silence != nil {
			go pumpUntilSilent(t, t.node, t.client)
			go pumpUntilSilent(t, t.client, t.node)
		} else {
			go pump(t, t.node, t.client)
			go pump(t, t.client, t.node)
		}
	}
}

// pump carries one direction. When src is done, dst is told so and has a while to
// finish; when either breaks both are closed. The copying is compiled, and
// LimitReader and MultiWriter hide the methods with which a connection would
// bring a buffer of 32 kB of its own. Here it stands in pump itself: one more
// interpreted call, and an idle direction has a stack of 8 kB rather than 4.
func pump(t *tunnel, dst, src net.Conn) {
	defer ended(t)
	small := make([]byte, smallBuffer)
	for {
		begin := time.Now()
		n, err := io.CopyBuffer(io.MultiWriter(dst), io.LimitReader(src, stint), small)
		if err == nil && n == stint {
			if time.Since(begin) < busy {
				n, err = carryMuch(t, dst, src)
			}
		}
		if err != nil || n < stint {
			finish(t, dst, src, err)
			return
		}
	}
}

// pumpUntilSilent is pump with websocket.idleTimeout. What is carried cannot be
// seen from outside, so each direction stops twice within that time to note
// whether it has carried anything; the one that finds that neither has for all of
// it ends the session. Everything stands in the one function, as in pump.
func pumpUntilSilent(t *tunnel, dst, src net.Conn) {
	defer ended(t)
	small := make([]byte, smallBuffer)
	for {
		if !t.half.Load() {
			_ = src.SetReadDeadline(time.Now().Add(t.silence.limit / 2))
			if t.half.Load() { // meanwhile
				_ = src.SetReadDeadline(time.Now().Add(lastWords))
			}
		}
		begin := time.Now()
		n, err := io.CopyBuffer(io.MultiWriter(dst), io.LimitReader(src, stint), small)
		if n > 0 {
			t.silence.since.Store(time.Now().UnixNano())
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !t.half.Load() && time.Now().UnixNano()-t.silence.since.Load() < int64(t.silence.limit) {
			continue
		}
		if err == nil && n == stint {
			if time.Since(begin) < busy {
				n, err = carryMuch(t, dst, src)
			}
		}
		if err != nil || n < stint {
			finish(t, dst, src, err)
			return
		}
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

// ended is deferred by each direction. The last one gives back what the session
// holds, however it came to its end. Yaegi: a deferred method would cost the
// session another 2 kB.
func ended(t *tunnel) {
	if r := recover(); r != nil {
		logFailure(errPanic, "panic while relaying a session: %v", r)
		t.close()
	}
	if t.open.Add(-1) > 0 {
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
