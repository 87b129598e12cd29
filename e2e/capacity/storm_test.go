package main

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// calm is a storm in which nothing but the cores holds anybody up, and everybody
// comes at once.
func calm(players int) storm {
	return storm{players: players, routes: 1, cores: 1, handshake: time.Millisecond, over: time.Hour,
		retry: retry{least: 100 * time.Millisecond, most: 100 * time.Millisecond}, seed: 1}
}

// wild is a storm with everything in it, at random.
func wild(random *rand.Rand) storm {
	upTo := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d))) }
	return storm{
		players: 1 + random.IntN(3000), routes: 1 + random.IntN(100),
		down: upTo(3 * time.Second), backlog: random.IntN(200), accept: upTo(300 * time.Microsecond), open: 3000 + random.IntN(1000),
		cores: 1 + random.IntN(8), handshake: 1 + upTo(2*time.Millisecond), lookup: upTo(20 * time.Millisecond), lookupCPU: upTo(time.Millisecond), talk: upTo(2 * time.Millisecond),
		scatter: upTo(300 * time.Millisecond), timeout: upTo(4 * time.Second), over: 2 * time.Minute, seed: random.Uint64(),
		retry: retry{first: upTo(5 * time.Second), least: 50*time.Millisecond + upTo(time.Second), most: time.Second + upTo(10*time.Second), jitter: random.IntN(2) == 0},
	}
}

// Every player is back exactly once, and every attempt and handshake is
// accounted for, whatever the storm.
func TestEverybodyIsBackExactlyOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(42, 0))
	all, some, wasted, dropped := 0, 0, 0, 0
	for range 200 {
		s := wild(random)
		r := s.brew()
		r.play()
		back := 0
		for _, c := range r.clients {
			if c.back {
				back++
			}
			if c.back && c.waiting {
				t.Errorf("%+v: a client that is back waits", s)
			}
		}
		if back != r.back || len(r.times) != r.back || !slices.IsSorted(r.times) {
			t.Errorf("%+v: %d clients are back, %d were counted, at %d times", s, back, r.back, len(r.times))
		}
		if ended := r.back + r.refused + r.timedOut + r.unsettled; r.attempts != ended {
			t.Errorf("%+v: %d attempts, and %d that ended in a way", s, r.attempts, ended)
		}
		if r.made != r.back+r.wasted {
			t.Errorf("%+v: %d handshakes; %d for players, %d for nobody", s, r.made, r.back, r.wasted)
		}
		if s.backlog > 0 && r.peakBacklog > s.backlog {
			t.Errorf("%+v: %d in the backlog", s, r.peakBacklog)
		}
		if r.peakOpen > s.open {
			t.Errorf("%+v: %d open", s, r.peakOpen)
		}
		if r.lookups > min(s.players, s.routes) {
			t.Errorf("%+v: %d look-ups", s, r.lookups)
		}
		if r.back == s.players && r.left == 0 {
			all++
		} else {
			some++
			if r.now < s.over-time.Minute {
				t.Errorf("%+v: it ended after %s with %d players back", s, r.now, r.back)
			}
		}
		wasted += r.wasted
		dropped += r.dropped
	}
	t.Logf("%d storms calmed down, %d did not; %d handshakes for nobody, %d SYNs dropped", all, some, wasted, dropped)
	if all < 100 || wasted == 0 || dropped == 0 {
		t.Error("these storms try too little")
	}
}

// Players who come at random to one core are an M/D/1 queue, whose mean wait is
// known (Pollaczek and Khinchine): load x service / (2 x (1 - load)).
func TestOneCoreIsTheQueueOfTheBooks(t *testing.T) {
	for _, load := range []float64{0.2, 0.5, 0.8} {
		s := calm(200_000)
		s.retry.first, s.retry.jitter = time.Duration(float64(s.players)*float64(s.handshake)/load), true
		r := s.simulate()
		want := load * s.handshake.Seconds() / (2 * (1 - load))
		got := r.waited.Seconds() / float64(s.players)
		t.Logf("load %.1f: a mean wait of %.1f µs; the formula says %.1f µs", load, got*1e6, want*1e6)
		if math.Abs(got/want-1) > 0.03 {
			t.Errorf("load %.1f: a mean wait of %g s; want %g s", load, got, want)
		}
	}
}

// All at once on some cores: the last is back when the cores have gone through
// all of them.
func TestAllAtOnce(t *testing.T) {
	for _, cores := range []int{1, 3, 8} {
		s := calm(1000)
		s.cores = cores
		r := s.simulate()
		rounds := (s.players + cores - 1) / cores
		if last := r.times[s.players-1]; last != time.Duration(rounds)*s.handshake {
			t.Errorf("%d cores: the last is back after %s; want %d handshakes", cores, last, rounds)
		}
		if r.cpu != time.Duration(s.players)*s.handshake {
			t.Errorf("%d cores: %s of CPU", cores, r.cpu)
		}
		if half, ok := r.reach(0.5, s.players); !ok || half != time.Duration((500+cores-1)/cores)*s.handshake {
			t.Errorf("%d cores: half are back after %s", cores, half)
		}
	}
}

// A SYN that finds the backlog full comes again after one second, and then after
// two more.
func TestFullBacklog(t *testing.T) {
	s := calm(3)
	s.backlog, s.accept = 1, 1500*time.Millisecond
	r := s.simulate()
	// The first is accepted until 1.5 s. The others come again at 1 s, in vain, and
	// at 3 s, when one finds a place until 4.5 s, and the last at 7 s.
	want := []time.Duration{1501 * time.Millisecond, 4501 * time.Millisecond, 8501 * time.Millisecond}
	if !reflect.DeepEqual(r.times, want) || r.dropped != 5 {
		t.Errorf("back at %v with %d SYNs dropped; want %v and 5", r.times, r.dropped, want)
	}
}

// One look-up for each route, and all who want it wait for its answer.
func TestOneLookupForARoute(t *testing.T) {
	s := calm(1000)
	s.routes, s.lookup, s.lookupCPU = 10, 5*time.Second, time.Millisecond
	r := s.simulate()
	if r.lookups != 10 || r.peakLookups != 10 {
		t.Errorf("%d look-ups, %d in a second; want 10", r.lookups, r.peakLookups)
	}
	if first := r.times[0]; first != s.lookup+s.lookupCPU {
		t.Errorf("the first is back after %s", first)
	}
	if want := 1010 * time.Millisecond; r.cpu != want {
		t.Errorf("%s of CPU; want %s", r.cpu, want)
	}
	if last := r.times[999]; last > 6*time.Second {
		t.Errorf("the last is back after %s: who waits for Redis keeps a core", last)
	}
}

// The look-ups of a second are counted by the second.
func TestLookupsInASecond(t *testing.T) {
	s := calm(30)
	s.routes, s.handshake = 30, 100*time.Millisecond
	if r := s.simulate(); r.lookups != 30 || r.peakLookups != 10 {
		t.Errorf("%d look-ups, %d in a second; want 30 and 10", r.lookups, r.peakLookups)
	}
}

// Where descriptors end, so do sessions.
func TestNoMoreThanDescriptors(t *testing.T) {
	s := calm(100)
	s.open, s.over = 60, time.Minute
	if r := s.simulate(); r.back != 60 || r.unsettled != 40 {
		t.Errorf("%d are back and %d wait", r.back, r.unsettled)
	}
}

// While Traefik is down connections are refused, and clients come again.
func TestRefusedWhileDown(t *testing.T) {
	s := calm(1)
	s.down = time.Second
	r := s.simulate()
	if r.refused != 10 || r.times[0] != time.Second+s.handshake {
		t.Errorf("refused %d times, back after %s", r.refused, r.times[0])
	}
}

// A time-out longer than the queue wastes nothing. One that is shorter makes
// Traefik work for nobody, and the storm lasts longer; with clients that come
// back at once it does not end.
func TestAStormFeedsItself(t *testing.T) {
	s := calm(10_000) // ten seconds of work
	s.retry.least, s.retry.most = 100*time.Millisecond, 100*time.Millisecond
	s.over = 2 * time.Minute
	s.timeout = 11 * time.Second
	patient := s.simulate()
	if patient.wasted != 0 || patient.timedOut != 0 || patient.back != s.players {
		t.Errorf("a time-out longer than the queue: %d timed out, %d handshakes for nobody, %d back", patient.timedOut, patient.wasted, patient.back)
	}
	s.timeout = time.Second
	hasty := s.simulate()
	if hasty.back > s.players/2 || hasty.wasted < 10*hasty.back {
		t.Errorf("a time-out shorter than the queue: %d back, %d handshakes for nobody", hasty.back, hasty.wasted)
	}
	s.retry.first, s.retry.least, s.retry.most, s.retry.jitter = 20*time.Second, time.Second, 30*time.Second, true
	if jittered := s.simulate(); jittered.back != s.players || jittered.wasted > s.players/100 {
		t.Errorf("the same time-out with clients that come one after the other: %d back, %d handshakes for nobody", jittered.back, jittered.wasted)
	}
}

// More cores never make it later, and more players never earlier, for the same
// clients.
func TestMoreIsMore(t *testing.T) {
	base := calm(5000)
	base.cores, base.routes, base.lookup, base.lookupCPU = 2, 50, 3*time.Millisecond, 200*time.Microsecond
	base.retry.first, base.retry.jitter = time.Second, true
	ends := func(change func(s *storm, step int)) (times []time.Duration) {
		for step := 1; step <= 6; step++ {
			s := base
			change(&s, step)
			at, ok := s.simulate().reach(0.99, s.players)
			if !ok {
				t.Fatalf("step %d: not everybody is back", step)
			}
			times = append(times, at)
		}
		return times
	}
	grow := map[string]func(s *storm, step int){
		"players":   func(s *storm, step int) { s.players = 2000 * step },
		"handshake": func(s *storm, step int) { s.handshake = time.Duration(step) * time.Millisecond },
		"down":      func(s *storm, step int) { s.down = time.Duration(step) * time.Second },
		"lookup":    func(s *storm, step int) { s.lookup = time.Duration(step) * time.Second },
		"few cores": func(s *storm, step int) { s.cores = 7 - step },
	}
	for what, change := range grow {
		times := ends(change)
		if !slices.IsSorted(times) || times[0] == times[len(times)-1] {
			t.Errorf("more of %s: 99 %% are back after %v", what, times)
		}
	}
}

// The same seed is the same storm; another one is another.
func TestSeed(t *testing.T) {
	s := wild(rand.New(rand.NewPCG(7, 0)))
	s.retry.jitter = true
	one, two := s.simulate(), s.simulate()
	if !reflect.DeepEqual(one, two) {
		t.Error("the same seed made two storms")
	}
	s.seed++
	if reflect.DeepEqual(one, s.simulate()) {
		t.Error("another seed made the same storm")
	}
}

// A client waits as it was told to.
func TestRetry(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 0))
	r := retry{first: 10 * time.Second, least: time.Second, most: 5 * time.Second}
	for n, want := range []time.Duration{10 * time.Second, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if got := r.wait(n, random); got != want {
			t.Errorf("attempt %d comes after %s; want %s", n, got, want)
		}
		r.jitter = true
		for range 100 {
			if got := r.wait(n, random); got < 0 || got > want {
				t.Errorf("attempt %d comes after %s; want up to %s", n, got, want)
			}
		}
		r.jitter = false
	}
	if got := r.wait(1_000_000, random); got != r.most {
		t.Errorf("attempt 1,000,000 comes after %s", got)
	}
}

// The course begins with nobody and ends with everybody.
func TestCourse(t *testing.T) {
	s := calm(1000)
	r := s.simulate()
	last := r.course[len(r.course)-1]
	if r.course[0].back != 0 || last.back != s.players || last.queue != 0 {
		t.Errorf("the course goes from %+v to %+v", r.course[0], last)
	}
	for i, p := range r.course {
		if p.at != time.Duration(i)*courseStep {
			t.Fatalf("point %d is at %s", i, p.at)
		}
		if p.back+p.queue != s.players && i > 0 {
			t.Errorf("at %s %d are back and %d in hand", p.at, p.back, p.queue)
		}
	}
}

// Who is back takes a share of the core from those who are not: after half of a core has
// gone to them, the last handshake takes twice as long.
func TestPlayersWhoAreBackTakeTheirShare(t *testing.T) {
	s := calm(10_000)
	s.talk = 50 * time.Microsecond
	r := s.simulate()
	// Of each handshake 1 / (1 - back / 20,000) ms, summed up.
	want := 20_000 * time.Millisecond.Seconds() * math.Ln2
	if got := r.times[s.players-1].Seconds(); math.Abs(got/want-1) > 0.001 {
		t.Errorf("the last is back after %g s, want %g", got, want)
	}
	if r.cpu != time.Duration(s.players)*s.handshake {
		t.Errorf("%s of CPU for handshakes", r.cpu)
	}
}

// What attempts arrive late by does not add up: a client that comes every tenth of a
// second is refused thirty times in three.
func TestClientsKeepTheirOwnTime(t *testing.T) {
	s := calm(1000)
	s.down, s.scatter = 3*time.Second, 200*time.Millisecond
	if each := float64(s.simulate().refused) / float64(s.players); each < 29 || each > 30 {
		t.Errorf("refused %g times", each)
	}
	s.retry = retry{first: 5 * time.Second, least: 5 * time.Second, most: 5 * time.Second}
	s.down, s.over = 30*time.Second, time.Hour
	r := s.simulate()
	if first, last := r.times[0], r.times[s.players-1]; first < s.down || last > s.down+s.scatter+time.Second+time.Millisecond {
		t.Errorf("in step the first is back after %s, the last after %s", first, last)
	}
}
