package main

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"
)

// storm is a Traefik that is restarted with all its sessions open.
//
// At 0 every session is gone, and until down is over connections are refused.
// Then a connection goes this way:
//
//   - It waits in the backlog of the kernel. Where that is full its SYN is
//     dropped, and the client's kernel sends it again after 1 s, 2 s, 4 s and so on.
//   - Traefik accepts one after the other, as long as it has descriptors.
//   - The handshake waits for one of the cores, first come, first served, and
//     takes what the players who are back leave of it for its time.
//   - Where the route is not known, the first that wants it looks it up, and
//     whoever else wants it waits for the same answer, off the core.
//
// A client that has waited for timeout gives up and tries again. Its handshake
// stays where it is, and is made for nobody when its turn comes: a proxy does
// not look whether its client is still there before it has something to say.
type storm struct {
	players int
	routes  int // the players are spread over them evenly

	down    time.Duration
	backlog int
	accept  time.Duration // for one connection; 0: no time
	open    int           // connections of clients at a time, sessions included; 0: no limit

	cores     int
	handshake time.Duration // of one core
	lookup    time.Duration // until Redis' answer is there
	lookupCPU time.Duration // of the core that asks
	talk      time.Duration // of all cores, a second, for each player who is back

	scatter time.Duration // attempts arrive at random within this long after the client's time for them
	timeout time.Duration // of the client; 0: it waits for ever
	retry   retry
	over    time.Duration // when the simulation ends, whoever is not back
	seed    uint64
}

// retry is how clients come back.
type retry struct {
	what   string
	first  time.Duration // the first attempt, after the loss
	least  time.Duration // the wait after the first failure; it doubles each time
	most   time.Duration // up to this
	jitter bool          // each of these is a random part of itself, not all of it
}

// wait is how long a client waits before it tries for the nth time, from 0.
func (r *retry) wait(n int, random *rand.Rand) time.Duration {
	wait := r.first
	if n > 0 {
		wait = r.most
		if doubled := float64(r.least) * math.Exp2(float64(n-1)); doubled < float64(r.most) {
			wait = time.Duration(doubled)
		}
	}
	if r.jitter {
		wait = time.Duration(random.Float64() * float64(wait))
	}
	return wait
}

// aftermath is what came of a storm.
type aftermath struct {
	back   int             // players who have a session again
	times  []time.Duration // when each of them came back, in order
	waited time.Duration   // in the queue for the CPU, over all handshakes that were begun

	attempts  int // to connect
	refused   int // of them, while Traefik was down
	timedOut  int // of them, given up by the client
	unsettled int // of them, under way at the end
	dropped   int // SYNs, for want of a place in the backlog
	made      int // handshakes
	wasted    int // of them, for clients that had gone
	left      int // handshakes, and connections to accept, that were still to be made at the end

	peakQueue   int // handshakes that waited for the CPU or were being made
	peakBacklog int
	peakOpen    int           // connections of clients at a time, sessions included
	lookups     int           // in Redis
	peakLookups int           // of them, in one second
	cpu         time.Duration // of all cores, for handshakes

	course []moment
}

// moment is one point of a storm's course.
type moment struct {
	at    time.Duration
	back  int
	queue int
}

// courseStep is the time between two points of the course.
const courseStep = 100 * time.Millisecond

// reach returns when a share of all players was back; false: never.
func (a *aftermath) reach(share float64, players int) (time.Duration, bool) {
	want := int(math.Ceil(share * float64(players)))
	if want > len(a.times) || want == 0 {
		return 0, want == 0
	}
	return a.times[want-1], true
}

// The kinds of events.
const (
	tries    = iota // a client connects
	again           // a SYN is sent again
	accepted        // the accepting goroutine is done with one connection
	served          // a core is done with one handshake
	ready           // a handshake has all it needs
	givesUp         // a client has waited for long enough
)

// attempt is a client's attempt to connect.
type attempt struct {
	player int32
	number int32 // of this client's attempts, from 0
}

// event is something that happens at a time. Of those that happen at the same
// time, the one that was planned first comes first.
type event struct {
	at     time.Duration
	serial int
	kind   int
	who    attempt
	sent   int // how often the SYN was sent before
}

type calendar []event

func (c calendar) Len() int { return len(c) }
func (c calendar) Less(i, j int) bool {
	return c[i].at < c[j].at || c[i].at == c[j].at && c[i].serial < c[j].serial
}
func (c calendar) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *calendar) Push(e any)   { *c = append(*c, e.(event)) }
func (c *calendar) Pop() any {
	last := len(*c) - 1
	e := (*c)[last]
	*c = (*c)[:last]
	return e
}

// line is a queue: first come, first served.
type line struct {
	all  []waiter
	head int
}

type waiter struct {
	who   attempt
	since time.Duration
}

func (l *line) len() int     { return len(l.all) - l.head }
func (l *line) put(w waiter) { l.all = append(l.all, w) }
func (l *line) take() waiter {
	w := l.all[l.head]
	l.head++
	if l.head > 1024 && l.head > len(l.all)/2 {
		l.all = append(l.all[:0], l.all[l.head:]...)
		l.head = 0
	}
	return w
}

// client is a player's program.
type client struct {
	number  int32 // of the attempt
	waiting bool  // for the answer to it
	back    bool
	late    time.Duration // how long after the client's own time for it the attempt has arrived
}

// run is a storm while it is simulated.
type run struct {
	storm
	aftermath
	random    *rand.Rand
	now       time.Duration
	calendar  calendar
	serial    int
	clients   []client
	known     []time.Duration // when each route's answer is there; negative: nobody has asked
	second    time.Duration   // in which look-ups are counted
	inSecond  int
	backlogs  line
	accepting bool
	waiting   line // for a core
	working   int  // cores
	answering int  // handshakes that are off the core and wait for Redis
}

// simulate runs a storm to its end.
func (s storm) simulate() *aftermath {
	r := s.brew()
	r.play()
	return &r.aftermath
}

// brew has everybody lose the session.
func (s storm) brew() *run {
	r := &run{
		storm:   s,
		random:  rand.New(rand.NewPCG(s.seed, 0)),
		clients: make([]client, s.players),
		known:   make([]time.Duration, s.routes),
	}
	for i := range r.known {
		r.known[i] = -1
	}
	for i := range r.clients {
		r.begin(attempt{player: int32(i)})
	}
	return r
}

func (r *run) play() {
	for !r.settled() && len(r.calendar) > 0 && r.calendar[0].at <= r.over {
		e := heap.Pop(&r.calendar).(event)
		r.draw(e.at)
		r.now = e.at
		r.happen(e)
	}
	r.draw(r.now + courseStep)
	r.close()
}

// settled tells whether everybody is back and nothing is left to do.
func (r *run) settled() bool {
	return r.back == r.players && r.inHand() == 0 && r.backlogs.len() == 0
}

func (r *run) plan(e event) {
	e.serial = r.serial
	r.serial++
	heap.Push(&r.calendar, e)
}

func (r *run) happen(e event) {
	switch e.kind {
	case tries:
		r.tries(e.who)
	case again:
		if r.awaits(e.who) {
			r.connect(e.who, e.sent)
		}
	case accepted:
		r.accepting = false
		r.waiting.put(waiter{r.backlogs.take().who, r.now})
		r.work()
		r.acceptNext()
	case served:
		r.working--
		r.leaveCore(e.who)
		r.work()
	case ready:
		r.answering--
		r.finish(e.who)
	case givesUp:
		if r.awaits(e.who) {
			r.timedOut++
			r.fail(e.who)
		}
	}
	r.peakQueue = max(r.peakQueue, r.inHand())
	r.peakOpen = max(r.peakOpen, r.back+r.inHand())
	r.peakBacklog = max(r.peakBacklog, r.backlogs.len())
}

// inHand is how many handshakes Traefik has accepted and not answered.
func (r *run) inHand() int { return r.waiting.len() + r.working + r.answering }

// awaits tells whether a client still waits for this attempt.
func (r *run) awaits(who attempt) bool {
	c := &r.clients[who.player]
	return c.waiting && c.number == who.number
}

// tries begins an attempt.
func (r *run) tries(who attempt) {
	r.attempts++
	c := &r.clients[who.player]
	c.number, c.waiting = who.number, true
	if r.now < r.down {
		r.refused++
		r.fail(who)
		return
	}
	if r.timeout > 0 {
		r.plan(event{at: r.now + r.timeout, kind: givesUp, who: who})
	}
	r.connect(who, 0)
}

// connect sends a SYN, not for the first time where sent says so.
func (r *run) connect(who attempt, sent int) {
	if r.backlog > 0 && r.backlogs.len() >= r.backlog {
		r.dropped++
		r.plan(event{at: r.now + time.Second<<min(sent, 6), kind: again, who: who, sent: sent + 1})
		return
	}
	r.backlogs.put(waiter{who, r.now})
	r.acceptNext()
}

// acceptNext has the next connection accepted, if there is one and a descriptor
// for it.
func (r *run) acceptNext() {
	if r.accepting || r.backlogs.len() == 0 || r.open > 0 && r.back+r.inHand() >= r.open {
		return
	}
	r.accepting = true
	r.plan(event{at: r.now + r.accept, kind: accepted})
}

// work gives handshakes to the cores that are free.
func (r *run) work() {
	for r.working < r.cores && r.waiting.len() > 0 {
		w := r.waiting.take()
		r.waited += r.now - w.since
		took := r.handshake
		if route := r.route(w.who); r.known[route] < 0 {
			took += r.lookupCPU
			r.known[route] = r.now + time.Duration(float64(r.lookupCPU)/r.spare()) + r.lookup
			r.countLookup()
		}
		r.cpu += took
		r.working++
		r.plan(event{at: r.now + time.Duration(float64(took)/r.spare()), kind: served, who: w.who})
	}
}

// leastSpare is the share of the cores that handshakes have in any case: the scheduler
// has everybody's turn come.
const leastSpare = 0.01

// spare is the share of the cores that the players who are back leave for handshakes.
func (r *run) spare() float64 {
	return max(leastSpare, 1-float64(r.back)*r.talk.Seconds()/float64(r.cores))
}

func (r *run) route(who attempt) int { return int(who.player) % r.routes }

func (r *run) countLookup() {
	if second := r.now.Truncate(time.Second); second != r.second {
		r.second, r.inSecond = second, 0
	}
	r.lookups++
	r.inSecond++
	r.peakLookups = max(r.peakLookups, r.inSecond)
}

// leaveCore ends a handshake, when its route's answer is there.
func (r *run) leaveCore(who attempt) {
	r.answering++
	if known := r.known[r.route(who)]; known > r.now {
		r.plan(event{at: known, kind: ready, who: who})
		return
	}
	r.answering--
	r.finish(who)
}

// finish answers a client, if it is still there.
func (r *run) finish(who attempt) {
	r.made++
	if !r.awaits(who) {
		r.wasted++
	} else {
		c := &r.clients[who.player]
		c.waiting, c.back = false, true
		r.back++
		r.times = append(r.times, r.now)
	}
	r.acceptNext()
}

// fail ends an attempt and plans the next one.
func (r *run) fail(who attempt) {
	r.clients[who.player].waiting = false
	r.begin(attempt{who.player, who.number + 1})
}

// begin plans an attempt. The client's clock is its own: what one attempt was late by does
// not add up with what the next one is.
func (r *run) begin(who attempt) {
	c := &r.clients[who.player]
	own := r.now - c.late + r.retry.wait(int(who.number), r.random)
	at := own
	if r.scatter > 0 {
		at += time.Duration(r.random.Int64N(int64(r.scatter)))
	}
	at = max(at, r.now)
	c.late = at - own
	r.plan(event{at: at, kind: tries, who: who})
}

// draw adds the points of the course before a time.
func (r *run) draw(before time.Duration) {
	for {
		at := time.Duration(len(r.course)) * courseStep
		if at >= before {
			return
		}
		r.course = append(r.course, moment{at, r.back, r.inHand()})
	}
}

// close counts what was still under way.
func (r *run) close() {
	r.left = r.inHand() + r.backlogs.len()
	for _, c := range r.clients {
		if c.waiting {
			r.unsettled++
		}
	}
}
