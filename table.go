package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/mna/redisc"
)

// tickEvery is how often the table looks after itself.
const tickEvery = time.Second

// What moves a key without a word, SWAPDB for one, is found where Redis pushes by
// reading each route again when it was last read this long ago. A large table takes longer to go
// through: at most recheckBatch are read again with each tick, of at most
// recheckVisits that are looked at.
const (
	recheckAfter  = time.Minute
	recheckBatch  = 200
	recheckVisits = 500
)

// prefetchAfter keeps a key that is written all the time from being read all the
// time: a route that was read less than this ago waits for its next request.
const prefetchAfter = 10 * time.Millisecond

// maxUnknown bounds what is remembered of names that do not exist. It is apart
// from cache.maxEntries, and small: to forget one costs one look-up.
const maxUnknown = 10000

// untrusted is the epoch of a route that must not be used without a look at the
// table.
const untrusted = -1

// tableSettings is a checked CacheConfig.
type tableSettings struct {
	maxEntries  int
	ttl         time.Duration
	negativeTTL time.Duration
	staleTTL    time.Duration
}

// newTableSettings checks the cache options. The error names the option.
func newTableSettings(config *CacheConfig) (*tableSettings, error) {
	s := &tableSettings{maxEntries: config.MaxEntries, ttl: time.Second, negativeTTL: time.Second, staleTTL: 24 * time.Hour}
	if s.maxEntries < 1 {
		return nil, fmt.Errorf("cache.maxEntries: %d leaves no place for a route: use 1 or more", s.maxEntries)
	}
	if err := setDuration(&s.ttl, "cache.ttl", config.TTL); err != nil {
		return nil, err
	}
	if err := setDuration(&s.negativeTTL, "cache.negativeTTL", config.NegativeTTL); err != nil {
		return nil, err
	}
	if err := setDuration(&s.staleTTL, "cache.staleTTL", config.StaleTTL); err != nil {
		return nil, err
	}
	return s, nil
}

// route is what Redis holds under a key and field. All but epoch, paths,
// session and read stay as they are; those belong to the table's lock.
type route struct {
	key   string
	field string
	slot  int // of the key, in a Cluster
	node  *target
	err   error // why there is no node: wraps errUnknownNode or errBadTarget

	// epoch is the table's epoch in which a request last found the route true.
	// While the two are equal it can be used without asking anybody, by way of
	// the shortcuts that lead to it.
	epoch int64
	paths []path

	session *session  // read over
	read    time.Time // when it was asked for: what came of it is as old as that
}

// path is a shortcut that leads to a route.
type path struct {
	of   *shortcuts
	text string
}

// maxPaths is how many shortcuts may lead to a route: the oldest makes room. One
// is what a game client needs; whoever makes up parameters gains nothing.
const maxPaths = 4

// doubt makes a route one that must not be used without a look at the table.
func (r *route) doubt() {
	r.epoch = untrusted
	for _, p := range r.paths {
		p.of.remove(p.text)
	}
	r.paths = nil
}

// table is the routing table: what is known of Redis, in memory.
//
// It stays true because Redis says which of the keys that were read have
// changed (see link). A read and the news of a change come over two connections
// and can overtake each other, so a look-up is listed in fetching while it is
// under way, and news of its key strike it off: the answer of a look-up that is
// not listed any more is given to those who waited for it, who came before the
// news did, and is not kept. News that come later find the route on its shelf.
//
// A route counts as true for as long as the server that it was read from holds
// its slot, over the same session. Where there is no Cluster all is slot 0.
//
// docs/routing-table.md tells all its rules in one place.
type table struct {
	source    source
	clustered bool
	settings  *tableSettings
	ctx       context.Context // over when the table is closed
	end       context.CancelFunc

	mu sync.Mutex // for all that follows

	// epoch grows when what was true may no longer be: a connection comes or
	// goes, a slot moves, a server was flushed.
	epoch int64

	short    map[*shortcuts]bool // of those who use the table
	routes   *shelf
	unknown  *shelf // what has no node: kept apart, so that names made up by clients push no route out
	fetching map[string]map[string]*lookup
	rounds   []*route // what recheck goes through: every route, and some that are gone
	round    int      // where it is
	watched  watches
}

// joinTable returns the table of these settings, shared by all who have them.
func joinTable(ctx context.Context, redis *redisSettings, cache *tableSettings) *table {
	open := func() closer {
		t := newTable(redis, cache)
		t.start()
		return t
	}
	return everything.join(ctx, fmt.Sprintf("redis %s %+v", redis.identity, *cache), open).(*table)
}

// newTable makes a table; start sets it to work.
func newTable(redis *redisSettings, cache *tableSettings) *table {
	ctx, end := context.WithCancel(context.Background())
	t := &table{
		clustered: redis.cluster,
		settings:  cache,
		ctx:       ctx,
		end:       end,
		routes:    newShelf(cache.maxEntries),
		unknown:   newShelf(maxUnknown),
		fetching:  map[string]map[string]*lookup{},
		short:     map[*shortcuts]bool{},
		watched:   watches{keys: map[string]map[string]*watch{}},
	}
	t.source = newSource(redis, t)
	return t
}

// start begins to connect, and to look after the table.
func (t *table) start() {
	t.source.start()
	go t.look()
}

// close ends the table's connections.
func (t *table) close() {
	t.end()
	t.source.close()
}

// join makes shortcuts through the table possible until ctx ends.
func (t *table) join(ctx context.Context, short *shortcuts) {
	t.mu.Lock()
	t.short[short] = true
	t.mu.Unlock()
	leave := func() {
		defer recovered("leaving the routing table")
		t.mu.Lock()
		delete(t.short, short)
		short.end()
		t.mu.Unlock()
	}
	context.AfterFunc(ctx, leave)
}

// remember makes a shortcut to a route, if that is still true.
func (t *table) remember(r *route, short *shortcuts, text string, to *way) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.epoch != t.epoch || !t.short[short] {
		return
	}
	short.put(text, to, r.key, r.field)
	for _, p := range r.paths {
		if p.of == short && p.text == text {
			return // from an epoch before this one
		}
	}
	if len(r.paths) == maxPaths {
		r.paths[0].of.remove(r.paths[0].text)
		r.paths = append(r.paths[:0], r.paths[1:]...)
	}
	r.paths = append(r.paths, path{of: short, text: text})
}

// begin begins an epoch: nothing counts as true until somebody has looked.
func (t *table) begin() {
	t.epoch++
	for short := range t.short {
		short.forget()
	}
}

// How a route was found.
const (
	foundHit   = "hit"   // in the table
	foundMiss  = "miss"  // in Redis
	foundStale = "stale" // in the table, and Redis does not answer
)

// find returns the route of a key and field, and how it was found. The error says
// why there is no node. A caller that goes away does not end the look-up.
func (t *table) find(ctx context.Context, key, field string) (*route, string, error) {
	t.mu.Lock()
	known := t.get(key, field)
	use, refresh, stale := t.trust(known)
	if use {
		how := foundHit
		if stale {
			how = foundStale
		}
		if refresh {
			t.fetch(key, field, true)
		}
		t.mu.Unlock()
		return known, how, known.err
	}
	l := t.fetch(key, field, false)
	t.mu.Unlock()
	r, err := t.wait(ctx, l)
	if r != nil && l.stale {
		return r, foundStale, err
	}
	return r, foundMiss, err
}

// findAgain reads a route from Redis, unless it was read less than enough ago.
func (t *table) findAgain(ctx context.Context, key, field string, enough time.Duration) (*route, error) {
	t.mu.Lock()
	if known := t.get(key, field); known != nil && time.Since(known.read) < enough {
		t.mu.Unlock()
		return known, known.err
	}
	l := t.fetch(key, field, false)
	t.mu.Unlock()
	return t.wait(ctx, l)
}

// wait waits for a look-up, or for the end of its caller.
func (t *table) wait(ctx context.Context, l *lookup) (*route, error) {
	if which, _ := choose(l.done, ctx.Done()); which == 1 {
		return nil, ctx.Err()
	}
	if l.err != nil {
		return nil, l.err
	}
	return l.route, l.route.err
}

// get returns what is known, or nil.
func (t *table) get(key, field string) *route {
	if r := t.routes.get(key, field); r != nil {
		return r
	}
	return t.unknown.get(key, field)
}

// trust says whether a route may be used, whether it is to be read again, and
// whether that is because Redis does not answer.
func (t *table) trust(r *route) (use, refresh, stale bool) {
	if r == nil {
		return false, true, false
	}
	live := t.source.session(r.slot)
	switch {
	case live == nil:
		use = t.outlives(r)
		if use {
			r.epoch = t.epoch // until the next tick
		}
		return use, !use, true
	case live.push == nil:
		use, refresh = t.young(r)
		return use, refresh, false
	case r.session != live:
		return false, true, false // read before the connection was made anew, or where the slot was before
	case t.clustered && r.node == nil:
		use, refresh = t.young(r) // of a slot that moves nothing is told about the keys that it does not hold
		return use, refresh, false
	}
	r.epoch = t.epoch
	return true, false, false // Redis would have told
}

// young is trust's answer where Redis does not push: a route counts for its ttl,
// and is read again in the second half of it so that those in use never wait.
func (t *table) young(r *route) (use, refresh bool) {
	ttl := t.settings.ttl
	if r.node == nil {
		ttl = t.settings.negativeTTL
	}
	age := time.Since(r.read)
	return age < ttl, age >= ttl/2
}

// outlives tells whether a route may be used while Redis does not answer. What
// is known to be missing may have come since, so that counts for nothing.
func (t *table) outlives(r *route) bool {
	if r.node == nil {
		return false
	}
	vouched := r.read
	if heard := atMoment(r.session.heard.Load()); r.session.push != nil && heard.After(vouched) {
		vouched = heard
	}
	return time.Since(vouched) < t.settings.staleTTL
}

// fetch joins the look-up that is under way, or starts one. One that nobody
// waits for gives way to those that somebody does.
func (t *table) fetch(key, field string, background bool) *lookup {
	if l := t.fetching[key][field]; l != nil {
		l.idle = l.idle && background
		return l
	}
	l := &lookup{key: key, field: field, asked: time.Now(), idle: background, done: make(chan struct{})}
	if t.clustered {
		l.slot = redisc.Slot(key)
	}
	if err := t.source.ask(l, background); err != nil {
		t.fail(l, err)
		return l
	}
	fields := t.fetching[key]
	if fields == nil {
		fields = map[string]*lookup{}
		t.fetching[key] = fields
	}
	fields[field] = l
	return l
}

// fail ends a look-up without an answer from Redis: with the route that was
// known before, where that may be used.
func (t *table) fail(l *lookup, err error) {
	if known := t.get(l.key, l.field); known != nil && t.outlives(known) {
		l.route = known
		l.stale = true
	} else {
		l.err = err
	}
	close(l.done)
}

// landed implements linkOwner.
func (t *table) landed(l *lookup, s *session, value string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	listed := t.fetching[l.key][l.field] == l
	if listed {
		delete(t.fetching[l.key], l.field)
		if len(t.fetching[l.key]) == 0 {
			delete(t.fetching, l.key)
		}
	}
	r := &route{key: l.key, field: l.field, slot: l.slot, session: s, read: l.asked}
	r.epoch = untrusted
	switch {
	case err == nil:
		r.node, r.err = parseTarget(value)
	case errors.Is(err, redis.ErrNil):
		r.err = errUnknownNode
	case strings.HasPrefix(err.Error(), "WRONGTYPE"):
		r.err = fmt.Errorf("%w: %s", errBadTarget, err.Error())
	case errors.Is(err, errRedisDown):
		t.fail(l, err)
		return
	default:
		t.fail(l, fmt.Errorf("%w: %s", errRedisDown, wording(err)))
		return
	}
	if listed && s == t.source.session(l.slot) {
		t.settle(r)
		r = t.keep(r)
		if s.push != nil && !l.idle {
			r.epoch = t.epoch
		}
	} else if listed && l.asking {
		r = t.keep(r) // for when Redis does not answer: the slot is another server's
	}
	l.route = r
	close(l.done)
}

// keep puts a route that has just been read on its shelf, and returns the one
// that is there then: news find no other, so no other may count as true.
func (t *table) keep(r *route) *route {
	known := t.routes.get(r.key, r.field)
	switch {
	case r.node == nil:
		t.routes.remove(r.key, r.field)
		t.unknown.put(r)
	case known != nil && known.node.address == r.node.address:
		known.session = r.session
		known.read = r.read
		r = known
	default:
		t.unknown.remove(r.key, r.field)
		t.routes.put(r)
		t.rounds = append(t.rounds, r)
	}
	return r
}

// turned implements linkOwner. What is known from before is read again at its
// next use: it may have changed while nobody told.
func (t *table) turned() {
	t.mu.Lock()
	t.begin()
	t.mu.Unlock()
}

// changed implements linkOwner. A route that was used since it was last read is
// read again at once, so that the next request finds it. One that nobody asked
// for is not: where Redis forgets who read what for want of memory, and says so,
// each route that is read again makes it forget another.
func (t *table) changed(s *session, c *change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.all {
		t.flush(s)
		return
	}
	ahead := 0 // look-ups that nobody waits for yet
	for _, key := range c.keys {
		delete(t.fetching, key)
		t.unknown.drop(key)
		for _, r := range t.routes.keys[key] {
			if ahead < maxBatch && r.epoch == t.epoch && time.Since(r.read) >= prefetchAfter {
				t.fetch(key, r.field, true)
				ahead++
			}
		}
		t.routes.drop(key)
		for _, w := range t.watched.keys[key] {
			t.doubt(w)
		}
	}
}

// flush forgets all that the server of a session holds.
func (t *table) flush(s *session) {
	t.begin()
	t.fetching = map[string]map[string]*lookup{}
	if !t.clustered {
		t.routes = newShelf(t.settings.maxEntries)
		t.unknown = newShelf(maxUnknown)
		return
	}
	held := func(r *route) bool { return r.session == s || t.source.session(r.slot) == s }
	t.routes.dropAll(held)
	t.unknown.dropAll(held)
}

// look runs tick until the table is closed.
func (t *table) look() {
	defer recovered("looking after the routing table")
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		choose(ticker.C, t.ctx.Done())
		if t.ctx.Err() != nil {
			return
		}
		t.tick()
	}
}

// tick has routes read again that were not for long. While Redis, or one server of a
// Cluster, does not answer, it begins an epoch: staleTTL may be over.
func (t *table) tick() {
	defer recovered("looking after the routing table")
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.source.whole() {
		t.begin()
	}
	t.recheck()
	t.recheckWatches()
}

// recheck goes on through the routes, where it left off, and has those read again
// that were not for long, if who holds them answers. Those that are gone leave rounds
// when it comes by. No route is visited twice at a time: in vain, and where there are
// few, hundreds of times.
func (t *table) recheck() {
	if len(t.rounds) > 2*t.routes.count+recheckVisits {
		t.rounds = t.routes.all() // routes come and go faster than it comes by
	}
	visits := len(t.rounds)
	if visits > recheckVisits {
		visits = recheckVisits
	}
	now := time.Now()
	asked := 0
	for i := 0; i < visits && asked < recheckBatch; i++ {
		if t.round >= len(t.rounds) {
			t.round = 0
		}
		r := t.rounds[t.round]
		if t.routes.get(r.key, r.field) != r {
			last := len(t.rounds) - 1
			t.rounds[t.round] = t.rounds[last]
			t.rounds[last] = nil
			t.rounds = t.rounds[:last]
			continue
		}
		if r.session.push != nil && now.Sub(r.read) >= recheckAfter && t.source.session(r.slot) != nil {
			t.fetch(r.key, r.field, true)
			asked++
		}
		t.round++
	}
}
