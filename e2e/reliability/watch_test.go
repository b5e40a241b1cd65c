package reliability

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"leafcutter/e2e/pipeline"
	"leafcutter/schemas"
)

// stages are the processes whose memory and goroutines are watched.
func stages() []string { return pipeline.Names()[3:] }

// memory is the resident memory of each stage with what it started, in bytes.
func memory(p *pipeline.Pipeline) (map[string]int64, error) {
	children, err := p.Children()
	if err != nil {
		return nil, err
	}
	all := map[string]int64{}
	for _, c := range children {
		family, err := p.Family(c)
		if err != nil {
			return nil, err
		}
		for _, pid := range family {
			resident, _, err := pipeline.Memory(pid)
			if err != nil {
				continue // it has ended meanwhile
			}
			all[c.Name] += resident
		}
	}
	return all, nil
}

// mostMemory looks at the memory of each stage until done is closed or a time has passed, and gives the most of each.
func mostMemory(t *testing.T, p *pipeline.Pipeline, during time.Duration) map[string]int64 {
	t.Helper()
	most := map[string]int64{}
	for until := time.Now().Add(during); time.Now().Before(until); {
		now, err := memory(p)
		ok(t, err)
		for name, bytes := range now {
			most[name] = max(most[name], bytes)
		}
		time.Sleep(250 * time.Millisecond) // a sample
	}
	return most
}

// growth is the most that a stage has grown by, in percent, and which.
func growth(before, during map[string]int64) (percent float64, stage string) {
	percent = -100
	for _, name := range stages() {
		if p := 100 * (float64(during[name])/float64(before[name]) - 1); p > percent {
			percent, stage = p, name
		}
	}
	return percent, stage
}

// goroutines are those of each stage at this moment.
func goroutines(ctx context.Context, p *pipeline.Pipeline) (map[string]float64, error) {
	all := map[string]float64{}
	for _, name := range stages() {
		m, err := p.Metrics(ctx, name)
		if err != nil {
			return nil, err
		}
		if m["go_goroutine_count"] == 0 {
			return nil, fmt.Errorf("%s does not say how many goroutines it has", name)
		}
		all[name] = m["go_goroutine_count"]
	}
	return all, nil
}

// leaked waits until no stage that is still the same process has more goroutines than before, for idle connections are
// closed in their own time, and says which has after that.
func leaked(ctx context.Context, p *pipeline.Pipeline, before map[string]float64) error {
	within, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return persist(within, func() error {
		after, err := goroutines(within, p)
		if err != nil {
			return err
		}
		var more []error
		for name, n := range after {
			if n > before[name] {
				more = append(more, fmt.Errorf("%s has %.0f goroutines, before it had %.0f", name, n, before[name]))
			}
		}
		return errors.Join(more...)
	})
}

// pagesLanded is how many rows of pages SQL has.
func pagesLanded(ctx context.Context, p *pipeline.Pipeline) (uint64, error) {
	var rows []struct {
		N uint64 `ch:"n"`
	}
	if err := p.Select(ctx, &rows, "SELECT count() AS n FROM page_results FINAL"); err != nil || len(rows) != 1 {
		return 0, errors.Join(err, fmt.Errorf("%d rows", len(rows)))
	}
	return rows[0].N, nil
}

// untilNextPage is how long it takes from now until another page's row is there.
func untilNextPage(ctx context.Context, t *testing.T, p *pipeline.Pipeline, than uint64) time.Duration {
	t.Helper()
	began := time.Now()
	ok(t, persist(ctx, func() error {
		n, err := pagesLanded(ctx, p)
		if err == nil && n <= than {
			err = errors.New("no page has landed since")
		}
		return err
	}))
	return time.Since(began)
}

// idleness watches how long a partition may wait though it holds records: its committed offset stands still.
type idleness struct {
	stop chan struct{}
	done sync.WaitGroup
	most time.Duration
	of   string
}

func watchIdleness(ctx context.Context, l *load) *idleness {
	w := &idleness{stop: make(chan struct{})}
	groups := []string{"planner", "splitter", schemas.DetectorGroup(l.p.Model), "annotator", "recorder"}
	w.done.Go(func() {
		admin := kadm.NewClient(l.kafka)
		type place struct {
			group, topic string
			partition    int32
		}
		moved, at := map[place]time.Time{}, map[place]int64{}
		for {
			select {
			case <-w.stop:
				return
			case <-ctx.Done():
				return
			case <-time.After(500 * time.Millisecond):
			}
			lags, err := admin.Lag(ctx, groups...)
			if err != nil {
				continue // a coordinator that is not there now
			}
			now := time.Now()
			for group, lag := range lags {
				for topic, partitions := range lag.Lag {
					for id, one := range partitions {
						k := place{group, topic, id}
						if old, known := at[k]; !known || old != one.Commit.At || one.Lag <= 0 {
							at[k], moved[k] = one.Commit.At, now
							continue
						}
						if still := now.Sub(moved[k]); still > w.most {
							w.most, w.of = still, fmt.Sprintf("%s, %s %d", group, topic, id)
						}
					}
				}
			}
		}
	})
	return w
}

// end gives the longest time that a partition stood still, and which.
func (w *idleness) end() (time.Duration, string) {
	close(w.stop)
	w.done.Wait()
	return w.most, w.of
}
