package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// gateway is one way from a client to the same node.
type gateway struct {
	key              string // in the names of figures
	name, addr, path string
	secure           bool // its clients speak TLS
	pids             func() []int
	query            func() string // of a request; nil: toN1
}

// toN1 is a query string that leads to the node that is n1 in Redis.
const toN1 = "nodeName=n1&threadId=1&platform=dev"

// String implements fmt.Stringer.
func (w gateway) String() string { return w.name }

// target is what to ask the gateway for.
func (w gateway) target() string {
	if w.query != nil {
		return w.path + "?" + w.query()
	}
	return w.path + "?" + toN1
}

// gateways are those that this machine has, the one that all are compared with
// first.
func (g *ground) gateways() []gateway {
	traefik := func() []int { return []int{g.traefik.Pid()} }
	all := []gateway{
		{"static", "static Traefik route", g.traefik.Addr(), "/static", g.variant.secure, traefik, nil},
		{"plugin", "plugin", g.traefik.Addr(), "/ws", g.variant.secure, traefik, nil},
	}
	if g.openResty != nil {
		all = append(all,
			gateway{"openresty", "OpenResty as it was", g.openResty.Addr(), "/ws", g.variant.secure, g.openResty.Pids, nil},
			gateway{"kept", "OpenResty, connections kept", g.openResty.Addr(), "/kept", g.variant.secure, g.openResty.Pids, nil})
	}
	return all
}

// itself is a Traefik that forwards nothing: no plugin, nor any service, makes it answer
// with less.
func (g *ground) itself() gateway {
	return gateway{"itself", "Traefik, forwarding nothing", g.traefik.Addr(), "/itself", g.variant.secure, func() []int { return []int{g.traefik.Pid()} }, nil}
}

// startOpenResty starts it where it is installed.
func (g *ground) startOpenResty() (err error) {
	g.openResty, err = stack.StartOpenResty(g.redis.Addr(), g.certFile, g.keyFile)
	if errors.Is(err, stack.ErrNoOpenResty) {
		fmt.Println(err.Error() + ": left out")
		return nil
	}
	return err
}

// score is what a gateway did in one round.
type score struct {
	perSecond float64
	cpu       time.Duration // the gateway's, for each
	p50, p99  time.Duration // 0: not measured
}

// tally is what a gateway did in one turn.
type tally struct {
	count     int
	took, cpu time.Duration
	p50, p99  time.Duration // 0: not measured
}

// tallied measures one turn: run returns how many there were in how long.
func tallied(w gateway, run func() (count int, took time.Duration, err error)) (t tally, err error) {
	before, err := stack.CPU(w.pids()...)
	if err != nil {
		return t, err
	}
	t.count, t.took, err = run()
	if err != nil {
		return t, fmt.Errorf("%s: %w", w.name, err)
	}
	after, err := stack.CPU(w.pids()...)
	if err != nil {
		return t, err
	}
	if t.count == 0 {
		return t, fmt.Errorf("%s: nothing came of it in %s", w.name, t.took)
	}
	t.cpu = after - before
	return t, nil
}

// scored is the score of a round of these turns.
func scored(turns []tally) score {
	var all tally
	for _, t := range turns {
		all.count += t.count
		all.took += t.took
		all.cpu += t.cpu
	}
	return score{
		perSecond: float64(all.count) / all.took.Seconds(),
		cpu:       all.cpu / time.Duration(all.count),
		p50:       median(of(turns, func(t tally) time.Duration { return t.p50 })),
		p99:       median(of(turns, func(t tally) time.Duration { return t.p99 })),
	}
}

// trial is what gateways are compared in. It makes a gateway ready for a round of it and
// returns what runs one turn, and what to call after the last.
type trial func(w gateway) (turn func() (tally, error), end func(), err error)

// turnSeconds is how long a turn is, in seconds: the shortest that wrk makes.
const turnSeconds = 1

// scores are those of all rounds, by the gateway's name.
type scores map[string][]score

// contest measures the gateways, trial by trial, and returns the scores of each trial.
// Before each round it renews what they are, and lets each run in for a turn: one
// Traefik is some hundredths faster than the next for as long as it lives, by where its
// memory happens to lie, and more rounds of the same one do not tell. Each round begins
// with another gateway: what each comes after, and how long after its last turn, is
// evened out.
func contest(s settings, renew func() error, all []gateway, trials ...trial) ([]scores, error) {
	results := make([]scores, len(trials))
	for i := range results {
		results[i] = scores{}
	}
	for round := range s.rounds {
		if err := renew(); err != nil {
			return nil, err
		}
		if _, err := inTurns(1, all, trials[0]); err != nil {
			return nil, err
		}
		first := round % len(all)
		order := slices.Concat(all[first:], all[:first])
		for i, t := range trials {
			turns, err := inTurns(s.turns, order, t)
			if err != nil {
				return nil, err
			}
			for _, w := range all {
				results[i][w.name] = append(results[i][w.name], scored(turns[w.name]))
			}
		}
	}
	return results, nil
}

// inTurns has each gateway take so many turns, there and back through them all: what else
// a machine does changes from second to second.
func inTurns(turns int, order []gateway, t trial) (map[string][]tally, error) {
	run := map[string]func() (tally, error){}
	for _, w := range order {
		turn, end, err := t(w)
		defer end()
		if err != nil {
			return nil, err
		}
		run[w.name] = turn
	}
	taken := map[string][]tally{}
	order = slices.Clone(order)
	for range turns {
		for _, w := range order {
			one, err := run[w.name]()
			if err != nil {
				return nil, err
			}
			taken[w.name] = append(taken[w.name], one)
		}
		slices.Reverse(order)
	}
	return taken, nil
}

// inShort says in short how a contest is made.
func (s settings) inShort() string {
	return fmt.Sprintf("%d rounds, each started anew and with %d turns of %d s for each, there and back through them all; medians of the rounds", s.rounds, s.turns, turnSeconds)
}

// atOnce is a trial that needs nothing made ready.
func atOnce(turn func(w gateway) (tally, error)) trial {
	return func(w gateway) (func() (tally, error), func(), error) {
		return func() (tally, error) { return turn(w) }, func() {}, nil
	}
}

// of returns a value of each round, or of each gateway.
func of[S, T any](scores []S, value func(S) T) (values []T) {
	for _, s := range scores {
		values = append(values, value(s))
	}
	return values
}

func perSecond(s score) float64     { return s.perSecond }
func cpuEach(s score) time.Duration { return s.cpu }

// roundByRound is the median of the ratios of two rates within a round: what the Traefik of
// that round, and the machine meanwhile, does to both cancels out, as it may not in the
// ratio of their medians, which can be of different rounds.
func roundByRound(one, other []score) float64 {
	var ratios []float64
	for i, s := range one {
		ratios = append(ratios, s.perSecond/other[i].perSecond)
	}
	return median(ratios)
}

// results adds a row for each gateway: medians, and their ratios to the first. The
// figures of what go under its name.
func (r *report) results(what, label string, all []gateway, scores scores) {
	first := scores[all[0].name]
	for _, w := range all {
		mine := scores[w.name]
		cells := []string{label, w.name, rate(median(of(mine, perSecond))),
			fmt.Sprintf("%.2f", median(of(mine, perSecond))/median(of(first, perSecond))),
			us(median(of(mine, cpuEach))),
			fmt.Sprintf("%.2f", float64(median(of(first, cpuEach)))/float64(median(of(mine, cpuEach))))}
		if p50 := median(of(mine, func(s score) time.Duration { return s.p50 })); p50 > 0 {
			cells = append(cells, ms(p50), ms(median(of(mine, func(s score) time.Duration { return s.p99 }))))
		}
		r.figure(what+"."+w.key+".rate", median(of(mine, perSecond)), "1/s")
		r.figure(what+"."+w.key+".cpu", float64(median(of(mine, cpuEach)))/float64(time.Microsecond), "µs")
		if w.key == "plugin" {
			for _, other := range all {
				if other.key == w.key {
					continue
				}
				r.figure(what+".plugin.to."+other.key, roundByRound(mine, scores[other.name]), "")
			}
		}
		r.row(append(cells, ratesOf(of(mine, perSecond)))...)
	}
}

// us renders a time in microseconds.
func us(d time.Duration) string {
	return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
}

// rivals says what it is that pages call so.
const rivals = "\"Static Traefik route\" is a router without a middleware in the Traefik that has the plugin; \"OpenResty as it was\" is Debian's nginx with its Lua module and the configuration that the plugin replaces, without the access log that this has for each node."

// heads are the columns of results.
func heads(label, what string, more ...string) []string {
	columns := []string{label, "gateway", strings.ToUpper(what[:1]) + what[1:] + " a second", "to static", "CPU each", "static's CPU to it"}
	return append(append(columns, more...), "rounds")
}
