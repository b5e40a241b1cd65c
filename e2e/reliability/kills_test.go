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

// renderer stands for a process that the page-splitter has started.
const renderer = "renderer"

// kill -9 of any process at random while documents come in without end: every document ends as if nothing had been.
func TestRandomKills(t *testing.T) {
	kills, depth := 10, 1
	if full {
		kills, depth = 210, 2
	}
	beside(t)
	items, o := undisturbed(t)
	p := pipeline.Own(t)
	ctx := bounded(t, 40*time.Minute)
	l := newLoad(t, p)
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	var fed error
	feeding.Go(func() { _, fed = l.flow(ctx, stop, 1, depth*len(items), items) })
	recovery, counts := killAtRandom(ctx, t, p, kills)
	close(stop)
	feeding.Wait()
	ok(t, fed)
	judge(ctx, t, l, o, result{fault: "kill -9 of any process, under load", times: kills, recovery: recovery, note: killed(counts)})
}

// killed says how often each process was.
func killed(counts map[string]int) string {
	var each []string
	for _, name := range append(pipeline.Names(), renderer) {
		each = append(each, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(each, ", ")
}

// killAtRandom kills processes, one after another, and gives how long each took until it did its work again. Of one that is
// killed again on its way there, the last kill counts.
func killAtRandom(ctx context.Context, t *testing.T, p *pipeline.Pipeline, kills int) (recovery []time.Duration, counts map[string]int) {
	t.Helper()
	random := rand.New(rand.NewPCG(*seed, 2))
	targets := append(pipeline.Names(), renderer)
	counts = map[string]int{}
	last := map[string]time.Time{} // when a process was killed
	var mu sync.Mutex
	var watching sync.WaitGroup
	defer watching.Wait()
	for n := 0; n < kills; {
		pause := time.Duration(500+random.IntN(4000)) * time.Millisecond
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(pause): // the load is to be disturbed at any point of its way
		}
		name := targets[random.IntN(len(targets))]
		if name == renderer {
			if !killRenderer(t, p, random) {
				continue
			}
		} else {
			pid, err := p.PID(name)
			ok(t, err)
			if pid == 0 {
				continue // it has just been killed
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				continue // it has ended meanwhile
			}
			killed := time.Now()
			mu.Lock()
			last[name] = killed
			mu.Unlock()
			watching.Go(func() {
				if err := p.AwaitChild(ctx, name, pid); err != nil {
					t.Error(err)
					return
				}
				if err := persist(ctx, func() error { return p.Ready(ctx, name) }); err != nil {
					t.Errorf("%s is not ready again: %v", name, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if last[name] != killed {
					return
				}
				took := time.Since(killed)
				recovery = append(recovery, took)
				t.Logf("%s %s killed, back at work after %.1f s", killed.UTC().Format(time.TimeOnly), name, took.Seconds())
			})
		}
		counts[name]++
		n++
	}
	watching.Wait()
	return recovery, counts
}

// killRenderer kills one of the processes in which the page-splitter opens documents, where there is one.
func killRenderer(t *testing.T, p *pipeline.Pipeline, random *rand.Rand) bool {
	t.Helper()
	pid, err := p.PID("page-splitter")
	ok(t, err)
	if pid == 0 {
		return false
	}
	family, err := p.Family(pipeline.Child{Name: "page-splitter", PID: pid})
	ok(t, err)
	if len(family) < 2 {
		return false
	}
	return syscall.Kill(family[1+random.IntN(len(family)-1)], syscall.SIGKILL) == nil
}
