package stage

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func queued(bulk bool) *item {
	return &item{in: In{Value: make([]byte, 10)}, part: newPartition("t", 0), bulk: bulk}
}

func TestPlainGetsFourSlotsInFive(t *testing.T) {
	l := newLanes(Limits{BatchSize: 1, MaxInFlight: 1000, MaxBytes: 1 << 20})
	for range 100 {
		l.admit(queued(false))
		l.admit(queued(true))
	}
	plain := 0
	for range 50 {
		if batch := l.next(t.Context()); !batch[0].bulk {
			plain++
		}
	}
	if plain != 40 {
		t.Errorf("%d of 50 slots went to the plain lane, want 40", plain)
	}
}

func TestTheSharesAreOfWorkNotOfRecords(t *testing.T) {
	l := newLanes(Limits{BatchSize: 1, MaxInFlight: 1000, MaxBytes: 1 << 20})
	for range 400 {
		letter, book := queued(false), queued(true)
		letter.cost, book.cost = 2, 16
		l.admit(letter)
		l.admit(book)
	}
	pages := map[bool]int{}
	for range 330 {
		i := l.next(t.Context())[0]
		pages[i.bulk] += i.cost
	}
	if plain, bulk := pages[false], pages[true]; plain != 4*bulk {
		t.Errorf("%d pages of letters and %d of books, want four to one", plain, bulk)
	}
}

func TestNeitherLaneIdles(t *testing.T) {
	for _, bulk := range []bool{false, true} {
		l := newLanes(Limits{BatchSize: 1, MaxInFlight: 1000, MaxBytes: 1 << 20})
		for range 20 {
			l.admit(queued(bulk))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for range 20 {
			if l.next(ctx) == nil {
				t.Fatalf("bulk %v: a slot idled", bulk)
			}
		}
		cancel()
	}
}

func TestABatchIsOfOneLane(t *testing.T) {
	l := newLanes(Limits{BatchSize: 8, MaxInFlight: 1000, MaxBytes: 1 << 20})
	for i := range 40 {
		l.admit(queued(i%2 == 0))
	}
	for range 5 {
		batch := l.next(t.Context())
		for _, i := range batch {
			if i.bulk != batch[0].bulk {
				t.Fatal("lanes are mixed")
			}
		}
	}
}

// TestABatchWaitsForWhatMayCome lets records come at given times and tells when their batches are handed out.
func TestABatchWaitsForWhatMayCome(t *testing.T) {
	type arrival struct {
		at   time.Duration
		last bool
	}
	const ms = time.Millisecond
	for _, c := range []struct {
		name  string
		quiet time.Duration
		come  []arrival
		want  []time.Duration // when batches are handed out, from the first arrival on
		sizes []int
	}{
		{"the whole delay where nothing else is said", 0, []arrival{{0, false}, {100 * ms, true}}, []time.Duration{1000 * ms}, []int{2}},
		{"one alone", 200 * ms, []arrival{{0, false}}, []time.Duration{200 * ms}, []int{1}},
		{"the last", 200 * ms, []arrival{{0, false}, {50 * ms, true}}, []time.Duration{50 * ms}, []int{2}},
		{"a flow", 200 * ms, []arrival{{0, false}, {150 * ms, false}, {300 * ms, false}, {450 * ms, false}, {600 * ms, false}, {750 * ms, false}, {900 * ms, false}, {1050 * ms, false}},
			[]time.Duration{1000 * ms, 1250 * ms}, []int{7, 1}},
		{"ends that follow each other", 200 * ms, []arrival{{0, true}, {10 * ms, true}, {20 * ms, true}, {300 * ms, true}},
			[]time.Duration{0, 100 * ms, 300 * ms}, []int{1, 2, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLanes(Limits{BatchSize: 100, BatchDelay: time.Second, BatchQuiet: c.quiet, MaxInFlight: 1000, MaxBytes: 1 << 20})
				started := time.Now()
				go func() {
					for _, a := range c.come {
						time.Sleep(time.Until(started.Add(a.at)))
						i := queued(false)
						i.last = a.last
						l.admit(i)
					}
				}()
				for n, want := range c.want {
					batch := l.next(t.Context())
					if at := time.Since(started); at != want || len(batch) != c.sizes[n] {
						t.Errorf("batch %d: %d records after %s, want %d after %s", n, len(batch), at, c.sizes[n], want)
					}
				}
			})
		})
	}
}

func TestBoundsAreByCountAndByBytes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		limits Limits
	}{{"count", Limits{BatchSize: 1, MaxInFlight: 4, MaxBytes: 1 << 20}}, {"bytes", Limits{BatchSize: 1, MaxInFlight: 1000, MaxBytes: 40}}} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLanes(tc.limits)
			var all []*item
			for range 4 {
				if full, _ := l.full(false); full {
					t.Fatal("full too early")
				}
				i := queued(false)
				all = append(all, i)
				l.admit(i)
			}
			if full, _ := l.full(false); !full {
				t.Fatal("not full")
			}
			if full, _ := l.full(true); full {
				t.Fatal("the other lane is full too")
			}
			l.release(all[0])
			if _, roomy := l.full(false); roomy {
				t.Fatal("roomy after one of four")
			}
			l.release(all[1])
			if _, roomy := l.full(false); !roomy {
				t.Fatal("not roomy with half of it free")
			}
		})
	}
}

// Records that are put off take nothing from the other lane, and owe it nothing.
func TestWhatIsPutOffIsNotCharged(t *testing.T) {
	l := newLanes(Limits{BatchSize: 1, MaxInFlight: 1000, MaxBytes: 1 << 20})
	for range 300 {
		l.admit(queued(false))
	}
	held := queued(true)
	l.admit(held)
	for putOff := 0; putOff < 50; {
		if i := l.next(t.Context())[0]; i == held {
			l.refund(i)
			putOff++
			l.refund(l.next(t.Context())[0]) // one record of the other lane, which is dropped
			l.again(i)
		}
	}
	// Now it is done, and so are others of its lane: one in five, as if nothing had been.
	for range 100 {
		l.admit(queued(true))
	}
	bulk := 0
	for range 100 {
		if l.next(t.Context())[0].bulk {
			bulk++
		}
	}
	if bulk < 18 || bulk > 22 {
		t.Errorf("%d of 100 are of the bulk lane", bulk)
	}
}

func TestARecordThatWasTriedComesFirst(t *testing.T) {
	l := newLanes(Limits{BatchSize: 1, MaxInFlight: 1000, MaxBytes: 1 << 20})
	first, second := queued(false), queued(false)
	l.admit(first)
	l.admit(second)
	got := l.next(t.Context())[0]
	l.again(got)
	if l.next(t.Context())[0] != got {
		t.Error("it went to the end of the queue")
	}
}

func TestNothingIsHandedOutAfterClose(t *testing.T) {
	l := newLanes(Limits{BatchSize: 1, MaxInFlight: 1000, MaxBytes: 1 << 20})
	l.admit(queued(false))
	l.close()
	l.close()
	if l.next(t.Context()) != nil {
		t.Error("a record was handed out")
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	for try := 1; try < 40; try++ {
		d := backoff(100*time.Millisecond, try, time.Minute)
		whole := min(100*time.Millisecond<<min(try-1, 16), time.Minute)
		if d < whole/2-1 || d > whole {
			t.Errorf("try %d: %s, want %s to %s", try, d, whole/2, whole)
		}
	}
}
