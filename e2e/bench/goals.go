package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// goal is something that the plugin is to reach, told by figures of the other pages.
type goal struct {
	what string
	// figures are of the plugin and of what it is compared with; one alone is no ratio
	// but stands for itself, in its unit.
	figures []string
	want    float64
	enough  float64 // what is still good enough; 0: nothing less than want
	most    bool    // no more than want, and not at least
	short   string  // what stands in the way
}

// Why a goal may not be reached.
const (
	byTraefik = "a request that Traefik answers by itself takes more than half of what all of one takes nginx (\"Traefik, forwarding nothing\" in [plain requests](http.md)); with 32 clients the rest is less than the system calls alone that it takes Traefik to ask a node, on a static route too ([where the time goes](profile.md)): with so many, no route of Traefik's can be as cheap as OpenResty with connections kept"
	byMachine = "how fast a Traefik is beside nginx differs from machine to machine, on its static route, too ([plain requests](http.md)): on the one of 2026-11-30 the plugin had 2.1 to 2.2 times the requests of OpenResty as it was"
	bySystem  = "both ways make the same system calls for a message, nine tenths of its time, so they can hardly differ; what the plugin puts around each connection to copy with little memory, and taking stock now and then, come on top; to have the system move the bytes (splice) was tried: less of Traefik's processor time for large messages, but no more of them, for a pipe, which is two descriptors and a megabyte of what a user's pipes may hold, to each direction that is busy: [where the time goes](profile.md)"
	byStacks  = "two goroutines take 8 kB of a session: one that waits in a call of interpreted code does not fit into 2 kB, nor, with one call more around that, into 4"
	byGarbage = "a session whose messages have 2 kB has a buffer of 2304 bytes for each direction while it talks, and Go lets the heap grow to twice what is live before it collects (GOGC)"
	byNumber  = "requests for the static route beside so many routes take more processor time as well; that the processor's caches hold less of what a request looks into, and garbage collection has more to look through, is suspected, not shown"
	byLanes   = "what is interpreted of a request costs more than lanes save of a static route's transport and its goroutines; two ways to interpret less were tried, and are no faster: a compiled client on each lane (httputil.ClientConn), which makes a buffer for each request, and to do without httputil.ReverseProxy, whose work takes longer when it is interpreted; to capture compiled methods in place of looking them up at each call made up for most of the difference that there was; to take the lane used last first, as http.Transport does with its connections, made no difference that the rounds could tell: see the rounds, the processor time beside, and [where the time goes](profile.md)"
)

// goals are compared with in this order.
var goals = slices.Concat(
	each("plain requests of %s clients: plugin / static route", "http.%s.plugin", "http.%s.static", goal{want: 1, enough: 0.95, short: byLanes}, "8", "32", "128"),
	each("plain requests of %s clients: plugin / OpenResty as it was", "http.%s.plugin", "http.%s.openresty", goal{want: 1.5, short: byMachine}, "8", "32", "128"),
	each("plain requests of %s clients: plugin / OpenResty with connections kept", "http.%s.plugin", "http.%s.kept", goal{want: 1, short: byTraefik}, "8", "32", "128"),
	each("%s: plugin / static route", "handshake.plugin", "handshake.static", goal{want: 1.2, short: "clients and node share the processors with the gateway, so the rate gains less than the gateway's processor time; of that, most are system calls and what is interpreted: [where the time goes](profile.md)"}, "handshakes"),
	each("messages of %s bytes: plugin / static route", "message.%s.plugin", "message.%s.static", goal{want: 1, short: bySystem}, "128", "2048", "16384", "1048576"),
	[]goal{
		{what: "100,000 routes / 1 route, each to the static route beside it", figures: []string{"routes.100000.plugin", "routes.100000.static", "routes.1.static", "routes.1.plugin"}, want: 0.95, short: byNumber},
		{what: "resident memory of an idle session that has carried nothing, settled, kB", figures: []string{"session.plugin.settled"}, want: 16, enough: 20, most: true, short: byStacks},
		{what: "the same to nginx", figures: []string{"session.plugin.settled", "session.nginx.settled"}, want: 1, most: true, short: byStacks},
		{what: "resident memory of an idle session that has talked, settled, kB", figures: []string{"session.plugin.talked"}, want: 16, enough: 20, most: true, short: byStacks},
		{what: "the same to nginx", figures: []string{"session.plugin.talked", "session.nginx.talked"}, want: 1, most: true, short: byStacks},
		{what: "resident memory of a session while it talks, to nginx", figures: []string{"session.plugin.talking", "session.nginx.talking"}, want: 1, most: true, short: byGarbage},
	},
)

// each makes a goal for each of the things that it is the same for.
func each(what, one, other string, g goal, things ...string) (all []goal) {
	for _, thing := range things {
		g.what = strings.ReplaceAll(what, "%s", thing)
		g.figures = []string{strings.ReplaceAll(one, "%s", thing), strings.ReplaceAll(other, "%s", thing)}
		all = append(all, g)
	}
	return all
}

// ratio divides the figures: the first by the second, and that by the others turned
// round. suffix is what their names end with. False: one of them has not been measured.
func (g goal) ratio(figures map[string]figure, suffix string) (float64, bool) {
	value := 1.0
	for i, name := range g.figures {
		f, measured := figures[name+suffix]
		if !measured || f.Value == 0 {
			return 0, false
		}
		if i%2 == 0 {
			value *= f.Value
		} else {
			value /= f.Value
		}
	}
	return value, true
}

// outcome is what has come out.
type outcome struct {
	value   float64
	byRound float64 // the same round by round; 0: that is not known
	byCPU   string  // the same by processor time; "": that is not known
}

// measured returns what has come out.
func (g goal) measured(figures map[string]figure) (o outcome, known bool) {
	if o.value, known = g.ratio(figures, ".rate"); !known {
		o.value, known = g.ratio(figures, "")
	}
	if cpu, some := g.ratio(figures, ".cpu"); some {
		o.byCPU = fmt.Sprintf("%.2f", 1/cpu)
	}
	o.byRound = g.byRound(figures)
	return o, known
}

// byRound returns what has come out round by round, 0 where two gateways were not compared
// so in one measurement.
func (g goal) byRound(figures map[string]figure) float64 {
	if len(g.figures) != 2 {
		return 0
	}
	one, other := g.figures[0], g.figures[1]
	at := strings.LastIndex(other, ".") + 1
	if !strings.HasPrefix(one, other[:at]) {
		return 0
	}
	return figures[one+".to."+other[at:]].Value
}

// verdict says whether what has come out reaches the goal: round by round, too, where that
// is known, for the medians can be of different rounds.
func (g goal) verdict(o outcome) string {
	reaches := func(limit float64) bool {
		if g.most {
			return o.value <= limit
		}
		return o.value >= limit && (o.byRound == 0 || o.byRound >= limit)
	}
	switch {
	case reaches(g.want):
		return "reached"
	case g.enough != 0 && reaches(g.enough):
		return "good enough"
	default:
		return "**not reached**"
	}
}

// compareWithGoals compares the figures of all pages with the goals and writes
// goals.md. It measures nothing.
func compareWithGoals(_ settings, out string) error {
	figures, err := readFigures(out)
	if err != nil {
		return err
	}
	r := newReport()
	r.line("# What is reached")
	r.line("")
	r.line("From [figures.json](%s), whose figures %s; the other pages explain them. Made by `cd e2e && go run ./bench`. Of rates, \"measured\" is the ratio of the medians of all rounds, which can be of different ones, and \"round by round\" the median of the ratios within each: both have to reach the goal. Memory is measured once, of a fresh gateway. The pages have all rounds.", figuresFile, measuredOn(figures))
	r.head("what", "goal", "measured", "round by round", "by processor time", "")
	short := map[string]bool{}
	for _, g := range goals {
		o, known := g.measured(figures)
		sign := "≥"
		if g.most {
			sign = "≤"
		}
		want := fmt.Sprintf("%s %g", sign, g.want)
		if g.enough != 0 {
			want += fmt.Sprintf(", good enough: %g", g.enough)
		}
		if !known {
			r.row(g.what, want, "not measured here", "", "", "")
			continue
		}
		verdict := g.verdict(o)
		if verdict != "reached" {
			short[g.short] = true
		}
		byRound := ""
		if o.byRound != 0 {
			byRound = fmt.Sprintf("%.3f", o.byRound)
		}
		r.row(g.what, want, fmt.Sprintf("%.3f", o.value), byRound, o.byCPU, verdict)
	}
	if len(short) > 0 {
		r.line("")
		r.line("What stands in the way of the others:")
		r.line("")
		for _, why := range slices.Sorted(maps.Keys(short)) {
			r.line("- %s.", strings.ToUpper(why[:1])+why[1:])
		}
	}
	return r.write(out, "goals.md")
}

// measuredOn says when figures were measured, which may be on machines of different speed.
func measuredOn(figures map[string]figure) string {
	var dates []string
	for _, f := range figures {
		dates = append(dates, f.Date)
	}
	slices.Sort(dates)
	dates = slices.Compact(dates)
	if len(dates) == 1 {
		return "are of " + dates[0]
	}
	return "are of several days (" + strings.Join(dates, ", ") + "), so that those of different pages may be of different machines"
}
