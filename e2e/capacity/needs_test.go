package main

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// invented are figures for tests: round numbers that nobody has measured.
func invented(t *testing.T) *figures {
	t.Helper()
	f, err := readFigures(filepath.Join("testdata", "figures.json"), false)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// with returns a model with the invented figures, the defaults, and these flags.
func with(t *testing.T, flags ...string) *model {
	t.Helper()
	m := &model{measured: invented(t), assumed: &assumptions{}}
	set := flag.NewFlagSet("", flag.ContinueOnError)
	m.assumed.register(set)
	if err := set.Parse(flags); err != nil {
		t.Fatal(err)
	}
	if err := m.assumed.check(); err != nil {
		t.Fatal(err)
	}
	return m
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6*math.Abs(want) {
		t.Errorf("%s: got %g; want %g", what, got, want)
	}
}

// 100,000 players, worked out by hand from the invented figures.
func TestNeedsByHand(t *testing.T) {
	m := with(t)
	near(t, "CPU of a player", m.cpuPerPlayer(), 5*20+0.01*100+400.0/7200)
	near(t, "memory of a player", m.memoryPerPlayer(), 1024*(2*20+8))
	n := m.needs(100_000)
	// 2 of 4 cores are for 19,791 players; 120,000 of these are 6.06.
	if n.nodes != 50 || n.traefiks != 7+1 || n.bound != "CPU in peace" {
		t.Errorf("%d nodes, %d Traefiks because of %s", n.nodes, n.traefiks, n.bound)
	}
	near(t, "sessions", n.each, 120_000.0/7)
	near(t, "CPU", m.cpuOf(n.each, n.nodes), (120_000.0/7*(100+1+400.0/7200)+50.0/60*300)/1e6)
	near(t, "memory", n.memory, 200*(1<<20)+120_000.0/7*48*1024)
	near(t, "descriptors", n.descriptors, 240_000.0/7+1000)
	near(t, "ports", n.portsToOne, 120_000.0/7/50)
	near(t, "Redis in peace", n.peace, 8*(50.0/60+2+60.0/3600*4))
	near(t, "invalidations", n.pushes, 8*60.0/3600)
	near(t, "tracked keys", n.trackedKeys, 13)
	near(t, "Redis' memory", n.redisMemory, 13*100+13*8*50+8*80e3)
	if n.storm.lookups != 50 || n.storm.back != int(n.each) {
		t.Errorf("a storm of %d look-ups after which %d are back", n.storm.lookups, n.storm.back)
	}
}

// Each thing can be the scarcest.
func TestTheScarcest(t *testing.T) {
	for _, c := range []struct {
		bound string
		most  float64
		flags []string
	}{
		{"CPU in peace", (2e6 - 50.0/60*300) / (100 + 1 + 400.0/7200), nil},
		{"memory", (0.8*(1<<28) - 200*(1<<20)) / (48 * 1024), []string{"-memory", "0.25"}},
		{"descriptors", (2000 - 1000) / 2, []string{"-descriptors", "2000"}},
		{"local ports", 50 * 100 / 2, []string{"-ports", "100", "-messages", "1"}},
		{"tracked connections", 4000 / 4, []string{"-conntrack", "4000"}},
		{"the load balancer's ports", 64512, []string{"-balancer-addresses", "1", "-conntrack", "0", "-messages", "0.1"}},
	} {
		scarcest := with(t, c.flags...).resources(50)[0]
		if scarcest.name != c.bound {
			t.Errorf("%v: the scarcest is %s; want %s", c.flags, scarcest.name, c.bound)
		}
		near(t, c.bound, scarcest.most, c.most)
	}
	if n := with(t).needs(10_000); n.bound != "-spare" || n.traefiks != 1+1 {
		t.Errorf("%d Traefiks because of %s", n.traefiks, n.bound)
	}
	if n := with(t, "-spare", "0").needs(10_000); n.bound != "CPU in peace" || n.traefiks != 1 {
		t.Errorf("%d Traefiks because of %s", n.traefiks, n.bound)
	}
	n := with(t, "-per-traefik", "1000").needs(10_000)
	if n.bound != "-per-traefik" || n.traefiks != 12+1 || n.each != 1000 {
		t.Errorf("%d Traefiks with %g sessions because of %s", n.traefiks, n.each, n.bound)
	}
}

// A Traefik reads its routes again once a minute, 200 a second at most, and so
// many are no more than it has room for.
func TestRedisInPeace(t *testing.T) {
	for routes, want := range map[float64]float64{0: 0, 60: 1, 12_000: 200, 100_000: 200} {
		near(t, "read again", recheck(routes), want)
	}
	m := with(t, "-per-node", "10", "-max-entries", "500", "-changes", "0")
	n := m.needs(10_000)
	logins := 10_000.0 / 7200
	near(t, "with half of the routes in memory", n.peace, float64(n.traefiks)*(500.0/60+2)+logins/2)
}

// What the model takes from the plugin's code is there.
func TestThePluginsOwnNumbers(t *testing.T) {
	for file, texts := range map[string][]string{
		"table.go": {"recheckAfter  = time.Minute", "recheckBatch  = 200", "tickEvery = time.Second", "recheckVisits = 500"},
		"link.go":  {"pingEvery = time.Second"},
	} {
		code, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if !strings.Contains(string(code), text) {
				t.Errorf("%s has no %q any more: look at the constants in needs.go", file, text)
			}
		}
	}
}

// More of what costs needs no fewer Traefiks, and more of what helps no more.
func TestNeedsGrowWithWhatTheyStandOn(t *testing.T) {
	const players = 300_000
	base := with(t, "-session", "1h").needs(players).traefiks
	for _, c := range []struct {
		flags []string
		sign  int
	}{
		{[]string{"-session", "1h", "-messages", "20"}, 1},
		{[]string{"-session", "1h", "-requests", "1"}, 1},
		{[]string{"-session", "10s"}, 1},
		{[]string{"-session", "1h", "-spread", "2"}, 1},
		{[]string{"-session", "1h", "-busy", "0.25"}, 1},
		{[]string{"-session", "1h", "-spare", "3"}, 1},
		{[]string{"-session", "1h", "-memory", "0.5"}, 1},
		{[]string{"-session", "1h", "-cores", "8"}, -1},
		{[]string{"-session", "1h", "-messages", "1"}, -1},
	} {
		got := with(t, c.flags...).needs(players).traefiks
		if c.sign > 0 && got <= base || c.sign < 0 && got >= base {
			t.Errorf("%v: %d Traefiks; without it %d", c.flags, got, base)
		}
	}
	lavish, frugal := with(t, "-memory", "0.5").needs(players), with(t, "-memory", "0.5", "-gogc", "25").needs(players)
	if frugal.traefiks >= lavish.traefiks {
		t.Errorf("with a smaller GOGC %d Traefiks; without %d", frugal.traefiks, lavish.traefiks)
	}
}

// The fullest comes first, and beyond all that there is it says so.
func TestWhatGivesOutFirst(t *testing.T) {
	m := with(t, "-redis", "100")
	loads := m.loads(m.needs(1_000_000))
	if loads[0].name != "Redis' commands" || loads[0].share < 1 {
		t.Errorf("first comes %+v", loads[0])
	}
	for i := 1; i < len(loads); i++ {
		if loads[i].share > loads[i-1].share {
			t.Errorf("%+v comes after %+v", loads[i], loads[i-1])
		}
	}
	m = with(t, "-per-node", "1000000", "-descriptors", "1048576", "-conntrack", "0", "-messages", "0.1")
	if first := m.loads(m.needs(100_000))[0]; first.name != "a Traefik's ports to one node" || first.share < 0.9 || first.share > 1 {
		t.Errorf("with all players on one node first comes %+v", first)
	}
}

// Right after the handshakes, or while it talks, a session may have more than what Go lets
// the heap grow to.
func TestASessionAtItsLargest(t *testing.T) {
	m := with(t, "-gogc", "10")
	near(t, "memory of a player", m.memoryPerPlayer(), 1024*(30+8))
	m.measured.talking = 35
	near(t, "memory of a player who talks much", m.memoryPerPlayer(), 1024*(35+8))
}

// Too little is said to be too little.
func TestNotEnoughForOneSession(t *testing.T) {
	err := with(t, "-memory", "0.1").check([]int{100})
	if err == nil || !strings.HasPrefix(err.Error(), "memory: ") {
		t.Errorf("got %v", err)
	}
	if err := with(t).check([]int{100}); err != nil {
		t.Error(err)
	}
}

// The storm that is played has the figures in it.
func TestTheStormIsTheModels(t *testing.T) {
	s := with(t, "-cores", "3").stormOf(1000, 5, retry{}, time.Second)
	if s.handshake != 400*time.Microsecond || s.lookup != time.Millisecond || s.cores != 3 || s.accept != 50*time.Microsecond || s.routes != 5 {
		t.Errorf("got %+v", s)
	}
	if want := 101055 * time.Nanosecond; s.talk != want {
		t.Errorf("a player who is back takes %s a second, want %s", s.talk, want)
	}
	if s := with(t).stormOf(10, 5000, retry{}, 0); s.routes != 10 {
		t.Errorf("10 players have %d routes", s.routes)
	}
}

// What a Traefik cannot carry in peace has no storm that ends.
func TestOnlyStormsThatATraefikCanCarryArePlayed(t *testing.T) {
	m, o := with(t), newOrder()
	o.players, o.storms = counts{10_000}, counts{39_000, 40_000} // 4 cores are 39,580 times 101.06 us
	played, left := m.played(o)
	if !slices.Equal(played, []int{39_000}) || !slices.Equal(left, []int{40_000}) {
		t.Errorf("played %v, left %v", played, left)
	}
}

// On a processor that takes twice as long, all that is CPU takes twice as long, and nothing else.
func TestASlowerProcessor(t *testing.T) {
	m := with(t)
	slower := m.slower(2)
	near(t, "CPU", slower.cpuOf(1000, 50), 2*m.cpuOf(1000, 50))
	near(t, "memory", slower.memoryOf(1000), m.memoryOf(1000))
	if m.assumed.lookupCPU != 300*time.Microsecond || m.measured.message != 20 {
		t.Error("the model itself has changed")
	}
}
