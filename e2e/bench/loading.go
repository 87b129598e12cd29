package main

import (
	"fmt"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// loading measures what it costs a Traefik to load the plugin: the same Traefik is
// started with it and without it, in turns.
func loading(g *ground, s settings, r *report) error {
	game := stack.Game(stack.Options{"redis": stack.Options{"endpoints": []string{g.redis.Addr()}}})
	none := stack.Dynamic{Routers: map[string]stack.Router{"static": {Rule: "Path(`/static`)", Service: "static"}}}
	none.Services = toNode(g.node)
	kinds := []stack.TraefikOptions{
		{Dynamic: none.YAML(), LogLevel: "FATAL", Debug: true, NoPlugin: true},
		{Dynamic: game.YAML(), LogLevel: "FATAL", Debug: true},
	}
	costs := make([][]start, len(kinds))
	for range s.rounds {
		for i, kind := range kinds {
			cost, err := startOne(kind)
			if err != nil {
				return err
			}
			costs[i] = append(costs[i], cost)
		}
	}
	r.section("Loading the plugin")
	r.line("Starts of Traefik without the plugin and with it and one router, %d of each in turns, medians. Traefik is ready when it serves its routers; the memory is what is resident (RssAnon) and what lives of it after a garbage collection.", s.rounds)
	r.head("Traefik", "ready after", "CPU until then", "resident", "live")
	for i, name := range []string{"without the plugin", "with it"} {
		r.row(name, ms(median(of(costs[i], func(c start) time.Duration { return c.ready }))), ms(median(of(costs[i], func(c start) time.Duration { return c.cpu }))),
			mB(median(of(costs[i], func(c start) float64 { return c.resident }))), mB(median(of(costs[i], func(c start) float64 { return c.live }))))
	}
	return nil
}

func mB(bytes float64) string { return fmt.Sprintf("%.1f MB", bytes/(1<<20)) }

// start is what one start of Traefik cost; memory in bytes.
type start struct {
	ready, cpu     time.Duration
	resident, live float64
}

func startOne(o stack.TraefikOptions) (c start, err error) {
	begun := time.Now()
	t, err := stack.StartTraefik(o)
	if err != nil {
		return c, err
	}
	defer t.Stop()
	c.ready = time.Since(begun)
	if c.cpu, err = stack.CPU(t.Pid()); err != nil {
		return c, err
	}
	live, err := t.LiveHeap()
	if err != nil {
		return c, err
	}
	resident, err := stack.Resident(t.Pid())
	c.live, c.resident = float64(live), float64(resident)
	return c, err
}
