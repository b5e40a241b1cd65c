package detector

import (
	"context"
	"time"
)

// sweepEvery is how often the cache and S3 are swept.
const sweepEvery = 24 * time.Hour

// tend looks after what the cache and S3 keep, until ctx ends: whether or not the
// repository is looked at, or can be, and beside that, since an upload takes its time.
func (m *Models) tend(ctx context.Context) {
	tick := time.NewTicker(m.tending)
	defer tick.Stop()
	var swept time.Time
	for {
		m.copyAgain(ctx)
		if time.Since(swept) > sweepEvery && ctx.Err() == nil {
			swept = time.Now()
			m.sweepCache()
			m.sweepShared(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
