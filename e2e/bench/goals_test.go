package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// figuresOf makes figures of names and values.
func figuresOf(values map[string]float64) map[string]figure {
	all := map[string]figure{}
	for name, value := range values {
		all[name] = figure{Value: value}
	}
	return all
}

func TestAGoalIsToldByItsFigures(t *testing.T) {
	figures := figuresOf(map[string]float64{
		"a.rate": 90, "b.rate": 100, "a.cpu": 20, "b.cpu": 10, "c.rate": 3, "d.rate": 2, "memory": 17, "a.to.b": 0.93,
		"x.p.rate": 2, "x.s.rate": 2, "x.p.to.s": 0.97, "y.s.rate": 1,
	})
	for _, c := range []struct {
		goal    goal
		want    outcome
		verdict string
	}{
		{goal{figures: []string{"a", "b"}, want: 0.9}, outcome{0.9, 0.93, "0.50"}, "reached"},
		{goal{figures: []string{"a", "b"}, want: 1, enough: 0.85}, outcome{0.9, 0.93, "0.50"}, "good enough"},
		{goal{figures: []string{"a", "b"}, want: 1, enough: 0.95}, outcome{0.9, 0.93, "0.50"}, "**not reached**"},
		{goal{figures: []string{"x.p", "x.s"}, want: 1}, outcome{1, 0.97, ""}, "**not reached**"},
		{goal{figures: []string{"x.p", "y.s"}, want: 1}, outcome{2, 0, ""}, "reached"},
		{goal{figures: []string{"a", "b", "d", "c"}, want: 1}, outcome{0.6, 0, ""}, "**not reached**"},
		{goal{figures: []string{"memory"}, want: 16, enough: 20, most: true}, outcome{17, 0, ""}, "good enough"},
		{goal{figures: []string{"memory"}, want: 17, most: true}, outcome{17, 0, ""}, "reached"},
	} {
		got, known := c.goal.measured(figures)
		if diff := got.value - c.want.value; diff < 1e-9 && diff > -1e-9 {
			got.value = c.want.value
		}
		if !known || got != c.want || c.goal.verdict(got) != c.verdict {
			t.Errorf("%v: %+v %v %s, want %+v %s", c.goal.figures, got, known, c.goal.verdict(got), c.want, c.verdict)
		}
	}
	if _, known := (goal{figures: []string{"a", "nothing"}}).measured(figures); known {
		t.Error("something is known of what has not been measured")
	}
}

func TestGoalsSayWhatStandsInTheWayOfThoseNotReached(t *testing.T) {
	dir := t.TempDir()
	r := newReport()
	r.figure("handshake.plugin.rate", 130, "1/s")
	r.figure("handshake.static.rate", 100, "1/s")
	r.figure("handshake.plugin.to.static", 1.25, "")
	r.figure("http.8.plugin.rate", 50, "1/s")
	r.figure("http.8.kept.rate", 100, "1/s")
	if err := r.write(dir, "x.md"); err != nil {
		t.Fatal(err)
	}
	if err := compareWithGoals(settings{}, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "goals.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 1.300 | 1.250 |  | reached |", "| 0.500 |  |  | **not reached** |", "- A request that Traefik answers by itself", "not measured here"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "interpreted") {
		t.Errorf("it says what stands in the way of a goal that is reached:\n%s", text)
	}
}
