package detector

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// Where memory holds one model, they take turns, whatever order pages come in,
// and none is lost or done by another than its own.
func TestModelsTakeTurns(t *testing.T) {
	c := families(t, "yolo", "rtdetr_logits")
	c.Memory, c.Pages = 1, 4
	m := openModels(t, c)
	m.room.turn, m.room.idle = 200*time.Millisecond, 200*time.Millisecond
	old := m.digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	m.look(t)
	kinds := [][2]string{{"yolo", old}, {"yolo", m.digest("yolo")}, {"rtdetr_logits", m.digest("rtdetr_logits")}}
	want := make([]int, len(kinds))
	for i, k := range kinds {
		boxes, err := m.detected(t, k[0], k[1])
		if err != nil {
			t.Fatal(err)
		}
		want[i] = len(boxes)
	}
	if want[0] <= want[1] || want[1] == 0 {
		t.Fatalf("the versions cannot be told apart: %v boxes", want)
	}
	unloaded := func() int { return strings.Count(m.log.String(), "model unloaded") }
	before, began := unloaded(), time.Now()
	var wg sync.WaitGroup
	const each = 40
	for i, k := range kinds {
		for range 2 {
			wg.Go(func() {
				for range each {
					boxes, err := m.detected(t, k[0], k[1])
					if err != nil || len(boxes) != want[i] {
						t.Errorf("%v: %d boxes, want %d: %v", k, len(boxes), want[i], err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if got := len(m.loaded()); got != 1 {
		t.Errorf("%d models in memory for one", got)
	}
	// Nobody has to go before its turn is over or it has been idle for as long; the
	// first may have had its turn before.
	took := time.Since(began)
	if n, most := unloaded()-before, int(took/m.room.turn)+2; n < 2 || n > most {
		t.Errorf("%d times unloaded in %v for %d pages of three versions, want 2 to %d", n, took, 2*each*len(kinds), most)
	}
}

// Pages of a version that has to wait are put off, and hold no worker.
func TestHeldUntilItsTurn(t *testing.T) {
	c := families(t, "yolo", "rtdetr_logits")
	c.Memory = 1
	m := openModels(t, c)
	m.room.turn, m.room.idle = time.Hour, time.Hour
	d, leave, err := m.enter(t.Context(), m.recall("yolo", ""))
	if err != nil || d == nil {
		t.Fatal(err)
	}
	hold := func(name string) time.Duration {
		return m.Stage(name, shelf{}).Hold(record(t, pageFor(name, m.digest(name))))
	}
	if yolo, other := hold("yolo"), hold("rtdetr_logits"); yolo != 0 || other <= 0 {
		t.Errorf("held for %v and %v", yolo, other)
	}
	m.room.mu.Lock()
	m.room.turn = 0
	m.room.mu.Unlock()
	if other := hold("rtdetr_logits"); other != 0 {
		t.Errorf("held for %v after the other's turn", other)
	}
	// It waits for the page in work, and no longer.
	entered := make(chan error, 1)
	go func() {
		_, leave, err := m.enter(context.Background(), m.recall("rtdetr_logits", ""))
		if err == nil {
			leave()
		}
		entered <- err
	}()
	for hold("yolo") == 0 { // until it is told to leave
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-entered:
		t.Fatalf("entered while a page was in work: %v", err)
	default:
	}
	leave()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	if h := m.Stage("yolo", shelf{}).Hold(record(t, pageFor("yolo", "unknown"))); h != 0 {
		t.Errorf("an unknown digest is held for %v", h)
	}
}

// Who asks first may not wait for as long as loading takes: a probe does not. The model
// is loaded for the others, and once.
func TestLoadingOutlivesWhoAsked(t *testing.T) {
	m := openModels(t, families(t, "yolo"))
	v := m.recall("yolo", "")
	m.room.tidy(0, func(*version) bool { return false })
	load, began, goOn, loads := m.room.load, make(chan struct{}), make(chan struct{}), 0
	m.room.load = func(ctx context.Context, v *version) (*Detector, error) {
		loads++
		close(began)
		<-goOn
		return load(ctx, v)
	}
	impatient, away := context.WithCancel(t.Context())
	asked := make(chan error)
	go func() {
		_, _, err := m.room.enter(impatient, v)
		asked <- err
	}()
	<-began
	waits := make(chan error)
	go func() {
		_, leave, err := m.room.enter(t.Context(), v)
		if err == nil {
			leave()
		}
		waits <- err
	}()
	away()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("who asked first: %v", err)
	}
	close(goOn)
	if err := <-waits; err != nil || loads != 1 {
		t.Errorf("who waits: %v, after %d loads", err, loads)
	}
}

// A model that makes the code that loads it panic is one that cannot be loaded.
func TestLoadingPanics(t *testing.T) {
	m := openModels(t, families(t, "yolo"))
	v := m.recall("yolo", "")
	m.room.tidy(0, func(*version) bool { return false })
	load := m.room.load
	m.room.load = func(context.Context, *version) (*Detector, error) { panic("odd graph") }
	if _, _, err := m.room.enter(t.Context(), v); err == nil || !strings.Contains(err.Error(), "odd graph") {
		t.Errorf("got %v", err)
	}
	m.room.load = load
	_, leave, err := m.room.enter(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	leave()
}
