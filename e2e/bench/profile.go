package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// profiled is how many clients make the load that is looked into.
const profiled = 32

// measureProfiles says what Traefik's processor time goes to, on the static route and
// in the plugin, and for a request that it does not forward, and writes profile.md.
func measureProfiles(g *ground, s settings, out string) error {
	if err := g.put("n1", g.node.Addr()); err != nil {
		return err
	}
	node, err := stack.StartEchoNode()
	if err != nil {
		return err
	}
	defer node.Stop()
	sessions, err := newGroundTo(node.Addr(), plain)
	if err != nil {
		return err
	}
	defer sessions.stop()
	kinds := []struct {
		of  string
		on  *ground
		by  []gateway
		run trial
	}{
		{"a plain request", g, append(g.gateways()[:2:2], g.itself()), g.requests(profiled)},
		{"a handshake", sessions, sessions.gateways()[:2], atOnce(handshake)},
		{fmt.Sprintf("a message of %d bytes", small), sessions, sessions.gateways()[:2], chat(small)},
		{fmt.Sprintf("a message of %d bytes", large), sessions, sessions.gateways()[:2], chat(large)},
	}
	r := g.page("Where the time goes, measured", g.load.what()+" for plain requests; for the others "+ownClients+", and the node is "+sessions.node.What())
	r.line("Traefik's processor time for a plain request (%d clients), for a handshake with the end of its session (%d clients), and for messages there and back (%d sessions), %s; shared out as CPU profiles taken meanwhile have it. A moment counts for the nearest caller that is named here: memory that the interpreter takes is the interpreter's.", profiled, handshakers, talkers, s.inShort())
	columns := []string{"what"}
	var spent []map[string]time.Duration
	for _, kind := range kinds {
		shares := map[string]map[string]float64{}
		for _, w := range kind.by {
			shares[w.name] = map[string]float64{}
		}
		results, err := contest(s, kind.on.renew, kind.by, func(w gateway) (func() (tally, error), func(), error) {
			turn, end, err := kind.run(w)
			return func() (tally, error) { return withProfile(kind.on.traefik, shares[w.name], turn) }, end, err
		})
		if err != nil {
			return err
		}
		for _, w := range kind.by {
			columns = append(columns, kind.of+", "+w.name)
			spent = append(spent, sharedOut(median(of(results[0][w.name], cpuEach)), shares[w.name]))
		}
	}
	r.head(columns...)
	for _, name := range append(of(components, func(c component) string { return c.name }), everythingElse, allTogether) {
		r.row(append([]string{name}, of(spent, func(m map[string]time.Duration) string { return us(m[name]) })...)...)
	}
	return r.write(out, "profile.md")
}

// withProfile profiles Traefik while run runs, and adds up what the moments were
// spent in.
func withProfile(t *stack.Traefik, moments map[string]float64, run func() (tally, error)) (tally, error) {
	type result struct {
		profile []byte
		err     error
	}
	done := make(chan result, 1)
	go func() {
		taken, err := t.CPUProfile(turnSeconds)
		done <- result{taken, err}
	}()
	s, err := run()
	taken := <-done
	if err == nil {
		err = taken.err
	}
	if err != nil {
		return s, err
	}
	p, err := profile.Parse(bytes.NewReader(taken.profile))
	if err != nil {
		return s, fmt.Errorf("the CPU profile of Traefik: %w", err)
	}
	for _, sample := range p.Sample {
		moments[spentIn(functions(sample))] += float64(sample.Value[0])
	}
	return s, nil
}

// sharedOut shares a time out.
func sharedOut(all time.Duration, moments map[string]float64) map[string]time.Duration {
	sum := 0.0
	for _, n := range moments {
		sum += n
	}
	times := map[string]time.Duration{allTogether: all}
	for name, n := range moments {
		times[name] = time.Duration(float64(all) * n / sum)
	}
	return times
}

// functions are those of a moment, the innermost first.
func functions(sample *profile.Sample) (names []string) {
	for _, location := range sample.Location {
		for _, line := range location.Line {
			if line.Function != nil {
				names = append(names, line.Function.Name)
			}
		}
	}
	return names
}

// component is something that time is spent in, told by how the names of its
// functions begin.
type component struct {
	name     string
	prefixes []string
}

// Rows that are no components.
const (
	everythingElse = "everything else"
	allTogether    = "all"
)

// collector is what collects garbage, on its own or for whoever takes memory: a
// moment is its, whoever called.
var collector = component{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcStart", "runtime.deductSweepCredit"}}

// components are looked for in the callers of a moment, from the innermost on.
var components = []component{
	collector,
	{"interpreter", []string{"github.com/traefik/yaegi/"}},
	{"system calls", []string{"syscall.", "internal/runtime/syscall.", "internal/poll.", "net.", "os."}},
	{"goroutines: waking, sleeping, switching", []string{"runtime.mcall", "runtime.mstart", "runtime.morestack", "runtime.goexit0", "runtime.ready", "runtime.newproc", "runtime.gopark", "runtime.selectgo", "runtime.chansend", "runtime.chanrecv"}},
	{"http.Transport", []string{"net/http.(*Transport)", "net/http.(*persistConn)", "net/http.(*transportRequest)", "net/http.(*wantConn)", "net/http.(*bodyEOFSignal)"}},
	{"httputil.ReverseProxy", []string{"net/http/httputil."}},
	{"requests and answers: reading, writing", []string{"net/http.", "net/textproto.", "crypto/tls."}},
	{"copying", []string{"io."}},
	{"Traefik's own, and what it carries", []string{"github.com/", "go.opentelemetry.io/", "main."}},
}

// spentIn returns the name of the component that a moment was spent in.
func spentIn(functions []string) string {
	if slices.ContainsFunc(functions, collector.has) {
		return collector.name
	}
	for _, f := range functions {
		for _, c := range components {
			if c.has(f) {
				return c.name
			}
		}
	}
	return everythingElse
}

// has tells whether a function is one of the component's.
func (c component) has(function string) bool {
	return slices.ContainsFunc(c.prefixes, func(p string) bool { return strings.HasPrefix(function, p) })
}
