package webhook

import (
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"leafcutter/pkg/stage"
)

// Bounds of what one receiver, a host and port, may take from the others.
const (
	perReceiver = 8                // posts at once
	busyPause   = time.Second      // of an event whose receiver has as many
	failing     = 5                // failures in a row after which a receiver is only asked now and then
	askEvery    = 10 * time.Second // a receiver that is failing
)

// turns say when which event may be posted. Stage asks them by Courier.Hold before it spends a worker on a record.
type turns struct {
	now func() time.Time

	mu        sync.Mutex
	records   map[place]*turn
	events    map[string]bool // being posted: two records of one event wait for each other
	receivers map[string]*receiver
	sweepAt   int // records or receivers that are kept before those are looked for that can be forgotten
}

// place is a record's, within the one topic that there is.
type place struct {
	partition int32
	offset    int64
}

func placeOf(in stage.In) place { return place{in.Partition, in.Offset} }

type turn struct {
	at   time.Time // not before
	open bool      // it has a place at its receiver
}

type receiver struct {
	busy   int       // posts at once
	failed int       // in a row
	ask    time.Time // while it is failing: not before
}

func newTurns(now func() time.Time) *turns {
	return &turns{now: now, records: map[place]*turn{}, events: map[string]bool{}, receivers: map[string]*receiver{}, sweepAt: 2 * maxInHand}
}

// receiverOf is the host and port of a URL: what is down is down as a whole.
func receiverOf(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Scheme + "://" + u.Host)
}

// hold says how long a record has to wait. 0 means that a place is taken for it, which leave gives back.
func (t *turns) hold(p place, event, host string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine := t.records[p]
	if mine == nil {
		t.forget()
		mine = &turn{}
		t.records[p] = mine
	}
	if mine.open { // the record came again while it is being posted: its partition went away and came back
		return busyPause/2 + rand.N(busyPause)
	}
	if wait := mine.at.Sub(t.now()); wait > 0 {
		return wait
	}
	r := t.receiver(host)
	if t.events[event] || r.busy >= perReceiver {
		return busyPause/2 + rand.N(busyPause)
	}
	mine.open, t.events[event] = true, true
	r.busy++
	return 0
}

// leave gives back a record's place. Its next turn comes after again, where that is above zero.
func (t *turns) leave(p place, event, host string, again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine := t.records[p]
	if mine == nil || !mine.open {
		return
	}
	delete(t.events, event)
	t.receiver(host).busy--
	delete(t.records, p)
	if again > 0 {
		t.records[p] = &turn{at: t.now().Add(again)}
	}
	if r := t.receivers[host]; r.busy == 0 && r.failed == 0 {
		delete(t.receivers, host)
	}
}

func (t *turns) receiver(host string) *receiver {
	r := t.receivers[host]
	if r == nil {
		r = &receiver{}
		t.receivers[host] = r
	}
	return r
}

// asks reports whether a receiver is to be asked. One that is failing is asked now and then, so that its events neither
// take the workers of others nor wait for each other's time-outs.
func (t *turns) asks(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.receiver(host)
	if r.failed < failing {
		return true
	}
	if now := t.now(); !now.Before(r.ask) {
		r.ask = now.Add(askEvery)
		return true
	}
	return false
}

// answered notes whether a receiver is there. One that asked to wait is asked by nobody meanwhile, once it is failing.
func (t *turns) answered(host string, there bool, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.receiver(host)
	if there {
		r.failed = 0
		return
	}
	r.failed++
	r.ask = t.now().Add(max(askEvery, wait))
}

// forget drops what nobody will come back for: records whose partition went to another instance, and receivers that were
// never well again. There is nothing to drop before there is twice what the stage may have put off, which is more than it
// can have in hand.
func (t *turns) forget() {
	if len(t.records) < t.sweepAt && len(t.receivers) < t.sweepAt {
		return
	}
	long := t.now().Add(-maxPause)
	for p, one := range t.records {
		if !one.open && one.at.Before(long) {
			delete(t.records, p)
		}
	}
	for host, r := range t.receivers {
		if r.busy == 0 && r.ask.Before(long) {
			delete(t.receivers, host)
		}
	}
	t.sweepAt = max(2*maxInHand, 2*len(t.records), 2*len(t.receivers))
}
