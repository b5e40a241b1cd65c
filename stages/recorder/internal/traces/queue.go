package traces

import (
	"sync"
	"time"
)

// queue holds exports, as they came, up to a number of spans.
type queue struct {
	max int

	mu      sync.Mutex
	exports [][]span
	spans   int
	closed  bool
	wake    chan struct{} // holds a token while there is something to look at
}

func newQueue(max int) *queue { return &queue{max: max, wake: make(chan struct{}, 1)} }

// put takes an export, or gives false where it does not fit. An empty queue takes any.
func (q *queue) put(export []span) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.spans > 0 && q.spans+len(export) > q.max {
		return false
	}
	q.exports = append(q.exports, export)
	q.spans += len(export)
	q.signal()
	return true
}

// take gives up to about want spans, waiting for the first without end and for more up to delay. It gives nil once the
// queue is closed and empty.
func (q *queue) take(want int, delay time.Duration) [][]span {
	for {
		q.mu.Lock()
		some, closed := q.spans > 0, q.closed
		q.mu.Unlock()
		if some {
			break
		}
		if closed {
			return nil
		}
		<-q.wake
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for waiting := true; waiting; {
		q.mu.Lock()
		waiting = q.spans < want && !q.closed
		q.mu.Unlock()
		if waiting {
			select {
			case <-q.wake:
			case <-timer.C:
				waiting = false
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n, sum := 0, 0
	for n < len(q.exports) && (n == 0 || sum+len(q.exports[n]) <= want) {
		sum += len(q.exports[n])
		n++
	}
	taken := q.exports[:n:n]
	q.exports = append([][]span(nil), q.exports[n:]...)
	q.spans -= sum
	return taken
}

// close lets take end once all is taken; put takes nothing any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
