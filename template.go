package dynamicforward

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
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
	names string    // what is taken from the request, for people: "platform, nodeName"

	// What counts of a request: see whatCounts.
	counts   *regexp.Regexp // the pairs of a query string that may; nil: none
	segments int            // so many of the path, from its beginning
	beside   []*part        // headers and the like

	queryAlone bool // nothing else counts
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
	u := &rule{key: key, field: field}
	var names, params []string
	for _, p := range append(append([]*part{}, key.parts...), field.parts...) {
		switch p.source {
		case fromTemplate:
			continue
		case fromQuery:
			params = append(params, wholeName(p.text))
		case fromPath:
			if p.index > u.segments {
				u.segments = p.index
			}
		default:
			u.beside = append(u.beside, p)
		}
		names = append(names, p.shown)
	}
	u.names = strings.Join(names, ", ")
	if params != nil {
		// Those with a parameter that is needed, or whose name is encoded and may be such a one.
		u.counts = regexp.MustCompile("&(?:" + strings.Join(append(params, "[^=&]*[%+]"), "|") + ")[^&]*")
		u.queryAlone = u.segments == 0 && u.beside == nil
	}
	return u, nil
}

// wholeName is a regular expression for the name of a parameter. It finds those, too,
// that begin with that one and go on with anything but a letter, digit or underscore.
func wholeName(name string) string {
	pattern := regexp.QuoteMeta(name)
	if lettersLast.MatchString(name) {
		pattern += `\b`
	}
	return pattern
}

var lettersLast = regexp.MustCompile(`\w$`)

// apply returns the key and the field that the request asks for. The error is
// errBadRequest with the value to blame.
func (u *rule) apply(r *http.Request) (string, string, error) {
	query := r.URL.Query()
	key, err := expand(u.key, r, query)
	if err != nil {
		return "", "", err
	}
	field, err := expand(u.field, r, query)
	if err != nil {
		return key, "", err
	}
	return key, field, nil
}

// template is text with placeholders for a request's values.
type template struct {
	parts []*part
}

// Where a part of a template comes from.
const (
	fromTemplate = iota // the template itself
	fromQuery           // {name}, {query.name}
	fromHeader          // {header.Name}
	fromCookie          // {cookie.name}
	fromHost            // {host}
	fromPath            // {path.N}
)

// part is a piece of a template.
type part struct {
	source int
	text   string // the literal, or the name of the value
	index  int    // fromPath: which segment, from 1
	shown  string // the value's name, for people
}

// parseTemplate reads the template of an option. {project} is project; every
// other placeholder is a value of the request.
func parseTemplate(option, text, project string) (*template, error) {
	t := &template{}
	rest := text
	for rest != "" {
		literal, after, found := strings.Cut(rest, "{")
		at := len(text) - len(rest) + 1
		if i := strings.Index(literal, "}"); i >= 0 {
			return nil, fmt.Errorf("%s: %q has a } without a { before it, at character %d", option, text, at+i)
		}
		if strings.IndexFunc(literal, unicode.IsControl) >= 0 || !utf8.ValidString(literal) {
			return nil, fmt.Errorf("%s: %q has a control character or is not valid UTF-8", option, text)
		}
		if literal != "" {
			t.parts = append(t.parts, &part{text: literal})
		}
		if !found {
			break
		}
		at += len(literal)
		name, next, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("%s: %q has a { without a } after it, at character %d", option, text, at)
		}
		p, err := parsePlaceholder(name, project)
		if err != nil {
			return nil, fmt.Errorf("%s: %q has {%s} at character %d: %w", option, text, name, at, err)
		}
		t.parts = append(t.parts, p)
		rest = next
	}
	return t, nil
}

// errPlaceholder is what there is to say of a placeholder that means nothing.
var errPlaceholder = errors.New("unknown placeholder: use {project}, {host}, {path.N}, {header.Name}, {cookie.name}, or the name of a query parameter as {name} or {query.name}")

// parsePlaceholder reads what stands between { and }.
func parsePlaceholder(placeholder, project string) (*part, error) {
	source, name, dotted := strings.Cut(placeholder, ".")
	if placeholder == "" || strings.ContainsAny(placeholder, "{ \t\r\n") || dotted && name == "" || !utf8.ValidString(placeholder) {
		return nil, errPlaceholder
	}
	switch {
	case placeholder == "project" && (project == "" || faultOf(project) != ""):
		return nil, errors.New("the option project must be 1 to 256 bytes of UTF-8 without control characters")
	case placeholder == "project":
		return &part{text: project}, nil
	case placeholder == "host":
		return &part{source: fromHost, shown: "the host"}, nil
	case !dotted:
		return &part{source: fromQuery, text: placeholder, shown: placeholder}, nil
	case source == "query":
		return &part{source: fromQuery, text: name, shown: name}, nil
	case source == "header" && http.CanonicalHeaderKey(name) == "Host":
		return nil, errors.New("use {host}")
	case source == "header":
		return &part{source: fromHeader, text: http.CanonicalHeaderKey(name), shown: "header " + name}, nil
	case source == "cookie":
		return &part{source: fromCookie, text: name, shown: "cookie " + name}, nil
	case source == "path":
		index, err := strconv.Atoi(name)
		if err != nil || index < 1 {
			return nil, errors.New("path segments are numbered from 1: use {path.1}")
		}
		return &part{source: fromPath, index: index, shown: "path segment " + name}, nil
	}
	return nil, errPlaceholder
}

// usualValue is one that faultOf finds nothing in, if it is not too long.
var usualValue = regexp.MustCompile("^[!-~]+$")

// expand fills a template in. It is run for each request that takes the long way: see
// handler for what it is spared.
func expand(t *template, r *http.Request, query url.Values) (string, error) {
	text := ""
	for _, p := range t.parts {
		value := p.text
		if p.source == fromQuery {
			value = ""
			if values := query[p.text]; len(values) > 0 {
				value = values[0]
			}
		} else if p.source != fromTemplate {
			value = p.value(r)
		}
		if p.source != fromTemplate && (len(value) > maxValue || !usualValue.MatchString(value)) {
			if err := p.check(value); err != nil {
				return "", err
			}
		}
		text += value
	}
	return text, nil
}

// check says what is wrong with a value, if anything is.
func (p *part) check(value string) error {
	if value == "" {
		return fmt.Errorf("%w: %s is missing", errBadRequest, p.blame())
	}
	if fault := faultOf(value); fault != "" {
		return fmt.Errorf("%w: %s %s", errBadRequest, p.blame(), fault)
	}
	return nil
}

// value takes the part's value from the request but for its query, "" if it is not there.
// Of several the first counts.
func (p *part) value(r *http.Request) string {
	switch p.source {
	case fromHeader:
		return r.Header.Get(p.text)
	case fromCookie:
		cookie, err := r.Cookie(p.text)
		if err != nil {
			return ""
		}
		return cookie.Value
	case fromHost:
		return hostOf(r.Host)
	}
	return segment(r.URL, p.index)
}

// blame names the value in an error.
func (p *part) blame() string {
	if p.source == fromQuery {
		return "parameter " + p.text
	}
	return p.shown
}

// hostOf is the Host header without its port, in lower case.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// segment is the nth segment of the path, decoded: an encoded slash in it does
// not make it two.
func segment(u *url.URL, n int) string {
	segments := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	if n > len(segments) {
		return ""
	}
	value, err := url.PathUnescape(segments[n-1])
	if err != nil {
		return ""
	}
	return value
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
