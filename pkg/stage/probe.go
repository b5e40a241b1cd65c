package stage

import (
	"context"
	"sync"
	"time"
)

// probes ask dependencies whether they are there. One answer serves every record that failed before it was asked for.
type probes struct {
	ask map[string]func(ctx context.Context) error

	mu     sync.Mutex
	recent map[string]*answer
	gone   map[string]time.Time // when each was last found to be away
}

type answer struct {
	known chan struct{} // closed once err is set
	at    time.Time
	err   error
}

const probeTimeout = 10 * time.Second

func newProbes(ask map[string]func(ctx context.Context) error) *probes {
	return &probes{ask: ask, recent: map[string]*answer{}, gone: map[string]time.Time{}}
}

// away is the probe's error while the dependency is away, nil while it answers. Only an answer that was asked for after
// since counts: that it was there before it failed says nothing. A dependency without a probe is never believed to be
// away.
func (p *probes) away(ctx context.Context, dependency string, since time.Time) error {
	ask := p.ask[dependency]
	if ask == nil {
		return nil
	}
	for {
		p.mu.Lock()
		a := p.recent[dependency]
		fresh := a != nil && a.at.After(since)
		if a == nil || !fresh && a.done() {
			a = &answer{known: make(chan struct{}), at: time.Now()}
			p.recent[dependency] = a
			p.mu.Unlock()
			within, cancel := context.WithTimeout(ctx, probeTimeout)
			a.err = ask(within)
			cancel()
			if a.err != nil {
				p.mu.Lock()
				p.gone[dependency] = time.Now()
				p.mu.Unlock()
			}
			close(a.known)
			return a.err
		}
		p.mu.Unlock()
		// One question at a time: all that failed before it is asked share its answer.
		select {
		case <-a.known:
			if fresh {
				return a.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// comingBack is how long a dependency that was away is given until it does all of its work again: the parts of a store
// come back one by one, and what was looked up in vain is remembered for a while.
const comingBack = 30 * time.Second

// lately reports whether a dependency was found to be away within comingBack.
func (p *probes) lately(dependency string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ever := p.gone[dependency]
	return ever && time.Since(at) < comingBack
}

func (a *answer) done() bool {
	select {
	case <-a.known:
		return true
	default:
		return false
	}
}
