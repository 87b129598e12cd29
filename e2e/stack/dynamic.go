package stack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Dynamic is a dynamic configuration in the shape that the README recommends:
// routers whose middleware is the plugin and whose service has no servers.
type Dynamic struct {
	// Routers by name.
	Routers map[string]Router
	// Middlewares by name: the options of one dynamicforward each, by the
	// names and values of the YAML configuration.
	Middlewares map[string]Options
	// Services are further services by name, beside "nowhere", in Traefik's
	// own terms.
	Services map[string]any
}

// Options are options of the plugin, nested as in YAML.
type Options map[string]any

// Router is a router of Traefik's entry point web.
type Router struct {
	Rule        string   // such as Path(`/ws`)
	Middlewares []string // in order; may be empty
	Service     string   // "" is nowhere
	TLS         bool     // for clients that speak TLS, with Traefik's default certificate, instead of all others
}

// Game returns the usual configuration: a router for Path(`/ws`) named game
// with a middleware named wgame that has the given options.
func Game(options Options) Dynamic {
	return Dynamic{
		Routers:     map[string]Router{"game": {Rule: "Path(`/ws`)", Middlewares: []string{"wgame"}}},
		Middlewares: map[string]Options{"wgame": options},
	}
}

// YAML renders the configuration as a file for Traefik's file provider.
func (d Dynamic) YAML() string {
	var b strings.Builder
	b.WriteString("http:\n  routers:\n")
	for _, name := range slices.Sorted(maps.Keys(d.Routers)) {
		r := d.Routers[name]
		fmt.Fprintf(&b, "    %s:\n      entryPoints: [web]\n      rule: %s\n", name, flow(r.Rule))
		if len(r.Middlewares) > 0 {
			fmt.Fprintf(&b, "      middlewares: %s\n", flow(r.Middlewares))
		}
		if r.TLS {
			b.WriteString("      tls: {}\n")
		}
		service := r.Service
		if service == "" {
			service = "nowhere"
		}
		fmt.Fprintf(&b, "      service: %s\n", service)
	}
	b.WriteString("  services:\n    nowhere:\n      loadBalancer: {servers: []}\n")
	for _, name := range slices.Sorted(maps.Keys(d.Services)) {
		fmt.Fprintf(&b, "    %s: %s\n", name, flow(d.Services[name]))
	}
	if len(d.Middlewares) > 0 {
		b.WriteString("  middlewares:\n")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Middlewares)) {
		fmt.Fprintf(&b, "    %s:\n      plugin:\n        dynamicforward: %s\n", name, flow(d.Middlewares[name]))
	}
	return b.String()
}

// flow renders a value as JSON, which is YAML in flow style.
func flow(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("stack: a configuration value that JSON cannot hold: %v", err))
	}
	return strings.TrimSpace(b.String())
}

const (
	generationPath   = "/.generation"
	generationHeader = "X-Config-Generation"
)

// mark adds to a dynamic configuration a router that answers generationPath
// with the number of the generation, so that the configuration's arrival can
// be seen from outside.
func mark(yaml string, generation int) (string, error) {
	yaml, err := insert(yaml, "routers", fmt.Sprintf(
		"stack-generation: {entryPoints: [web], rule: 'Path(`%s`)', priority: 1000000, middlewares: [stack-generation], service: noop@internal}", generationPath))
	if err != nil {
		return "", err
	}
	return insert(yaml, "middlewares", fmt.Sprintf(
		"stack-generation: {headers: {customResponseHeaders: {%s: '%d'}}}", generationHeader, generation))
}

var httpLine = regexp.MustCompile(`(?m)^http:[ \t]*(#.*)?$`)

// insert puts a line into a section of the http part, in block style and at
// the indentation that it finds there.
func insert(yaml, section, line string) (string, error) {
	at := httpLine.FindStringIndex(yaml)
	if at == nil {
		if strings.Contains("\n"+yaml, "\nhttp:") {
			return "", errors.New("the dynamic configuration must have its http part in block style")
		}
		return strings.TrimRight(yaml, "\n") + "\nhttp:\n  " + section + ":\n    " + line + "\n", nil
	}
	head, body := yaml[:at[1]]+"\n", strings.TrimPrefix(yaml[at[1]:], "\n")
	inner := indentation(body)
	if inner == "" {
		return "", errors.New("the dynamic configuration's http part is empty")
	}
	sectionLine := regexp.MustCompile(`(?m)^` + inner + section + `:(.*)\n?`)
	in := sectionLine.FindStringSubmatchIndex(body)
	if in == nil {
		return head + inner + section + ":\n" + inner + "  " + line + "\n" + body, nil
	}
	if rest := strings.TrimSpace(body[in[2]:in[3]]); rest != "" && !strings.HasPrefix(rest, "#") {
		return "", fmt.Errorf("the dynamic configuration must have http.%s in block style", section)
	}
	before, after := strings.TrimRight(body[:in[1]], "\n")+"\n", body[in[1]:]
	deeper := indentation(after)
	if len(deeper) <= len(inner) {
		deeper = inner + "  "
	}
	return head + before + deeper + line + "\n" + after, nil
}

// indentation returns the white space before the first line that says
// something.
func indentation(yaml string) string {
	for line := range strings.Lines(yaml) {
		text := strings.TrimLeft(line, " ")
		if strings.TrimSpace(text) != "" && text[0] != '#' {
			return line[:len(line)-len(text)]
		}
	}
	return ""
}
