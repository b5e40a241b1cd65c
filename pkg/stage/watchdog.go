package stage

import (
	"context"
	"time"
)

// watch names every record that has been handled, or whose outputs have been on their way, for longer than
// Limits.Watchdog. It takes nothing away from the
// handler: what hangs is never committed, and the log says what hangs.
func (r *Runner) watch(ctx context.Context) {
	tick := time.NewTicker(max(r.cfg.Limits.Watchdog/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, w := range r.overdue(now) {
				for _, i := range w.items {
					r.log.Error("a record takes too long", append(r.itemAttrs(i), "doing", w.doing, "seconds", int(now.Sub(w.since).Seconds()))...)
				}
			}
		}
	}
}

// overdue are the calls that passed the limit and were not named yet.
func (r *Runner) overdue(now time.Time) []*work {
	r.mu.Lock()
	defer r.mu.Unlock()
	var late []*work
	for w := range r.running {
		if !w.named && now.Sub(w.since) > r.cfg.Limits.Watchdog {
			w.named = true
			late = append(late, w)
		}
	}
	return late
}

// stuck is how many records are being handled for longer than Limits.Watchdog.
func (r *Runner) stuck() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n int64
	for w := range r.running {
		if time.Since(w.since) > r.cfg.Limits.Watchdog {
			n += int64(len(w.items))
		}
	}
	return n
}
