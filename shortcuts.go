package dynamicforward

import (
	"net/http"
	"net/http/httputil"
	"reflect"
	"strings"
	"sync"
	"time"
)

// shortcuts leads what one middleware has seen of requests, mostly query strings, to the
// nodes that it means. What is in it is true: the table puts nothing else there, and
// takes it away in the moment in which it learns that it may no longer be, so
// whoever finds something here need not ask.
type shortcuts struct {
	rule *rule // says what counts of a request; nil: there are no shortcuts

	mu    sync.RWMutex
	known map[string]*way // never another map but by end: handler has this one

	// entries are the key and field of each; nil: nobody asks for them. To watch its
	// route a session needs them, and to make them from the request again would take,
	// interpreted, a third of what all of that takes.
	entries map[string]*entry
}

// entry is where Redis holds a route.
type entry struct {
	key   string
	field string
}

// way is how requests get to a node.
type way struct {
	node   *target
	header []string // the value of nodeHeader
	proxy  *httputil.ReverseProxy
	secure bool // by TLS
	asSent bool // target and Host of a request go to the node as they come
	gate   *gate
	// current tells whether the router is there still. After a reload another one has
	// its own ways.
	current func() bool

	// For handshakes.
	maxSessions int           // websocket.maxPerNode
	patience    time.Duration // how long the head of an answer may take

	pressure *pressure
	idle     chan *lane // of its lanes, nil: it has had none; guarded by the mu of the shortcuts that lead here
}

func newShortcuts(rule *rule) *shortcuts {
	return &shortcuts{rule: rule, known: map[string]*way{}}
}

// whatCounts is what a request is known by: its query string without the pairs that key
// and field do not need, such as a token that is never the same, and behind that what they
// take from elsewhere, and maybe more, each after a character that no query string has. No value
// that may be in a key has it either, so two requests that are known by the same lead to the
// same.
func whatCounts(u *rule, r *http.Request) string {
	text := ""
	if u.counts != nil {
		text = strings.TrimPrefix(strings.Join(u.counts.FindAllString("&"+r.URL.RawQuery, -1), ""), "&")
	}
	if u.segments > 0 {
		segments := strings.SplitN(r.URL.EscapedPath(), "/", u.segments+2) // the first is before the first slash
		if len(segments)-1 > u.segments {
			segments = segments[:u.segments+1]
		}
		text += "\n" + strings.Join(segments, "/")
	}
	for _, p := range u.beside {
		text += "\n" + p.value(r)
	}
	return text
}

// ledBy returns where a request leads by what counts of it, where its query string alone has
// no shortcut, or nil, and the idle lanes there. One with a body is led nowhere. It notes on the
// request what it was, for attemptOf, where the proxy may change what counts: Host and path.
func ledBy(s *shortcuts, r *http.Request) (*way, chan *lane) {
	u := s.rule
	query := r.URL.RawQuery
	if u == nil || r.ContentLength != 0 || len(query) > maxLedQuery {
		return nil, nil
	}
	short := ""
	if u.queryAlone { // as whatCounts does it, without a call
		short = strings.Join(u.counts.FindAllString("&"+query, -1), "")
		if short != "" {
			short = short[1:]
		}
	} else {
		short = whatCounts(u, r)
	}
	var idle chan *lane
	s.mu.RLock()
	to := s.known[short]
	if to != nil {
		idle = to.idle
	}
	s.mu.RUnlock()
	if to != nil && !u.queryAlone {
		r.Response = &http.Response{Request: r}
	}
	return to, idle
}

// maxLedQuery is the longest query string that is searched for what counts of it, in bytes:
// too short for that to take long, or for the 10,000 pairs beyond which net/url reads nothing.
const maxLedQuery = 2 << 10

// maxShort is the longest shortcut, in bytes.
const maxShort = 512

// shortcutOf returns what the shortcut of a request that has taken the long way is to go by.
// False: it gets none.
func shortcutOf(s *shortcuts, r *http.Request) (string, bool) {
	if s.rule == nil || len(r.URL.RawQuery) > maxLedQuery {
		return "", false
	}
	short := whatCounts(s.rule, r)
	if len(short) > maxShort {
		return "", false
	}
	return strings.Clone(short), true // it may be part of a query string that is long
}

// put adds a shortcut.
func (s *shortcuts) put(short string, to *way, key, field string) {
	s.mu.Lock()
	s.known[short] = to
	if s.entries != nil {
		s.entries[short] = &entry{key: key, field: field}
	}
	s.mu.Unlock()
}

// entryOf returns the key and field of a request. nil: there is no shortcut for it.
func entryOf(s *shortcuts, r *http.Request) *entry {
	s.mu.RLock()
	e := s.entries[r.URL.RawQuery]
	s.mu.RUnlock()
	if e != nil {
		return e
	}
	short, ok := shortcutOf(s, r)
	if !ok {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[short]
}

// open tells those who take the shortcuts to a way of its lanes.
func (s *shortcuts) open(to *way, idle chan *lane) {
	s.mu.Lock()
	to.idle = idle
	s.mu.Unlock()
}

// remove removes a shortcut.
func (s *shortcuts) remove(short string) {
	s.mu.Lock()
	delete(s.known, short)
	delete(s.entries, short)
	s.mu.Unlock()
}

// forget removes all.
func (s *shortcuts) forget() {
	s.mu.Lock()
	reflect.ValueOf(s.known).Clear() // Yaegi has no clear
	reflect.ValueOf(s.entries).Clear()
	s.mu.Unlock()
}

// end removes all for good. Routes that had shortcuts here, and know that still, do not keep
// the maps, which are as large as they ever were. handler has one, and finds nothing in it.
func (s *shortcuts) end() {
	s.forget()
	s.mu.Lock()
	s.known = map[string]*way{}
	s.entries = nil
	s.mu.Unlock()
}

// all returns the map.
func (s *shortcuts) all() map[string]*way {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.known
}

// Names of headers that begin with headerPrefix lie between it and afterPrefix.
// To compare is cheaper, interpreted, than to look for a prefix.
const afterPrefix = "X-Dynamicforward."

// handler returns the handler of every request. It is the short way, for a plain GET
// that has a shortcut, to a node that has lanes; upgrade and plain have the
// others, longWay has what they cannot do. Interpreted, a call of compiled code costs half
// a microsecond; a function pays for all its variables and intermediate values each time,
// used or not; and a method of our own is called through reflection and costs four times
// as much as a function. So this one captures what it needs, constants too, and has little
// of all: one if within another has fewer intermediate values than && and || have. Of
// several conditions in one case of a switch without a tag, which would read better, Yaegi
// heeds the first alone. To look at the name of each header is dear, too: whether one is
// forged shows in the text that is made for the node (see newTrip, and work).
//
// Traefik's entry point leaves no Connection header but for an upgrade.
func (m *middleware) handler() http.Handler {
	short := m.short
	known := short.all()
	mu := &short.mu
	get := http.MethodGet
	spare := spareLanes
	lock := method(mu, "RLock").Interface().(func(*sync.RWMutex))
	unlock := method(mu, "RUnlock").Interface().(func(*sync.RWMutex))
	serve := method((*httputil.ReverseProxy)(nil), "ServeHTTP").Interface().(func(*httputil.ReverseProxy, http.ResponseWriter, *http.Request))
	handle := func(w http.ResponseWriter, r *http.Request) {
		if r.Header["Connection"] != nil {
			upgrade(m, nil, w, r)
			return
		}
		var idle chan *lane
		lock(mu)
		to := known[r.URL.RawQuery]
		if to != nil {
			idle = to.idle
		}
		unlock(mu)
		if to == nil {
			to, idle = ledBy(short, r)
		}
		if len(idle) > spare {
			if r.Method == get {
				if r.ContentLength == 0 {
					l := <-idle
					l.asked = r.Header
					serve(l.proxy, w, r) // if this panics, the watchman looks after the lane
					if l.odd {
						settleOdd(l)
						return
					}
					idle <- l
					return
				}
			}
		}
		plain(m, to, w, r)
	}
	return http.HandlerFunc(handle)
}

// plain takes a request on that has no Connection header, and no shortcut or no idle lane,
// or is not a GET without a body.
func plain(m *middleware, to *way, w http.ResponseWriter, r *http.Request) {
	if to == nil || r.ContentLength != 0 {
		longWay(m, w, r)
		return
	}
	header := r.Header
	for name := range header { // the transport makes no text that could be looked at
		if name < afterPrefix && name >= headerPrefix {
			longWay(m, w, r)
			return
		}
	}
	header[nodeHeader] = to.header
	header["Connection"] = dropNodeHeader
	withoutLane(m, w, r, to)
}
