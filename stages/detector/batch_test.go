package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"leafcutter/pkg/fault"
)

// inference is one that a bench was asked for.
type inference struct {
	at    time.Duration // since the beginning
	pages []*page
}

// bench is batches whose inferences are nothing but noted, on a clock that moves
// when everybody waits.
type bench struct {
	*batches
	start time.Time
	said  []inference
	fail  map[*page]error
	panic any           // that inferences end with, where not nil
	stays chan struct{} // where not nil, an inference goes on until it is closed or the context ends
}

func newBench(size int, delay time.Duration) *bench {
	b := &bench{start: time.Now(), fail: map[*page]error{}}
	b.batches = &batches{size: size, delay: delay, runs: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler), coming: map[*page]bool{}, run: func(ctx context.Context, pages []*page) []error {
		b.said = append(b.said, inference{time.Since(b.start), pages})
		if b.panic != nil {
			panic(b.panic)
		}
		errs := make([]error, len(pages))
		for i, p := range pages {
			errs[i] = b.fail[p]
		}
		if b.stays != nil {
			select {
			case <-b.stays:
			case <-ctx.Done():
				for i := range errs {
					errs[i] = ctx.Err()
				}
			}
		}
		return errs
	}}
	return b
}

// result is what became of a page.
type result struct {
	found Page
	err   error
	done  bool
}

// goes infers a page and notes the result.
func (b *bench) goes(ctx context.Context, p *page) *result {
	var r result
	go func() {
		r.err = b.infer(ctx, p, &r.found)
		r.done = true
	}()
	return &r
}

// asked gives the sizes of the inferences so far.
func (b *bench) asked() (sizes []int) {
	for _, i := range b.said {
		sizes = append(sizes, len(i.pages))
	}
	return sizes
}

// A page by itself does not wait, as one does not of which a process may have died:
// package stage hands it out alone.
func TestPageByItselfGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(8, time.Hour)
		p := &page{}
		b.expect(p)
		r := b.goes(t.Context(), p)
		synctest.Wait()
		if !r.done || r.err != nil || r.found.Together != 1 || len(b.said) != 1 || b.said[0].at != 0 {
			t.Errorf("%+v, %+v", r, b.said)
		}
	})
}

// A page waits for those that are being read: until they come, or will not, and no
// longer than the delay.
func TestPageWaitsForThoseBeingRead(t *testing.T) {
	const delay = 20 * time.Millisecond
	for name, c := range map[string]struct {
		other func(b *bench, t *testing.T, p *page) // 5 ms later
		at    time.Duration
		size  int
	}{
		"it comes":          {func(b *bench, t *testing.T, p *page) { b.goes(t.Context(), p) }, 5 * time.Millisecond, 2},
		"it cannot be read": {func(b *bench, _ *testing.T, p *page) { b.excuse(p) }, 5 * time.Millisecond, 1},
		"it takes long":     {func(*bench, *testing.T, *page) {}, delay, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(8, delay)
				first, other := &page{}, &page{}
				b.expect(first)
				b.expect(other)
				r := b.goes(t.Context(), first)
				time.Sleep(5 * time.Millisecond)
				c.other(b, t, other)
				time.Sleep(time.Second)
				synctest.Wait()
				if !r.done || len(b.said) != 1 || b.said[0].at != c.at || len(b.said[0].pages) != c.size {
					t.Errorf("%+v, %+v", r, b.said)
				}
				if r.found.Together != c.size || r.found.Wait != c.at {
					t.Errorf("%+v", r.found)
				}
			})
		})
	}
}

// Pages gather while another inference goes on, whatever the delay, and never are
// more of them inferred at once than are allowed.
func TestBatchesAreNoLargerThanTheirSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(4, time.Millisecond)
		b.runs <- struct{}{} // somebody else's
		var all []*result
		for range 11 {
			all = append(all, b.goes(t.Context(), &page{}))
			time.Sleep(10 * time.Millisecond)
		}
		if len(b.said) != 0 {
			t.Fatalf("%v while there was no room", b.asked())
		}
		<-b.runs
		synctest.Wait()
		if got := b.asked(); !slices.Equal(got, []int{4, 4, 3}) {
			t.Errorf("batches of %v", got)
		}
		for i, r := range all {
			if !r.done || r.err != nil || r.found.Together != []int{4, 4, 3}[i/4] {
				t.Errorf("page %d: %+v", i, r)
			}
		}
	})
}

// What is wrong with a page, and who is not waited for any more, is nobody else's
// affair.
func TestPagesOfABatchDoNotMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(8, time.Hour)
		b.stays = make(chan struct{})
		bad := errors.New("this page")
		pages := []*page{{}, {}, {}, {}}
		b.fail[pages[1]] = bad
		early, leaveEarly := context.WithCancel(t.Context())
		late, leaveLate := context.WithCancel(t.Context())
		defer leaveLate()
		b.runs <- struct{}{}
		var all []*result
		for i, p := range pages {
			all = append(all, b.goes([]context.Context{t.Context(), t.Context(), early, late}[i], p))
		}
		synctest.Wait()
		leaveEarly()
		synctest.Wait()
		if r := all[2]; !r.done || !errors.Is(r.err, context.Canceled) {
			t.Errorf("left before the inference: %+v", r)
		}
		<-b.runs
		synctest.Wait()
		leaveLate()
		synctest.Wait()
		if all[0].done || all[3].done {
			t.Error("a page's memory was given back while it was being inferred")
		}
		close(b.stays)
		synctest.Wait()
		if got := b.asked(); !slices.Equal(got, []int{3}) {
			t.Errorf("batches of %v", got)
		}
		if !all[0].done || all[0].err != nil || !errors.Is(all[1].err, bad) || !all[3].done {
			t.Errorf("%+v, %+v, %+v", all[0], all[1], all[3])
		}
	})
}

// A panic is a fault of the pages that met it, and of no others.
func TestBatchThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(2, time.Hour)
		b.panic = "out of range"
		pages := []*page{{}, {}}
		b.expect(pages[0])
		b.expect(pages[1])
		all := []*result{b.goes(t.Context(), pages[0]), b.goes(t.Context(), pages[1])}
		synctest.Wait()
		for _, r := range all {
			if !r.done || fault.ClassOf(r.err) != fault.Transient || !strings.Contains(r.err.Error(), "out of range") || r.found.Together != 2 {
				t.Errorf("%+v", r)
			}
		}
		b.panic = nil
		after := b.goes(t.Context(), &page{})
		synctest.Wait()
		if !after.done || after.err != nil || len(b.runs) != 0 {
			t.Errorf("%+v", after)
		}
	})
}

// An inference that nobody wants any more is broken off, or never made, and others
// come after it.
func TestBatchThatAllHaveLeft(t *testing.T) {
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprintf("begun=%v", begun), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(2, time.Hour)
				b.stays = make(chan struct{})
				if !begun {
					b.runs <- struct{}{}
				}
				ctx, cancel := context.WithCancel(t.Context())
				all := []*result{b.goes(ctx, &page{}), b.goes(ctx, &page{})}
				synctest.Wait()
				cancel()
				synctest.Wait()
				for _, r := range all {
					if !r.done || !errors.Is(r.err, context.Canceled) {
						t.Errorf("%+v", r)
					}
				}
				if !begun {
					<-b.runs
				}
				close(b.stays)
				after := b.goes(t.Context(), &page{})
				synctest.Wait()
				if !after.done || after.err != nil || len(b.said[len(b.said)-1].pages) != 1 || len(b.runs) != 0 {
					t.Errorf("%+v, %v", after, b.asked())
				}
			})
		})
	}
}
