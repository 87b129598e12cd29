package dynamicforward

import (
	"context"
	"sync"
	"time"
)

// shared holds what outlives a reload: one of a kind for each distinct setting,
// used by every router that has it.
type shared struct {
	linger time.Duration // how long a thing outlives its last user
	mu     sync.Mutex
	things map[string]*sharedThing
}

// sharedThing is what is shared, and how many use it.
type sharedThing struct {
	thing closer
	users int
	timer *time.Timer // runs while there is no user
}

// closer is what can be shared: close ends its goroutines and connections.
type closer interface {
	close()
}

// everything is all that the middlewares of one Traefik share: package variables
// survive reloads, since Traefik makes one interpreter for each plugin. Between
// the old handlers and the new ones of a reload there is a moment without any,
// and the old ones may still be at work.
var everything = &shared{linger: time.Minute, things: map[string]*sharedThing{}}

// join returns the thing of these settings and makes ctx one of its users. open
// makes it if there is none; it is called with the lock held and must not block.
func (s *shared) join(ctx context.Context, settings string, open func() closer) closer {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.things[settings]
	if t == nil {
		t = &sharedThing{thing: open()}
		s.things[settings] = t
	}
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	t.users++
	leave := func() { s.leave(settings, t) }
	context.AfterFunc(ctx, leave)
	return t.thing
}

// leave takes one user away and, with the last one, starts the timer.
func (s *shared) leave(settings string, t *sharedThing) {
	defer recovered("leaving what is shared")
	s.mu.Lock()
	defer s.mu.Unlock()
	t.users--
	if t.users > 0 {
		return
	}
	end := func() { s.end(settings, t) }
	t.timer = time.AfterFunc(s.linger, end)
}

// end closes a thing that nobody has used for a while.
func (s *shared) end(settings string, t *sharedThing) {
	defer recovered("closing what is shared")
	s.mu.Lock()
	if t.users > 0 || s.things[settings] != t {
		s.mu.Unlock()
		return
	}
	delete(s.things, settings)
	s.mu.Unlock()
	t.thing.close()
}

// began is what moments count from.
var began = time.Now()

// moment makes one number of a time: nanoseconds since began. Unlike Unix time they do not
// jump when somebody sets the clock.
func moment(at time.Time) int64 { return int64(at.Sub(began)) }

// atMoment makes a time of a moment.
func atMoment(moment int64) time.Time { return began.Add(time.Duration(moment)) }

// forGood runs what all sessions need and nothing else would begin again: once more each
// time that a panic has ended it.
func forGood(doing string, run func()) {
	for {
		once(doing, run)
	}
}

// once runs it until it ends.
func once(doing string, run func()) {
	defer recovered(doing)
	run()
}

// recovered is deferred by everything that runs in a goroutine of the plugin: a
// panic that left one would end Traefik.
func recovered(doing string) {
	if r := recover(); r != nil {
		logFailure(errPanic, "panic while %s: %v", doing, r)
	}
}
