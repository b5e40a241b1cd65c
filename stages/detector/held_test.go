package detector

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What one model's pages hold is no more than its share while there are others, and
// a page of any size is held some time.
func TestHeldIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(100)
		// take fails where it would wait: time passes when everybody does.
		take := func(model string, models int, bytes int64) (func(), bool) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			release, err := h.take(ctx, model, models, bytes)
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			return release, err == nil
		}
		want := func(model string, models int, bytes int64) (release func()) {
			t.Helper()
			release, ok := take(model, models, bytes)
			if !ok {
				t.Fatalf("%d bytes for %s, one of %d, are waited for", bytes, model, models)
			}
			return release
		}
		not := func(model string, models int, bytes int64) {
			t.Helper()
			if _, ok := take(model, models, bytes); ok {
				t.Fatalf("%d bytes for %s, one of %d, are held beside the others", bytes, model, models)
			}
		}
		a1, a2 := want("a", 2, 25), want("a", 2, 25)
		not("a", 2, 1)
		b := want("b", 2, 50)
		not("b", 2, 1)
		a1()
		a1 = want("a", 2, 25)
		b()

		// Larger than a share: alone of its model, it waits for what the other holds.
		large := make(chan func())
		go func() {
			release, err := h.take(t.Context(), "b", 2, 100)
			if err != nil {
				t.Error(err)
			}
			large <- release
		}()
		synctest.Wait()
		not("b", 2, 1)
		a1()
		a2()
		release := <-large
		not("a", 2, 1)
		release()
		want("a", 2, 25)()

		// Alone, a model has all.
		first, second := want("a", 1, 50), want("a", 1, 50)
		not("a", 1, 1)
		first()
		second()
		want("a", 1, 100)()
	})
}
