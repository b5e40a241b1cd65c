package submission

import (
	"context"
	"sync"
)

// keyed lets one caller in for each key. The zero value is ready.
type keyed struct {
	mu   sync.Mutex
	held map[string]*turn
}

type turn struct {
	token   chan struct{}
	callers int // holding or waiting; at 0 the key is forgotten
}

// enter waits for the key's turn. The caller calls leave once.
func (k *keyed) enter(ctx context.Context, key string) (leave func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*turn{}
	}
	t := k.held[key]
	if t == nil {
		t = &turn{token: make(chan struct{}, 1)}
		k.held[key] = t
	}
	t.callers++
	k.mu.Unlock()
	forget := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if t.callers--; t.callers == 0 {
			delete(k.held, key)
		}
	}
	select {
	case t.token <- struct{}{}:
		return func() { <-t.token; forget() }, nil
	case <-ctx.Done():
		forget()
		return nil, ctx.Err()
	}
}
