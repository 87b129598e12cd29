package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// ownDescriptors is room for what Traefik has open besides sessions: logs,
// listeners, Redis, connections kept to nodes for plain requests.
const ownDescriptors = 1000

// What the plugin does by itself, from its code: see docs/routing-table.md.
const (
	recheckAfter = 60.0  // seconds until a route in memory is read again
	recheckMost  = 200.0 // routes read again in a second at the most
	pingsASecond = 2.0   // on the connection for look-ups and on the one for news
	linkBuffers  = 80e3  // bytes of Redis for a Traefik's two connections
)

// balancerPorts is how many connections one address of a load balancer can have
// to one port of a Traefik: every port that is not privileged.
const balancerPorts = 64512

// model is what is measured and what is assumed.
type model struct {
	measured  *figures
	assumed   *assumptions
	otherwise *model // the same with TLS where measured is without, or the other way round
}

// cpuPerPlayer is the CPU that one player costs in peace, in µs a second.
func (m *model) cpuPerPlayer() float64 {
	a, f := m.assumed, m.measured
	return a.messages/2*f.message + a.requests*f.request + f.handshake/a.session.Seconds()
}

// ownCPU is the CPU, in µs a second, that a Traefik takes to read its routes again.
func (m *model) ownCPU(nodes int) float64 {
	return recheck(m.routes(nodes)) * float64(m.assumed.lookupCPU) / 1e3
}

// cpuOf is the CPU of a Traefik with so many sessions in peace, in cores.
func (m *model) cpuOf(sessions float64, nodes int) float64 {
	return (sessions*m.cpuPerPlayer() + m.ownCPU(nodes)) / 1e6
}

// memoryPerPlayer is the memory of one session at its largest, in bytes: what
// the process has right before a collection, after a login or while it talks, and the
// kernel's part of it. What was measured after a login or while it talks has garbage in it
// that is Traefik's own, which ownMemory has too: that errs on the safe side.
func (m *model) memoryPerPlayer() float64 {
	a, f := m.assumed, m.measured
	return 1024 * (max(f.session*(1+a.gogc/100), f.fresh, f.talking) + a.kernel)
}

// memoryOf is the memory of a Traefik with so many sessions, in bytes. Its own
// garbage counts, too.
func (m *model) memoryOf(sessions float64) float64 {
	return m.ownMemory() + sessions*m.memoryPerPlayer()
}

func (m *model) ownMemory() float64 {
	return m.measured.baseline * (1 << 20) * (1 + m.assumed.gogc/100)
}

// resource is something of which a Traefik has only so much.
type resource struct {
	name string
	each string  // what a session takes, in words
	has  string  // what there is, in words
	most float64 // sessions for which that is enough
}

// resources are what bounds the sessions of a Traefik where there are so many
// nodes, the scarcest first.
func (m *model) resources(nodes int) []resource {
	a := m.assumed
	cpu := max(0, (a.busy*a.cores*1e6-m.ownCPU(nodes))/m.cpuPerPlayer())
	room := max(0, (a.memoryShare*a.memory*(1<<30)-m.ownMemory())/m.memoryPerPlayer())
	// Of the connections to one node, a restart leaves the old ones behind
	// (TIME_WAIT) beside those that take their place.
	ports := float64(a.addresses*a.ports) * float64(nodes)
	all := []resource{
		{"CPU in peace", short(m.cpuPerPlayer()) + " µs a second", short(a.cores) + " cores, " + percent(a.busy) + " to be used", cpu},
		{"memory", short(m.memoryPerPlayer()/1024) + " kB", short(a.memory) + " GiB, " + percent(a.memoryShare) + " to be used", room},
		{"descriptors", "2", whole(float64(a.descriptors)), float64(a.descriptors-ownDescriptors) / 2},
		{"local ports", "1 of its node's; for a minute after a restart 2", whole(float64(a.addresses*a.ports)) + " for each of " + whole(float64(nodes)) + " nodes", ports / 2},
	}
	if a.conntrack > 0 {
		all = append(all, resource{"tracked connections", "2; for two minutes after a restart 4", whole(float64(a.conntrack)), float64(a.conntrack) / 4})
	}
	if a.balancer > 0 {
		most := float64(a.balancer * balancerPorts)
		all = append(all, resource{"the load balancer's ports", "1", whole(most) + " from " + whole(float64(a.balancer)) + " addresses", most})
	}
	slices.SortStableFunc(all, func(x, y resource) int { return cmp.Compare(x.most, y.most) })
	return all
}

// need is what so many players need.
type need struct {
	players  int
	nodes    int
	traefiks int     // those that may be away included
	each     float64 // players of the fullest Traefik while those are away
	bound    string  // why there are not fewer Traefiks

	memory      float64 // bytes of the fullest Traefik
	descriptors float64 // of the fullest Traefik
	portsToOne  float64 // local ports of the fullest Traefik to one node
	tracked     float64 // connections that the fullest Traefik's kernel tracks

	routesEach  float64 // routes that a Traefik knows
	peace       float64 // Redis commands a second
	perTraefik  float64 // of them, of one Traefik
	pushes      float64 // invalidations a second that Redis sends
	redisMemory float64 // bytes of Redis for what it tracks and its connections
	trackedKeys float64

	storm   *aftermath // of the fullest Traefik with clients that come back at random
	stormed storm
}

// needs computes what so many players need.
func (m *model) needs(players int) *need {
	a := m.assumed
	n := &need{players: players, nodes: m.nodes(players)}
	scarcest := m.resources(n.nodes)[0]
	most, bound := scarcest.most, scarcest.name
	if a.perTraefik > 0 && float64(a.perTraefik) < most {
		most, bound = float64(a.perTraefik), "-per-traefik"
	}
	working := math.Ceil(float64(players) * a.spread / most)
	if working == 1 && a.spare > 0 {
		bound = "-spare"
	}
	n.bound = bound
	n.traefiks = int(working) + a.spare
	n.each = min(float64(players), float64(players)*a.spread/working)
	n.memory = m.memoryOf(n.each)
	n.descriptors = 2*n.each + ownDescriptors
	n.portsToOne = min(n.each/float64(n.nodes), float64(a.perNode))
	n.tracked = 2 * n.each
	m.askRedis(n)
	m.breakOut(n)
	return n
}

// askRedis computes what Redis has to do in peace.
func (m *model) askRedis(n *need) {
	a := m.assumed
	traefiks := float64(n.traefiks)
	n.routesEach = m.routes(n.nodes)
	// What the table has no room for is looked up at the next login.
	unknown := 1 - n.routesEach/float64(n.nodes)
	logins := float64(n.players) / a.session.Seconds()
	n.perTraefik = recheck(n.routesEach) + pingsASecond
	// One change of a hash makes all its routes unknown, and those in use are
	// read again at once.
	changes := a.changes / 3600
	inUse := min(float64(a.threads), float64(n.nodes))
	n.peace = traefiks*(n.perTraefik+changes*inUse) + logins*unknown
	n.pushes = traefiks * changes
	n.trackedKeys = math.Ceil(float64(n.nodes) / float64(a.threads))
	items := n.trackedKeys * min(1, n.routesEach/float64(n.nodes)) * traefiks
	n.redisMemory = n.trackedKeys*a.trackedKey + items*a.trackedItem + traefiks*linkBuffers
}

// routes is how many routes a Traefik knows where there are so many nodes.
func (m *model) routes(nodes int) float64 { return min(float64(nodes), float64(m.assumed.maxEntries)) }

// recheck is how many routes one Traefik reads again in a second.
func recheck(routes float64) float64 { return min(routes/recheckAfter, recheckMost) }

// stormOf is the storm of so many sessions.
func (m *model) stormOf(sessions, nodes int, clients retry, timeout time.Duration) storm {
	a, f := m.assumed, m.measured
	return storm{
		players:   sessions,
		routes:    max(1, min(nodes, sessions)),
		down:      a.down,
		backlog:   a.backlog,
		accept:    time.Duration(1e9 / a.accepts),
		open:      (a.descriptors - ownDescriptors) / 2,
		cores:     int(a.cores),
		handshake: time.Duration(f.handshake * 1e3),
		lookup:    time.Duration(f.lookup * 1e6),
		lookupCPU: a.lookupCPU,
		talk:      time.Duration(m.cpuPerPlayer() * 1e3),
		scatter:   a.scatter,
		timeout:   timeout,
		retry:     clients,
		over:      stormOver,
		seed:      a.seed,
	}
}

// stormOver is when a storm that has not calmed down is taken for one that never
// will.
const stormOver = 3 * time.Minute

// breakOut restarts the fullest Traefik.
func (m *model) breakOut(n *need) {
	n.stormed = m.stormOf(int(n.each), n.nodes, m.jittered(), m.assumed.clientTimeout)
	n.storm = n.stormed.simulate()
}

// The clients that are compared.
func (m *model) hasty() retry {
	return retry{what: "at once, and again every 0.1 s", least: 100 * time.Millisecond, most: 100 * time.Millisecond}
}

func (m *model) inStep() retry {
	return retry{what: "every 5 s, all in step", first: 5 * time.Second, least: 5 * time.Second, most: 5 * time.Second}
}

func (m *model) jittered() retry {
	a := m.assumed
	return retry{what: "at random within " + a.least.String() + ", doubled up to " + a.most.String(), first: a.least, least: a.least, most: a.most, jitter: true}
}

func (m *model) patient() retry {
	a := m.assumed
	return retry{what: "at random within " + a.first.String() + ", then within " + a.least.String() + ", doubled up to " + a.most.String(), first: a.first, least: a.least, most: a.most, jitter: true}
}

func (m *model) clients() []retry {
	return []retry{m.hasty(), m.inStep(), m.jittered(), m.patient()}
}

// load is how full something is at its fullest.
type load struct {
	name  string
	share float64 // of all that there is; more than 1: it does not do
	when  string
}

// check says what is too small for even one session.
func (m *model) check(players []int) error {
	for _, p := range players {
		if r := m.resources(m.nodes(p))[0]; r.most < 1 {
			return fmt.Errorf("%s: %s is not enough for one session, which takes %s", r.name, r.has, r.each)
		}
	}
	return nil
}

// played are those of so many sessions that a Traefik can carry in peace, by its CPU, and
// left the others: their storm would not end. Where it can carry none of them, as many are
// played as it can.
func (m *model) played(o *order) (played, left []int) {
	for _, sessions := range o.storms {
		if m.cpuOf(float64(sessions), m.nodes(slices.Max(o.players))) < m.assumed.cores {
			played = append(played, sessions)
		} else {
			left = append(left, sessions)
		}
	}
	if len(played) == 0 {
		most := int(m.resources(m.nodes(slices.Max(o.players)))[0].most)
		played = []int{max(1, min(most, slices.Max(o.players)))}
	}
	return played, left
}

// slower is the same on a machine whose processor takes so many times as long.
func (m *model) slower(times float64) *model {
	measured, assumed := *m.measured, *m.assumed
	measured.request *= times
	measured.handshake *= times
	measured.message *= times
	assumed.lookupCPU = time.Duration(times * float64(assumed.lookupCPU))
	return &model{measured: &measured, assumed: &assumed}
}

// nodes is how many nodes so many players have.
func (m *model) nodes(players int) int { return (players + m.assumed.perNode - 1) / m.assumed.perNode }

// loads says how full everything is, the fullest first.
func (m *model) loads(n *need) []load {
	a := m.assumed
	queue := 1024 * a.pending * float64(n.storm.peakQueue)
	all := []load{
		{"a Traefik's CPU", m.cpuOf(n.each, n.nodes) / a.cores, "in peace"},
		{"a Traefik's memory", (n.memory + queue) / (a.memory * (1 << 30)), "in a storm"},
		{"a Traefik's descriptors", (2*float64(n.storm.peakOpen) + ownDescriptors) / float64(a.descriptors), "in a storm"},
		{"a Traefik's ports to one node", 2 * n.portsToOne / float64(a.addresses*a.ports), "after a restart"},
		{"the backlog", float64(n.storm.peakBacklog) / float64(a.backlog), "in a storm"},
		{"Redis' commands", n.peace / a.redisRate, "in peace"},
		{"Redis' commands", (n.peace + m.everywhere(n)) / a.redisRate, "when all Traefiks are restarted at once"},
		{"Redis' table of tracked keys", n.trackedKeys / float64(a.trackingKeys), "in peace"},
		{"the routing table", float64(n.nodes) / float64(a.maxEntries), "in peace"},
	}
	if a.conntrack > 0 {
		all = append(all, load{"tracked connections", 2 * n.tracked / float64(a.conntrack), "after a restart"})
	}
	if a.balancer > 0 {
		all = append(all, load{"the load balancer's ports", n.each / float64(a.balancer*balancerPorts), "in peace"})
	}
	slices.SortStableFunc(all, func(x, y load) int { return cmp.Compare(y.share, x.share) })
	return all
}

// everywhere is the look-ups a second when all Traefiks are restarted at once and
// each has the storm of the fullest.
func (m *model) everywhere(n *need) float64 { return float64(n.traefiks * n.storm.peakLookups) }
