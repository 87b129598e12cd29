package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// noting is a trial that notes what is called, and whose turns fail from the one of that
// number on; 0: none does.
func noting(called *[]string, failing int) trial {
	turns := 0
	return func(w gateway) (func() (tally, error), func(), error) {
		*called = append(*called, "ready "+w.name)
		turn := func() (tally, error) {
			*called = append(*called, w.name)
			if turns++; turns == failing {
				return tally{}, errors.New("it failed")
			}
			return tally{count: turns, took: time.Second}, nil
		}
		return turn, func() { *called = append(*called, "end "+w.name) }, nil
	}
}

func TestGatewaysTakeTurnsThereAndBack(t *testing.T) {
	var called []string
	results, err := contest(settings{rounds: 2, turns: 2},
		func() error { called = append(called, "renew"); return nil },
		[]gateway{{name: "a"}, {name: "b"}, {name: "c"}}, noting(&called, 0))
	if err != nil {
		t.Fatal(err)
	}
	round := []string{
		"renew",
		"ready a", "ready b", "ready c", "a", "b", "c", "end c", "end b", "end a",
		"ready a", "ready b", "ready c", "a", "b", "c", "c", "b", "a", "end c", "end b", "end a",
	}
	if want := slices.Concat(round, round); !slices.Equal(called, want) {
		t.Errorf("called: %q\nwant %q", called, want)
	}
	// The turns of each round count 4 to 9 and 13 to 18, after those of running in.
	for name, want := range map[string][]float64{"a": {6.5, 15.5}, "b": {6.5, 15.5}, "c": {6.5, 15.5}} {
		if got := of(results[0][name], perSecond); !slices.Equal(got, want) {
			t.Errorf("%s: %v a second, want %v", name, got, want)
		}
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
