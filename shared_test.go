package dynamicforward

import (
	"context"
	"strings"
	"testing"
	"time"
)

// thing is something to share; closed says that it was closed.
type thing struct{ closed chan struct{} }

func (t *thing) close() { close(t.closed) }

func openThing() closer { return &thing{closed: make(chan struct{})} }

// A moment is not the clock's, which somebody may set.
func TestMomentsGoByTheMonotonicClock(t *testing.T) {
	now := time.Now()
	back := atMoment(moment(now))
	if !back.Equal(now) {
		t.Errorf("%s has become %s", now, back)
	}
	if !strings.Contains(back.String(), " m=") {
		t.Errorf("%s has no reading of the monotonic clock", back)
	}
}

// lingers is how long what is shared of a Redis outlives its last user in tests, instead of
// a minute: meanwhile it dials a port that may be somebody else's.
const lingers = 3 * time.Second

func init() { everything.linger = lingers }

// lingerFor has what is shared outlive its last user by so long.
func lingerFor(linger time.Duration) {
	everything.mu.Lock()
	everything.linger = linger
	everything.mu.Unlock()
}

func TestEqualSettingsShareOneThing(t *testing.T) {
	s := &shared{things: map[string]*sharedThing{}, linger: time.Hour}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first := s.join(ctx, "a", openThing).(*thing)
	if s.join(ctx, "a", openThing).(*thing) != first {
		t.Error("equal settings got a thing of their own")
	}
	if s.join(ctx, "b", openThing).(*thing) == first {
		t.Error("other settings got the same thing")
	}
}

func TestAThingOutlivesAReload(t *testing.T) {
	s := &shared{things: map[string]*sharedThing{}, linger: time.Hour}
	before, endBefore := context.WithCancel(context.Background())
	first := s.join(before, "a", openThing).(*thing)
	endBefore()
	waitFor(t, "the user to leave", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.things["a"].timer != nil
	})
	after, endAfter := context.WithCancel(context.Background())
	defer endAfter()
	if s.join(after, "a", openThing).(*thing) != first {
		t.Error("the new user got another thing")
	}
	select {
	case <-first.closed:
		t.Error("closed while in use")
	default:
	}
}

func TestAThingIsClosedWhenNobodyUsesItAnyMore(t *testing.T) {
	s := &shared{things: map[string]*sharedThing{}}
	one, endOne := context.WithCancel(context.Background())
	two, endTwo := context.WithCancel(context.Background())
	first := s.join(one, "a", openThing).(*thing)
	s.join(two, "a", openThing)
	endOne()
	endTwo()
	select {
	case <-first.closed:
	case <-time.After(fakeRedisPatience):
		t.Fatal("never closed")
	}
	three, endThree := context.WithCancel(context.Background())
	defer endThree()
	if s.join(three, "a", openThing).(*thing) == first {
		t.Error("a closed thing was handed out")
	}
}

func TestWhatAllSessionsNeedIsBegunAgainAfterAPanic(t *testing.T) {
	begun := make(chan bool)
	run := func() {
		begun <- true
		panic("again")
	}
	go forGood("being tested", run) // for good, with nobody to see it begin
	for i := 0; i < 3; i++ {
		if which, _ := choose(begun, time.After(fakeRedisPatience)); which == 1 {
			t.Fatalf("begun %d times", i)
		}
	}
}

// waitFor returns once the condition is true.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(fakeRedisPatience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
