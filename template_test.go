package dynamicforward

import (
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestKeyAndFieldOfARequest(t *testing.T) {
	for _, c := range []struct {
		name       string
		key, field string // templates; "": the default
		query      string
		wantKey    string
		wantField  string
	}{
		{name: "default", query: "nodeName=wgamed&threadId=1&platform=dev",
			wantKey: "game-server_dev_node_wgamed", wantField: "1"},
		{name: "any order, more parameters", query: "x=1&platform=dev&threadId=1&y=&nodeName=wgamed",
			wantKey: "game-server_dev_node_wgamed", wantField: "1"},
		{name: "the first of repeated ones", query: "nodeName=a&nodeName=b&threadId=1&platform=dev",
			wantKey: "game-server_dev_node_a", wantField: "1"},
		{name: "percent-encoded", query: "nodeName=w%67ame%2Fd&threadId=%31&platform=d+v",
			wantKey: "game-server_d v_node_wgame/d", wantField: "1"},
		{name: "256 bytes", query: "nodeName=" + strings.Repeat("n", 256) + "&threadId=1&platform=dev",
			wantKey: "game-server_dev_node_" + strings.Repeat("n", 256), wantField: "1"},
		{name: "UTF-8", query: "nodeName=%E8%8A%82&threadId=1&platform=dev",
			wantKey: "game-server_dev_node_节", wantField: "1"},
		{name: "templates of one's own", key: "route:{zone}", field: "{a}-{b}", query: "zone=eu&a=1&b=2",
			wantKey: "route:eu", wantField: "1-2"},
		{name: "a placeholder is not looked for in a value", key: "{a}{b}", query: "a={b}&b={project}&threadId=1",
			wantKey: "{b}{project}", wantField: "1"},
	} {
		config := testConfig("127.0.0.1:1")
		if c.key != "" {
			config.Key = c.key
		}
		if c.field != "" {
			config.Field = c.field
		}
		rule, err := newRule(config)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		key, field, err := rule.apply(httptest.NewRequest("GET", "/ws?"+c.query, nil))
		if err != nil || key != c.wantKey || field != c.wantField {
			t.Errorf("%s: got %q, %q, %v, want %q, %q", c.name, key, field, err, c.wantKey, c.wantField)
		}
	}
}

func TestKeysFromEveryPartOfARequest(t *testing.T) {
	r := httptest.NewRequest("GET", "http://EU.Example.com:8080/game/a%2Fb/7?zone=z1", nil)
	r.Header.Set("X-Shard", "s3")
	r.Header.Set("Cookie", "session=c9; other=x")
	for _, c := range []struct{ template, want string }{
		{"{query.zone}", "z1"},
		{"{header.x-shard}", "s3"},
		{"{cookie.session}", "c9"},
		{"{host}", "eu.example.com"},
		{"{path.1}:{path.2}:{path.3}", "game:a/b:7"},
		{"{project}/{zone}", "game-server/z1"},
		{"{path.4}", "bad-request: path segment 4 is missing"},
		{"{header.X-None}", "bad-request: header X-None is missing"},
		{"{cookie.none}", "bad-request: cookie none is missing"},
		{"{query.none}", "bad-request: parameter none is missing"},
	} {
		config := testConfig("127.0.0.1:1")
		config.Key = c.template
		config.Field = ""
		rule, err := newRule(config)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		key, _, err := rule.apply(r)
		if err != nil {
			key = err.Error()
		}
		if key != c.want {
			t.Errorf("%s: got %q, want %q", c.template, key, c.want)
		}
	}
}

func TestHostWithoutItsPort(t *testing.T) {
	for host, want := range map[string]string{
		"A.example:80": "a.example", "a.example": "a.example", "[::1]:80": "::1", "[::1]": "::1", "": "",
	} {
		if got := hostOf(host); got != want {
			t.Errorf("%q: got %q, want %q", host, got, want)
		}
	}
}

func TestAnEmptyFieldReadsAString(t *testing.T) {
	config := testConfig("127.0.0.1:1")
	config.Key = "route:{nodeName}"
	config.Field = ""
	rule, err := newRule(config)
	if err != nil {
		t.Fatal(err)
	}
	key, field, err := rule.apply(httptest.NewRequest("GET", "/ws?nodeName=a", nil))
	if err != nil || key != "route:a" || field != "" {
		t.Errorf("got %q, %q, %v", key, field, err)
	}
}

func TestBadParametersAreNamed(t *testing.T) {
	for _, c := range []struct{ query, want string }{
		{"threadId=1&platform=dev", "bad-request: parameter nodeName is missing"},
		{"nodeName=&threadId=1&platform=dev", "bad-request: parameter nodeName is missing"},
		{"NodeName=a&threadId=1&platform=dev", "bad-request: parameter nodeName is missing"},
		{"nodeName=&nodeName=b&threadId=1&platform=dev", "bad-request: parameter nodeName is missing"},
		{"nodeName=%zz&threadId=1&platform=dev", "bad-request: parameter nodeName is missing"},
		{"nodeName=a&platform=dev", "bad-request: parameter threadId is missing"},
		{"nodeName=a&threadId=1", "bad-request: parameter platform is missing"},
		{"", "bad-request: parameter platform is missing"},
		{"nodeName=" + strings.Repeat("n", 257) + "&threadId=1&platform=dev", "bad-request: parameter nodeName is longer than 256 bytes"},
		{"nodeName=" + strings.Repeat("n", 10000) + "&threadId=1&platform=dev", "bad-request: parameter nodeName is longer than 256 bytes"},
		{"nodeName=%ff&threadId=1&platform=dev", "bad-request: parameter nodeName is not valid UTF-8"},
		{"nodeName=a%0d%0aDEL&threadId=1&platform=dev", "bad-request: parameter nodeName has a control character"},
		{"nodeName=a&threadId=%00&platform=dev", "bad-request: parameter threadId has a control character"},
		{"nodeName=a&threadId=%C2%85&platform=dev", "bad-request: parameter threadId has a control character"},
	} {
		rule, err := newRule(testConfig("127.0.0.1:1"))
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/ws", nil)
		r.URL = &url.URL{Path: "/ws", RawQuery: c.query}
		_, _, err = rule.apply(r)
		if err == nil || err.Error() != c.want || !errors.Is(err, errBadRequest) {
			t.Errorf("%.60q: got %v, want %s", c.query, err, c.want)
		}
	}
}
