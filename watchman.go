package dynamicforward

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"sync"
	"time"
)

// watchman looks after the lanes of a forwarder, for as long as there are any.
type watchman struct {
	every      time.Duration // laneTick
	distrusted *memo         // host:port of nodes that get no lanes any more
	mu         sync.Mutex
	watched    map[*lanes]bool
	onDuty     bool
	looks      int // so far
}

// called hands over the watchmen that are to go on duty.
var called = make(chan *watchman)

// sendWatchmen begins their goroutines. Yaegi: a frame keeps the one alive that has called
// it, or begun its goroutine. So they are not begun by requests; and a look that had a timer
// call the next one would have the frames of all looks that ever were kept.
func sendWatchmen() {
	for {
		m := <-called
		go watchOn(m) // no method: Yaegi reads m when that begins, and it may be the next one by then
	}
}

func newWatchman() *watchman {
	return &watchman{every: laneTick, distrusted: &memo{max: maxWays}, watched: map[*lanes]bool{}}
}

// watch has lanes looked after.
func (m *watchman) watch(g *lanes) {
	m.mu.Lock()
	m.watched[g] = true
	call := !m.onDuty
	m.onDuty = true
	m.mu.Unlock()
	if call {
		called <- m
	}
}

// watchOn is a watchman's goroutine.
func watchOn(m *watchman) {
	defer recovered("looking after connections to nodes")
	for m.staysOn() {
		time.Sleep(m.every)
		m.look()
	}
}

// staysOn ends his duty if there is nothing to look after, and tells whether there is.
func (m *watchman) staysOn() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onDuty = len(m.watched) > 0
	return m.onDuty
}

// look looks after all lanes.
func (m *watchman) look() {
	defer recovered("looking at connections to nodes")
	left := probes
	m.looks++
	for _, g := range m.all() {
		if m.looks%restLooks != 0 && atRest(g) {
			continue
		}
		idle, more := g.tick(time.Now(), left)
		left = more
		if idle {
			m.leave(g)
		}
	}
}

// leave has lanes not looked after, if there are none of them. One that is new is watched
// after it was opened, so it is seen here or watched again.
func (m *watchman) leave(g *lanes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if laneCount(g) == 0 {
		delete(m.watched, g)
	}
}

// all returns the lanes that are looked after.
func (m *watchman) all() []*lanes {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*lanes, 0, len(m.watched))
	for g := range m.watched {
		all = append(all, g)
	}
	return all
}

// tick closes the lanes that are of no use any more, and sees to it that no request
// waits for one in vain. It reads as many idle ones as are left to read, at most. It
// returns whether there is nothing to look after any more, and how many are left then.
//
// What is done for each lane, or for each idle one, is for a node with many clients the
// dearest of all that is not done for a request, so it is in functions, not in methods,
// and asks what costs least first (see handler).
func (g *lanes) tick(now time.Time, left int) (bool, int) {
	for _, l := range g.all() {
		if len(l.under) > 0 {
			lookAt(g, l, now)
		} else {
			notSeen(g, l)
		}
	}
	trusted := g.trusted()
	left = visitIdle(g, now, left, trusted)
	visitResting(g, now, trusted)
	readResting(g)
	if len(g.idle) == 0 {
		g.idle <- g.standIn()
		return false, left
	}
	if laneCount(g) > 0 {
		g.empty = 0
		return false, left
	}
	// A request may have seen idle lanes that are gone, and be about to wait for one.
	g.empty++
	return g.empty >= emptyLooks, left
}

// atRest tells whether all lanes of a way rest, and no request waits for one.
func atRest(g *lanes) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open) == 0 && len(g.resting) > 0 && len(g.idle) > 0
}

// laneCount returns how many lanes there are.
func laneCount(g *lanes) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open) + len(g.resting)
}

// visitIdle has the idle lanes rest that nobody has used since the last visit, reads as
// many of the others as are left to read, and returns how many are left then. A visit
// takes a while, in which requests take lanes and bring them back; so it may meet one
// twice.
func visitIdle(g *lanes, now time.Time, left int, trusted bool) int {
	g.visits++
	i := len(g.idle)
	idle := reflect.ValueOf(g.idle)
	for ; i > 0; i-- {
		next, some := idle.TryRecv()
		if !some {
			break
		}
		l := next.Interface().(*lane)
		if l.visit == g.visits || l.over { // over: a stand-in
			g.idle <- l
			continue
		}
		if trusted && l.asked == nil {
			layDown(g, l, now)
			continue
		}
		keep := trusted
		if keep && left > 0 {
			left--
			err := probe(l)
			keep = isTimeout(err)
			if err == nil {
				g.distrust()
				trusted = false
			}
		}
		if !keep {
			end(g, l)
			continue
		}
		if l.absent >= lostAfter {
			relist(g, l)
		}
		l.visit = g.visits
		l.asked = nil
		if l.text.Cap() > laneBuffer {
			*l.text = *bytes.NewBuffer(make([]byte, 0, laneBuffer))
		}
		l.absent = 0
		g.idle <- l
	}
	return left
}

// layDown has a lane rest.
func layDown(g *lanes, l *lane, now time.Time) {
	l.rested = now
	g.mu.Lock()
	delete(g.open, l)
	g.resting = append(g.resting, l)
	g.mu.Unlock()
}

// visitResting closes the lanes that have rested long enough; all, where there are to be
// none any more.
func visitResting(g *lanes, now time.Time, trusted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	over := 0
	for over < len(g.resting) {
		l := g.resting[over]
		if trusted && (g.rest == 0 || now.Sub(l.rested) < g.rest) {
			break
		}
		l.conn.Close()
		over++
	}
	if over > 0 {
		g.resting = append([]*lane{}, g.resting[over:]...)
	}
}

// readResting reads a lane at rest, another one each time, and more where the node has
// closed it: it has likely closed others too.
func readResting(g *lanes) {
	for {
		l, at := takeResting(g)
		if l == nil {
			return
		}
		err := probe(l)
		if isTimeout(err) {
			putBack(g, l, at)
			return
		}
		end(g, l)
		if err == nil {
			g.distrust()
			return
		}
	}
}

// takeResting takes a lane that rests, and tells where it was. nil: there is none.
func takeResting(g *lanes) (*lane, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.resting) == 0 {
		return nil, 0
	}
	at := g.visits % len(g.resting)
	l := g.resting[at]
	last := len(g.resting) - 1
	copy(g.resting[at:], g.resting[at+1:])
	g.resting[last] = nil
	g.resting = g.resting[:last]
	g.open[l] = true
	return l, at
}

// putBack has a lane rest where it was, or where others have left room for it.
func putBack(g *lanes, l *lane, at int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, l)
	if at > len(g.resting) {
		at = len(g.resting)
	}
	rest := append([]*lane{l}, g.resting[at:]...)
	g.resting = append(g.resting[:at], rest...)
}

// probe reads a lane that is idle or has rested. The error is a time-out where the node
// has been silent on it; nil where it has not, but to say, as it may, that it has waited
// too long for a request and closes the connection (RFC 9110, 15.5.9).
func probe(l *lane) error {
	for patience := probeTime; patience <= maxProbeTime; patience *= 2 {
		now := time.Now()
		_ = l.conn.SetReadDeadline(now.Add(patience))
		early := time.Since(now) < patience/2 // else the deadline may have passed, and nothing is read
		_, err := l.reader.Peek(1)
		_ = l.conn.SetReadDeadline(time.Time{})
		if err == nil {
			head, _ := l.reader.Peek(l.reader.Buffered())
			if waitedTooLong.Match(head) {
				return io.EOF
			}
			return nil
		}
		if early || !isTimeout(err) {
			return err
		}
	}
	return errUnread
}

// waitedTooLong is how a node ends a connection that nobody uses, if it says so.
var waitedTooLong = regexp.MustCompile("^HTTP/1[.][01] 408 ")

// errUnread is why a lane is closed that was not read, for want of a processor.
var errUnread = errors.New("the connection could not be read in time")

// all returns the lanes that are open.
func (g *lanes) all() []*lane {
	g.mu.Lock()
	defer g.mu.Unlock()
	open := make([]*lane, 0, len(g.open))
	for l := range g.open {
		open = append(open, l)
	}
	return open
}

// notSeen notes that a lane is not under way. One that is neither that nor idle is lost:
// a request that has ended by a panic has left it in under, or nowhere. So one that is not
// seen for long is forgotten, and the collector of garbage closes its connection.
func notSeen(g *lanes, l *lane) {
	l.seen = nil
	l.absent++
	if l.absent == lostAfter {
		g.mu.Lock()
		delete(g.open, l)
		g.mu.Unlock()
	}
}

// relist notes that a lane is there that was taken for lost.
func relist(g *lanes, l *lane) {
	g.mu.Lock()
	g.open[l] = true
	g.mu.Unlock()
}

// lookAt closes a lane whose request's client has gone, or whose node has had the time to
// answer.
func lookAt(g *lanes, l *lane, now time.Time) {
	value, some := reflect.ValueOf(l.under).TryRecv() // Yaegi: a select is not safe (see choose)
	if !some {
		notSeen(g, l)
		return
	}
	l.absent = 0
	r := value.Interface().(*http.Request)
	if r.Context().Err() != nil {
		retire(l)
		end(g, l)
	} else if l.seen != r || l.timeless {
		l.seen = r
		l.since = now
	} else if limit := l.transport.ResponseHeaderTimeout; limit > 0 && now.Sub(l.since) >= limit {
		retire(l)
		l.late = true
		if l.conn != nil {
			l.conn.Close()
		}
	}
	l.under <- r
}

// retire has a lane take no other request. It writes nothing that its request may be
// reading: odd, once the body of an answer is on its way, which has set it.
func retire(l *lane) {
	if !l.odd {
		l.odd = true
	}
	l.over = true
}
