// Package progress tells many watchers how far their documents are, by one question to the database for all of them.
// The handler of server-sent events calls it.
package progress

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas/api"
)

// Source tells how far documents are, by id; those without a row yet are missing.
type Source func(ctx context.Context, documentIDs []string) (map[string]api.Progress, error)

// Feed asks Source at most once in Every, and only while somebody watches; when a run has ended, somebody is waiting for just
// that, and it asks up to five times in Every.
type Feed struct {
	Source Source
	Every  time.Duration
	Max    int // watchers at once
	Logger *slog.Logger

	mu       sync.Mutex
	watchers map[*watcher]struct{}
	wake     chan struct{}
	ended    chan struct{} // holds a token once Ended was called
	once     sync.Once
}

type watcher struct {
	documentID string
	last       api.Progress
	news       chan api.Progress // holds the latest alone: a slow reader skips, and is never waited for
}

func (f *Feed) init() {
	f.once.Do(func() {
		f.watchers = map[*watcher]struct{}{}
		f.wake = make(chan struct{}, 1)
		f.ended = make(chan struct{}, 1)
	})
}

// Watch sends every change of the document's progress from now on, until done is called.
func (f *Feed) Watch(documentID string) (news <-chan api.Progress, done func(), err error) {
	f.init()
	w := &watcher{documentID: documentID, news: make(chan api.Progress, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.watchers) >= f.Max {
		return nil, nil, problem.New(problem.Watchers, "%d clients are watching documents", f.Max)
	}
	f.watchers[w] = struct{}{}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return w.news, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}, nil
}

// Ended says that a run has ended, whichever it was, and that this can be read.
func (f *Feed) Ended() {
	f.init()
	select {
	case f.ended <- struct{}{}:
	default:
	}
}

// Run feeds the watchers until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	f.init()
	timer := time.NewTimer(f.Every)
	defer timer.Stop()
	for {
		ids := f.watched()
		if len(ids) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-f.wake:
			}
			continue
		}
		asked := time.Now()
		f.ask(ctx, ids)
		timer.Reset(f.Every)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-f.ended:
				timer.Reset(time.Until(asked.Add(f.Every / 5)))
			case <-timer.C:
				waiting = false
			}
		}
	}
}

func (f *Feed) watched() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[string]bool{}
	ids := make([]string, 0, len(f.watchers))
	for w := range f.watchers {
		if !seen[w.documentID] {
			seen[w.documentID] = true
			ids = append(ids, w.documentID)
		}
	}
	return ids
}

func (f *Feed) ask(ctx context.Context, ids []string) {
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	states, err := f.Source(bounded, ids)
	if err != nil {
		if ctx.Err() == nil {
			f.Logger.Debug("progress cannot be read", slog.Any("error", err)) // watchers wait; their next request says why
		}
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		p, ok := states[w.documentID]
		if ok && p != w.last {
			w.last = p
			select {
			case <-w.news:
			default:
			}
			w.news <- p // room was made above, and only this goroutine sends
		}
	}
}
