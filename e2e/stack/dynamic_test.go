package stack

import (
	"strings"
	"testing"
)

// The marker goes into whatever sections there are, at their indentation.
func TestMark(t *testing.T) {
	const (
		router     = "stack-generation: {entryPoints: [web], rule: 'Path(`/.generation`)', priority: 1000000, middlewares: [stack-generation], service: noop@internal}"
		middleware = "stack-generation: {headers: {customResponseHeaders: {X-Config-Generation: '7'}}}"
	)
	for name, c := range map[string]struct{ yaml, want string }{
		"nothing": {"", "\nhttp:\n  middlewares:\n    M\n  routers:\n    R\n"},
		"tls alone": {"tls:\n  options: {}\n",
			"tls:\n  options: {}\nhttp:\n  middlewares:\n    M\n  routers:\n    R\n"},
		"routers alone": {"http:\n  routers:\n    a: {rule: x}\n",
			"http:\n  middlewares:\n    M\n  routers:\n    R\n    a: {rule: x}\n"},
		"both, four deep, with comments": {"# mine\nhttp: # all of it\n\n    routers: # two\n        # one\n        a: {rule: x}\n    middlewares:\n        b: {}\ntcp:\n    routers:\n        c: {}\n",
			"# mine\nhttp: # all of it\n\n    routers: # two\n        R\n        # one\n        a: {rule: x}\n    middlewares:\n        M\n        b: {}\ntcp:\n    routers:\n        c: {}\n"},
	} {
		got, err := mark(c.yaml, 7)
		want := strings.NewReplacer("R\n", router+"\n", "M\n", middleware+"\n").Replace(c.want)
		if err != nil || got != want {
			t.Errorf("%s: got %v\n%s\nwant\n%s", name, err, got, want)
		}
	}
	for _, yaml := range []string{"http: {}\n", "http:\n", "http:\n  routers: {a: {rule: x}}\n"} {
		if got, err := mark(yaml, 7); err == nil {
			t.Errorf("%q is marked as\n%s", yaml, got)
		}
	}
}

func TestGame(t *testing.T) {
	got := Game(Options{"key": "{project}", "redis": Options{"endpoints": []string{"127.0.0.1:1"}}}).YAML()
	const want = "http:\n" +
		"  routers:\n" +
		"    game:\n" +
		"      entryPoints: [web]\n" +
		"      rule: \"Path(`/ws`)\"\n" +
		"      middlewares: [\"wgame\"]\n" +
		"      service: nowhere\n" +
		"  services:\n" +
		"    nowhere:\n" +
		"      loadBalancer: {servers: []}\n" +
		"  middlewares:\n" +
		"    wgame:\n" +
		"      plugin:\n" +
		"        dynamicforward: {\"key\":\"{project}\",\"redis\":{\"endpoints\":[\"127.0.0.1:1\"]}}\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
