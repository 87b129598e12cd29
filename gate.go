package dynamicforward

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// What an address may cost that does not answer dials, a machine that has gone
// or one that drops packets. Each dial is a goroutine, a descriptor and a
// half-open connection for as long as dialTimeout, and clients reconnect for ever.
const (
	// maxDials is how many dials to one address are under way at a time. A node
	// that answers does so within a round trip, so this is thousands a second.
	maxDials = 64
	// maxDialsWaiting is how many more wait for one of them to end. Those that
	// come then are refused.
	maxDialsWaiting = 4096
	// grace is how long an address counts as silent after it has not answered a
	// dial in time.
	grace = time.Second
)

// errNotDialed is why a gate lets a dial not through. Requests see it as an error
// of dialing.
var errNotDialed = errors.New("not dialed")

// The cases of errNotDialed.
var (
	errSilent  = fmt.Errorf("%w: less than a second ago it did not answer in time, and no more than one request at a time tries it", errNotDialed)
	errCrowded = fmt.Errorf("%w: too many wait for an answer of it already", errNotDialed)
	errWaited  = fmt.Errorf("%w: others took all of dialTimeout", errNotDialed)
)

// gate lets dials to one address through. While nothing is known of the node,
// or it answers, they are free but for maxDials, or one more for a moment; the rest wait
// for their turn, for dialTimeout at most, and may be overtaken by those that come
// when a place is free. The first that is not answered in time tells of all
// the others: those that wait are refused, and for the time of grace all are but
// one at a time, which finds out when the node is back. Whatever the node says
// then, even that it refuses, ends it.
//
// When nobody has tried for the time of grace, nothing is known any more. So a
// node that was silent once and gets a hundred clients a day later is dialed for
// each of them.
type gate struct {
	fence   *fence
	address string // host:port
	literal bool   // it needs no resolving, and the fence lets it through
	barred  error  // why the fence never lets it through; nil: it may

	// load is how many dials are under way, with those that have yet to find out
	// whether they may be; while the node is silent it is more than maxDials.
	load atomic.Int64

	mu      sync.Mutex
	waiting *list.List    // of *dialWait
	silent  bool          // it did not answer a dial in time
	until   time.Time     // how long that counts
	trying  bool          // a dial finds out whether it still is
	refused chan struct{} // closed to refuse those that wait
}

// silentLoad is what silence adds to a gate's load.
const silentLoad = 1 << 32

// dialWait is a dial that waits for its turn.
type dialWait struct {
	turn chan struct{} // closed when it comes
	come bool
}

func newGate(f *fence, address string) *gate {
	return &gate{fence: f, address: address, waiting: list.New(), refused: make(chan struct{})}
}

// dial connects to a node, by an address that the fence lets through and when its
// gate does. Most dials are to a literal address, of a node that answers and has few
// of them. See handler for what a function is spared.
func dial(ctx context.Context, g *gate) (net.Conn, error) {
	if g.load.Add(1) > maxDials || !g.literal {
		conn, err := g.dialInTurn(ctx)
		return conn, err
	}
	conn, err := g.fence.dialer.DialContext(ctx, "tcp", g.address)
	if g.load.Add(-1) >= maxDials-1 || err != nil { // others may wait, or are to be told
		g.leave(false, err)
	}
	return conn, err
}

// dialInTurn is dial for a dial that has to wait, or be refused, or whose address has
// to be resolved. It is in load already.
func (g *gate) dialInTurn(ctx context.Context) (net.Conn, error) {
	if g.barred != nil {
		g.load.Add(-1)
		return nil, g.barred
	}
	trial, err := g.enter(ctx, g.fence.dialer.Timeout)
	if err != nil {
		return nil, dialError("tcp", err)
	}
	var conn net.Conn
	if g.literal {
		conn, err = g.fence.dialer.DialContext(ctx, "tcp", g.address)
	} else {
		conn, err = g.fence.dialName(ctx, "tcp", g.address)
	}
	if !trial {
		g.load.Add(-1)
	}
	g.leave(trial, err) // not deferred: nothing panics there, and a deferred closure would hang then (Yaegi)
	return conn, err
}

// enter lets a dial through that is in load already, at once or when it is its turn,
// or says why not. One that is let through as a trial is in load no more; all end with
// leave, which is told.
func (g *gate) enter(ctx context.Context, timeout time.Duration) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.silent && !g.trying && time.Now().After(g.until) {
		g.setSilent(false)
	}
	if !g.silent && g.load.Load() <= maxDials {
		return false, nil
	}
	g.load.Add(-1)
	switch {
	case g.silent && g.trying:
		return false, errSilent
	case g.silent:
		g.trying = true
		return true, nil
	case g.waiting.Len() >= maxDialsWaiting:
		return false, errCrowded
	}
	wait := &dialWait{turn: make(chan struct{})}
	place := g.waiting.PushBack(wait)
	refused := g.refused
	g.mu.Unlock()
	err := waitForTurn(ctx, timeout, wait.turn, refused)
	g.mu.Lock()
	if wait.come {
		return false, nil // even if it has given up at that moment: leave passes the turn on
	}
	g.waiting.Remove(place)
	return false, err
}

// setSilent says whether the node is silent. It is called with the lock held.
func (g *gate) setSilent(silent bool) {
	switch {
	case silent && !g.silent:
		g.load.Add(silentLoad)
	case g.silent && !silent:
		g.load.Add(-silentLoad)
	}
	g.silent = silent
}

// waitForTurn waits for one of the two channels to be closed, or the end of the
// caller or of the timeout; 0: there is none.
func waitForTurn(ctx context.Context, timeout time.Duration, turn, refused chan struct{}) error {
	limited := ctx
	if timeout > 0 {
		until, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		limited = until
	}
	which, _ := choose(turn, refused, limited.Done())
	switch {
	case which == 0:
		return nil
	case which == 1:
		return errSilent
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return errWaited
	}
}

// leave is told what came of a dial that was let through, and is in load no more. It
// lets those in that wait: a dial that leaves, and sees that it was one of maxDials,
// comes here for them.
func (g *gate) leave(trial bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if trial {
		g.trying = false
	}
	switch {
	case isTimeout(err):
		g.setSilent(true)
		g.until = time.Now().Add(grace)
		g.waiting = list.New()
		close(g.refused)
		g.refused = make(chan struct{})
	case errors.Is(err, context.Canceled):
		if trial {
			g.until = time.Now().Add(grace) // its client has gone, and the next one tries
		}
	default:
		g.setSilent(false)
	}
	for g.load.Load() < maxDials && g.waiting.Len() > 0 {
		next := g.waiting.Remove(g.waiting.Front()).(*dialWait)
		g.load.Add(1)
		next.come = true
		close(next.turn)
	}
}

// dialError makes an error of dialing of what a gate says.
func dialError(network string, err error) error {
	return &net.OpError{Op: "dial", Net: network, Err: err}
}
