package dynamicforward

import (
	"crypto/tls"
	"errors"
	"time"

	"github.com/mna/redisc"
)

// watch is a route with sessions that end when it does
// (websocket.closeOnRouteChange): when Redis says that its entry has gone, or
// names another node. As long as Redis says nothing they go on, whether it does
// not answer or the route has left the table to make room.
//
// News of a change do not say what changed, so the route is read again at once:
// a hash has many fields. It is read again, too, when the link to Redis has come
// back, and now and then; see recheckWatches.
type watch struct {
	key      string
	field    string
	slot     int              // of the key, in a Cluster
	sessions map[*tunnel]bool // that lead where it leads
	dial     string           // the address that all of them lead to, but those that are being closed; "": not known
	epoch    int64            // the table's, in which it was last found true
	read     time.Time        // when that was asked for
	place    int              // in rounds
}

// watched is what a session knows of being watched. Yaegi: types that contain each
// other get mixed up, so the table is an interface here.
type watched struct {
	table watcher
	entry *entry
}

// watcher is the table that watches a session.
type watcher interface {
	unwatch(session *tunnel)
}

// watches are the routes of a table that are watched. They have no lock of their
// own, but the table's.
type watches struct {
	keys   map[string]map[string]*watch
	rounds []*watch // all of them, in the order in which recheckWatches goes through
	round  int      // where it is
}

// errRouteChange is the cause of a log line. No request sees it.
var errRouteChange = errors.New("route-change")

// watch ends a session when its route does. It may have ended between the look at
// the table and the end of the handshake, so it is looked at again.
func (t *table) watch(session *tunnel, at *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.watched.keys[at.key][at.field]
	if w == nil {
		w = &watch{key: at.key, field: at.field, sessions: map[*tunnel]bool{}, epoch: untrusted}
		if t.clustered {
			w.slot = redisc.Slot(w.key)
		}
		t.watched.add(w)
	}
	w.sessions[session] = true
	if session.place.address != w.dial {
		w.dial = ""
	}
	session.watched = &watched{table: t, entry: at}
	known := t.routes.get(at.key, at.field)
	use := known != nil && known.epoch == t.epoch
	if !use { // to ask at each handshake, interpreted, took as long as all the rest here
		use, _, _ = t.trust(known)
	}
	switch {
	case !use || known.node == nil || known.node.dial != session.place.address:
		t.doubt(w)
	case len(w.sessions) == 1:
		w.epoch = t.epoch
		w.read = known.read
	}
}

// add adds a watch for a route that has none.
func (s *watches) add(w *watch) {
	fields := s.keys[w.key]
	if fields == nil {
		fields = map[string]*watch{}
		s.keys[w.key] = fields
	}
	fields[w.field] = w
	w.place = len(s.rounds)
	s.rounds = append(s.rounds, w)
}

// remove removes a watch.
func (s *watches) remove(w *watch) {
	fields := s.keys[w.key]
	delete(fields, w.field)
	if len(fields) == 0 {
		delete(s.keys, w.key)
	}
	last := len(s.rounds) - 1
	moved := s.rounds[last]
	moved.place = w.place
	s.rounds[w.place] = moved
	s.rounds[last] = nil
	s.rounds = s.rounds[:last]
}

// unwatch implements watcher, for a session that has ended.
func (t *table) unwatch(session *tunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := session.watched.entry
	w := t.watched.keys[at.key][at.field]
	delete(w.sessions, session)
	if len(w.sessions) == 0 {
		t.watched.remove(w)
	}
}

// doubt has a watched route read again, at once unless its key is written all the
// time or too much is read already. Then recheckWatches does.
func (t *table) doubt(w *watch) {
	w.epoch = untrusted
	if time.Since(w.read) >= prefetchAfter {
		t.fetch(w.key, w.field, true)
	}
}

// settle ends the sessions of a watched route that lead elsewhere than the one
// that has just been read.
func (t *table) settle(r *route) {
	w := t.watched.keys[r.key][r.field]
	if w == nil {
		return
	}
	w.epoch = t.epoch
	w.read = r.read
	if r.node != nil && r.node.dial == w.dial {
		return
	}
	var astray []*tunnel
	for session := range w.sessions {
		if r.node == nil || r.node.dial != session.place.address {
			astray = append(astray, session)
		}
	}
	w.dial = ""
	if r.node != nil {
		w.dial = r.node.dial
	}
	if len(astray) > 0 {
		logFailure(errRouteChange, "the route has gone or moved: closing %d sessions (key %q, field %q)", len(astray), r.key, r.field)
		go closeSessions(astray)
	}
}

// closeSessions closes the connections of sessions. There is no close frame: what
// is copied is not looked at, so nobody knows whether one would land in the middle
// of another frame. Where one speaks TLS a side that does not read holds its end up for
// seconds, so nobody waits for it.
func closeSessions(sessions []*tunnel) {
	for _, session := range sessions {
		if speaksTLS(session) {
			go closeSession(session)
		} else {
			closeSession(session)
		}
	}
}

// speaksTLS tells whether a side of a session does.
func speaksTLS(session *tunnel) bool {
	_, client := session.client.(*tls.Conn)
	_, node := session.node.(*tls.Conn)
	return client || node
}

// closeSession closes one. If it panics the others are closed all the same.
func closeSession(session *tunnel) {
	defer recovered("closing a session")
	session.close()
}

// recheckWatches goes on through the watched routes, where it left off, and has
// those read again that may have ended: all where the link to Redis is new, and
// those that were not read for a minute, or, where Redis does not push, for
// cache.ttl. At most recheckBatch of them with each tick. Where Redis does not
// answer it waits.
func (t *table) recheckWatches() {
	watched := &t.watched
	asked := 0
	visits := len(watched.rounds)
	if visits > recheckVisits {
		visits = recheckVisits
	}
	for ; visits > 0 && asked < recheckBatch; visits-- {
		if watched.round >= len(watched.rounds) {
			watched.round = 0
		}
		w := watched.rounds[watched.round]
		if t.overdue(w) {
			t.fetch(w.key, w.field, true)
			asked++
		}
		watched.round++
	}
}

// overdue tells whether a watched route is to be read again.
func (t *table) overdue(w *watch) bool {
	live := t.source.session(w.slot)
	if live == nil {
		return false
	}
	after := recheckAfter
	if live.push == nil {
		after = t.settings.ttl
	}
	return w.epoch != t.epoch || time.Since(w.read) >= after
}
