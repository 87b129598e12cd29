package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// noting is a trial that notes what is called. The turn of the number failing fails, 0:
// none; the others count 1, 2 and so on for a gateway named a, ten times as much for
// another.
func noting(called *[]string, failing int) trial {
	turns := map[string]int{}
	all := 0
	return func(w gateway) (func() (tally, error), func(), error) {
		*called = append(*called, "ready "+w.name)
		turn := func() (tally, error) {
			*called = append(*called, w.name)
			turns[w.name]++
			if all++; all == failing {
				return tally{}, errors.New("it failed")
			}
			count := turns[w.name]
			if w.name != "a" {
				count *= 10
			}
			return tally{count: count, took: time.Second}, nil
		}
		return turn, func() { *called = append(*called, "end "+w.name) }, nil
	}
}

func TestGatewaysTakeTurnsThereAndBack(t *testing.T) {
	var called, others []string
	results, err := contest(settings{rounds: 2, turns: 2},
		func() error { called = append(called, "renew"); return nil },
		[]gateway{{name: "a"}, {name: "b"}, {name: "c"}}, noting(&called, 0), noting(&others, 0))
	if err != nil {
		t.Fatal(err)
	}
	runIn := []string{"renew", "ready a", "ready b", "ready c", "a", "b", "c", "end c", "end b", "end a"}
	first := []string{"ready a", "ready b", "ready c", "a", "b", "c", "c", "b", "a", "end c", "end b", "end a"}
	second := []string{"ready b", "ready c", "ready a", "b", "c", "a", "a", "c", "b", "end a", "end c", "end b"}
	if want := slices.Concat(runIn, first, runIn, second); !slices.Equal(called, want) {
		t.Errorf("called: %q\nwant %q", called, want)
	}
	if want := slices.Concat(first, second); !slices.Equal(others, want) {
		t.Errorf("called for the other trial: %q\nwant %q", others, want)
	}
	// Of the first trial the turns 1 and 4 are those of running in.
	for i, want := range []map[string][]float64{
		{"a": {2.5, 5.5}, "b": {25, 55}, "c": {25, 55}},
		{"a": {1.5, 3.5}, "b": {15, 35}, "c": {15, 35}},
	} {
		for name, want := range want {
			if got := of(results[i][name], perSecond); !slices.Equal(got, want) {
				t.Errorf("trial %d: %s: %v a second, want %v", i, name, got, want)
			}
		}
	}
}

func TestAGatewayThatIsNotReadyEndsTheRound(t *testing.T) {
	var called []string
	noted := noting(&called, 0)
	_, err := inTurns(3, []gateway{{name: "a"}, {name: "b"}}, func(w gateway) (func() (tally, error), func(), error) {
		turn, end, err := noted(w)
		if w.name == "b" {
			err = errors.New("it is not ready")
		}
		return turn, end, err
	})
	if err == nil || !strings.Contains(err.Error(), "it is not ready") {
		t.Errorf("error: %v", err)
	}
	if want := []string{"ready a", "ready b", "end b", "end a"}; !slices.Equal(called, want) {
		t.Errorf("called: %q\nwant %q", called, want)
	}
}

func TestATurnThatFailsEndsTheRound(t *testing.T) {
	var called []string
	_, err := inTurns(3, []gateway{{name: "a"}, {name: "b"}}, noting(&called, 2))
	if err == nil || !strings.Contains(err.Error(), "it failed") {
		t.Errorf("error: %v", err)
	}
	if want := []string{"ready a", "ready b", "a", "b", "end b", "end a"}; !slices.Equal(called, want) {
		t.Errorf("called: %q\nwant %q", called, want)
	}
}

func TestARoundIsScoredByAllItsTurns(t *testing.T) {
	got := scored([]tally{
		{count: 100, took: time.Second, cpu: 300 * time.Millisecond, p50: 1 * time.Millisecond, p99: 5 * time.Millisecond},
		{count: 300, took: 3 * time.Second, cpu: 500 * time.Millisecond, p50: 2 * time.Millisecond, p99: 4 * time.Millisecond},
		{count: 200, took: 2 * time.Second, cpu: 400 * time.Millisecond, p50: 9 * time.Millisecond, p99: 30 * time.Millisecond},
	})
	if want := (score{100, 2 * time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestRatesAreComparedRoundByRound(t *testing.T) {
	r := newReport()
	r.results("x", "", []gateway{{key: "static", name: "s"}, {key: "plugin", name: "p"}}, scores{
		"s": {{perSecond: 100}, {perSecond: 200}, {perSecond: 400}},
		"p": {{perSecond: 90}, {perSecond: 300}, {perSecond: 320}},
	})
	if got := r.figures["x.plugin.to.static"].Value; got != 0.9 {
		t.Errorf("round by round %v, want 0.9", got)
	}
}
