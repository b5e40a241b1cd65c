package render

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"leafcutter/pkg/fault"
)

// Pool keeps a number of children ready and replaces each as soon as it is spent,
// so that a caller hardly ever waits for a process to start. It is safe for
// concurrent use.
type Pool struct {
	cfg    Config
	limits limits
	logger *slog.Logger

	idle    chan *process // as large as the pool: a child is here, in use, or being replaced
	ctx     context.Context
	cancel  context.CancelCauseFunc
	renewal sync.WaitGroup

	mu     sync.Mutex
	inUse  map[*process]struct{}
	closed bool
}

var errClosed = errors.New("the renderer is closed")

// cpuPages is how many pages of full length a child's processor time is good
// for. It is replaced when half of it is gone, so no page can run into the end.
const cpuPages = 20

// NewPool starts a pool of so many children, each of which has one document open
// at a time. It returns when the first one has come up, so a machine on which none
// can is found out at start.
func NewPool(ctx context.Context, children int, cfg Config, logger *slog.Logger) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if children < 1 {
		return nil, fmt.Errorf("a pool of %d render children", children)
	}
	p := &Pool{
		cfg: cfg,
		limits: limits{
			Memory:    int64(cfg.Memory),
			MaxPixels: cfg.MaxPixels,
			MaxPages:  cfg.MaxPages,
			CPU:       cpuPages*int64(cfg.PageTimeout/time.Second) + cpuPages,
		},
		logger: logger,
		idle:   make(chan *process, children),
		inUse:  make(map[*process]struct{}),
	}
	// The pool outlives the call; only what starts here is tied to ctx.
	p.ctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	first, err := start(ctx, p.limits)
	if err != nil {
		p.cancel(errClosed)
		return nil, err
	}
	p.idle <- first
	for range children - 1 {
		p.renewal.Go(p.renew)
	}
	return p, nil
}

// Build implements [Renderer].
func (p *Pool) Build() string { return build }

// Close kills every child and waits for them. Calls under way fail. It is legal
// to close twice.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.cancel(errClosed)
	for c := range p.inUse {
		c.kill() // its user notices, and gives it back
	}
	p.mu.Unlock()
	p.renewal.Wait()
	for {
		select {
		case c := <-p.idle:
			c.kill()
			<-c.exited
		default:
			return
		}
	}
}

// acquire takes a child out of the pool, waiting for one if need be.
func (p *Pool) acquire(ctx context.Context) (*process, error) {
	for {
		var c *process
		select {
		case c = <-p.idle:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-p.ctx.Done():
			return nil, errClosed
		}
		select {
		case <-c.exited: // killed while it was idle, by the kernel or an operator
			p.replace(c)
			continue
		default:
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			c.kill()
			return nil, errClosed
		}
		p.inUse[c] = struct{}{}
		p.mu.Unlock()
		return c, nil
	}
}

// release gives a child back. A dead or a worn one is replaced.
func (p *Pool) release(c *process) {
	p.mu.Lock()
	delete(p.inUse, c)
	closed := p.closed
	p.mu.Unlock()
	worn := c.pages >= p.cfg.RecyclePages || c.rss > int64(p.cfg.RecycleRSS) || c.cpu > float64(p.limits.CPU)/2
	select {
	case <-c.exited:
		worn = true
	default:
	}
	switch {
	case closed:
		c.kill()
		<-c.exited
	case worn:
		p.replace(c)
	default:
		p.idle <- c // there is room: it holds every child of the pool
	}
}

// replace kills a child and starts another one in its place, without waiting.
func (p *Pool) replace(c *process) {
	c.kill()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	// Close sets closed under the lock before it waits, so no start is added to
	// a group that is waited for.
	p.renewal.Go(p.renew)
}

// renew starts a child, however long that takes: memory or process numbers may
// have run out for a while.
func (p *Pool) renew() {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		c, err := start(p.ctx, p.limits)
		if err == nil {
			p.idle <- c
			return
		}
		if p.ctx.Err() != nil {
			return
		}
		p.logger.Error("cannot start a render child", slog.Any("error", err), slog.Duration("pause", pause))
		select {
		case <-time.After(pause):
		case <-p.ctx.Done():
			return
		}
	}
}

// classed gives a call's error its class and code.
func classed(err error, doing string) error {
	switch {
	case errors.Is(err, errTimeout):
		return fault.AsPermanent(CodeTimeout, fmt.Errorf("%s: %w", doing, err))
	case errors.Is(err, errStarved):
		return fault.AsTransient(CodeTimeout, fmt.Errorf("%s: %w", doing, err))
	case errors.Is(err, errCrashed):
		return fault.AsPermanent(CodeCrashed, fmt.Errorf("%s: %w", doing, err))
	case errors.Is(err, errClosed):
		return fmt.Errorf("%s: %w: %w", doing, err, context.Canceled) // the process is stopping
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}
