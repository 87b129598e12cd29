package dynamicforward

import (
	"context"
	"sync"
	"testing"
)

// Interpreted, this fails within a moment where choose is a select statement.
func TestThoseWhoChooseAtOnceGetTheirOwn(t *testing.T) {
	const choosers, words = 8, 500
	var all sync.WaitGroup
	for i := 0; i < choosers; i++ {
		all.Add(1)
		go chooseOwn(t, i, words, all.Done)
	}
	all.Wait()
}

// chooseOwn receives what was sent to nobody else, in order, until it is told to
// end.
func chooseOwn(t *testing.T, name, words int, done func()) {
	defer done()
	mine := make(chan *lookup)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for i := 0; i < words; i++ {
			mine <- &lookup{slot: name, hops: i}
		}
		cancel()
	}()
	for received := 0; ; received++ {
		which, came := choose(mine, ctx.Done())
		if which == 1 {
			if came != nil || received != words {
				t.Errorf("chooser %d: the end is %v after %d of %d words", name, came, received, words)
			}
			return
		}
		if l := came.(*lookup); l.slot != name || l.hops != received {
			t.Errorf("chooser %d: word %d is number %d of chooser %d", name, received, l.hops, l.slot)
		}
	}
}

func TestANudgeNeverWaits(t *testing.T) {
	channel := make(chan struct{}, 1)
	nudge(channel)
	nudge(channel)
	<-channel
	if n := len(channel); n != 0 {
		t.Errorf("%d more words are left", n)
	}
}
