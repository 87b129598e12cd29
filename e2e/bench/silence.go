package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

const (
	// idleTimeout is an idleTimeout that closes no session before it is measured.
	idleTimeout = 60 * time.Second
	// wakes is how often each direction of a session is woken meanwhile: silent has as many
	// whole times after which it is.
	wakes  = 2
	silent = wakes * idleTimeout / 3
	// calm is how long after the sessions have begun the plugin has given back to the
	// system what a storm of them has left.
	calm = 22 * time.Second
	// silences is how often it is measured at the most: it takes long.
	silences = 3
)

// silence measures what it costs that websocket.idleTimeout wakes the sessions that
// nobody uses.
func silence(node string, s settings, r *report) error {
	kinds := []variant{plain, {name: fmt.Sprintf("`websocket.idleTimeout: %s`", idleTimeout), options: stack.Options{"websocket": stack.Options{"idleTimeout": idleTimeout.String()}}}}
	sessions := min(priced, slices.Max(s.sessions))
	rounds := min(silences, s.rounds)
	spent := make([][]time.Duration, len(kinds))
	for range rounds {
		for i, kind := range kinds {
			cpu, err := leftAlone(node, kind, sessions)
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			spent[i] = append(spent[i], cpu)
		}
	}
	r.section("Sessions that nobody uses")
	r.line("CPU of Traefik while %d sessions are left alone for %s, medians of %d Traefiks of each kind in turns, which have collected their garbage just before. With `idleTimeout` each direction of each session is woken %d times then.", sessions, silent, rounds, wakes)
	r.head("option", "CPU", "each time that a direction is woken")
	none, told := median(spent[0]), median(spent[1])
	r.row(kinds[0].name, ms(none), "")
	r.row(kinds[1].name, ms(told), us((told-none)/time.Duration(2*wakes*sessions)))
	return nil
}

// leftAlone returns what Traefik's processor time is while so many sessions are left alone.
func leftAlone(node string, v variant, sessions int) (time.Duration, error) {
	g, err := newGroundTo(node, v)
	if err != nil {
		return 0, err
	}
	defer g.stop()
	w := g.gateways()[1]
	all, end, err := openAll(w, sessions)
	defer end()
	if err != nil {
		return 0, err
	}
	time.Sleep(calm)
	if _, err := g.traefik.LiveHeap(); err != nil {
		return 0, err
	}
	before, err := stack.CPU(w.pids()...)
	if err != nil {
		return 0, err
	}
	time.Sleep(silent)
	after, err := stack.CPU(w.pids()...)
	if err != nil {
		return 0, err
	}
	if err := talk(all, said, said); err != nil {
		return 0, g.lost(w, all, err)
	}
	return after - before, nil
}
