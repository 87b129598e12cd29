package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/mna/redisc"
)

// How often the nodes of a Cluster are asked who owns which slots: this often
// when all is well, and no more often than refreshAtMost when it is not.
const (
	refreshEvery  = 10 * time.Second
	refreshAtMost = time.Second
)

// memberLinger is how long the link to a node without slots is kept after its
// last use: while slots move, look-ups come and go.
const memberLinger = 10 * time.Second

// maxHops is how many times a look-up is led on to another node.
const maxHops = 5

// cluster is the source where Redis is a Cluster: one link to each master, over
// which its look-ups go and its changes come.
type cluster struct {
	settings *redisSettings
	owner    linkOwner
	ctx      context.Context // over when the source is closed
	end      context.CancelFunc
	wanted   chan struct{} // a refresh is wanted

	mu      sync.Mutex
	closed  bool
	fault   error     // why nothing is known of the slots; nil: it is, or soon will be
	pending []*lookup // taken before anything was known
	members map[string]*member
	slots   []slotRange     // in order; nil: nothing is known yet
	moved   map[int]*member // slots that have moved since
	turn    int
}

// member is a node of the Cluster that look-ups go to.
type member struct {
	link   *link
	needed time.Time // when it last had slots or was asked
}

// slotRange is a range of slots, both ends included, and the master of it.
type slotRange struct {
	from, to int
	address  string
	member   *member
}

// same tells whether two ranges are equal.
func (r *slotRange) same(other *slotRange) bool {
	return r.from == other.from && r.to == other.to && r.member == other.member
}

func newCluster(settings *redisSettings, owner linkOwner) *cluster {
	ctx, end := context.WithCancel(context.Background())
	return &cluster{
		settings: settings,
		owner:    owner,
		ctx:      ctx,
		end:      end,
		wanted:   make(chan struct{}, 1),
		members:  map[string]*member{},
		moved:    map[int]*member{},
	}
}

// start implements source.
func (c *cluster) start() {
	go c.run()
}

// errClusterUnused ends what waits for a Cluster that is closed.
var errClusterUnused = fmt.Errorf("%w: nobody uses this Cluster any more", errRedisDown)

// close implements source.
func (c *cluster) close() {
	c.end()
	c.mu.Lock()
	c.closed = true
	for _, m := range c.members {
		m.link.close()
	}
	c.mu.Unlock()
	c.refuse(errClusterUnused)
}

// ask implements source.
func (c *cluster) ask(l *lookup, background bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slots == nil {
		if c.fault != nil {
			return c.fault
		}
		if len(c.pending) >= maxWaiting {
			return fmt.Errorf("%w: %d look-ups are waiting already", errRedisDown, maxWaiting)
		}
		c.pending = append(c.pending, l)
		return nil
	}
	m := c.holder(l.slot)
	if m == nil {
		return fmt.Errorf("%w: no master of the Cluster holds slot %d: look at CLUSTER SLOTS on a node of redis.endpoints", errRedisDown, l.slot)
	}
	err := m.link.ask(l, background)
	return err
}

// session implements source.
func (c *cluster) session(slot int) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.holder(slot)
	if m == nil {
		return nil
	}
	s := m.link.session(slot)
	return s
}

// holder returns who holds a slot, or nil. The lock is held.
func (c *cluster) holder(slot int) *member {
	if m := c.moved[slot]; m != nil {
		return m
	}
	i := sort.Search(len(c.slots), func(i int) bool { return c.slots[i].to >= slot })
	if i == len(c.slots) || c.slots[i].from > slot {
		return nil
	}
	return c.slots[i].member
}

// whole implements source.
func (c *cluster) whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	covered := 0
	for _, r := range c.slots {
		covered += r.to - r.from + 1
		if !r.member.link.whole() {
			return false
		}
	}
	return covered == redisc.HashSlots
}

// turned implements linkOwner.
func (c *cluster) turned() {
	c.want()
	c.owner.turned()
}

// changed implements linkOwner.
func (c *cluster) changed(s *session, change *change) {
	c.owner.changed(s, change)
}

// landed implements linkOwner: it leads look-ups on that came to the wrong node.
func (c *cluster) landed(l *lookup, s *session, value string, err error) {
	if err != nil && s != nil {
		if redirection := redisc.ParseRedir(err); redirection != nil {
			err = c.follow(l, s, redirection)
			if err == nil {
				return
			}
		} else if strings.HasPrefix(err.Error(), "CLUSTERDOWN") {
			c.want()
		}
	}
	c.owner.landed(l, s, value, err)
}

// follow hands a look-up to the node that another one has named.
func (c *cluster) follow(l *lookup, s *session, to *redisc.RedirError) error {
	if l.hops >= maxHops {
		return fmt.Errorf("%w: the nodes of the Cluster send look-ups of slot %d from one to the other: look at CLUSTER NODES on each", errRedisDown, l.slot)
	}
	l.hops++
	l.asking = to.Type == "ASK"
	address := redirected(to.Addr, s.endpoint)
	c.mu.Lock()
	m := c.join(address)
	if m != nil && !l.asking {
		c.moved[l.slot] = m
	}
	c.mu.Unlock()
	if m == nil {
		return errClusterUnused
	}
	if !l.asking {
		c.turned()
	}
	err := m.link.ask(l, false)
	return err
}

// redirected returns the address that a node, reached at from, leads to: an IPv6
// address has no brackets in it, and a node that does not know its own name names
// the port alone.
func redirected(to, from string) string {
	colon := strings.LastIndex(to, ":")
	host, port := to[:colon+1], to[colon+1:]
	host = strings.TrimSuffix(host, ":")
	if host == "" {
		host, _, _ = net.SplitHostPort(from)
	}
	return net.JoinHostPort(host, port)
}

// join returns the member at an address, and makes it if there is none; nil: the
// Cluster is not used any more. The lock is held.
func (c *cluster) join(address string) *member {
	if c.closed {
		return nil
	}
	m := c.members[address]
	if m == nil {
		m = &member{link: apartLink(c.settings, address, c)}
		c.members[address] = m
	}
	m.needed = time.Now()
	return m
}

// want asks for a refresh.
func (c *cluster) want() {
	nudge(c.wanted)
}

// run keeps what is known of the slots true, until the source is closed.
func (c *cluster) run() {
	defer c.refuse(errClusterUnused) // after a panic too: nothing may wait for ever
	defer recovered("following the slots of the Cluster")
	wait := minRetry
	for {
		err := c.refresh()
		pause := refreshAtMost
		if err != nil {
			logFailure(errRedisDown, "redis Cluster: %s", err.Error())
			c.refuse(fmt.Errorf("%w: %s", errRedisDown, err.Error()))
			pause = wait - jitter(wait)
			wait = wait * 2
			if wait > maxRetry {
				wait = maxRetry
			}
		} else {
			wait = minRetry
		}
		choose(time.After(pause), c.ctx.Done())
		if err == nil && c.whole() {
			choose(time.After(refreshEvery-refreshAtMost), c.wanted, c.ctx.Done())
		}
		if c.ctx.Err() != nil {
			return
		}
	}
}

// refresh asks one node after the other for the slots, until one knows.
func (c *cluster) refresh() error {
	var faults []string
	for _, address := range c.nodes() {
		slots, err := c.settings.clusterSlots(address)
		if err == nil {
			c.learn(slots)
			return nil
		}
		faults = append(faults, address+": "+wording(err))
	}
	return errors.New(strings.Join(faults, "; "))
}

// nodes returns whom to ask: each time another one of those that answer first,
// since one that is cut off from the others knows old slots; then those that the
// configuration names.
func (c *cluster) nodes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var alive, rest []string
	for address, m := range c.members {
		if m.link.whole() {
			alive = append(alive, address)
		}
	}
	sort.Strings(alive)
	for _, endpoint := range c.settings.endpoints {
		if m := c.members[endpoint]; m == nil || !m.link.whole() {
			rest = append(rest, endpoint)
		}
	}
	if len(alive) > 0 {
		c.turn++
		first := c.turn % len(alive)
		alive = append(alive[first:], alive[:first]...)
	}
	return append(alive, rest...)
}

// learn takes over what a node said of the slots.
func (c *cluster) learn(slots []slotRange) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	changed := len(c.moved) > 0 || len(slots) != len(c.slots)
	for i := range slots {
		slots[i].member = c.join(slots[i].address)
		changed = changed || !slots[i].same(&c.slots[i])
	}
	c.slots = slots
	c.moved = map[int]*member{}
	c.fault = nil
	pending := c.pending
	c.pending = nil
	for address, m := range c.members {
		if time.Since(m.needed) > memberLinger {
			m.link.close()
			delete(c.members, address)
		}
	}
	c.mu.Unlock()
	if changed {
		c.owner.turned()
	}
	for _, l := range pending {
		if err := c.ask(l, false); err != nil {
			c.owner.landed(l, nil, "", err)
		}
	}
}

// refuse ends what waits for the slots to be known, and lets nothing wait.
func (c *cluster) refuse(fault error) {
	c.mu.Lock()
	c.fault = fault
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	for _, l := range pending {
		c.owner.landed(l, nil, "", fault)
	}
}

// clusterSlots asks a node who owns which slots.
func (s *redisSettings) clusterSlots(address string) ([]slotRange, error) {
	conn, err := s.dial(address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reply, err := redis.Values(conn.Do("CLUSTER", "SLOTS"))
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var slots []slotRange
	for _, part := range reply {
		r, err := readSlotRange(part, host)
		if err != nil {
			return nil, fmt.Errorf("cannot read its CLUSTER SLOTS: %w", err)
		}
		slots = append(slots, r)
	}
	if len(slots) == 0 {
		return nil, errors.New("knows of no slots: is it part of the Cluster?")
	}
	sort.Slice(slots, func(i, j int) bool { return slots[i].from < slots[j].from })
	return slots, nil
}

// readSlotRange reads one part of the answer to CLUSTER SLOTS: first and last
// slot, and the nodes that hold them, the master first. host is the name of the
// node that was asked, which it may not know itself.
func readSlotRange(part interface{}, host string) (slotRange, error) {
	var r slotRange
	values, err := redis.Values(part, nil)
	if err == nil && len(values) < 3 {
		err = errors.New("a range has no master")
	}
	if err != nil {
		return r, err
	}
	if r.from, err = redis.Int(values[0], nil); err != nil {
		return r, err
	}
	if r.to, err = redis.Int(values[1], nil); err != nil {
		return r, err
	}
	master, err := redis.Values(values[2], nil)
	if err == nil && len(master) < 2 {
		err = errors.New("a master has no address")
	}
	if err != nil {
		return r, err
	}
	if name, _ := redis.String(master[0], nil); name != "" {
		host = name
	}
	port, err := redis.Int(master[1], nil)
	if err != nil {
		return r, err
	}
	r.address = net.JoinHostPort(host, strconv.Itoa(port))
	return r, nil
}
