package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
)

// What a link holds at the most, so that requests never pile up behind Redis.
const (
	maxWaiting  = 4096 // look-ups that were not sent yet
	maxBatch    = 256  // look-ups sent with one write
	maxInFlight = 1024 // look-ups that were sent and not answered
)

// minRetry and maxRetry bound the wait between two attempts to connect. It
// doubles from one to the other, less a random part so that many Traefiks do not
// return at the same moment.
const (
	minRetry = 50 * time.Millisecond
	maxRetry = time.Second
)

// pingEvery is how often each connection has to show that it lives. One that is
// half dead is found within pingEvery and redis.readTimeout.
const pingEvery = time.Second

// source is where look-ups go: a link to one server, or a Cluster of them. It
// connects by itself, again and again. While a server is not there look-ups fail
// at once.
type source interface {
	start()
	close()
	// ask takes a look-up, or says why it cannot. One in the background has to
	// leave the places to those that somebody waits for.
	ask(l *lookup, background bool) error
	// session returns the session of the server that holds a slot, or nil if
	// that does not answer.
	session(slot int) *session
	// whole tells whether every server answers.
	whole() bool
}

// newSource makes the source that the settings ask for; start connects it.
func newSource(settings *redisSettings, owner linkOwner) source {
	if settings.cluster {
		return newCluster(settings, owner)
	}
	return newLink(settings, settings.endpoints[0], owner)
}

// lookup is one question to Redis.
type lookup struct {
	key   string
	field string // "": the key is a string
	slot  int    // of the key, in a Cluster
	ping  bool   // no question, but a sign of life wanted

	// How a Cluster has led it on.
	hops   int
	asking bool // to a server that is only about to own the slot

	asked time.Time
	idle  bool // nobody waits for it

	done  chan struct{} // closed when the rest is there
	route *route
	stale bool  // Redis did not answer: the route is from before
	err   error // wraps errRedisDown
}

// linkOwner is told what comes over a link, from several goroutines.
type linkOwner interface {
	// turned says that a session has come or gone, or that a slot has another
	// owner: what session returns is not what it was.
	turned()
	changed(s *session, c *change)
	// landed is called once for each look-up that ask took. err means that
	// there is no answer.
	landed(l *lookup, s *session, value string, err error)
}

// link keeps a connection to one Redis that many look-ups share: they are sent
// as they come, several with one write, and answered in order. While Redis is
// not there look-ups fail at once: only those wait that come before the first
// attempt to connect is over, or during the first one after a connection was
// closed.
type link struct {
	settings  *redisSettings
	endpoint  string
	sentinels *sentinels // who know the endpoint; nil: it stays
	owner     linkOwner
	waiting   chan *lookup    // sent to under mu; received from by run's goroutine alone
	ctx       context.Context // over when the link is closed
	end       context.CancelFunc
	hurry     chan struct{} // ends the wait between two attempts to connect
	noPush    string        // why Redis does not push; what was logged last
	hungUp    int           // how many times in a row it broke when push was asked for

	mu    sync.Mutex
	fault error    // why look-ups are not taken; nil: they are
	live  *session // nil: Redis does not answer
}

// newLink makes a link; start connects it.
func newLink(settings *redisSettings, endpoint string, owner linkOwner) *link {
	ctx, end := context.WithCancel(context.Background())
	k := &link{
		settings: settings,
		endpoint: endpoint,
		owner:    owner,
		waiting:  make(chan *lookup, maxWaiting),
		ctx:      ctx,
		end:      end,
		hurry:    make(chan struct{}, 1),
	}
	if settings.sentinel != nil {
		k.sentinels = newSentinels(settings)
		k.endpoint = "master " + settings.sentinel.MasterName // until the Sentinels have said where that is
	}
	return k
}

// start implements source.
func (k *link) start() {
	go k.run()
	if k.sentinels != nil {
		go k.sentinels.watch(k)
	}
}

// close ends the link for good.
func (k *link) close() {
	k.end()
}

// session implements source.
func (k *link) session(_ int) *session {
	k.mu.Lock()
	s := k.live
	k.mu.Unlock()
	return s
}

// whole implements source.
func (k *link) whole() bool {
	return k.session(0) != nil
}

// enter makes a session the one that session returns, or none.
func (k *link) enter(s *session) {
	k.mu.Lock()
	k.live = s
	k.mu.Unlock()
	k.owner.turned()
}

// renew ends the session, if there is one, and connects again at once.
func (k *link) renew(why error) {
	if s := k.session(0); s != nil {
		s.fail(why)
	}
	nudge(k.hurry)
}

// ask implements source.
func (k *link) ask(l *lookup, background bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault != nil {
		return k.fault
	}
	if background && len(k.waiting) >= maxBatch {
		return fmt.Errorf("%w: too many look-ups are waiting for one in the background", errRedisDown)
	}
	if len(k.waiting) == maxWaiting {
		return fmt.Errorf("%w: %d look-ups are waiting already", errRedisDown, maxWaiting)
	}
	k.waiting <- l
	return nil
}

// accept lets look-ups wait.
func (k *link) accept() {
	k.mu.Lock()
	k.fault = nil
	k.mu.Unlock()
}

// refuse lets no look-up wait, and ends those that do.
func (k *link) refuse(fault error) {
	k.mu.Lock()
	k.fault = fault
	k.mu.Unlock()
	for len(k.waiting) > 0 {
		l := <-k.waiting
		k.owner.landed(l, nil, "", fault)
	}
}

// errUnused ends what waits for a link that is closed.
var errUnused = fmt.Errorf("%w: nobody uses this link any more", errRedisDown)

// run connects, again and again, until the link is closed.
func (k *link) run() {
	defer k.refuse(errUnused) // after a panic too: nothing may wait for ever
	defer recovered("keeping the link to Redis")
	wait := minRetry
	for {
		s, err := k.connect()
		if err == nil {
			wait = minRetry
			k.accept()
			err = k.serve(s)
		}
		if k.ctx.Err() != nil {
			return
		}
		logFailure(errRedisDown, "redis %s: %s", k.endpoint, wording(err))
		if s != nil && s.answered.Load() > 0 && !isTimeout(err) {
			continue // closed by a Redis that lived: what waits may wait for one attempt
		}
		k.refuse(fmt.Errorf("%w: %s", errRedisDown, wording(err)))
		choose(time.After(wait-jitter(wait)), k.hurry, k.ctx.Done())
		wait = wait * 2
		if wait > maxRetry {
			wait = maxRetry
		}
	}
}

// jitter is a random part, up to half, of a wait.
func jitter(wait time.Duration) time.Duration {
	return time.Duration(rand.Int63n(int64(wait)/2 + 1))
}

// connect makes the connection for look-ups and, where the server pushes, the
// one for its news.
func (k *link) connect() (*session, error) {
	namedBy := ""
	if k.sentinels != nil {
		master, by, err := k.sentinels.master()
		if err != nil {
			return nil, err
		}
		k.endpoint = master
		namedBy = by
	}
	conn, err := k.settings.dial(k.endpoint)
	if err == nil && k.sentinels != nil {
		err = isMaster(conn)
		if err != nil {
			conn.Close()
		}
	}
	if err != nil {
		if k.sentinels != nil {
			k.sentinels.last(namedBy)
		}
		return nil, err
	}
	push, refusal, err := k.settings.startPush(k.endpoint, conn)
	if err == nil {
		k.hungUp = 0
	} else {
		conn.Close()
		k.hungUp++
		if k.hungUp < maxHungUp {
			return nil, err
		}
		refusal = err
		conn, err = k.settings.dial(k.endpoint)
		if err != nil {
			return nil, err
		}
	}
	k.tellPush(refusal)
	s := newSession(k.endpoint, conn, push)
	if k.hungUp == 0 {
		return s, nil
	}
	try := func() { s.fail(errTryPush) }
	time.AfterFunc(tryPushAfter, try)
	k.hungUp = maxHungUp - 1 // if it still does, nobody has to wait
	return s, nil
}

// A connection that breaks when push is asked for tells of a server that goes
// away or of a proxy that hangs up on commands it does not know. After maxHungUp
// times in a row it is taken for the latter, and push is tried again, once, every
// tryPushAfter.
const (
	maxHungUp    = 3
	tryPushAfter = time.Minute
)

// errTryPush ends a session to see whether the next one can have push.
var errTryPush = errors.New("it hung up when push was asked for: trying again")

// tellPush logs, once, that Redis does not push, or that it does again.
func (k *link) tellPush(refusal error) {
	text := ""
	if refusal != nil {
		text = wording(refusal)
	}
	if text == k.noPush {
		return
	}
	k.noPush = text
	if refusal == nil {
		log.Printf("dynamicforward redis %s: pushes changes now", k.endpoint)
		return
	}
	log.Printf("dynamicforward redis %s: does not push changes, so routes are trusted for cache.ttl: %s", k.endpoint, text)
}

// serve carries look-ups until the connection breaks, and returns why it did.
func (k *link) serve(s *session) error {
	k.enter(s)
	received := make(chan struct{})
	go k.receive(s, received)
	if s.push != nil {
		go k.listen(s)
	}
	k.send(s)
	<-received
	k.enter(nil)
	// Routes that were read in this session know it for as long as they are kept.
	s.sent = nil
	s.conn = nil
	s.answers = nil
	return s.err
}

// send writes look-ups, and a PING to each connection now and then.
func (k *link) send(s *session) {
	defer close(s.sent)
	defer s.fail(errPanic) // no effect unless something panicked
	defer recovered("sending look-ups")
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	written := int64(0)
	for {
		var batch []*lookup
		which, came := choose(s.broken, k.ctx.Done(), ticker.C, k.waiting)
		switch which {
		case 0:
			return
		case 1:
			s.fail(errRedisDown)
			return
		case 2:
			batch = append(batch, &lookup{ping: true})
			s.pingPush()
		case 3:
			batch = append(batch, came.(*lookup))
		}
		for len(k.waiting) > 0 && len(batch) < maxBatch {
			l := <-k.waiting
			batch = append(batch, l)
		}
		idle := len(s.sent) == 0
		err := s.write(batch)
		if err != nil {
			s.fail(err)
		}
		written += int64(len(batch))
		if last := batch[len(batch)-1]; idle && !last.ping {
			k.hasten(s, written)
		}
		for _, l := range batch {
			s.sent <- l // receive takes all, also after the end
		}
	}
}

// receive reads the answers, in the order of the questions. It reads without a
// question too: what Redis promised to tell ends with the connection, so its end
// has to be noticed at once.
func (k *link) receive(s *session, received chan struct{}) {
	defer close(received)
	defer k.strand(s)
	defer s.fail(errPanic) // no effect unless something panicked
	defer recovered("receiving from Redis")
	for {
		reply, err := s.answers.ReceiveWithTimeout(pingEvery + k.settings.readTimeout)
		if broken := s.conn.Err(); broken != nil { // even if an answer came: others end it too
			s.fail(broken)
			return
		}
		l := <-s.sent
		if l == nil {
			return
		}
		s.answered.Add(1)
		value, err := s.value(l, reply, err)
		if broken := s.conn.Err(); broken != nil {
			k.land(l, s, "", fmt.Errorf("%w: %s", errRedisDown, wording(broken)))
			s.fail(broken)
			return
		}
		k.land(l, s, value, err)
	}
}

// strand ends the look-ups that a session leaves without an answer, until send has
// seen its end too.
func (k *link) strand(s *session) {
	defer recovered("ending look-ups")
	fault := fmt.Errorf("%w: %s", errRedisDown, wording(s.err))
	for {
		l := <-s.sent
		if l == nil {
			return
		}
		k.land(l, s, "", fault)
	}
}

// errNoAnswer is a time-out of ours.
var errNoAnswer = fmt.Errorf("no answer within redis.readTimeout: %w", os.ErrDeadlineExceeded)

// hasten ends a session that has not answered so many look-ups within
// readTimeout: receive, which began to wait before they were sent, would give it
// longer.
func (k *link) hasten(s *session, written int64) {
	check := func() {
		defer recovered("waiting for Redis")
		if s.answered.Load() < written {
			s.fail(errNoAnswer)
		}
	}
	time.AfterFunc(k.settings.readTimeout, check)
}

// land hands an answer over, or what went wrong.
func (k *link) land(l *lookup, s *session, value string, err error) {
	if !l.ping {
		k.owner.landed(l, s, value, err)
	}
}

// listen passes on what Redis says has changed.
func (k *link) listen(s *session) {
	defer s.fail(errPanic) // no effect unless something panicked
	defer recovered("listening to Redis")
	for {
		c, err := readChange(s.news, pingEvery+k.settings.readTimeout)
		if err != nil {
			s.fail(err)
			return
		}
		s.heard.Store(moment(time.Now()))
		if c != nil {
			k.owner.changed(s, c)
		}
	}
}

// session is a link's time between connecting and the loss of a connection. The
// two connections live and die together: what Redis promised to tell about the
// keys read on one, it tells on the other.
type session struct {
	endpoint string
	conn     redis.Conn
	push     redis.Conn   // nil: the server does not push
	sent     chan *lookup // what waits for its answer; closed when no more is sent

	// The same connections, for those who read them. Yaegi: the assertion to
	// this type, made by two goroutines at once, can find nothing.
	answers redis.ConnWithTimeout
	news    redis.ConnWithTimeout

	answered atomic.Int64 // how many look-ups and PINGs were
	heard    atomic.Int64 // the moment at which push was last heard of

	once   sync.Once
	broken chan struct{} // closed by fail
	err    error         // why; read it after broken
}

func newSession(endpoint string, conn, push redis.Conn) *session {
	s := &session{endpoint: endpoint, conn: conn, push: push, sent: make(chan *lookup, maxInFlight), broken: make(chan struct{})}
	s.answers = conn.(redis.ConnWithTimeout)
	if push != nil {
		s.news = push.(redis.ConnWithTimeout)
	}
	s.heard.Store(moment(time.Now()))
	return s
}

// fail ends the session. Only the first call counts.
func (s *session) fail(err error) {
	end := func() {
		s.err = err
		s.conn.Close()
		if s.push != nil {
			s.push.Close()
		}
		close(s.broken)
	}
	s.once.Do(end)
}

// pingPush asks for a sign of life on the push connection; listen waits for it.
func (s *session) pingPush() {
	if s.push == nil {
		return
	}
	err := s.push.Send("PING")
	if err == nil {
		err = s.push.Flush()
	}
	if err != nil {
		s.fail(err)
	}
}

// write sends a batch with as few writes as its size allows.
func (s *session) write(batch []*lookup) error {
	for _, l := range batch {
		var err error
		if l.asking {
			err = s.conn.Send("ASKING")
		}
		if err != nil {
			return err
		}
		switch {
		case l.ping:
			err = s.conn.Send("PING")
		case l.field == "":
			err = s.conn.Send("GET", l.key)
		default:
			err = s.conn.Send("HGET", l.key, l.field)
		}
		if err != nil {
			return err
		}
	}
	err := s.conn.Flush()
	return err
}

// value makes the answer to a look-up of a reply. One to ASKING comes before it.
func (s *session) value(l *lookup, reply interface{}, err error) (string, error) {
	if l.asking {
		next, nextErr := s.conn.Receive()
		if err != nil {
			return "", err // what comes next is the answer to a look-up that was not led on
		}
		reply = next
		err = nextErr
	}
	value, err := redis.String(reply, err)
	return value, err
}
