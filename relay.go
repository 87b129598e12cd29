package dynamicforward

import (
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// A session's buffers. Sessions are many and mostly idle, so each direction has a small one
// of its own. One whose messages do not fit in it, each of which would take several system
// calls and leave as several packets, has a middle one in its place until there is a lull:
// the smallest that holds the message that was looked at. A larger message goes in pieces,
// until one of its size is looked at. A direction that has much to carry borrows a large
// buffer, the size of Go's own copy buffer, until it falls silent.
const (
	smallBuffer = 512       // bytes
	largeBuffer = 32 * 1024 // bytes

	// Middle buffers, in bytes: Go's allocator has these sizes next above 1, 2 and 4 kB, which
	// leaves room for the head of a WebSocket's frame.
	middle1k = 1152
	middle2k = 2304
	middle4k = 4864

	stint       = 64 * 1024 // bytes carried with the small buffer, or the middle one, before a look at what there is
	calmBuffers = 512       // the same in buffers full, after a look that has found what fits: a look costs as much as some messages

	// A lull is when less than a small buffer full has come for so long, or for a third of
	// websocket.idleTimeout where that is shorter. To be woken to see that costs what a
	// middle buffer saves with a few messages, and leaves garbage: a direction that was woken
	// in vain is left alone for twice as long the next time, up to longLulls times lull and
	// no longer than that third, and has to carry twice as much then. With a new middle
	// buffer all that begins anew.
	lull      = 10 * time.Second
	longLulls = 8
)

// A direction that has more to read at once than any middle buffer holds has much to carry. It
// gives the large one back when it carries less than that holds for the time of quiet, which
// is as long as it may be with the shortest websocket.idleTimeout: see silence.untold. To be
// woken for that costs as much as some messages: one that has carried as much stays for twice
// as long the next time, up to longQuiets times quiet, and has to carry twice as much then.
// What a burst leaves is so held for a second, what a long stream leaves for a few.
const (
	quiet      = minIdleTimeout / 3
	longQuiets = 8
)

// lastWords is how long one side of a session may go on after the other has said
// that it is done.
const lastWords = 30 * time.Second

// tunnel is a session: two connections that are copied to each other, and what has
// to be given back when it ends.
type tunnel struct {
	client  net.Conn // nil: it has not started
	node    net.Conn
	half    atomic.Int64  // the moment until which the other side may go on; 0: none is done
	ended   atomic.Int32  // directions that do not go on
	broken  atomic.Bool   // one of them has closed both connections, in takeStockInTurn
	plain   bool          // neither side speaks TLS, whose end may take time
	place   *crowd        // in the census; nil: it has none yet
	watched *watched      // with websocket.closeOnRouteChange
	silence *silence      // with websocket.idleTimeout
	over    chan struct{} // with websocket.waitForEnd; closed when it has ended
}

// silence is how long a session may be silent, and when it was last known to be
// anything else.
type silence struct {
	untold time.Duration // how long it may take until what a direction has carried is known
	most   int64         // nanoseconds: if nothing was noted for so long, there was silence for all of the limit
	since  atomic.Int64  // a moment
}

// newSilence is that of a session that has just begun.
func newSilence(limit time.Duration) *silence {
	s := &silence{untold: limit / 3}
	s.most = int64(limit + s.untold) // what the other direction has carried may be untold
	s.since.Store(moment(time.Now()))
	return s
}

// note notes that a session has carried something.
func (t *tunnel) note(carried int64) {
	if carried > 0 && t.silence != nil {
		t.silence.since.Store(moment(time.Now()))
	}
}

// What all sessions need, and all connections to nodes, begins when the package is loaded:
// begun by the first middleware, it would keep that one alive for good.
func init() {
	go forGood("giving memory back after storms", awaitStorms)
	go forGood("giving memory back after talk", awaitSilences)
	go forGood("calling those who look after connections to nodes", sendWatchmen)
	go forGood("starting sessions", hirePumps)
	for i := 0; i < takers; i++ {
		go forGood("taking stock of sessions", takeStockInTurn)
	}
	go forGood("starting handshakes", hireUshers)
}

// direction is one of the two in which a session carries, or one that has been and waits
// among pumps to be another session's: a goroutine begun anew makes its frame, and its
// stack has to grow. Those go there that takeStockInTurn ends; takeStock's goroutines end.
// What LimitedReader and MultiWriter hide is that a connection has methods that would bring
// a buffer of 32 kB of their own.
type direction struct {
	t        *tunnel // nil: it waits, and keeps what the last one has left until then
	to, from net.Conn
	dst      io.Writer         // to
	src      *io.LimitedReader // from, until the end of the stint
	buffer   []byte            // that it carries with in this stint: a small one or a middle one
	lulls    int               // with a middle one: after how many times lull it is woken
	fresh    bool              // the stint ends with what is most likely the first byte of a message
	carried  int64             // in the last stint
	err      error             // that ended it
	again    chan bool         // whether there is another one
}

// newDirection returns one that no session has had.
func newDirection() *direction {
	d := &direction{again: make(chan bool, 1)}
	d.src = &io.LimitedReader{}
	d.buffer = make([]byte, smallBuffer)
	return d
}

// maxPumps is how many directions without a session stay.
const maxPumps = 2 * maxUshers

// pumps are those without a session, and pumpsWanted says that there may be none. Some may
// come back at the same moment and be too many; there is room for them.
var (
	pumps       = make(chan *direction, 2*maxPumps)
	pumpsWanted = make(chan bool)
)

// hirePumps sees to it that there are always directions without a session. Yaegi: a
// function's frame keeps its caller's alive, up to the one that began the goroutine. What a
// request, or an usher, starts by itself would keep all that they knew; and a function that
// makes a direction and begins its goroutine would have its frame kept for each.
func hirePumps() {
	var up, down *direction
	for {
		for len(pumps) < 2 {
			up = newDirection()
			down = newDirection()
			go pump(up)
			go pump(down)
			pumps <- up
			pumps <- down
			countLeftovers(stormed)
		}
		<-pumpsWanted
	}
}

// pump carries one direction, stint by stint, by compiled code. It is all that an idle
// session waits in, twice. Yaegi: each expression in it costs the session 40 bytes or
// more, and a defer would cost a quarter of a kilobyte. One more call, even a single one,
// would have its stack grow from 4 kB to 8, for good: so another goroutine takes stock
// after each stint. This one stays: one begun anew for each stint would have its frame
// among what was thrown away meanwhile, and keep those pages in memory.
func pump(d *direction) {
	for <-d.again {
		d.carried, d.err = io.CopyBuffer(d.dst, d.src, d.buffer)
		rested <- d
	}
}

// rested hands over the directions that have done a stint.
var rested = make(chan *direction)

// takers is how many goroutines take stock: when a node dies, the sessions of others do
// not wait behind all of its own. Behind sessions that have begun in one storm, and are all
// to tell at the same moments whether they are silent, the others do wait, but not for long:
// each is quickly done.
const takers = 4

// taker is who takes stock, of one direction at a time.
type taker struct {
	of *direction
}

// takeStockInTurn has stock taken of them. Like hirePumps, it knows nothing else. It does
// itself what is quick, and what many sessions come to: it has a direction go on that was
// only to tell whether it is silent, as stays, pause and wake do it, without its middle buffer
// if there is a lull; and it does what stop does to one that has broken, or ends after the other
// one. A goroutine for the latter, and its calls, were nearly a third of what a session,
// interpreted, throws away from its handshake on; one for the former took twice the time, and
// of thousands at the same moment the stacks stayed in memory.
func takeStockInTurn() {
	k := &taker{}
	defer caught(k)
	var d *direction
	var t *tunnel
	var op *net.OpError
	var tcp *net.TCPConn
	var ok bool
	var now, next time.Time
	var at int64
	var after, patience time.Duration
	var woken bool
	for {
		d = <-rested
		k.of = d
		t = d.t
		woken = errors.Is(d.err, os.ErrDeadlineExceeded)
		if woken && t.half.Load() == 0 {
			now = time.Now()
			at = int64(now.Sub(began)) // as moment does it
			if t.silence != nil && d.carried > 0 {
				t.silence.since.Store(at)
			}
			if t.silence == nil || at-t.silence.since.Load() < t.silence.most {
				after = 0
				if t.silence != nil {
					after = t.silence.untold
				}
				if len(d.buffer) > smallBuffer {
					patience = time.Duration(d.lulls) * lull
					if d.carried < int64(d.lulls)*smallBuffer {
						d.buffer = make([]byte, smallBuffer)
						if d.src.N > stint {
							d.src.N = stint
						}
						countLeftovers(silenced)
					} else {
						if d.lulls < longLulls && (after == 0 || after >= 2*patience) {
							d.lulls *= 2
							patience *= 2
						}
						if after == 0 || after > patience {
							after = patience
						}
					}
				}
				next = time.Time{}
				if after > 0 {
					next = now.Add(after)
				}
				_ = d.from.SetReadDeadline(next)
				if t.half.Load() != 0 { // only since then
					wake(d, 0)
				}
				d.again <- true
				continue
			}
		}
		if !t.plain || d.src.N == 0 || d.err == nil && t.ended.Load() == 0 || woken && t.half.Load() != 0 && mayGoOn(t, d.err) {
			go takeStock(d)
			continue
		}
		if !t.broken.Swap(true) {
			if d.err != nil && d.to == t.node { // as passReset does it; without TLS each error is a pointer
				op, ok = d.err.(*net.OpError)
				if ok && op.Op == "read" && reflect.TypeOf(op.Err) == systemError {
					tcp, ok = d.to.(*net.TCPConn)
					if ok {
						_ = tcp.SetLinger(0)
					}
				}
			}
			d.to.Close()
			d.from.Close()
		}
		if t.ended.Add(1) == 2 {
			if t.watched == nil { // as over does it
				everybody.mu.Lock()
				t.place.count--
				if t.place.count == 0 {
					delete(everybody.nodes, t.place.address)
				}
				everybody.mu.Unlock()
				if t.over != nil {
					close(t.over)
				}
			} else {
				go overWatched(t)
			}
		}
		d.t = nil
		if len(d.buffer) > smallBuffer {
			d.buffer = make([]byte, smallBuffer)
		}
		d.fresh = false
		if len(pumps) < maxPumps {
			pumps <- d
			continue
		}
		close(d.again)
	}
}

// takeStock ends a direction after a stint, or lets it go on, with a large buffer for as
// long as it has much to carry.
func takeStock(d *direction) {
	defer caught(&taker{of: d})
	t := d.t
	next := int64(0)
	if stays(t, d.carried, d.err) {
		next = d.src.N
	} else if d.err == nil && d.src.N == 0 {
		next, d.err = look(d)
	}
	if next == 0 {
		stop(d, d.err)
		close(d.again)
		return
	}
	d.src.N = next
	wake(d, pause(d))
	d.again <- true
}

// pause is after what time in a stint a direction is to tell whether it is silent: with
// websocket.idleTimeout, and as long as it has a middle buffer. 0: never.
func pause(d *direction) time.Duration {
	after := time.Duration(0)
	if d.t.silence != nil {
		after = d.t.silence.untold
	}
	patience := time.Duration(d.lulls) * lull
	if len(d.buffer) > smallBuffer && (after == 0 || after > patience) {
		return patience
	}
	return after
}

// stays notes when a session with websocket.idleTimeout has carried something. True:
// the stint was only broken off to tell whether there is silence, and the session has not
// been silent for too long.
func stays(t *tunnel, carried int64, err error) bool {
	t.note(carried)
	return mayGoOn(t, err) && (t.silence == nil || moment(time.Now())-t.silence.since.Load() < t.silence.most)
}

// mayGoOn tells whether a direction's wait was only broken off by wake.
func mayGoOn(t *tunnel, err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	until := t.half.Load()
	return until == 0 || moment(time.Now()) < until
}

// wake has a direction wait for something to carry for so long at the most; 0: as long
// as it takes. When one side is done, the other has the time that it was given then.
func wake(d *direction, after time.Duration) {
	at := time.Time{}
	if after > 0 {
		at = time.Now().Add(after)
	}
	if d.t.half.Load() == 0 {
		_ = d.from.SetReadDeadline(at)
	}
	if until := d.t.half.Load(); until != 0 { // maybe only since then
		_ = d.from.SetReadDeadline(atMoment(until))
	}
}

// caught is deferred by who takes stock: a panic ends the session.
func caught(k *taker) {
	if r := recover(); r != nil {
		logFailure(errPanic, "panic while relaying a session: %v", r)
		stop(k.of, errPanic)
		close(k.of.again)
	}
}

// stop ends a direction. The first of a session's that ends because from is done
// leaves the other one a while; else both connections are closed.
func stop(d *direction, err error) {
	last := d.t.ended.Add(1) == 2
	if err == nil && !last && saidDone(d) {
		return
	}
	if err != nil && d.to == d.t.node {
		passReset(d, err)
	}
	d.to.Close()
	d.from.Close()
	if last {
		over(d.t)
	}
}

// passReset has the node's connection reset when it is closed, if the client's was reset, or
// lost: the node learns what it would have learned without a gateway, and none of the
// gateway's ports is kept for what may still come. A client's connection is closed in order
// whatever its node's has met: what the node has said last may still be on its way. Whoever
// reads learns of a reset; a write also fails on what the other side has ended in order.
func passReset(d *direction, err error) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "read" || reflect.TypeOf(op.Err) != systemError {
		return
	}
	node := d.to
	if safe, ok := node.(*tls.Conn); ok {
		node = safe.NetConn()
	}
	if tcp, ok := node.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// systemError is what the system says of a connection. Yaegi: an assertion to that type
// panics where an error is an empty struct, as net.ErrClosed is.
var systemError = reflect.TypeOf((*os.SyscallError)(nil))

// over gives back what a session holds. The request that waits for its end does not wait for a
// table that is busy.
func over(t *tunnel) {
	leave(everybody, t.place)
	if t.over != nil {
		close(t.over)
	}
	if t.watched != nil {
		t.watched.table.unwatch(t)
	}
}

// overWatched is over for who takes stock, who does not wait for it either.
func overWatched(t *tunnel) {
	defer recovered("ending a session that is watched")
	over(t)
}

// saidDone tells one side of a session that the other is done. Neither can hold the
// other one up for more than lastWords then: not by saying more, nor by not reading
// it. False: it cannot be told.
func saidDone(d *direction) bool {
	if !closeWrite(d.to) {
		return false
	}
	until := time.Now().Add(lastWords)
	d.t.half.Store(moment(until))
	_ = d.to.SetReadDeadline(until)
	_ = d.from.SetWriteDeadline(until)
	return true
}

// largeBuffers are lent to the directions that have much to carry.
var largeBuffers = sync.Pool{New: func() interface{} { return make([]byte, largeBuffer) }}

// look sees after a stint how much the direction has to carry. If what it reads next is more
// than its buffer full, it has a middle one that holds it until there is a lull; if it is more
// than the largest of these does, it carries on with a large one. It returns how long the next
// stint with the small buffer, or the middle one, is; 0: there is none. What comes first after
// a stint may be the rest of a message, of which one cannot tell how large it was. Where
// nothing else comes soon, or it fills the buffer, the next stint is a single byte, the first
// of the next message, and the look after it sees all of that.
func look(d *direction) (int64, error) {
	fresh := d.fresh
	d.fresh = false
	wake(d, quiet)
	n, err := pass(d, d.buffer)
	mayBeRest := !fresh && n == len(d.buffer)
	if err == nil && n < len(d.buffer) && !fresh {
		n, err = pass(d, d.buffer)
	}
	if err != nil && !fresh && mayGoOn(d.t, err) {
		d.fresh = true
		return 1, nil
	}
	if err != nil || n < len(d.buffer) {
		return afterwards(d, calm(d), err)
	}
	buffer := largeBuffers.Get().([]byte)
	//lint:ignore SA6002 a pointer to the slice costs more than it saves, interpreted
	defer largeBuffers.Put(buffer)
	more, err := pass(d, buffer)
	size := n + more
	if fresh {
		size++
	}
	if err == nil && size > middle4k {
		return carryMuch(d, buffer)
	}
	widen(d, size)
	if mayBeRest && (err == nil || mayGoOn(d.t, err)) {
		d.fresh = true
		return 1, nil
	}
	return afterwards(d, calm(d), err)
}

// calm is how long the stint is after a look that has found what fits the buffer.
func calm(d *direction) int64 { return calmBuffers * int64(len(d.buffer)) }

// widen gives a direction a middle buffer for so many bytes, if they do not fit in the buffer
// that it has.
func widen(d *direction, size int) {
	if size <= len(d.buffer) {
		return
	}
	d.lulls = 1
	switch {
	case size <= middle1k:
		d.buffer = make([]byte, middle1k)
	case size <= middle2k:
		d.buffer = make([]byte, middle2k)
	default:
		d.buffer = make([]byte, middle4k)
	}
}

// carryMuch carries with a large buffer for as long as that pays. It returns what look
// returns. What had much to carry once is likely to have it again: so the next look is soon,
// after one more small buffer full. But where the first stay already carried too little to
// pay, the next look is as late as the first was: else a direction that always has a little
// too little would look and stay over and over. One does whose messages are larger than any
// middle buffer, if it is silent after each.
func carryMuch(d *direction, buffer []byte) (int64, error) {
	quiets := 1 // how many times quiet this stay lasts
	for {
		wake(d, time.Duration(quiets)*quiet)
		d.src.N = math.MaxInt64
		carried, err := io.CopyBuffer(d.dst, d.src, buffer)
		d.t.note(carried)
		if carried > 0 {
			widen(d, middle4k)
		}
		switch {
		case err == nil:
			return 0, nil
		case carried >= int64(quiets)*largeBuffer && errors.Is(err, os.ErrDeadlineExceeded):
			quiets = longer(d.t, quiets)
		case carried == 0:
			if len(d.buffer) > smallBuffer {
				d.buffer = make([]byte, smallBuffer)
			}
			return afterwards(d, smallBuffer, err)
		case quiets > 1:
			return afterwards(d, smallBuffer, err)
		default:
			return afterwards(d, stint, err)
		}
	}
}

// longer returns for how many times quiet a direction stays next, after a stay of so many
// that has paid. With websocket.idleTimeout that is no longer than what it carries may be
// untold.
func longer(t *tunnel, quiets int) int {
	twice := 2 * quiets
	if twice > longQuiets || t.silence != nil && t.silence.untold < time.Duration(twice)*quiet {
		return quiets
	}
	return twice
}

// pass carries what there is to read, as much as the buffer holds.
func pass(d *direction, buffer []byte) (int, error) {
	n, err := d.from.Read(buffer)
	if n > 0 {
		if _, unsaid := d.to.Write(buffer[:n]); unsaid != nil {
			return n, unsaid
		}
		d.t.note(int64(n))
	}
	return n, err
}

// afterwards is what look returns: that the next stint has so many bytes, unless the
// direction has come to its end.
func afterwards(d *direction, next int64, err error) (int64, error) {
	switch {
	case err == nil || mayGoOn(d.t, err):
		return next, nil
	case err == io.EOF:
		return 0, nil
	default:
		return 0, err
	}
}

// close breaks both connections; the directions end by that. A client that speaks TLS and
// does not read holds up the end of its own for seconds, and not of the node's.
func (t *tunnel) close() {
	t.node.Close()
	t.client.Close()
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
