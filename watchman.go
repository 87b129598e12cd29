package dynamicforward

import (
	"net/http"
	"reflect"
	"sync"
	"time"
)

// watchman looks after the lanes of a forwarder, for as long as there are any.
type watchman struct {
	every      time.Duration // laneTick
	distrusted *memo         // host:port of nodes that get no lanes any more
	mu         sync.Mutex
	watched    map[*lanes]bool
	looking    bool // and will come back
}

func newWatchman() *watchman {
	return &watchman{every: laneTick, distrusted: &memo{max: maxWays}, watched: map[*lanes]bool{}}
}

// watch has lanes looked after.
func (m *watchman) watch(g *lanes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watched[g] = true
	m.lookLater()
}

// lookLater has the watchman come back, if there is anything to look after. It is
// called with the lock held.
func (m *watchman) lookLater() {
	if m.looking || len(m.watched) == 0 {
		return
	}
	m.looking = true
	look := func() { m.look() }
	time.AfterFunc(m.every, look)
}

// look looks after all lanes, and comes back if some are left.
func (m *watchman) look() {
	defer m.comeBack()
	defer recovered("looking after connections to nodes")
	left := probes
	for _, g := range m.all() {
		idle, more := g.tick(time.Now(), left)
		left = more
		if idle {
			m.mu.Lock()
			delete(m.watched, g)
			m.mu.Unlock()
		}
	}
}

// comeBack ends a look.
func (m *watchman) comeBack() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looking = false
	m.lookLater()
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
func (g *lanes) tick(now time.Time, left int) (bool, int) {
	for i := len(g.idle); i > 0; i-- {
		next, some := reflect.ValueOf(g.idle).TryRecv()
		if !some {
			break
		}
		l := next.Interface().(*lane)
		if l.over { // a stand-in
			g.idle <- l
			continue
		}
		keep := l.last != l.rested && g.trusted()
		if keep && left > 0 {
			left--
			keep = g.probe(l)
		}
		if !keep {
			end(g, l)
			continue
		}
		l.rested = l.last
		l.absent = -1 // look comes by
		g.list(l)
		g.idle <- l
	}
	for _, l := range g.all() {
		l.look(g, now)
	}
	if len(g.idle) == 0 {
		g.idle <- g.standIn()
		return false, left
	}
	return len(g.all()) == 0, left
}

// probe reads an idle lane, and tells whether the node has been silent on it.
func (g *lanes) probe(l *lane) bool {
	_ = l.conn.SetReadDeadline(time.Now().Add(probeTime))
	_, err := l.reader.Peek(1)
	_ = l.conn.SetReadDeadline(time.Time{})
	if err == nil {
		g.distrust()
	}
	return isTimeout(err)
}

// list notes that a lane is there, which may have been taken for lost.
func (g *lanes) list(l *lane) {
	g.mu.Lock()
	g.open[l] = true
	g.mu.Unlock()
}

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

// look closes a lane whose request's client has gone, or whose node has had the time to
// answer. A request that has ended by a panic has left its lane in under, or nowhere:
// one that is not seen again for long is forgotten, and the collector of garbage closes
// its connection.
func (l *lane) look(g *lanes, now time.Time) {
	value, some := reflect.ValueOf(l.under).TryRecv() // Yaegi: a select is not safe (see choose)
	if !some {
		l.seen = nil
		l.absent++
		if l.absent == lostAfter {
			g.mu.Lock()
			delete(g.open, l)
			g.mu.Unlock()
		}
		return
	}
	l.absent = 0
	r := value.Interface().(*http.Request)
	limit := l.transport.ResponseHeaderTimeout
	switch {
	case r.Context().Err() != nil:
		l.stop()
		end(g, l)
	case l.seen != r || l.timeless:
		l.seen = r
		l.since = now
	case limit > 0 && now.Sub(l.since) >= limit:
		l.stop()
		l.late = true
		if l.conn != nil {
			l.conn.Close()
		}
	}
	l.under <- r
}

// stop has a lane take no other request. It writes nothing that its request may be
// reading: odd, once the body of an answer is on its way, which has set it.
func (l *lane) stop() {
	if !l.odd {
		l.odd = true
	}
	l.over = true
}
