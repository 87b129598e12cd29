package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is a page of Markdown, printed while it grows, with what is drawn beside
// it and its figures for other programs.
type report struct {
	prefix  string // of the names of its files and figures
	text    strings.Builder
	figures map[string]figure
	plots   map[string][]byte // by the name of the file
}

// figure is a median in figures.json.
type figure struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// figuresFile is where the figures of all pages stand together, by name.
const figuresFile = "figures.json"

// figure adds a median for other programs, such as the capacity page.
func (r *report) figure(name string, value float64, unit string) {
	r.figures[r.prefix+name] = figure{Value: math.Round(value*1000) / 1000, Unit: unit}
}

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

// section begins a section.
func (r *report) section(title string) {
	r.line("")
	r.line("## %s", title)
	r.line("")
}

// page begins a page.
func (g *ground) page(title string) *report {
	r := &report{figures: map[string]figure{}, plots: map[string][]byte{}}
	r.line("# %s", title)
	r.line("")
	r.line("%s: %s. Made by `cd e2e && go run ./bench`.", time.Now().UTC().Format("2006-01-02"), g.machine())
	r.line("")
	return r
}

// write writes the page and what belongs to it. Figures of other pages stay.
func (r *report) write(dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	all, err := readFigures(dir)
	if err != nil {
		return err
	}
	maps.Copy(all, r.figures)
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	files := map[string][]byte{figuresFile: append(text, '\n'), r.prefix + name: []byte(r.text.String())}
	maps.Copy(files, r.plots)
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readFigures returns the figures that the pages in dir have, none if there are none.
func readFigures(dir string) (map[string]figure, error) {
	all := map[string]figure{}
	known, err := os.ReadFile(filepath.Join(dir, figuresFile))
	if err == nil {
		err = json.Unmarshal(known, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", figuresFile, err)
	}
	return all, nil
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
