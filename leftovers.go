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
	// stormSize is how many sessions have to have begun for it to be worth it, and
	// silenceSize how many directions of sessions to have given a middle buffer back.
	stormSize   = 1000
	silenceSize = 5000
	// calmAfter is how often it is looked at whether a storm is over, and calmCount how many
	// sessions may begin in that time when it is, or directions fall silent.
	calmAfter = 10 * time.Second
	calmCount = 100
	// freeAtMost is how long after one such collection the next one is due at the earliest.
	freeAtMost = 2 * time.Minute
)

// leftovers counts what leaves something in memory, from the first after a calm on.
type leftovers struct {
	size    int64         // how many it takes for it to be worth it
	every   time.Duration // calmAfter
	atMost  time.Duration // freeAtMost
	free    func()        // debug.FreeOSMemory
	freed   time.Time     // when it was last called
	count   atomic.Int64
	counted chan struct{} // the first has been; has room for one
}

func newLeftovers(size int64) *leftovers {
	return &leftovers{size: size, every: calmAfter, atMost: freeAtMost, free: debug.FreeOSMemory, counted: make(chan struct{}, 1)}
}

// This Traefik's: of sessions that have begun, but for those that others have left their
// directions to (see pumps); and of directions that have given a middle buffer back in a lull.
var (
	stormed  = newLeftovers(stormSize)
	silenced = newLeftovers(silenceSize)
)

// countLeftovers counts one more.
func countLeftovers(l *leftovers) {
	if l.count.Add(1) == 1 {
		nudge(l.counted)
	}
}

func awaitStorms()   { giveBack(stormed) }
func awaitSilences() { giveBack(silenced) }

// giveBack gives the memory back each time that a storm is over. Yaegi: it is a loop for the
// reason that sendWatchmen gives.
func giveBack(l *leftovers) {
	l.count.Store(0)
	for {
		<-l.counted
		before := int64(0)
		for l.count.Load() > 0 {
			time.Sleep(l.every)
			before = l.look(before)
		}
	}
}

// look gives the memory back if a storm is over that had come to so many before, and begins
// to count anew. It returns how many have been counted since it last began to.
func (l *leftovers) look(before int64) int64 {
	now := l.count.Load()
	worthIt := now >= l.size
	if now-before > calmCount || worthIt && time.Since(l.freed) < l.atMost {
		return now
	}
	if worthIt {
		l.freed = time.Now()
		l.free()
	}
	l.count.Add(-now) // more may have come meanwhile
	return 0
}
