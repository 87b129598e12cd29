package dynamicforward

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxValue is the most bytes that a value taken from a request may have.
const maxValue = 256

// rule makes the Redis key and field of a request.
type rule struct {
	key   *template
	field *template // no parts: the key is a string
	names string    // the parameters, for people: "platform, nodeName, threadId"
}

// newRule parses and checks the templates of a configuration.
func newRule(config *Config) (*rule, error) {
	if config.Key == "" {
		return nil, errors.New(`key: must not be empty: use a template such as "{project}_{platform}_node_{nodeName}"`)
	}
	key, err := parseTemplate("key", config.Key, config.Project)
	if err != nil {
		return nil, err
	}
	field, err := parseTemplate("field", config.Field, config.Project)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, part := range append(append([]part{}, key.parts...), field.parts...) {
		if part.name != "" {
			names = append(names, part.name)
		}
	}
	return &rule{key: key, field: field, names: strings.Join(names, ", ")}, nil
}

// apply returns the key and the field that the request asks for. The error is
// errBadRequest with the parameter to blame.
func (u *rule) apply(r *http.Request) (string, string, error) {
	query := r.URL.Query()
	key, err := u.key.expand(query)
	if err != nil {
		return "", "", err
	}
	field, err := u.field.expand(query)
	if err != nil {
		return key, "", err
	}
	return key, field, nil
}

// template is text with placeholders for a request's values.
type template struct {
	parts []part
}

// part is a literal or, when it has a name, a placeholder for the query
// parameter of that name.
type part struct {
	literal string
	name    string
}

// parseTemplate reads the template of an option. {name} is the query parameter
// name, {project} is project.
func parseTemplate(option, text, project string) (*template, error) {
	t := &template{}
	rest := text
	for rest != "" {
		literal, after, found := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") {
			return nil, fmt.Errorf("%s: %q has a } without a { before it", option, text)
		}
		if literal != "" {
			t.parts = append(t.parts, part{literal: literal})
		}
		if !found {
			break
		}
		name, next, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("%s: %q has a { without a } after it, at %q", option, text, "{"+after)
		}
		switch {
		case name == "project" && project == "":
			return nil, fmt.Errorf("project: must not be empty: %s %q uses {project}", option, text)
		case name == "project":
			t.parts = append(t.parts, part{literal: project})
		case name == "" || strings.ContainsAny(name, ".{ \t"):
			return nil, fmt.Errorf("%s: %q has an unknown placeholder {%s}: use {project} or the name of a query parameter, such as {nodeName}", option, text, name)
		default:
			t.parts = append(t.parts, part{name: name})
		}
		rest = next
	}
	return t, nil
}

// expand fills the template in. Of a repeated parameter the first counts.
func (t *template) expand(query url.Values) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.name == "" {
			b.WriteString(p.literal)
			continue
		}
		value := query.Get(p.name)
		if value == "" {
			return "", fmt.Errorf("%w: parameter %s is missing", errBadRequest, p.name)
		}
		if fault := faultOf(value); fault != "" {
			return "", fmt.Errorf("%w: parameter %s %s", errBadRequest, p.name, fault)
		}
		b.WriteString(value)
	}
	return b.String(), nil
}

// faultOf says what is wrong with a value taken from a request, "" if nothing.
func faultOf(value string) string {
	if len(value) > maxValue {
		return fmt.Sprintf("is longer than %d bytes", maxValue)
	}
	if !utf8.ValidString(value) {
		return "is not valid UTF-8"
	}
	if strings.IndexFunc(value, unicode.IsControl) >= 0 {
		return "has a control character"
	}
	return ""
}
