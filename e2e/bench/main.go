// The bench measures the plugin in the real Traefik, with the real Redis, and
// writes what it found as Markdown to docs/bench/. Run it in e2e:
//
//	go run ./bench
//
// What is compared is measured in turns, round by round, and the medians are
// compared: a machine is never the same twice, and neither is a process, so each
// round of a comparison has a Traefik of its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// settings say how long to measure.
type settings struct {
	rounds int // of each comparison
	turns  int // in each round, of each side
	moves  int
	pairs  int // of a cold and a warm request
	routes []int

	clients  []int // of plain requests, at a time
	messages []int // their sizes, in bytes
	sessions []int // idle ones
}

func main() {
	stack.ServeFastNode()
	stack.ServeEchoNode()
	quick := flag.Bool("quick", false, "measure a little, to see that it works")
	only := flag.String("only", "", "measure one part: "+partNames()+" (default all)")
	out := flag.String("out", "", "directory to write to (default docs/bench in the repository, but not with -quick)")
	flag.Parse()
	s := settings{rounds: 11, turns: 4, moves: 1000, pairs: 2000, routes: []int{1, 1000, 100_000},
		clients: []int{8, 32, 128}, messages: []int{small, middle, large, bulk}, sessions: []int{1000, 3000, 9000}}
	if *quick {
		s = settings{rounds: 2, turns: 2, moves: 50, pairs: 100, routes: []int{1, 100}, clients: []int{8}, messages: []int{small, large}, sessions: []int{200}}
	}
	if *quick && *out == "" {
		fmt.Fprintln(os.Stderr, "bench: -quick measures too little for docs/bench: name another directory with -out")
		os.Exit(2)
	}
	if err := run(s, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parts are what can be measured, each with the page that it writes.
var parts = []struct {
	name    string
	measure func(s settings, out string) error
}{
	{"table", onGround(measureTable)},
	{"http", onGround(measureHTTP)},
	{"messages", measureMessages},
	{"sessions", measureSessions},
	{"tls", measureSecureSessions},
	{"prices", onGround(measurePrices)},
	{"tokens", measureTokens},
	{"profile", onGround(measureProfiles)},
	{"goals", compareWithGoals},
}

// onGround makes the ground for what is measured on it.
func onGround(measure func(g *ground, s settings, out string) error) func(s settings, out string) error {
	return func(s settings, out string) error {
		g, err := newGround()
		if err != nil {
			return err
		}
		defer g.stop()
		return measure(g, s, out)
	}
}

func partNames() string {
	var names []string
	for _, part := range parts {
		names = append(names, part.name)
	}
	return strings.Join(names, ", ")
}

// run measures, and leaves neither a process nor a file where that ends early.
func run(s settings, only, out string) error {
	if out == "" {
		root, err := stack.Root()
		if err != nil {
			return err
		}
		out = filepath.Join(root, "docs", "bench")
	}
	dir, err := os.MkdirTemp("", "dynamicforward-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	measured := make(chan error, 1)
	go func() { measured <- measureAll(s, only, out) }()
	select {
	case err := <-measured:
		return err
	case <-interrupted:
		signal.Stop(interrupted)
		stack.KillAll()
		select {
		case <-measured: // it removes its files
		case <-time.After(2 * time.Second):
		}
		return errors.New("interrupted")
	}
}

func measureAll(s settings, only, out string) error {
	done := false
	for _, part := range parts {
		if only != "" && only != part.name {
			continue
		}
		done = true
		if err := part.measure(s, out); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if !done {
		return fmt.Errorf("-only %s: there is no such part: use one of %s", only, partNames())
	}
	return nil
}

// ground is what every measurement stands on: one Traefik with the plugin on
// Path(`/ws`) and a route of its own, without any plugin, on Path(`/static`),
// both to the same node; on Path(`/itself`) it answers by itself.
type ground struct {
	variant variant
	redis   *stack.Redis
	node    place
	options stack.TraefikOptions
	traefik *stack.Traefik
	learned int // routes that this Traefik knows
	load    generator

	openResty *stack.OpenResty // nil: it is not installed

	certificates      string // their directory; "": clients speak no TLS
	certFile, keyFile string
}

// place is where a node is.
type place interface {
	Addr() string
	Stop()
	What() string
}

func newGround() (*ground, error) {
	node, err := stack.StartFastNode()
	if err != nil {
		return nil, err
	}
	g, err := newGroundAt(node, plain)
	if err == nil {
		err = g.startOpenResty()
	}
	if err != nil {
		g.stop()
	}
	return g, err
}

// newGroundTo stands on a node that is there and stays, at the route n1, without OpenResty.
func newGroundTo(addr string, v variant) (*ground, error) {
	g, err := newGroundAt(standing(addr), v)
	if err == nil {
		err = g.put("n1", addr)
	}
	if err != nil {
		g.stop()
	}
	return g, err
}

// standing is the address of a node of somebody else's.
type standing string

func (s standing) Addr() string { return string(s) }
func (s standing) What() string { return "an echo in a process of its own" }
func (s standing) Stop()        {}

func newGroundAt(node place, v variant) (g *ground, err error) {
	g = &ground{node: node, variant: v}
	if v.secure {
		if err := g.certify(); err != nil {
			return g, err
		}
	}
	if g.load, err = newGenerator(); err != nil {
		return g, err
	}
	if g.redis, err = stack.StartRedis(stack.RedisOptions{}); err != nil {
		return g, err
	}
	options := stack.Options{
		"redis": stack.Options{"endpoints": []string{g.redis.Addr()}},
		"cache": stack.Options{"maxEntries": 200_000}, // room for all routes of all measurements
	}
	maps.Copy(options, v.options)
	conf := stack.Game(options)
	conf.Routers["static"] = stack.Router{Rule: "Path(`/static`)", Service: "static"}
	if v.inPath {
		inPath := maps.Clone(options)
		inPath["key"], inPath["field"] = "game-server_{path.2}_node_{path.3}", "{path.4}"
		conf.Routers["path"] = stack.Router{Rule: "PathPrefix(`/path/`)", Middlewares: []string{"path"}}
		conf.Middlewares["path"] = inPath
	}
	conf.Routers["itself"] = stack.Router{Rule: "Path(`/itself`)", Service: "ping@internal"}
	if v.secure {
		for name, router := range conf.Routers {
			router.TLS = true
			conf.Routers[name] = router
		}
	}
	conf.Services = toNode(g.node)
	dynamic := conf.YAML()
	if v.secure {
		dynamic += fmt.Sprintf("tls: {stores: {default: {defaultCertificate: {certFile: %q, keyFile: %q}}}}\n", g.certFile, g.keyFile)
	}
	g.options = stack.TraefikOptions{Dynamic: dynamic, Static: "ping: {manualRouting: true}\n", LogLevel: "ERROR", Debug: true}
	if v.accessLog {
		g.options.AccessLog = os.DevNull
	}
	if g.traefik, err = stack.StartTraefik(g.options); err == nil {
		g.options.Addr = g.traefik.Addr()
	}
	return g, err
}

// toNode is the service static, which is one node.
func toNode(node place) map[string]any {
	return map[string]any{"static": map[string]any{
		"loadBalancer": map[string]any{"servers": []any{map[string]any{"url": "http://" + node.Addr()}}},
	}}
}

// certify makes the certificate that the gateways have for clients that speak TLS.
func (g *ground) certify() (err error) {
	if g.certificates, err = os.MkdirTemp("", "dynamicforward-certificates-"); err != nil {
		return err
	}
	authority, err := stack.NewAuthority(g.certificates)
	if err == nil {
		g.certFile, g.keyFile, err = authority.Sign("gateway")
	}
	return err
}

// renew starts Traefik anew, at the address that it has.
func (g *ground) renew() (err error) {
	g.traefik.Stop()
	g.learned = 0
	g.traefik, err = stack.StartTraefik(g.options)
	return err
}

func (g *ground) stop() {
	if g.openResty != nil {
		g.openResty.Stop()
	}
	if g.traefik != nil {
		g.traefik.Stop()
	}
	g.node.Stop()
	if g.redis != nil {
		g.redis.Stop()
	}
	_ = os.RemoveAll(g.certificates)
}

// machine says in one line on what the measurement ran, of what, and by which load.
func (g *ground) machine(load string) string {
	return fmt.Sprintf("%d cores (%s/%s), %s, Traefik %s, Redis %s, plugin %s, node: %s, load: %s, all on one machine%s",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, goVersion(), g.traefikVersion(), g.redisVersion(), plugin(), g.node.What(), load, busy())
}

// ownClients is the load that is not wrk's.
const ownClients = "clients of the bench's own, in Go"

// plugin is the commit that is measured. It is asked for before the first page is written.
var plugin = sync.OnceValue(func() string {
	said, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "of an unknown commit"
	}
	return strings.TrimSpace(string(said))
})

// busy says how busy the machine was in the minute before, with other things or with what
// was measured then.
func busy() string {
	averages, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	lastMinute, _, _ := strings.Cut(string(averages), " ")
	return " whose load average was " + lastMinute + " before"
}

func goVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return strings.Replace(info.GoVersion, "go", "Go ", 1)
	}
	return runtime.Version()
}

func (g *ground) traefikVersion() string {
	said, _ := exec.Command(g.traefik.Bin(), "version").Output()
	return wordAfter(string(said), "Version:")
}

func (g *ground) redisVersion() string {
	info, _ := g.redis.Do("INFO", "server")
	text, _ := info.([]byte)
	return wordAfter(string(text), "redis_version:")
}

// wordAfter returns the word that follows a label.
func wordAfter(text, label string) string {
	_, rest, _ := strings.Cut(text, label)
	if words := strings.Fields(rest); len(words) > 0 {
		return words[0]
	}
	return "of unknown version"
}
