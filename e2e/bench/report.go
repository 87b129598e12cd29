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

// figure is one in figures.json: a median, where there are rounds.
type figure struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Date  string  `json:"date"` // of the measurement
}

// figuresFile is where the figures of all pages stand together, by name.
const figuresFile = "figures.json"

// figure adds a figure for other programs, such as the capacity page.
func (r *report) figure(name string, value float64, unit string) {
	r.figures[r.prefix+name] = figure{Value: math.Round(value*1000) / 1000, Unit: unit, Date: today()}
}

func today() string { return time.Now().UTC().Format("2006-01-02") }

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

// newReport begins a page without any words.
func newReport() *report {
	return &report{figures: map[string]figure{}, plots: map[string][]byte{}}
}

// page begins a page of what is measured on the ground, by such load.
func (g *ground) page(title, load string) *report {
	r := newReport()
	r.line("# %s", title)
	r.line("")
	r.line("%s: %s. Made by `cd e2e && go run ./bench`.", today(), g.machine(load))
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

// quantile returns the least value that the share q of the values does not exceed.
func quantile[T time.Duration | float64](values []T, q float64) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// median is the middle value, or the mean of the two in the middle.
func median[T time.Duration | float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

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
