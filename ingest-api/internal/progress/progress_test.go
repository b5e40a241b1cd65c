package progress_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"leafcutter/ingest-api/internal/progress"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rows is a database that counts its questions.
type rows struct {
	mu    sync.Mutex
	done  map[string]int // pages done, by document
	asked [][]string
	err   error
}

func (r *rows) progress(_ context.Context, ids []string) (map[string]api.Progress, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(ids)
	r.asked = append(r.asked, ids)
	found := map[string]api.Progress{}
	for id, done := range r.done {
		found[id] = api.Progress{DocumentID: id, State: schemas.Running, PagesDone: done}
	}
	return found, r.err
}

func (r *rows) set(id string, done int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[id] = done
}

func (r *rows) questions() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// TestAnEndIsToldSoon asks again when a run has ended, and not for each of many.
func TestAnEndIsToldSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{done: map[string]int{"a": 1}}
		f := &progress.Feed{Source: r.progress, Every: 500 * time.Millisecond, Max: 3, Logger: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { f.Run(ctx); close(ended) }()
		defer func() { stop(); <-ended }()
		f.Ended() // nobody watches
		news, done, err := f.Watch("a")
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		synctest.Wait()
		<-news
		time.Sleep(520 * time.Millisecond)
		r.set("a", 2)
		began := time.Now()
		f.Ended()
		if p := <-news; p.PagesDone != 2 || time.Since(began) > 100*time.Millisecond {
			t.Errorf("%d pages told %s after the end", p.PagesDone, time.Since(began))
		}
		before := len(r.questions())
		for range 100 {
			f.Ended()
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(r.questions()) - before; n < 8 || n > 11 {
			t.Errorf("%d questions in a second of ends, want 10", n)
		}
	})
}

func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{done: map[string]int{"a": 1}}
		f := &progress.Feed{Source: r.progress, Every: 500 * time.Millisecond, Max: 3, Logger: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { f.Run(ctx); close(ended) }()

		time.Sleep(time.Hour)
		if len(r.questions()) != 0 {
			t.Errorf("%d questions while nobody watches", len(r.questions()))
		}
		first, doneFirst, err := f.Watch("a")
		if err != nil {
			t.Fatal(err)
		}
		second, doneSecond, err := f.Watch("a")
		if err != nil {
			t.Fatal(err)
		}
		third, doneThird, err := f.Watch("b")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.Watch("c"); err == nil {
			t.Error("a fourth watcher, though three are the most")
		}
		synctest.Wait()
		if p := <-first; p.PagesDone != 1 || p.DocumentID != "a" {
			t.Errorf("%+v", p)
		}
		if p := <-second; p.PagesDone != 1 {
			t.Errorf("%+v", p)
		}
		if !slices.Equal(r.questions()[0], []string{"a", "b"}) {
			t.Errorf("asked %v", r.questions())
		}

		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(r.questions()); n < 15 || n > 22 {
			t.Errorf("%d questions in 10 s for three watchers", n)
		}
		select {
		case p := <-first:
			t.Errorf("told %+v, though nothing changed", p)
		default:
		}

		// One who does not listen gets the latest, and holds nobody up.
		for done := 2; done <= 5; done++ {
			r.set("a", done)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if p := <-first; p.PagesDone != 5 {
			t.Errorf("the latest is %+v", p)
		}

		// A database that is away is waited for.
		r.mu.Lock()
		r.err = errors.New("away")
		r.mu.Unlock()
		r.set("b", 7)
		time.Sleep(5 * time.Second)
		r.mu.Lock()
		r.err = nil
		r.mu.Unlock()
		time.Sleep(time.Second)
		if p := <-third; p.PagesDone != 7 {
			t.Errorf("%+v", p)
		}

		doneFirst()
		doneSecond()
		doneThird()
		doneThird() // twice is legal
		time.Sleep(time.Second)
		synctest.Wait()
		before := len(r.questions())
		time.Sleep(time.Hour)
		if len(r.questions()) != before {
			t.Error("questions after the last watcher left")
		}
		stop()
		<-ended
	})
}
