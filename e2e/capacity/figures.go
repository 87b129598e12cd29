package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// figures are what the bench has measured, of the plugin unless the name says
// otherwise.
type figures struct {
	secure bool // clients speak TLS to Traefik

	request   float64 // µs of Traefik's CPU for a plain request
	handshake float64 // µs of Traefik's CPU for a handshake
	message   float64 // µs of Traefik's CPU for 128 bytes to the node and back

	session  float64 // kB resident for an idle session that has talked, settled
	static   float64 // the same for a static Traefik route
	nginx    float64 // the same for nginx; 0: it was not measured
	fresh    float64 // kB resident for a session right after the handshakes, their garbage included
	talking  float64 // kB resident, at the most, for a session that carries a message now and then
	baseline float64 // MB resident of a Traefik with the plugin and no session

	lookup float64 // ms that a request takes longer whose route is not known

	dates map[string]string // of the measurements, by the figure's name
}

// figure is a measured figure: its name and unit in figures.json, and where it goes.
type figure struct {
	name, unit string
	what       string
	optional   bool // the page does without
	alsoTLS    bool // it is measured with clients that speak TLS, too: see nameOf
	into       func(*figures) *float64
}

// wanted are the figures that the model stands on. The names are the bench's.
var wanted = []figure{
	{"http.plugin.cpu", "µs", "CPU of Traefik for a plain request", false, false, func(f *figures) *float64 { return &f.request }},
	{"handshake.plugin.cpu", "µs", "CPU of Traefik for a handshake", false, true, func(f *figures) *float64 { return &f.handshake }},
	{"message.128.plugin.cpu", "µs", "CPU of Traefik for a message of 128 B to the node and back", false, true, func(f *figures) *float64 { return &f.message }},
	{"session.plugin.talked", "kB", "resident memory of an idle session that has talked, settled", false, true, func(f *figures) *float64 { return &f.session }},
	{"session.static.talked", "kB", "the same for one of a static Traefik route", false, true, func(f *figures) *float64 { return &f.static }},
	{"session.nginx.talked", "kB", "the same for one of nginx with the OpenResty configuration", true, true, func(f *figures) *float64 { return &f.nginx }},
	{"session.plugin.after", "kB", "resident memory of a session right after the handshakes, before it talks and before their garbage is collected", false, true, func(f *figures) *float64 { return &f.fresh }},
	{"session.plugin.talking", "kB", "the most that is resident of a session while it carries 2 kB each way every few seconds, with garbage", false, true, func(f *figures) *float64 { return &f.talking }},
	{"lookup.cold", "ms", "what a request takes longer whose route is not known", false, false, func(f *figures) *float64 { return &f.lookup }},
	{"traefik.resident", "MB", "resident memory of a Traefik with the plugin and no session", false, true, func(f *figures) *float64 { return &f.baseline }},
}

// nameOf is a figure's name in figures.json.
func (f *figures) nameOf(w figure) string {
	if f.secure && w.alsoTLS {
		return "tls-" + w.name
	}
	return w.name
}

// readFigures reads what the bench wrote, with clients that speak TLS to Traefik or not.
// It says which figure is missing, or in another unit, rather than to take it for nothing.
func readFigures(file string, secure bool) (*figures, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: make bench writes it", err)
	}
	var all map[string]struct {
		Value float64 `json:"value"`
		Unit  string  `json:"unit"`
		Date  string  `json:"date"`
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	f := &figures{secure: secure, dates: map[string]string{}}
	for _, w := range wanted {
		name := f.nameOf(w)
		got, found := all[name]
		switch {
		case !found && w.optional:
			continue
		case !found:
			return nil, fmt.Errorf("%s: no figure %q: run make bench, all of it", file, name)
		case !sameUnit(got.Unit, w.unit):
			return nil, fmt.Errorf("%s: %q is in %q; want %q", file, name, got.Unit, w.unit)
		case got.Value <= 0:
			return nil, fmt.Errorf("%s: %q is %g, which nothing costs", file, name, got.Value)
		}
		*w.into(f) = got.Value
		f.dates[name] = got.Date
	}
	return f, nil
}

// sameUnit knows the three ways to write a micro.
func sameUnit(got, want string) bool {
	micro := []string{"µs", "μs", "us"}
	return got == want || slices.Contains(micro, got) && slices.Contains(micro, want)
}

// rows are the measured figures for the page.
func (f *figures) rows() (rows [][]string) {
	for _, w := range wanted {
		if value := *w.into(f); value > 0 {
			rows = append(rows, []string{strings.ToUpper(w.what[:1]) + w.what[1:], fmt.Sprintf("%s %s", short(value), w.unit), "`" + f.nameOf(w) + "`", f.dates[f.nameOf(w)]})
		}
	}
	return rows
}
