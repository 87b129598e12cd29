package main

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"
)

// page is capacity.md.
func (m *model) page(o *order) string {
	s := &sheet{}
	s.line("# Capacity")
	s.paragraph("What so many players online need, and what happens when a Traefik is restarted under them. Made by `make capacity` from what `make bench` has measured ([measured](#measured)) and from what has to be assumed ([assumed](#assumed)). It is a model: what a session takes was measured with thousands of them on one small machine, not with millions. kB, MB and GB are of 1024, as GiB is. Each assumption is a flag, so put your own in: `cd e2e && go run ./capacity -messages 2 -cores 8`.")
	var all []*need
	for _, players := range o.players {
		all = append(all, m.needs(players))
	}
	m.tellNeeds(s, all)
	m.tellFirst(s, all)
	m.tellTraefik(s, all)
	m.tellTLS(s, o, all)
	m.tellRedis(s, all)
	m.tellStorms(s, o)
	m.tellFeeding(s, o)
	m.tellMeasured(s)
	tellAssumed(s, o)
	return s.String()
}

// across makes a table with a column for each number of players.
func across(s *sheet, all []*need, rows []aspect) {
	head := []string{"players online"}
	for _, n := range all {
		head = append(head, whole(float64(n.players)))
	}
	var cells [][]string
	for _, r := range rows {
		row := []string{r.what}
		for _, n := range all {
			row = append(row, r.of(n))
		}
		cells = append(cells, row)
	}
	s.table(head, cells)
}

// aspect is a row of such a table.
type aspect struct {
	what string
	of   func(n *need) string
}

func (m *model) tellNeeds(s *sheet, all []*need) {
	a := m.assumed
	s.paragraph("## So many players")
	s.paragraph("A Traefik has %s cores and %s GiB; %d of them may be away. \"Each\" is the fullest one, %s times the mean, while those are away.", short(a.cores), short(a.memory), a.spare, short(a.spread))
	across(s, all, []aspect{
		{"nodes, each one route", func(n *need) string { return whole(float64(n.nodes)) }},
		{"**Traefiks**", func(n *need) string { return "**" + whole(float64(n.traefiks)) + "**" }},
		{"there are not fewer because of", func(n *need) string { return n.bound }},
		{"sessions of each", func(n *need) string { return whole(n.each) }},
		{"CPU of each in peace, cores", func(n *need) string { return short(m.cpuOf(n.each, n.nodes)) }},
		{"memory of each, at most", func(n *need) string { return bytesOf(n.memory) }},
		{"descriptors of each", func(n *need) string { return whole(n.descriptors) }},
		{"local ports of each to one node", func(n *need) string { return whole(n.portsToOne) }},
		{"connections that the kernel of each tracks, if it does", func(n *need) string { return whole(n.tracked) }},
		{"Redis, commands a second in peace", func(n *need) string { return whole(n.peace) }},
		{"the same while one Traefik is in a login storm", func(n *need) string { return whole(n.peace + float64(n.storm.peakLookups)) }},
		{"the same while all are", func(n *need) string { return whole(n.peace + m.everywhere(n)) }},
		{"Redis, memory for tracking and connections", func(n *need) string { return bytesOf(n.redisMemory) }},
		{"a Traefik is restarted: 99 % are back after", func(n *need) string { return reached(n.storm, .99, n.stormed.players) }},
	})
	s.paragraph("The last row is for clients that come back %s: see [a login storm](#a-login-storm).", m.jittered().what)
}

// reached says when a share of the players was back, or how many were at the end.
func reached(a *aftermath, share float64, players int) string {
	if at, ok := a.reach(share, players); ok {
		return seconds(at)
	}
	return fmt.Sprintf("not in %s (%s)", stormOver, percent(float64(a.back)/float64(players)))
}

func (m *model) tellFirst(s *sheet, all []*need) {
	s.paragraph("## What gives out first")
	s.paragraph("How full the fullest things are, of all that there is. Beyond 100 %% it does not do.")
	var rows [][]string
	for _, n := range all {
		row := []string{whole(float64(n.players))}
		for _, l := range m.loads(n)[:4] {
			row = append(row, fmt.Sprintf("%s, %s: %s", l.name, l.when, percent(l.share)))
		}
		rows = append(rows, row)
	}
	s.table([]string{"players online", "first", "second", "third", "fourth"}, rows)
}

func (m *model) tellTraefik(s *sheet, all []*need) {
	a, f := m.assumed, m.measured
	last := all[len(all)-1]
	s.paragraph("## One Traefik")
	s.paragraph("Sessions that each thing is enough for, with the nodes of %s players. The scarcest decides.", whole(float64(last.players)))
	var rows [][]string
	for _, r := range m.resources(last.nodes) {
		rows = append(rows, []string{r.name, r.each, r.has, whole(r.most)})
	}
	s.table([]string{"", "a session takes", "there is", "enough for"}, rows)
	s.line("")
	s.line("- CPU of a player: %s µs a second for messages, %s for plain requests, %s for logging in every %s; Traefik's own for reading routes again: %s. %s", short(a.messages/2*f.message), short(a.requests*f.request), short(f.handshake/a.session.Seconds()), hours(a.session),
		short(m.ownCPU(last.nodes)), m.onHalfTheSpeed(last))
	s.line("- Memory: %s kB resident once it has talked and settled, and as much again by %s %% as Go lets the heap grow before it collects (`GOGC`), or %s kB with the garbage of its handshake, or up to %s kB while it carries 2 kB each way every few seconds (the largest counts; both measured with `GOGC` at 100); and %s kB of the kernel's. Smaller `GOGC` trades CPU for it. A static Traefik route has %s kB where the plugin has %s%s.", short(f.session), short(a.gogc), short(f.fresh), short(f.talking), short(a.kernel), short(f.static), short(f.session), m.nginx())
	s.line("- Descriptors: the client's connection and the node's. Go raises its soft limit to the hard one by itself.")
	s.line("- Local ports bound what goes from one address to one node (`net.ipv4.ip_local_port_range`), not the sum: with many nodes they are far away. After a restart the old connections still hold theirs for a minute (TIME_WAIT). All nodes behind one address and port would share one range.")
	s.line("- Tracked connections count where a firewall or NAT is loaded, as on hosts of Docker or Kubernetes; the old ones are remembered for two minutes. `net.netfilter.nf_conntrack_max`.")
	s.line("- A load balancer that connects from addresses of its own has %s ports for each of them to one Traefik: `-balancer-addresses`.", whole(balancerPorts))
}

// onHalfTheSpeed says what a processor needs that takes twice as long.
func (m *model) onHalfTheSpeed(n *need) string {
	slower := m.slower(2)
	if slower.check([]int{n.players}) != nil {
		return "A processor that takes twice as long is not enough."
	}
	return fmt.Sprintf("With a processor that takes twice as long %s players need %s Traefiks, not %s.", whole(float64(n.players)), whole(float64(slower.needs(n.players).traefiks)), whole(float64(n.traefiks)))
}

// nginx says what nginx takes, where that was measured.
func (m *model) nginx() string {
	if m.measured.nginx == 0 {
		return ""
	}
	return ", and nginx with the OpenResty configuration " + short(m.measured.nginx) + " (it does not collect)"
}

// hours renders a time without zeros at its end.
func hours(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "0s")
	return strings.TrimSuffix(text, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(text, "h0m")]
}

// tellTLS compares Traefiks that clients speak TLS to with others, whichever the rest of the
// page is about.
func (m *model) tellTLS(s *sheet, o *order, all []*need) {
	other := m.otherwise
	var others []*need
	for _, players := range o.players {
		others = append(others, other.needs(players))
	}
	plain, safe, without, with := m, other, all, others
	about := "the latter; `-tls` makes it about the former"
	if m.measured.secure {
		plain, safe, without, with = other, m, others, all
		about = "the former, by `-tls`"
	}
	s.paragraph("## TLS at Traefik")
	s.paragraph("Clients that speak TLS to Traefik cost more than those whose TLS a load balancer ends: keys, buffers and larger stacks for each session, and a signature for each login (ECDSA, P-256). All else on this page is about %s. The two were measured one after the other: a few hundredths of CPU are not what they differ by.", about)
	var rows [][]string
	for _, r := range []struct {
		what string
		of   func(m *model) string
	}{
		{"memory of a session, resident", func(m *model) string { return short(m.measured.session) + " kB" }},
		{"the same on a static Traefik route", func(m *model) string { return short(m.measured.static) + " kB" }},
		{"CPU of a login", func(m *model) string { return short(m.measured.handshake) + " µs" }},
		{"logins that all cores of one Traefik can make in a second", func(m *model) string { return whole(m.handshakes()) }},
		{"CPU of a player in peace, a second", func(m *model) string { return short(m.cpuPerPlayer()) + " µs" }},
	} {
		rows = append(rows, []string{r.what, r.of(plain), r.of(safe)})
	}
	for i, n := range with {
		rows = append(rows, []string{"Traefiks for " + whole(float64(n.players)) + " players", whole(float64(without[i].traefiks)), whole(float64(n.traefiks))})
	}
	last := len(with) - 1
	rows = append(rows, []string{"one of the last is restarted: 99 % are back after", reached(without[last].storm, .99, without[last].stormed.players), reached(with[last].storm, .99, with[last].stormed.players)})
	s.table([]string{"", "TLS ends before", "TLS ends at Traefik"}, rows)
}

func (m *model) tellRedis(s *sheet, all []*need) {
	a := m.assumed
	s.paragraph("## Redis")
	s.paragraph("Players cost Redis nothing: routes do, once for each Traefik. Each Traefik reads each route that it knows again once a minute, %s a second at the most, and says PING twice a second ([the routing table](routing-table.md)). A login asks Redis only where the route is not known: after a restart once for each route, however many want it, and many share a round trip.", short(recheckMost))
	across(s, all, []aspect{
		{"routes that a Traefik knows", func(n *need) string { return whole(n.routesEach) }},
		{"commands a second of one Traefik, in peace", func(n *need) string { return short(n.perTraefik) }},
		{"of all, changes and logins included", func(n *need) string { return whole(n.peace) }},
		{"of what one Redis can do", func(n *need) string { return percent(n.peace / a.redisRate) }},
		{"look-ups in a storm of one Traefik, in all", func(n *need) string { return whole(float64(n.storm.lookups)) }},
		{"of them in one second, at most", func(n *need) string { return whole(float64(n.storm.peakLookups)) }},
		{"look-ups when all Traefiks are restarted at once", func(n *need) string { return whole(float64(n.traefiks * n.storm.lookups)) }},
		{"so long does one Redis take for them", func(n *need) string {
			return short(float64(n.traefiks*n.storm.lookups)/a.redisRate) + " s"
		}},
		{"invalidations a second that Redis sends", func(n *need) string { return short(n.pushes) }},
		{"keys that Redis tracks (`tracking-table-max-keys`: " + whole(float64(a.trackingKeys)) + ")", func(n *need) string { return whole(n.trackedKeys) }},
		{"Redis' memory for that and for the connections", func(n *need) string { return bytesOf(n.redisMemory) }},
	})
	s.paragraph("What grows is Traefiks times routes. Fewer and larger Traefiks, or a Cluster, which shares both the routes and the tracking among its masters, bring it down; replicas do not, for the plugin reads from the master. Where one Redis takes longer than `redis.readTimeout` for the look-ups of all Traefiks, restart them one after the other.")
}

func (m *model) tellStorms(s *sheet, o *order) {
	a := m.assumed
	s.paragraph("## A login storm")
	s.paragraph("A Traefik with all these sessions is restarted, refuses for %s, and everybody comes back to it, as a load balancer that goes by the fewest connections would have it. A simulation, event by event: the kernel's backlog, where a SYN that finds no place comes again after 1 s, 2 s, 4 s; Traefik, which accepts as long as it has descriptors; handshakes, first come, first served, on what the players who are back leave of %s cores (%s a second on all of them); a look-up for each route that is not known yet (one route for each %s players of %s online); clients that wait %s for their 101, then try again, while their handshake is made for nobody. Times are since the loss; the simulation ends after %s.", a.down, short(a.cores), whole(m.handshakes()), whole(float64(a.perNode)), whole(float64(slices.Max(o.players))), a.clientTimeout, stormOver)
	played, left := m.played(o)
	for _, sessions := range left {
		s.paragraph("Not played: %s sessions, which would take %s of these cores in peace.", whole(float64(sessions)), short(m.cpuOf(float64(sessions), m.nodes(slices.Max(o.players)))))
	}
	var rows [][]string
	for _, sessions := range played {
		for _, c := range m.clients() {
			after := m.storm(o, sessions, c, a.clientTimeout).simulate()
			rows = append(rows, []string{whole(float64(sessions)), c.what, reached(after, .5, sessions), reached(after, .99, sessions),
				whole(float64(after.peakQueue)), whole(float64(after.peakBacklog)), whole(float64(after.dropped)), whole(float64(after.refused)),
				whole(float64(after.timedOut)), whole(float64(after.wasted)), whole(float64(after.peakLookups))})
		}
	}
	s.table([]string{"sessions", "clients come back", "50 % back", "99 % back", "handshakes in hand, at most", "in the backlog, at most", "SYNs dropped", "refused", "timed out", "handshakes for nobody", "look-ups in one second"}, rows)
	s.paragraph("![A login storm](%s)", plotName)
}

// handshakes is how many a second the cores can make.
func (m *model) handshakes() float64 { return m.assumed.cores * 1e6 / m.measured.handshake }

// storm is the storm of a Traefik in a world with the most players of an order.
func (m *model) storm(o *order, sessions int, clients retry, timeout time.Duration) storm {
	return m.stormOf(sessions, m.nodes(slices.Max(o.players)), clients, timeout)
}

// impatience are the client time-outs that are compared.
var impatience = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}

// dearer is how many times as much a handshake may cost.
var dearer = []int{1, 2, 4}

func (m *model) tellFeeding(s *sheet, o *order) {
	played, _ := m.played(o)
	sessions := slices.Max(played)
	s.paragraph("## When a storm feeds itself")
	s.paragraph("%s handshakes are %s of all cores. A client that waits less than the queue is long gives up before its turn, and comes again at the end of the queue; what is made is made for nobody, and the queue grows by what those bring who have given up. The same storm, by how long a client waits for its 101:", whole(float64(sessions)), seconds(time.Duration(float64(sessions)/m.handshakes()*1e9)))
	head := []string{"99 % back", "attempts", "timed out", "handshakes for nobody", "of all", "handshakes in hand, at most", "memory for them"}
	outcome := func(after *aftermath) []string {
		return []string{reached(after, .99, sessions), whole(float64(after.attempts)), whole(float64(after.timedOut)), whole(float64(after.wasted)), percent(float64(after.wasted) / float64(max(1, after.made))),
			whole(float64(after.peakQueue)), bytesOf(1024 * m.assumed.pending * float64(after.peakQueue))}
	}
	var rows [][]string
	for _, c := range m.clients() {
		for _, timeout := range impatience {
			rows = append(rows, append([]string{c.what, timeout.String()}, outcome(m.storm(o, sessions, c, timeout).simulate())...))
		}
	}
	s.table(append([]string{"clients come back", "they wait"}, head...), rows)
	s.paragraph("The same, where they wait %s and a handshake costs more than was measured, by a dearer signature, or what else stands before the plugin:", m.assumed.clientTimeout)
	rows = nil
	for _, c := range m.clients() {
		for _, times := range dearer {
			storm := m.storm(o, sessions, c, m.assumed.clientTimeout)
			storm.handshake *= time.Duration(times)
			rows = append(rows, append([]string{c.what, short(float64(storm.handshake)/1e3) + " µs"}, outcome(storm.simulate())...))
		}
	}
	s.table(append([]string{"clients come back", "a handshake costs"}, head...), rows)
	s.paragraph("What finds no place in the backlog costs Traefik nothing and comes later, so a full backlog holds a storm back; what Traefik has accepted it works off, wanted or not. What keeps a storm from feeding itself is in the client: jitter, a wait that doubles, and a time-out longer than the queue. At the gateway it is fewer sessions on each Traefik (`-per-traefik`), or more cores.")
}

func (m *model) tellMeasured(s *sheet) {
	s.paragraph("## Measured")
	s.paragraph("From `docs/bench/figures.json`; the pages there say on which machine, and how. Figures of different days may be of machines that differ by two and more.")
	s.table([]string{"", "", "figure", "measured on"}, m.measured.rows())
}

func tellAssumed(s *sheet, o *order) {
	s.paragraph("## Assumed")
	s.paragraph("None of this was measured for this page; the kernel's and Redis' are their defaults, or estimates.")
	var rows [][]string
	o.model.VisitAll(func(f *flag.Flag) { rows = append(rows, []string{"`-" + f.Name + "`", f.Value.String(), f.Usage}) })
	s.table([]string{"flag", "value", "meaning"}, rows)
	s.paragraph("Not in the model: what TLS costs plain requests, Traefik's access log and metrics, messages much larger than 128 B, the network, and what the nodes themselves do in a storm. CPU is taken to grow evenly with cores and sessions, and a handshake that nobody waits for to cost as much as one that somebody does.")
}
