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
	return &leftovers{every: time.Hour, free: func() { freed.Add(1) }}, freed
}

func TestMemoryIsGivenBackWhenAStormIsOver(t *testing.T) {
	l, freed := testLeftovers()
	l.count.Store(stormSize)
	l.look(0)
	if freed.Load() != 0 {
		t.Error("given back in the storm")
	}
	l.count.Add(calmCount)
	l.look(stormSize)
	if freed.Load() != 1 || l.count.Load() != 0 {
		t.Errorf("given back %d times, %d left, want 1 and 0", freed.Load(), l.count.Load())
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
	freed := &atomic.Int64{}
	l := &leftovers{every: time.Millisecond, free: func() { freed.Add(1) }}
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
