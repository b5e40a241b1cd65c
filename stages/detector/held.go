package detector

import (
	"context"
	"slices"
	"sync"
	"time"
)

// held bounds the page images in memory by their size: a few scans in colour weigh
// as much as a thousand letters. A model's pages keep theirs while they wait for its
// turn in memory, so each model that has pages here, held or waiting, may hold an
// equal share. One page may be larger than that where it is alone of its model.
//
// Pages of a model go in the order in which they came. Among models whoever fits goes
// first, so one page that is larger than what is left keeps nobody from a share. It
// would wait for ever while others are never all gone: after patience it is let in
// before those that came later.
type held struct {
	total    int64
	patience time.Duration

	mu      sync.Mutex
	bytes   int64
	models  map[string]*holder
	waiting []*wanted // in the order in which they came
}

// holder is a model that has pages.
type holder struct {
	bytes int64 // that its pages hold
	pages int   // held and waiting
}

// wanted is what a page waits for.
type wanted struct {
	model string
	bytes int64
	since time.Time
	given chan struct{} // closed when it is held
}

func newHeld(total int64) *held {
	return &held{total: total, patience: defaultTurn, models: map[string]*holder{}}
}

// take waits until so many bytes, at most total, may be held for a page of a model,
// until release is called.
func (h *held) take(ctx context.Context, model string, bytes int64) (release func(), err error) {
	w := &wanted{model, bytes, time.Now(), make(chan struct{})}
	h.mu.Lock()
	if h.models[model] == nil {
		h.models[model] = &holder{}
	}
	h.models[model].pages++
	h.waiting = append(h.waiting, w)
	h.give()
	h.mu.Unlock()
	select {
	case <-w.given:
	case <-ctx.Done():
		h.mu.Lock()
		i := slices.Index(h.waiting, w)
		if i >= 0 {
			h.waiting = slices.Delete(h.waiting, i, i+1)
			h.gone(model, 0)
		}
		h.mu.Unlock()
		if i >= 0 {
			return nil, ctx.Err()
		}
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.gone(model, bytes)
	}, nil
}

// gone takes a page away that held so many bytes. h.mu is held.
func (h *held) gone(model string, bytes int64) {
	of := h.models[model]
	of.bytes -= bytes
	h.bytes -= bytes
	if of.pages--; of.pages == 0 {
		delete(h.models, model)
	}
	h.give()
}

// give lets in who may. It is called whenever somebody has come or gone: then only can
// there be such a page. h.mu is held.
func (h *held) give() {
	share := h.total / int64(max(len(h.models), 1))
	behind := map[string]bool{} // models of which a page waits
	now := time.Now()
	for i := 0; i < len(h.waiting); {
		w := h.waiting[i]
		of := h.models[w.model]
		own := of.bytes == 0 || of.bytes+w.bytes <= share
		switch {
		case behind[w.model]:
			i++
		case !own:
			behind[w.model] = true
			i++
		case h.bytes+w.bytes <= h.total:
			of.bytes += w.bytes
			h.bytes += w.bytes
			h.waiting = slices.Delete(h.waiting, i, i+1)
			close(w.given)
		case now.Sub(w.since) >= h.patience:
			return
		default:
			behind[w.model] = true
			i++
		}
	}
}
