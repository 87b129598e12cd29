package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is a page of Markdown, printed while it grows.
type report struct{ text strings.Builder }

func (r *report) line(format string, args ...any) {
	line := fmt.Sprintf(format, args...) + "\n"
	r.text.WriteString(line)
	fmt.Print(line)
}

// row adds a row of a table.
func (r *report) row(cells ...string) { r.line("| %s |", strings.Join(cells, " | ")) }

// head begins a table.
func (r *report) head(cells ...string) {
	r.line("")
	r.row(cells...)
	r.line("|%s", strings.Repeat("---|", len(cells)))
}

// page begins a page.
func (g *ground) page(title string) *report {
	r := &report{}
	r.line("# %s", title)
	r.line("")
	r.line("%s: %s. Made by `cd e2e && go run ./bench`.", time.Now().UTC().Format("2006-01-02"), g.machine())
	r.line("")
	return r
}

func (r *report) write(dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(r.text.String()), 0o644)
}

// quantile returns the value below which the share q of the values lies.
func quantile[T time.Duration | float64](values []T, q float64) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median[T time.Duration | float64](values []T) T { return quantile(values, 0.5) }

// ms renders a time in milliseconds.
func ms(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// rate renders requests a second.
func rate(perSecond float64) string { return fmt.Sprintf("%.0f", perSecond) }

// ratesOf renders the rounds of a comparison.
func ratesOf(rounds []float64) string {
	var words []string
	for _, r := range rounds {
		words = append(words, rate(r))
	}
	return strings.Join(words, ", ")
}
