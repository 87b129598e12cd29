package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written writes a page of one figure and one plot.
func written(t *testing.T, dir, page string, name string, value float64) {
	t.Helper()
	r := newReport()
	r.figure(name, value, "kB")
	if err := r.bars(page+".svg", "Title", "kB", []string{"one", "other"}, []group{{"few", []float64{1, 2}}, {"many", []float64{3, 4}}}); err != nil {
		t.Fatal(err)
	}
	if err := r.write(dir, page+".md"); err != nil {
		t.Fatal(err)
	}
}

func TestFiguresOfOtherPagesStay(t *testing.T) {
	dir := t.TempDir()
	written(t, dir, "a", "a.x", 1)
	written(t, dir, "b", "b.x", 2)
	written(t, dir, "a", "a.x", 3)
	text, err := os.ReadFile(filepath.Join(dir, figuresFile))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]figure
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["a.x"] != (figure{3, "kB", today()}) || got["b.x"] != (figure{2, "kB", today()}) {
		t.Errorf("%v", got)
	}
}

func TestAPageShowsItsPlot(t *testing.T) {
	dir := t.TempDir()
	written(t, dir, "a", "a.x", 1)
	page, err := os.ReadFile(filepath.Join(dir, "a.md"))
	if err != nil || !strings.Contains(string(page), "![Title](a.svg)") {
		t.Errorf("%s %v", page, err)
	}
	plot, err := os.ReadFile(filepath.Join(dir, "a.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", "few", "many", "one", "other", "kB"} {
		if !strings.Contains(string(plot), want) {
			t.Errorf("no %q in the plot", want)
		}
	}
}

func TestMediansAndQuantiles(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1, 2, 3}, 0.5, 2}, {[]float64{2, 1}, 0.99, 2},
		{[]float64{2, 1}, 0, 1}, {[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.9, 9}, {[]float64{1, 2}, 1, 2},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile %v of %v: %v, want %v", c.q, c.values, got, c.want)
		}
	}
	for want, values := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 2, 3}, 1: {1}} {
		if got := median(values); got != want {
			t.Errorf("median of %v: %v, want %v", values, got, want)
		}
	}
}
