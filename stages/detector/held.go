package detector

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// held bounds the page images in memory by their size: a few scans in colour weigh
// as much as a thousand letters. A model's pages keep theirs while they wait for its
// turn in memory, so each model has a share, which the others cannot take from it. A
// page that is larger than that is alone of its model, and waits for what the others
// leave.
type held struct {
	total int64
	all   *semaphore.Weighted

	mu  sync.Mutex
	own map[string]*semaphore.Weighted // by model, of total each
}

func newHeld(total int64) *held {
	return &held{total: total, all: semaphore.NewWeighted(total), own: map[string]*semaphore.Weighted{}}
}

// take waits until so many bytes, at most total, may be held for one of so many
// models, until release is called.
func (h *held) take(ctx context.Context, model string, models int, bytes int64) (release func(), err error) {
	h.mu.Lock()
	own := h.own[model]
	if own == nil {
		own = semaphore.NewWeighted(h.total)
		h.own[model] = own
	}
	h.mu.Unlock()
	// All of a model's pages, each counted for as many as there are models, fit into
	// total, so those of all models do as well; who waits for the others is too large
	// for that.
	counted := min(bytes*int64(max(models, 1)), h.total)
	if err := own.Acquire(ctx, counted); err != nil {
		return nil, err
	}
	if err := h.all.Acquire(ctx, bytes); err != nil {
		own.Release(counted)
		return nil, err
	}
	return func() {
		h.all.Release(bytes)
		own.Release(counted)
	}, nil
}
