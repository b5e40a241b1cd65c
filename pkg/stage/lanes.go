package stage

import (
	"context"
	"sync"
	"time"
)

// item is one record in flight: from its fetch until it is done, given up or dropped by a revoke.
type item struct {
	part     *partition
	in       In
	bulk     bool
	cost     int           // parts of work that it is
	charged  int           // what its handing out added to the credit of the plain lane
	judged   bool          // it was handed out before, and suspect says what it was found to be
	suspect  bool          // a process may have died of it: it is handled alone
	parked   bool          // it is put off, and counted as that
	last     bool          // none is to be waited for that comes after it
	refused  error         // why it is given up without being handled; nil for all that could be read
	settled  chan struct{} // closed once it is done, given up or put off; nil where nobody waits for that
	attempts int           // failed tries that count
	waits    int           // tries that a missing dependency spoilt; they count for the backoff only
}

func (i *item) size() int64 { return int64(len(i.in.Key) + len(i.in.Value)) }

// leave tells whoever waits that the record has left the handler's hands.
func (i *item) leave() {
	if i.settled != nil {
		close(i.settled)
		i.settled = nil
	}
}

// lane is one of the two queues: the plain topics' or their bulk twins'.
type lane struct {
	queue    []*item
	inFlight int   // records taken and not yet done, those in work and in backoff included
	bytes    int64 // of the same
	parked   int   // of them, put off until their turn comes
}

// lanes queue what was fetched and hand it out four parts plain to one part bulk, neither lane idling while the other
// is empty: a letter never waits for a book, and a book never starves. Parts are of work, not of records: were they
// counted by the record, a book's ranges of sixteen pages would take two thirds of a splitter from letters of two.
type lanes struct {
	limits Limits

	mu     sync.Mutex
	plain  lane
	bulk   lane
	credit int // parts of work that the plain lane may do before the bulk lane's turn
	closed bool
	handed time.Time     // when a batch was handed out last
	wake   chan struct{} // closed and replaced whenever something was queued or the lanes were closed
}

// plainShare is how many parts of work the plain lane gets for one of the bulk lane's, while both have some.
const plainShare = 4

func newLanes(l Limits) *lanes {
	return &lanes{limits: l, credit: plainShare, wake: make(chan struct{})}
}

func (l *lanes) of(bulk bool) *lane {
	if bulk {
		return &l.bulk
	}
	return &l.plain
}

// admit queues a record that was just fetched.
func (l *lanes) admit(i *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(i.bulk)
	n.inFlight++
	n.bytes += i.size()
	l.push(n, i)
}

// again queues a record that was admitted before, ahead of those that were not tried yet.
func (l *lanes) again(i *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(i.bulk)
	n.queue = append([]*item{i}, n.queue...)
	l.signal()
}

func (l *lanes) push(n *lane, i *item) {
	n.queue = append(n.queue, i)
	l.signal()
}

func (l *lanes) signal() {
	close(l.wake)
	l.wake = make(chan struct{})
}

// release ends a record's time in flight.
func (l *lanes) release(i *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(i.bulk)
	n.inFlight--
	n.bytes -= i.size()
	n.unpark(i)
}

// park counts a record as put off until unpark or release: it takes no other's place. It gives how many there are in its
// lane.
func (l *lanes) park(i *item) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(i.bulk)
	if !i.parked {
		i.parked = true
		n.parked++
	}
	return n.parked
}

// unpark takes that back.
func (l *lanes) unpark(i *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(i.bulk).unpark(i)
}

func (n *lane) unpark(i *item) {
	if i.parked {
		i.parked = false
		n.parked--
	}
}

// parkedTimes is how many records may be put off for each that may be in flight. A book's ranges that wait for their model's
// detectors would otherwise keep the books for other models from being fetched.
const parkedTimes = 16

// full reports whether a lane is beyond its bounds, and roomy whether it is well within them again.
func (l *lanes) full(bulk bool) (full, roomy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(bulk)
	most, moving := l.limits.MaxInFlight, n.inFlight-n.parked
	full = moving >= most || n.parked >= parkedTimes*most || n.bytes >= l.limits.MaxBytes
	roomy = moving <= most/2 && n.parked <= (parkedTimes-1)*most && n.bytes <= l.limits.MaxBytes/2
	return full, roomy
}

// depth is how many records of a lane are in flight.
func (l *lanes) depth(bulk bool) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.of(bulk).inFlight)
}

// close ends the handing out: next returns nothing from here on.
func (l *lanes) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.signal()
}

// next waits for records and hands out up to Limits.BatchSize of one lane, waiting for the batch to fill as long as
// closes says. It returns nil once the lanes are closed or ctx has ended.
func (l *lanes) next(ctx context.Context) []*item {
	var batch []*item
	var deadline *time.Timer
	var first, joined time.Time // when the batch's first and newest record came into it
	var last bool
	var from *lane
	var contested bool
	for {
		l.mu.Lock()
		if l.closed {
			// What this batch holds was not handled: it stays uncommitted and is read again.
			l.mu.Unlock()
			return nil
		}
		if from == nil {
			from, contested = l.choose()
		}
		if from != nil {
			n := min(l.limits.BatchSize-len(batch), len(from.queue))
			for _, i := range from.queue[:n] {
				i.charged = 0
				last = last || i.last
			}
			if contested {
				l.charge(from, from.queue[:n])
			}
			batch = append(batch, from.queue[:n]...)
			clear(from.queue[:n])
			from.queue = from.queue[n:]
			if len(from.queue) == 0 {
				from.queue = nil
			}
			if n > 0 {
				joined = time.Now()
			}
		}
		wake, closing := l.wake, time.Duration(0)
		if len(batch) > 0 {
			if first.IsZero() {
				first = joined
			}
			closing = time.Until(l.closes(first, joined, last))
			if len(batch) == l.limits.BatchSize || closing <= 0 {
				l.handed = time.Now()
				l.mu.Unlock()
				return batch
			}
		}
		l.mu.Unlock()

		var over <-chan time.Time
		switch {
		case len(batch) == 0:
		case deadline == nil:
			deadline = time.NewTimer(closing)
			defer deadline.Stop()
			over = deadline.C
		default:
			deadline.Reset(closing)
			over = deadline.C
		}
		select {
		case <-wake:
		case <-over:
		case <-ctx.Done():
			return nil
		}
	}
}

// closes is when a batch is not waited with any longer: its delay after its first record came; earlier, once none has come
// for as long as BatchQuiet; and at once where it holds a last record. So what comes alone or at the end is not kept
// waiting for what does not come. Batches that close early are half of BatchQuiet apart: many small documents have many
// ends.
func (l *lanes) closes(first, joined time.Time, last bool) time.Time {
	whole := first.Add(l.limits.BatchDelay)
	if l.limits.BatchQuiet == 0 {
		return whole
	}
	early := joined
	if !last {
		early = joined.Add(l.limits.BatchQuiet)
	}
	if pace := l.handed.Add(l.limits.BatchQuiet / 2); early.Before(pace) {
		early = pace
	}
	if early.Before(whole) {
		return early
	}
	return whole
}

// choose picks the lane whose turn it is, or the other where that one is empty. It is contested only when both wait: a
// lane that was alone has taken nothing from the other.
func (l *lanes) choose() (from *lane, contested bool) {
	switch {
	case len(l.plain.queue) == 0 && len(l.bulk.queue) == 0:
		return nil, false
	case len(l.bulk.queue) == 0:
		return &l.plain, false
	case len(l.plain.queue) == 0:
		return &l.bulk, false
	case l.credit > 0:
		return &l.plain, true
	default:
		return &l.bulk, true
	}
}

// charge keeps account of what a lane was given while the other one waited.
func (l *lanes) charge(to *lane, items []*item) {
	for _, i := range items {
		i.charged = -max(1, i.cost)
		if to == &l.bulk {
			i.charged *= -plainShare
		}
		l.credit += i.charged
	}
}

// refund takes back what was charged for a record on which no work was done.
func (l *lanes) refund(i *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.credit -= i.charged
	i.charged = 0
}
