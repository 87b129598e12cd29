package main

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// measureTable measures the routing table and writes table.md.
func measureTable(g *ground, s settings, out string) error {
	r := g.page("The routing table, measured", g.load.what()+"; for moves and look-ups "+ownClients)
	for _, measure := range []func(*ground, settings, *report) error{moves, coldLookups, throughput, outage} {
		if err := measure(g, s, r); err != nil {
			return err
		}
	}
	return r.write(out, "table.md")
}

// moves measures how long a change takes to be in effect.
func moves(g *ground, s settings, r *report) error {
	var arrived [2]atomic.Int64 // when each node was last asked
	var nodes [2]*stack.Node
	for i := range nodes {
		arrival := &arrived[i]
		var err error
		if nodes[i], err = stack.StartNode(stack.NodeOptions{Keep: 1, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			arrival.Store(time.Now().UnixNano())
		})}); err != nil {
			return err
		}
		defer nodes[i].Stop()
	}
	asker := newAsker(g)
	if err := g.put("moving", nodes[0].Addr()); err != nil {
		return err
	}
	if _, err := asker.ask("moving"); err != nil {
		return err
	}
	var delays []time.Duration
	old := 0
	for move := 1; move <= s.moves; move++ {
		to := nodes[move%2]
		if err := g.put("moving", to.Addr()); err != nil {
			return err
		}
		changed := time.Now()
		for {
			node, err := asker.ask("moving")
			if err != nil {
				return err
			}
			if node == to.Name() {
				break
			}
			if old++; time.Since(changed) > time.Minute {
				return fmt.Errorf("move %d is not in effect after a minute", move)
			}
		}
		delays = append(delays, time.Duration(arrived[move%2].Load()-changed.UnixNano()))
	}
	r.section("A change in Redis")
	r.line("From the reply to `HSET` to the arrival of the first request at the new node, for a client that asks without a pause; %d moves.", s.moves)
	r.head("p50", "p99", "max", "requests to the old node after the reply")
	r.row(ms(quantile(delays, 0.5)), ms(quantile(delays, 0.99)), ms(quantile(delays, 1)), fmt.Sprint(old))
	return nil
}

// coldLookups measures what a request costs whose route is not known.
func coldLookups(g *ground, s settings, r *report) error {
	asker := newAsker(g)
	var cold, warm []time.Duration
	for i := range s.pairs {
		name := fmt.Sprintf("cold%d", i)
		if err := g.put(name, g.node.Addr()); err != nil {
			return err
		}
		for _, took := range []*[]time.Duration{&cold, &warm} {
			begin := time.Now()
			if _, err := asker.ask(name); err != nil {
				return err
			}
			*took = append(*took, time.Since(begin))
		}
	}
	r.section("A route that is not known yet")
	r.line("%d times a request for a route that is not known, and the same again; one client.", s.pairs)
	r.head("request", "p50", "p99", "max")
	for _, side := range []struct {
		what string
		took []time.Duration
	}{{"not known", cold}, {"known", warm}} {
		r.row(side.what, ms(quantile(side.took, 0.5)), ms(quantile(side.took, 0.99)), ms(quantile(side.took, 1)))
	}
	r.line("")
	r.line("The look-up costs %s (difference of the medians).", ms(median(cold)-median(warm)))
	r.figure("lookup.cold", float64(median(cold)-median(warm))/float64(time.Millisecond), "ms")
	return nil
}

// throughput compares routes of the plugin with a route of Traefik's own.
func throughput(g *ground, s settings, r *report) error {
	if err := g.putRoutes(slices.Max(s.routes)); err != nil {
		return err
	}
	all := g.gateways()[:2]
	results, err := contest(s, g.renew, all, of(s.routes, g.anyOf)...)
	if err != nil {
		return err
	}
	r.section("Known routes, compared with a static Traefik route")
	r.line("Requests a second (`%s`), %s; each request asks for a route at random.", g.load.command(), s.inShort())
	r.head(heads("routes", "requests")...)
	for i, routes := range s.routes {
		r.results(fmt.Sprintf("routes.%d", routes), strconv.Itoa(routes), all, results[i])
	}
	return nil
}

// anyOf has clients ask for one of so many routes at random, which the plugin knows.
func (g *ground) anyOf(routes int) trial {
	return func(w gateway) (func() (tally, error), func(), error) {
		return func() (tally, error) {
			return tallied(w, func() (int, time.Duration, error) {
				return g.load.run(g.traefik.URL(), w.path, routes)
			})
		}, func() {}, g.learn(routes)
	}
}

// outage compares a known route while Redis hangs with the same before.
func outage(g *ground, s settings, r *report) error {
	if err := g.putRoutes(1); err != nil {
		return err
	}
	asker := newAsker(g)
	lost := 0
	known := func() (float64, error) {
		count, took, err := g.load.run(g.traefik.URL(), "/ws", 1)
		return float64(count) / took.Seconds(), err
	}
	there, stopped, err := compare(s.rounds, known, func() (perSecond float64, err error) {
		if err := g.redis.Pause(); err != nil {
			return 0, err
		}
		lost++
		err = asker.until(fmt.Sprintf("lost%d", lost), http.StatusServiceUnavailable)
		if err == nil {
			perSecond, err = known()
		}
		if resumed := g.redis.Resume(); err == nil {
			err = resumed
		}
		if err == nil {
			err = asker.until(fmt.Sprintf("found%d", lost), http.StatusNotFound)
		}
		return perSecond, err
	})
	if err != nil {
		return err
	}
	r.section("A known route while Redis does not answer")
	r.line("Requests a second (`%s`), %d rounds in turns, medians; Redis is stopped with SIGSTOP.", g.load.command(), s.rounds)
	r.head("Redis answers", "Redis does not", "ratio", "rounds: answers", "rounds: does not")
	r.row(rate(median(there)), rate(median(stopped)), fmt.Sprintf("%.2f", median(stopped)/median(there)), ratesOf(there), ratesOf(stopped))
	return nil
}

// compare measures two things in turns, there and back.
func compare(rounds int, one, other func() (float64, error)) (ones, others []float64, err error) {
	order := []func() error{
		func() error { a, err := one(); ones = append(ones, a); return err },
		func() error { b, err := other(); others = append(others, b); return err },
	}
	for range rounds {
		for _, measure := range order {
			if err := measure(); err != nil {
				return nil, nil, err
			}
		}
		slices.Reverse(order)
	}
	return ones, others, nil
}

// put writes a route into Redis.
func (g *ground) put(name, address string) error {
	_, err := g.redis.Do("HSET", "game-server_dev_node_"+name, "1", address)
	return err
}

// putRoutes makes the routes n1, n2, … to the node.
func (g *ground) putRoutes(routes int) error {
	for i := range routes {
		if err := g.put(fmt.Sprintf("n%d", i+1), g.node.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// learn has the plugin learn the routes n1, n2, … that it does not know yet.
func (g *ground) learn(routes int) error {
	const askers = 16
	var next atomic.Int64
	next.Store(int64(g.learned))
	g.learned = max(g.learned, routes)
	var all errgroup.Group
	for range askers {
		all.Go(func() error {
			asker := newAsker(g)
			for i := next.Add(1); i <= int64(routes); i = next.Add(1) {
				if _, err := asker.ask(fmt.Sprintf("n%d", i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// asker is a client with one connection.
type asker struct {
	url    string // with a place for the name
	client *http.Client
}

func newAsker(g *ground) *asker {
	return &asker{
		url:    g.traefik.URL() + "/ws?nodeName=%s&threadId=1&platform=dev", // as the generator spells it
		client: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: time.Minute},
	}
}

// ask requests a route and returns what the node calls itself.
func (a *asker) ask(name string) (string, error) {
	resp, err := a.get(name)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", name, resp.Status)
	}
	return resp.Header.Get("X-Node"), nil
}

// until asks for a route until the answer has the status.
func (a *asker) until(name string, status int) error {
	for deadline := time.Now().Add(time.Minute); ; {
		resp, err := a.get(name)
		if err != nil || resp.StatusCode == status {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: still %s; want %d", name, resp.Status, status)
		}
	}
}

func (a *asker) get(name string) (*http.Response, error) {
	resp, err := a.client.Get(fmt.Sprintf(a.url, name))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, err
}
