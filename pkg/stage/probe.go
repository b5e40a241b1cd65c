package stage

import (
	"context"
	"errors"
	"sync"
	"time"
)

// probes ask dependencies whether they are there. One answer serves every record that asks within a second.
type probes struct {
	ask map[string]func(ctx context.Context) error

	mu     sync.Mutex
	recent map[string]*answer
}

type answer struct {
	known chan struct{} // closed once err is set
	at    time.Time
	err   error
}

const (
	probeFresh   = time.Second
	probeTimeout = 10 * time.Second
)

func newProbes(ask map[string]func(ctx context.Context) error) *probes {
	return &probes{ask: ask, recent: map[string]*answer{}}
}

// away is the probe's error while the dependency is away, nil while it answers. A dependency without a probe is never
// believed to be away.
func (p *probes) away(ctx context.Context, dependency string) error {
	ask := p.ask[dependency]
	if ask == nil {
		return nil
	}
	p.mu.Lock()
	a := p.recent[dependency]
	if a == nil || time.Since(a.at) > probeFresh {
		a = &answer{known: make(chan struct{}), at: time.Now()}
		p.recent[dependency] = a
		p.mu.Unlock()
		within, cancel := context.WithTimeout(ctx, probeTimeout)
		a.err = ask(within)
		cancel()
		close(a.known)
		return a.err
	}
	p.mu.Unlock()
	select {
	case <-a.known:
		return a.err
	case <-ctx.Done():
		return errors.New("stopping")
	}
}
