package up

import (
	"slices"
	"testing"
	"time"
)

func TestChildThatNeverStaysUpIsSaidOnceAndThenNowAndThen(t *testing.T) {
	var e ends
	now := time.Unix(0, 0)
	var said []verdict
	for range 90 { // an end a second
		said = append(said, e.next(now, 0))
		now = now.Add(time.Second)
	}
	count := func(v verdict) (n int) {
		for _, s := range said {
			if s == v {
				n++
			}
		}
		return n
	}
	if said[0] != sayEnded || said[hopeless-1] != sayHopeless || count(sayEnded) != 1 || count(sayHopeless) != 3 {
		t.Errorf("%v", said)
	}
	if slices.Contains(said[1:hopeless-1], sayHopeless) {
		t.Errorf("given up too soon: %v", said)
	}
	// It comes up, and is killed later: that is news.
	if got := e.next(now, staysUp); got != sayEnded {
		t.Errorf("%v after it stayed up, want %v", got, sayEnded)
	}
}
