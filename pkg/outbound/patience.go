package outbound

import (
	"sync"
	"time"
)

// slowFor is how long a server counts as slow after it last was.
const slowFor = 10 * time.Minute

// patience is after what silence the connections to a server are given up. A connection that both ends have and the
// network between them has forgotten cannot be told from a server that is slow, so the first silence is ended early and
// what was asked is asked again by a new connection; but a server that then turns out to be slow, or has answered after
// half of that silence, is given more. So it is asked twice at most once in a while, and never with less patience than
// it has needed.
type patience struct {
	least, most time.Duration
	now         func() time.Time

	mu    sync.Mutex
	slow  time.Duration // what a server that is slow is given
	until time.Time     // for so long it counts as slow
}

// limit is the silence after which a connection is given up.
func (p *patience) limit() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now().Before(p.until) {
		return p.slow
	}
	return p.least
}

// answered is told how long a server was silent before its next byte.
func (p *patience) answered(after time.Duration) {
	if after > p.least/2 {
		p.raise(3 * after)
	}
}

// exhausted is told of a connection that was given up after a silence. The second try has little more time, for most often
// it was the network; the third has all of it, for callers that give up after three. Many that end together raise it once.
func (p *patience) exhausted(after time.Duration) {
	if after > p.least {
		p.raise(p.most)
		return
	}
	p.raise(p.least * 5 / 4)
}

func (p *patience) raise(to time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.now().Before(p.until) {
		p.slow = p.least
	}
	p.slow = min(max(p.slow, to), max(p.most, p.least))
	p.until = p.now().Add(slowFor)
}
