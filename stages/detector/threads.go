package detector

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// speed is how long one inference took with so many threads, at best.
type speed struct {
	Threads int     `json:"threads"`
	MS      float64 `json:"ms"`
}

// speeds measures inferences with 1, 2, 4 threads and so on, up to one for each
// processor. What else runs makes some of them late, so the best of several
// counts; a model that takes seconds is measured once.
func (l *loader) speeds(ctx context.Context, graph string, f facts) ([]speed, error) {
	var all []speed
	for threads := 1; threads <= runtime.GOMAXPROCS(0); threads *= 2 {
		s, _, err := l.try(ctx, graph, &f, threads) // which warms it
		if err != nil {
			return nil, err
		}
		best, began := time.Duration(0), time.Now()
		for n := 0; n == 0 || n < 8 && time.Since(began) < time.Second; n++ {
			started := time.Now()
			if err := s.Run(ctx, l.page.slot); err != nil {
				return nil, errors.Join(err, s.Close())
			}
			if took := time.Since(started); n == 0 || took < best {
				best = took
			}
		}
		if err := errors.Join(l.page.slot.Forget(), s.Close()); err != nil {
			return nil, err
		}
		all = append(all, speed{threads, milliseconds(best)})
	}
	return all, nil
}

// worthwhile is what part of the time an inference may take at most with twice
// as many threads, so that those are worth it. Threads wait for each other, so
// a page takes the more processor time the more there are, which other pages
// and other stages could use.
const worthwhile = 0.75

// threads is how many threads an inference uses: what the user says, else what
// was measured to be worth it, of as many as there are processors now; a
// container has no more than its limit. Without a measurement it is one for
// each, four at most.
func (l *loader) threads(f facts) int {
	return threadsFor(l.config.Threads, runtime.GOMAXPROCS(0), f.Speeds)
}

func threadsFor(asked, processors int, speeds []speed) int {
	if asked > 0 {
		return asked
	}
	if len(speeds) == 0 {
		return min(processors, 4)
	}
	best := speeds[0]
	for _, s := range speeds[1:] {
		if s.Threads > processors || s.MS > worthwhile*best.MS {
			break
		}
		best = s
	}
	return best.Threads
}
