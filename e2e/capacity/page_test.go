package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// small is an order that is soon done, with these flags.
func small(t *testing.T, flags ...string) *order {
	t.Helper()
	o := newOrder()
	o.players, o.storms = counts{10_000, 50_000}, counts{500, 2000}
	if err := o.model.Parse(flags); err != nil {
		t.Fatal(err)
	}
	return o
}

// written returns the page and the plot of an order.
func written(t *testing.T, o *order) (page, plot string) {
	t.Helper()
	dir := t.TempDir()
	if err := write(o, filepath.Join("testdata", "figures.json"), dir); err != nil {
		t.Fatal(err)
	}
	text := func(name string) string {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	return text(pageName), text(plotName)
}

// The page is the same each time, whole, and tells every assumption and figure.
func TestPage(t *testing.T) {
	page, plot := written(t, small(t))
	again, plotAgain := written(t, small(t))
	if page != again || plot != plotAgain {
		t.Error("the same order made two pages")
	}
	for _, wrong := range []string{"%!", "NaN", "Inf", "<nil>"} {
		if strings.Contains(page, wrong) {
			t.Errorf("the page has %q", wrong)
		}
	}
	if !strings.Contains(page, "or up to 28 kB while it carries 2 kB each way") {
		t.Error("the page does not tell what a session takes while it talks")
	}
	o := small(t)
	o.model.VisitAll(func(f *flag.Flag) {
		if !strings.Contains(page, "| `-"+f.Name+"` | "+f.Value.String()+" |") {
			t.Errorf("the page does not tell -%s", f.Name)
		}
	})
	for _, w := range wanted {
		if !strings.Contains(page, "`"+w.name+"`") {
			t.Errorf("the page does not tell the figure %s", w.name)
		}
	}
	if !strings.Contains(page, "| `message.128.plugin.cpu` | 2020-02-02 |") {
		t.Error("the page does not tell when a figure was measured")
	}
	o = small(t)
	o.storms = counts{500, 1_000_000}
	if one, _ := written(t, o); !strings.Contains(one, "Not played: 1,000,000 sessions") {
		t.Error("the page does not tell which storm is not played")
	}
	if !strings.Contains(page, "| at once, and again every 0.1 s | 1,600 µs |") {
		t.Error("the page does not play a storm of dearer handshakes")
	}
	if !strings.Contains(page, "("+plotName+")") {
		t.Error("the page does not show the plot")
	}
	columns := 0
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		if got := strings.Count(line, "|"); columns != 0 && got != columns {
			t.Errorf("a row of %d columns in a table of %d: %s", got, columns, line)
		} else {
			columns = got
		}
	}
}

// The plot is an SVG with a line for each kind of client, twice.
func TestPlot(t *testing.T) {
	_, plot := written(t, small(t))
	decoder := xml.NewDecoder(bytes.NewReader([]byte(plot)))
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range (&model{assumed: &small(t).assumed}).clients() {
		if !strings.Contains(plot, ">"+c.what+"<") {
			t.Errorf("the plot does not name the clients who come back %s", c.what)
		}
	}
}

// A flag changes what the page says.
func TestFlagsCount(t *testing.T) {
	page, _ := written(t, small(t))
	other, _ := written(t, small(t, "-messages", "200"))
	if row(page, "**Traefiks**") == row(other, "**Traefiks**") {
		t.Errorf("-messages changes nothing: %s", row(page, "**Traefiks**"))
	}
	other, _ = written(t, small(t, "-first", "1m"))
	if strings.Contains(page, "at random within 1m0s") || !strings.Contains(other, "at random within 1m0s") {
		t.Error("-first changes nothing")
	}
}

// With -tls the page is about clients that speak TLS to Traefik; what it says of both kinds
// is the same then, and true.
func TestTLSCounts(t *testing.T) {
	page, _ := written(t, small(t, "-messages", "20"))
	other, _ := written(t, small(t, "-messages", "20", "-tls"))
	if row(page, "memory of each") == row(other, "memory of each") {
		t.Errorf("-tls changes nothing: %s", row(page, "memory of each"))
	}
	for _, w := range wanted {
		if name := "`tls-" + w.name + "`"; strings.Contains(page, name) || strings.Contains(other, name) != w.alsoTLS {
			t.Errorf("%s: without -tls on the page: %t, with: %t", name, strings.Contains(page, name), strings.Contains(other, name))
		}
	}
	for label, want := range map[string]string{
		"memory of a session, resident": "20 kB | 50 kB",
		"CPU of a login":                "400 µs | 1,600 µs",
		"logins that all cores of one Traefik can make in a second": "10,000 | 2,500",
		"CPU of a player in peace, a second":                        "201 µs | 251 µs",
		"Traefiks for 50,000 players":                               "8 | 9",
		"the same on a static Traefik route":                        "90 kB | 110 kB",
	} {
		if got := row(page, label); got != row(other, label) || !strings.Contains(got, "| "+want) {
			t.Errorf("%q, with -tls %q; want %s", got, row(other, label), want)
		}
	}
}

// row returns the row of a table that begins with a label.
func row(page, label string) string {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "| "+label) {
			return line
		}
	}
	return ""
}

// An assumption that the model has no answer for is refused by name.
func TestBadAssumptions(t *testing.T) {
	for _, flags := range [][]string{
		{"-messages", "-1"}, {"-cores", "0.5"}, {"-cores", "0"}, {"-busy", "0"}, {"-memory-share", "1.5"}, {"-spread", "0.9"},
		{"-most", "1ms"}, {"-descriptors", "1000"}, {"-per-node", "0"}, {"-accepts", "0"}, {"-session", "0s"}, {"-backlog", "0"},
	} {
		err := write(small(t, flags...), filepath.Join("testdata", "figures.json"), t.TempDir())
		if err == nil || !strings.Contains(err.Error(), flags[0]) {
			t.Errorf("%v: got %v", flags, err)
		}
	}
	page, _ := written(t, small(t, "-messages", "10000")) // 2 cores are 19 players
	if !strings.Contains(page, "Not played: 500 sessions") || !strings.Contains(page, "| 19 | every 5 s, all in step |") {
		t.Error("where no storm can be played, none is told of")
	}
	var c counts
	for _, text := range []string{"", "x", "1,,2", "0", "-5"} {
		if err := c.Set(text); err == nil {
			t.Errorf("-players %q is taken for %v", text, c)
		}
	}
}

// A figure that is missing or makes no sense is named, not taken for nothing.
func TestBadFigures(t *testing.T) {
	good, err := os.ReadFile(filepath.Join("testdata", "figures.json"))
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) (f *figures, err error) {
		file := filepath.Join(t.TempDir(), "figures.json")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, secure := range []bool{true, false} {
			if f, err = readFigures(file, secure); err != nil {
				return nil, err
			}
		}
		return f, nil
	}
	for _, w := range wanted {
		_, err := read(strings.Replace(string(good), `"`+w.name+`"`, `"gone"`, 1))
		if w.optional != (err == nil) || err != nil && !strings.Contains(err.Error(), w.name) {
			t.Errorf("without %s: got %v", w.name, err)
		}
	}
	for from, to := range map[string]string{`"kB"`: `"MB"`, `"value": 400`: `"value": 0`, `"value": 1,`: `"value": "1",`, "{": "["} {
		if _, err := read(strings.Replace(string(good), from, to, 1)); err == nil {
			t.Errorf("%s instead of %s is taken", to, from)
		}
	}
	if _, err := read(strings.ReplaceAll(string(good), "µs", "us")); err != nil {
		t.Error(err)
	}
	_, err = read(strings.Replace(string(good), `"tls-session`, `"gone`, 1))
	if err == nil || !strings.Contains(err.Error(), "tls-session") {
		t.Errorf("without a figure of clients that speak TLS: got %v", err)
	}
	if _, err := readFigures("nowhere.json", false); err == nil || !strings.Contains(err.Error(), "make bench") {
		t.Errorf("got %v", err)
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567.8: "1,234,568"} {
		if got := whole(n); got != want {
			t.Errorf("%g is %s; want %s", n, got, want)
		}
	}
	for n, want := range map[float64]string{0.05555: "0.0556", 12.345: "12.3", 99.96: "100", 1234.4: "1,234", 0: "0"} {
		if got := short(n); got != want {
			t.Errorf("%g is %s; want %s", n, got, want)
		}
	}
	for n, want := range map[float64]string{10: "10 B", 1000: "0.977 kB", 1536: "1.5 kB", 2 << 30: "2 GB", 5000 << 40: "5,000 TB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%g is %s; want %s", n, got, want)
		}
	}
}
