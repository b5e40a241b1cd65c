package reliability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"leafcutter/e2e/pipeline"
)

// outage is a server that is away, and how.
type outage struct {
	server string
	killed bool // and does not come back for as long; else it hangs: connections stay open and nothing answers
}

func (o outage) String() string {
	name := map[string]string{"broker": "Kafka", "objects": "S3", "sql": "ClickHouse"}[o.server]
	if o.killed {
		return name + " is down"
	}
	return name + " hangs"
}

// begin takes the server away, and gives what brings it back.
func (o outage) begin(t *testing.T, p *pipeline.Pipeline) (end func()) {
	t.Helper()
	if !o.killed {
		pid, err := p.Signal(o.server, syscall.SIGSTOP)
		ok(t, err)
		return func() { ok(t, syscall.Kill(pid, syscall.SIGCONT)) }
	}
	// up starts it again at once, so it is killed again until it may stay.
	stop := make(chan struct{})
	var killing sync.WaitGroup
	killing.Go(func() {
		for {
			if pid, err := p.PID(o.server); err == nil && pid != 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
			}
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return func() {
		close(stop)
		killing.Wait()
	}
}

// A server that is away, dead or hanging, costs time and nothing else: no record is given up, memory stays as it was, no
// goroutine is left behind, and work goes on soon after it is back.
func TestOutages(t *testing.T) {
	var all []outage
	for _, server := range pipeline.Names()[:3] {
		all = append(all, outage{server, false}, outage{server, true})
	}
	away, warm, deep := 45*time.Second, time.Minute, 5
	if !full {
		random := rand.New(rand.NewPCG(*seed, 3))
		pick := random.IntN(len(all))
		all, away, warm, deep = all[pick:pick+1], 5*time.Second, 4*time.Second, 2
	}
	items, o := undisturbed(t)
	p := pipeline.Own(t)
	ctx := bounded(t, 50*time.Minute)
	l := newLoad(t, p)
	next := 1
	for _, one := range all {
		t.Run(one.String(), func(t *testing.T) { next = oneOutage(ctx, t, l, o, items, one, next, away, warm, deep) })
	}
}

func oneOutage(ctx context.Context, t *testing.T, l *load, o oracle, items []item, one outage, first int, away, warm time.Duration, deep int) (next int) {
	p := l.p
	// Once through, so that connections and pools are there, and then at rest.
	ok(t, l.put(ctx, first, items))
	ok(t, l.settle(ctx))
	resting, err := goroutines(ctx, p)
	ok(t, err)

	stop := make(chan struct{})
	var feeding sync.WaitGroup
	var fed error
	feeding.Go(func() { next, fed = l.flow(ctx, stop, first+1, deep*len(items), items) })
	before := mostMemory(t, p, warm) // under load
	back := one.begin(t, p)
	during := mostMemory(t, p, away)
	close(stop)
	than := uint64(0)
	if one.server != "sql" {
		than, err = pagesLanded(ctx, p)
		ok(t, err)
	}
	back()
	if one.server == "sql" {
		ok(t, persist(ctx, func() error { than, err = pagesLanded(ctx, p); return err }))
	}
	recovered := untilNextPage(ctx, t, p, than)
	feeding.Wait()
	ok(t, fed)

	percent, stage := growth(before, during)
	note := fmt.Sprintf("away for %.0f s; memory %+.0f %% (%s)", away.Seconds(), percent, stage)
	if full && percent > 10 {
		t.Errorf("%s: the memory of %s grew by %.0f %%, at most 10 %% is allowed", one, stage, percent)
	}
	for _, name := range stages() {
		t.Logf("%s: %.1f MB before, %.1f MB during", name, float64(before[name])/1e6, float64(during[name])/1e6)
	}
	ok(t, l.settle(ctx))
	if err := leaked(ctx, p, resting); err != nil {
		t.Errorf("%s: %v", one, err)
		note += "; goroutines left: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	} else {
		note += "; 0 goroutines left"
	}
	judge(ctx, t, l, o, result{fault: one.String(), times: 1, recovery: []time.Duration{recovered}, note: note})
	return next
}
