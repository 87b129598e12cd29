package dynamicforward

import (
	"runtime/debug"
	"sync/atomic"
	"time"
)

// What handshakes throw away is several times what their sessions keep, and Go holds on to
// it: after a storm of log-ins Traefik stays as large as it was during it, about twice what
// lives, for as long as the sessions do. So when a storm is over the memory goes back to the
// operating system, once, by a garbage collection such as the runtime makes every two minutes
// anyway. So does that of many sessions that have talked, when they have fallen silent and
// given their larger buffers back.
const (
	// stormSize is how many sessions have to have begun, or directions of sessions to have
	// fallen silent, for it to be worth it.
	stormSize = 1000
	// calmAfter is how often it is looked at whether a storm is over, and
	// calmCount how many may begin, or fall silent, in that time when it is.
	calmAfter = 10 * time.Second
	calmCount = 100
)

// leftovers counts what has left something since there was little of it.
type leftovers struct {
	every time.Duration // calmAfter
	free  func()        // debug.FreeOSMemory
	count atomic.Int64
}

// This Traefik's: of sessions that have begun, but for those that others have left their
// directions to (see pumps); and of directions that have given a middle buffer back in a lull.
var (
	stormed  = &leftovers{every: calmAfter, free: debug.FreeOSMemory}
	silenced = &leftovers{every: calmAfter, free: debug.FreeOSMemory}
)

// countLeftovers counts one more.
func countLeftovers(l *leftovers) {
	if l.count.Add(1) == 1 {
		l.lookLater(0)
	}
}

// lookLater looks after a while whether the storm is over that had come to so many before.
func (l *leftovers) lookLater(before int64) {
	look := func() { l.look(before) }
	time.AfterFunc(l.every, look)
}

// look gives the memory back if a storm is over, and goes on looking if one is not.
func (l *leftovers) look(before int64) {
	defer recovered("giving memory back")
	now := l.count.Load()
	if now-before > calmCount {
		l.lookLater(now)
		return
	}
	if now >= stormSize {
		l.free()
	}
	if l.count.Add(-now) > 0 { // more have come meanwhile
		l.lookLater(0)
	}
}
