package detector

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// holding is what tests do with what is held.
type holding struct {
	*held
	t *testing.T
}

// take fails where it would wait: time passes when everybody does.
func (h holding) take(model string, bytes int64) (func(), bool) {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Millisecond)
	defer cancel()
	release, err := h.held.take(ctx, model, bytes)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		h.t.Fatal(err)
	}
	return release, err == nil
}

func (h holding) want(model string, bytes int64) (release func()) {
	h.t.Helper()
	release, ok := h.take(model, bytes)
	if !ok {
		h.t.Fatalf("%d bytes for %s are waited for", bytes, model)
	}
	return release
}

func (h holding) not(model string, bytes int64) {
	h.t.Helper()
	if _, ok := h.take(model, bytes); ok {
		h.t.Fatalf("%d bytes for %s are held beside the others", bytes, model)
	}
}

// waits takes what has to be waited for. What it gives blocks until that is held.
func (h holding) waits(model string, bytes int64) (held func() (release func())) {
	h.t.Helper()
	taken := make(chan func(), 1)
	go func() {
		release, err := h.held.take(h.t.Context(), model, bytes)
		if err != nil && h.t.Context().Err() == nil { // else the test has failed
			h.t.Error(err)
		}
		taken <- release
	}()
	synctest.Wait()
	if len(taken) != 0 {
		h.t.Fatalf("%d bytes for %s are held beside the others", bytes, model)
	}
	return func() func() { return <-taken }
}

func inTime(t *testing.T, f func(t *testing.T, h holding)) {
	synctest.Test(t, func(t *testing.T) { f(t, holding{newHeld(100), t}) })
}

// What one model's pages hold is no more than its share while others have pages too,
// and all there is while none has.
func TestHeldIsShared(t *testing.T) {
	inTime(t, func(t *testing.T, h holding) {
		a1, a2 := h.want("a", 50), h.want("a", 50)
		h.not("a", 1)
		b := h.waits("b", 30)
		a1()
		releaseB := b()
		h.not("a", 1) // it has its half
		h.want("b", 20)()
		h.not("b", 21)
		releaseB()
		a3 := h.want("a", 50) // the other has no pages any more
		a2()
		a3()
		if len(h.models) != 0 || h.bytes != 0 || len(h.waiting) != 0 {
			t.Errorf("%+v is left", h.held)
		}
	})
}

// A page that is larger than a share is alone of its model, and waits for what the
// others leave. They have their shares meanwhile, and so do models that come.
func TestHeldLargerThanAShare(t *testing.T) {
	inTime(t, func(t *testing.T, h holding) {
		a := h.want("a", 30)
		large := h.waits("b", 80)
		h.want("a", 20)()
		h.not("a", 21)
		h.want("c", 33)()
		behind := h.waits("b", 1) // those of a model keep their order
		next := h.waits("a", 30)
		a()
		releaseLarge := large()
		h.not("a", 20) // the other one came before
		h.want("c", 20)()
		releaseLarge()
		next()()
		behind()()
	})
}

// A large page is not kept waiting for ever by pages of which there is always one.
func TestHeldIsNotPassedByForEver(t *testing.T) {
	inTime(t, func(t *testing.T, h holding) {
		now := h.want("a", 25)
		large := h.waits("b", 80)
		for began := time.Now(); time.Since(began) < h.patience; time.Sleep(time.Second) {
			next, ok := h.take("a", 25)
			if !ok {
				t.Fatalf("a share is not to be had after %v", time.Since(began))
			}
			now()
			now = next
		}
		next := h.waits("a", 25)
		now()
		releaseLarge := large()
		releaseLarge()
		next()()
	})
}

// A page that waits for others of its model is in nobody's way, however long.
func TestHeldByItsOwnModel(t *testing.T) {
	inTime(t, func(t *testing.T, h holding) {
		a := h.want("a", 40)
		b := h.want("b", 50)
		own := h.waits("a", 30)
		time.Sleep(2 * h.patience)
		h.not("b", 1)
		h.want("c", 10)()
		a()
		own()()
		b()
	})
}

// Whoever comes and goes, no more is held than may be, and nobody stays behind.
func TestHeldByMany(t *testing.T) {
	inTime(t, func(t *testing.T, h holding) {
		var all sync.WaitGroup
		for i := range 60 {
			all.Go(func() {
				model, bytes := string(rune('a'+i%4)), int64(1+i*i%100)
				for n := range 20 {
					patience := time.Hour
					if (i+n)%7 == 0 {
						patience = time.Millisecond
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					release, err := h.held.take(ctx, model, bytes)
					cancel()
					if err != nil {
						continue
					}
					h.mu.Lock()
					if h.bytes > h.total || h.bytes < 0 {
						t.Errorf("%d bytes are held", h.bytes)
					}
					h.mu.Unlock()
					time.Sleep(time.Duration(1+i%5) * time.Millisecond)
					release()
				}
			})
		}
		all.Wait()
		if len(h.models) != 0 || h.bytes != 0 || len(h.waiting) != 0 {
			t.Errorf("%+v is left", h.held)
		}
	})
}
