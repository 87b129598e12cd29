package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

const (
	// toldIn is an idleTimeout with which each direction of a session is woken every ten
	// seconds.
	toldIn = 30 * time.Second
	// silent is how long sessions are left alone: long enough for each direction to be woken
	// so many times, and too short for a session to be closed.
	silent    = 25 * time.Second
	wakesThen = 2
	// silences is how often that is measured at the most: it takes long.
	silences = 3
)

// silence measures what it costs that websocket.idleTimeout wakes the sessions that
// nobody uses.
func silence(node string, s settings, r *report) error {
	kinds := []variant{plain, {name: fmt.Sprintf("`websocket.idleTimeout: %s`", toldIn), options: stack.Options{"websocket": stack.Options{"idleTimeout": toldIn.String()}}}}
	sessions := min(priced, slices.Max(s.sessions))
	rounds := min(silences, s.rounds)
	spent := make([][]time.Duration, len(kinds))
	for range rounds {
		for i, kind := range kinds {
			cpu, err := left(node, kind, sessions)
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			spent[i] = append(spent[i], cpu)
		}
	}
	r.line("")
	r.line("## Sessions that nobody uses")
	r.line("")
	r.line("CPU of Traefik while %d sessions are left alone for %s, just after a garbage collection; %d Traefiks of each kind in turns, medians. With `idleTimeout` each direction of each session is woken %d times then.", sessions, silent, rounds, wakesThen)
	r.head("option", "CPU", "each time that a direction is woken")
	none, told := median(spent[0]), median(spent[1])
	r.row(kinds[0].name, ms(none), "")
	r.row(kinds[1].name, ms(told), us((told-none)/time.Duration(2*wakesThen*sessions)))
	return nil
}

// left returns what Traefik's processor time is while so many sessions are left alone.
func left(node string, v variant, sessions int) (time.Duration, error) {
	g, err := newGroundTo(node, v)
	if err != nil {
		return 0, err
	}
	defer g.stop()
	w := g.gateways()[1]
	_, end, err := openAll(w, sessions)
	defer end()
	if err != nil {
		return 0, err
	}
	if _, err := g.traefik.LiveHeap(); err != nil {
		return 0, err
	}
	before, err := stack.CPU(w.pids()...)
	if err != nil {
		return 0, err
	}
	time.Sleep(silent)
	after, err := stack.CPU(w.pids()...)
	return after - before, err
}
