package dynamicforward

import (
	"sync/atomic"
	"testing"
	"time"
)

// testLeftovers returns leftovers that nobody looks at, and how often memory was
// given back.
func testLeftovers() (*leftovers, *atomic.Int64) {
	freed := &atomic.Int64{}
	return &leftovers{size: stormSize, free: func() { freed.Add(1) }, counted: make(chan struct{}, 1)}, freed
}

func TestMemoryIsGivenBackWhenAStormIsOver(t *testing.T) {
	l, freed := testLeftovers()
	l.count.Store(stormSize)
	before := l.look(0)
	if freed.Load() != 0 || before != stormSize {
		t.Errorf("given back %d times in the storm, %d counted before", freed.Load(), before)
	}
	l.count.Add(calmCount)
	before = l.look(before)
	if freed.Load() != 1 || l.count.Load() != 0 || before != 0 {
		t.Errorf("given back %d times, %d left, %d counted before, want 1 and 0", freed.Load(), l.count.Load(), before)
	}
}

func TestMemoryIsGivenBackSeldom(t *testing.T) {
	l, freed := testLeftovers()
	l.atMost = time.Hour
	for want := int64(1); want <= 2; want++ {
		l.count.Store(stormSize)
		before := l.look(stormSize)
		if freed.Load() != want || before != 0 {
			t.Errorf("given back %d times, %d counted before, want %d and 0", freed.Load(), before, want)
		}
		l.count.Store(stormSize)
		before = l.look(stormSize)
		if freed.Load() != want || before != stormSize || l.count.Load() != stormSize {
			t.Errorf("given back %d times, %d counted before, %d now, want %d, and all", freed.Load(), before, l.count.Load(), want)
		}
		l.freed = time.Now().Add(-2 * time.Hour)
	}
}

func TestAFewSessionsGiveNothingBack(t *testing.T) {
	l, freed := testLeftovers()
	l.count.Store(calmCount)
	l.look(0)
	if freed.Load() != 0 || l.count.Load() != 0 {
		t.Errorf("given back %d times, %d counted; want none, and to count anew", freed.Load(), l.count.Load())
	}
}

func TestSessionsAreLookedAtUntilTheStormIsOver(t *testing.T) {
	l, freed := testLeftovers()
	l.every = 10 * time.Millisecond
	go giveBack(l)
	for storm := int64(1); storm <= 2; storm++ {
		over := func() bool {
			if freed.Load() < storm && l.count.Load() < stormSize { // or those before came too slowly for one
				for i := 0; i < stormSize; i++ {
					countLeftovers(l)
				}
			}
			countLeftovers(l)
			return freed.Load() >= storm && l.count.Load() < stormSize
		}
		waitFor(t, "the end of the storm", over)
	}
}
