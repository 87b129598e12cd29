package stack

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pluginAt writes a plugin whose source is plugin.go, and returns its root.
func pluginAt(t *testing.T, source string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":       "module " + Module + "\n\ngo 1.21\n",
		".traefik.yml": "displayName: a\ntype: middleware\nimport: " + Module + "\nsummary: a\ntestData: {}\n",
		"plugin.go":    source,
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// bin returns the Traefik to test with, which a plugin's own root has not.
func bin(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("TRAEFIK_BIN"); bin != "" {
		return bin
	}
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, ".build", "traefik")
}

const greeter = `package dynamicforward

import (
	"context"
	"errors"
	"net/http"
)

type Config struct{ Greeting string }

func CreateConfig() *Config { return &Config{} }

func New(_ context.Context, _ http.Handler, c *Config, _ string) (http.Handler, error) {
	if c.Greeting == "" {
		return nil, errors.New("greeting: must not be empty")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Greeting", c.Greeting) }), nil
}
`

func TestTraefikReloads(t *testing.T) {
	root := pluginAt(t, greeter)
	traefik, err := StartTraefik(TraefikOptions{Root: root, Bin: bin(t), Dynamic: Game(Options{"greeting": "first"}).YAML()})
	if err != nil {
		t.Fatal(err)
	}
	defer traefik.Stop()
	want := func(status int, greeting string) {
		t.Helper()
		resp, err := http.Get(traefik.URL() + "/ws")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status || resp.Header.Get("Greeting") != greeting {
			t.Errorf("got %s, %q; want %d, %q", resp.Status, resp.Header.Get("Greeting"), status, greeting)
		}
	}
	want(200, "first")
	if err := traefik.Reload(Game(Options{"greeting": "second"}).YAML()); err != nil {
		t.Fatal(err)
	}
	want(200, "second")
	if err := traefik.Reload(Game(Options{}).YAML()); err == nil || !strings.Contains(err.Error(), "greeting: must not be empty") {
		t.Errorf("a refused configuration gives the error %v", err)
	}
	want(404, "")
	if err := traefik.Reload(Game(Options{"greeting": "third"}).YAML()); err != nil {
		t.Fatal(err)
	}
	want(200, "third")
	if err := traefik.Healthy(); err != nil {
		t.Error(err)
	}
	traefik.Kill()
	if err := traefik.Healthy(); err == nil {
		t.Error("a killed Traefik is healthy")
	}
}

func TestTraefikSaysWhyThePluginDoesNotLoad(t *testing.T) {
	for source, want := range map[string]string{
		strings.Replace(greeter, "errors.New", "errors.Newest", 1):  "no symbol Newest",
		strings.Replace(greeter, "func New(", "func Newest(", 1):    "New",
		strings.Replace(greeter, `"errors"`, `"example.com/e"`, 1):  "example.com/e",
		strings.Replace(greeter, "package dynamic", "packag ", 1):   "expected 'package'",
		strings.Replace(greeter, `c.Greeting == ""`, "true", 1):     "greeting: must not be empty",
		strings.Replace(greeter, `c.Greeting == ""`, "c == nil", 1): "",
	} {
		traefik, err := StartTraefik(TraefikOptions{Root: pluginAt(t, source), Bin: bin(t), Dynamic: Game(Options{"greeting": "a"}).YAML()})
		if err == nil {
			traefik.Stop()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("the error is %v; want one with %q, for\n%s", err, want, source)
		}
	}
}

func TestTraefikIsMissing(t *testing.T) {
	_, err := StartTraefik(TraefikOptions{Root: pluginAt(t, greeter), Bin: "/nonexistent/traefik"})
	if err == nil || !strings.Contains(err.Error(), "TRAEFIK_BIN") {
		t.Errorf("the error is %v", err)
	}
}

// A Traefik that was asked to use a port that is taken says so.
func TestTraefikPortIsTaken(t *testing.T) {
	n, err := StartNode(NodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	traefik, err := StartTraefik(TraefikOptions{Root: pluginAt(t, greeter), Bin: bin(t), Addr: n.Addr()})
	if err == nil {
		traefik.Stop()
	}
	if err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("the error is %v", err)
	}
}
