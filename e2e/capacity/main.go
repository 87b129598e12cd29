// The capacity command works out what so many players need, and plays a login
// storm after the restart of a Traefik, from the figures that the bench has
// measured. It writes docs/capacity.md and the plot beside it. Run it in e2e:
//
//	go run ./capacity
//
// What is not measured is assumed, and each assumption is a flag.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// Where the page and its plot go in the directory that -out names.
const (
	pageName = "capacity.md"
	plotName = "capacity-storm.svg"
)

// order is what the page is asked to tell.
type order struct {
	players counts // for which needs are worked out
	storms  counts // sessions of a Traefik that is restarted
	assumed assumptions
	model   *flag.FlagSet // the assumptions' flags
}

// newOrder makes an order with the defaults, whose flags are those of the model.
func newOrder() *order {
	o := &order{
		players: counts{10_000, 100_000, 1_000_000, 10_000_000},
		storms:  counts{10_000, 25_000, 50_000},
		model:   flag.NewFlagSet("capacity", flag.ContinueOnError),
	}
	o.assumed.register(o.model)
	return o
}

func main() {
	o := newOrder()
	from := flag.String("figures", "", "file with the measured figures (default docs/bench/figures.json in the repository)")
	out := flag.String("out", "", "directory to write to (default docs in the repository)")
	flag.Var(&o.players, "players", "numbers of players online")
	flag.Var(&o.storms, "storms", "sessions of a Traefik that is restarted")
	o.model.VisitAll(func(f *flag.Flag) { flag.Var(f.Value, f.Name, f.Usage) })
	flag.Parse()
	if err := write(o, *from, *out); err != nil {
		fmt.Fprintln(os.Stderr, "capacity:", err)
		os.Exit(1)
	}
}

func write(o *order, from, out string) error {
	if from == "" || out == "" {
		root, err := stack.Root()
		if err != nil {
			return err
		}
		if from == "" {
			from = filepath.Join(root, "docs", "bench", "figures.json")
		}
		if out == "" {
			out = filepath.Join(root, "docs")
		}
	}
	if err := o.assumed.check(); err != nil {
		return err
	}
	m := &model{assumed: &o.assumed, otherwise: &model{assumed: &o.assumed}}
	var err error
	if m.measured, err = readFigures(from, o.assumed.tls); err != nil {
		return err
	}
	if m.otherwise.measured, err = readFigures(from, !o.assumed.tls); err != nil {
		return err
	}
	for _, either := range []*model{m, m.otherwise} {
		if err := either.check(o.players); err != nil {
			return err
		}
	}
	plot, err := m.plot(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, plotName), plot, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, pageName), []byte(m.page(o)), 0o644)
}
