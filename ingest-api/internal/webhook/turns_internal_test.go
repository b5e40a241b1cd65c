package webhook

import (
	"fmt"
	"testing"
	"time"
)

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func TestTurns(t *testing.T) {
	c := &clock{at: time.Unix(1e9, 0)}
	turns := newTurns(c.now)
	const slow, other = "http://slow", "http://other"
	for n := range perReceiver {
		if wait := turns.hold(place{0, int64(n)}, fmt.Sprint(n), slow); wait != 0 {
			t.Fatalf("post %d waits %s", n, wait)
		}
	}
	if turns.hold(place{0, 100}, "100", slow) == 0 {
		t.Error("one post more than a receiver gets")
	}
	if turns.hold(place{0, 0}, "0", slow) == 0 {
		t.Error("a record that came again is posted while it is being posted")
	}
	if turns.hold(place{1, 0}, "a", other) != 0 {
		t.Error("another receiver waits for the slow one")
	}
	if turns.hold(place{1, 1}, "a", other) == 0 {
		t.Error("one event is posted twice at once")
	}
	turns.leave(place{0, 0}, "0", slow, time.Minute)
	if turns.hold(place{0, 100}, "100", slow) != 0 {
		t.Error("a place was given back and is not taken")
	}
	turns.leave(place{0, 1}, "1", slow, 0)
	if wait := turns.hold(place{0, 0}, "0", slow); wait != time.Minute {
		t.Errorf("the next try comes after %s", wait)
	}
	c.at = c.at.Add(time.Minute)
	if wait := turns.hold(place{0, 0}, "0", slow); wait != 0 {
		t.Errorf("the time has come and it waits %s", wait)
	}
	for p := range turns.records {
		turns.leave(p, fmt.Sprint(p.offset), slow, 0)
	}
}

func TestAFailingReceiverIsAskedNowAndThen(t *testing.T) {
	c := &clock{at: time.Unix(1e9, 0)}
	turns := newTurns(c.now)
	const host = "http://down"
	for range failing {
		if !turns.asks(host) {
			t.Fatal("not asked before it has failed often enough")
		}
		turns.answered(host, false, 0)
	}
	if turns.asks(host) {
		t.Error("asked at once after its last failure")
	}
	c.at = c.at.Add(askEvery)
	if !turns.asks(host) || turns.asks(host) {
		t.Error("not asked once")
	}
	turns.answered(host, false, time.Minute) // it wants to be left alone for longer
	c.at = c.at.Add(askEvery)
	if turns.asks(host) {
		t.Error("asked although it wanted to be left alone")
	}
	c.at = c.at.Add(time.Minute)
	if !turns.asks(host) {
		t.Error("not asked any more")
	}
	turns.answered(host, true, 0)
	for range failing {
		if !turns.asks(host) {
			t.Error("it is well again and not asked")
		}
	}
}

func TestWhatNobodyComesBackForIsForgotten(t *testing.T) {
	c := &clock{at: time.Unix(1e9, 0)}
	turns := newTurns(c.now)
	for n := range 3 * maxInHand {
		p, host := place{0, int64(n)}, fmt.Sprint("http://", n)
		turns.hold(p, fmt.Sprint(n), host)
		turns.answered(host, false, 0)
		turns.leave(p, fmt.Sprint(n), host, time.Second)
	}
	c.at = c.at.Add(maxPause + time.Hour)
	for n := range 2 * maxInHand { // a sweep comes after as many more as there are
		p, host := place{1, int64(n)}, fmt.Sprint("https://", n)
		turns.hold(p, fmt.Sprint(n), host)
		turns.leave(p, fmt.Sprint(n), host, 0)
		if n%2 == 0 {
			turns.hold(place{2, int64(n)}, fmt.Sprint(n), host)
			turns.leave(place{2, int64(n)}, fmt.Sprint(n), host, time.Second)
		}
	}
	if len(turns.records) > 2*maxInHand || len(turns.receivers) > 2*maxInHand || len(turns.events) > 0 {
		t.Errorf("%d records, %d receivers, %d events are kept", len(turns.records), len(turns.receivers), len(turns.events))
	}
}

func TestJudge(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "x": 0, "999999": maxWait, "99999999999999999999": 0,
		"Sun, 22 Nov 2026 12:00:30 GMT": 30 * time.Second, "Sun, 22 Nov 2026 11:00:30 GMT": 0,
	} {
		if a, err := judge(429, header, now); err == nil || a.Wait != want {
			t.Errorf("%q: %s, %v", header, a.Wait, err)
		}
	}
}
