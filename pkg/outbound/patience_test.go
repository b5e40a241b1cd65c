package outbound

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	now := time.Unix(0, 0)
	p := &patience{least: 20 * time.Second, most: time.Minute, now: func() time.Time { return now }}
	is := func(what string, want time.Duration) {
		t.Helper()
		if got := p.limit(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	is("at first", 20*time.Second)
	p.answered(9 * time.Second)
	is("after quick answers", 20*time.Second)
	p.answered(12 * time.Second)
	is("after a slow answer", 36*time.Second)
	p.answered(time.Second)
	is("after a quick one among slow ones", 36*time.Second)
	now = now.Add(slowFor)
	is("long after", 20*time.Second)

	for range 8 { // all that were in flight
		p.exhausted(20 * time.Second)
	}
	is("after a silence", 25*time.Second)
	p.exhausted(25 * time.Second)
	is("after a silence of the second try", time.Minute)
	now = now.Add(slowFor - time.Second)
	p.answered(50 * time.Second)
	now = now.Add(slowFor - time.Second)
	is("while it goes on being slow", time.Minute)
	now = now.Add(time.Second)
	is("once it is not", 20*time.Second)
}
