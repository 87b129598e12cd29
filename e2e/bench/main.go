// The bench measures the plugin in the real Traefik, with the real Redis, and
// writes what it found as Markdown to docs/bench/. Run it in e2e:
//
//	go run ./bench
//
// What is compared is measured in turns, round by round, and the medians are
// compared: a machine is never the same twice.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// settings say how long to measure.
type settings struct {
	rounds  int // of each comparison
	seconds int // of load in each round, on each side
	moves   int
	pairs   int // of a cold and a warm request
	routes  []int
}

func main() {
	stack.ServeFastNode()
	quick := flag.Bool("quick", false, "measure a little, to see that it works")
	out := flag.String("out", "", "directory to write to (default docs/bench in the repository)")
	flag.Parse()
	s := settings{rounds: 5, seconds: 5, moves: 1000, pairs: 2000, routes: []int{1, 1000, 100_000}}
	if *quick {
		s = settings{rounds: 2, seconds: 1, moves: 50, pairs: 100, routes: []int{1, 100}}
	}
	if err := run(s, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(s settings, out string) error {
	if out == "" {
		root, err := stack.Root()
		if err != nil {
			return err
		}
		out = filepath.Join(root, "docs", "bench")
	}
	g, err := newGround()
	if err != nil {
		return err
	}
	defer g.stop()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	measured := make(chan error, 1)
	go func() { measured <- measureTable(g, s, out) }()
	select {
	case err := <-measured:
		return err
	case <-interrupted:
		return errors.New("interrupted")
	}
}

// ground is what every measurement stands on: one Traefik with the plugin on
// Path(`/ws`) and a route of its own, without any plugin, on Path(`/static`),
// both to the same node.
type ground struct {
	redis   *stack.Redis
	node    *stack.FastNode
	traefik *stack.Traefik
	load    generator
}

func newGround() (g *ground, err error) {
	g = &ground{}
	defer func() {
		if err != nil {
			g.stop()
		}
	}()
	if g.load, err = newGenerator(); err != nil {
		return g, err
	}
	if g.redis, err = stack.StartRedis(stack.RedisOptions{}); err != nil {
		return g, err
	}
	if g.node, err = stack.StartFastNode(); err != nil {
		return g, err
	}
	conf := stack.Game(stack.Options{
		"redis": stack.Options{"endpoints": []string{g.redis.Addr()}},
		"cache": stack.Options{"maxEntries": 200_000}, // room for all routes of all measurements
	})
	conf.Routers["static"] = stack.Router{Rule: "Path(`/static`)", Service: "static"}
	conf.Services = map[string]any{"static": map[string]any{
		"loadBalancer": map[string]any{"servers": []any{map[string]any{"url": "http://" + g.node.Addr()}}},
	}}
	g.traefik, err = stack.StartTraefik(stack.TraefikOptions{Dynamic: conf.YAML(), LogLevel: "FATAL"})
	return g, err
}

func (g *ground) stop() {
	if g.traefik != nil {
		g.traefik.Stop()
	}
	if g.node != nil {
		g.node.Stop()
	}
	if g.redis != nil {
		g.redis.Stop()
	}
}

// machine says in one line on what the measurement ran.
func (g *ground) machine() string {
	return fmt.Sprintf("%d cores (%s/%s), %s, Traefik %s, Redis %s, node: %s, load: %s, all on one machine%s",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, goVersion(), g.traefikVersion(), g.redisVersion(), g.node.What(), g.load.what(), busy())
}

// busy says how busy the machine was with other things in the minute before.
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
