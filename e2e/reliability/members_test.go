package reliability

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"leafcutter/e2e/pipeline"
)

// Members come and go all the time, some in order and some by kill -9: nothing is lost or done twice, and no partition is
// left waiting.
func TestMembersComeAndGo(t *testing.T) {
	changes, every := 4, 2*time.Second
	if full {
		changes, every = 120, 5*time.Second
	}
	comeAndGo(t, "members join and leave", []string{"page-splitter", "detector", "annotator", "recorder"}, changes, every, nil)
}

// Recorders come and go between the last pages of runs: each end is said, once, with the right counts.
func TestRecordersComeAndGo(t *testing.T) {
	changes := 3
	if full {
		changes = 60
	}
	// Many short runs: there is always one of which but a page is missing.
	comeAndGo(t, "recorders join and leave between last pages", []string{"recorder"}, changes, 1500*time.Millisecond, healthy)
}

func comeAndGo(t *testing.T, fault string, names []string, changes int, every time.Duration, which func([]item) []item) {
	t.Helper()
	beside(t)
	items, o := undisturbed(t)
	if which != nil {
		items = slices.DeleteFunc(which(slices.Clone(items)), func(i item) bool { return i.pages > 3 })
	}
	p := pipeline.Own(t)
	ctx := bounded(t, 40*time.Minute)
	l := newLoad(t, p)
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	var fed error
	feeding.Go(func() { _, fed = l.flow(ctx, stop, 1, len(items), items) })
	idle := watchIdleness(ctx, l)

	random := rand.New(rand.NewPCG(*seed, 4))
	var guests []*pipeline.Stage
	leave := func(at int) {
		guest := guests[at]
		guests = slices.Delete(guests, at, at+1)
		if random.IntN(2) == 0 {
			ok(t, guest.Kill())
		} else {
			ok(t, guest.Stop())
		}
	}
	defer func() {
		for len(guests) > 0 {
			ok(t, guests[0].Kill())
			guests = guests[1:]
		}
	}()
	for range changes {
		// Two at most: a machine has only so much memory for detectors.
		if len(guests) == 2 || len(guests) == 1 && random.IntN(2) == 0 {
			leave(random.IntN(len(guests)))
		} else {
			guest, err := p.StartStage(names[random.IntN(len(names))])
			ok(t, err)
			guests = append(guests, guest)
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(every):
		}
	}
	close(stop)
	feeding.Wait()
	ok(t, fed)
	for len(guests) > 0 {
		leave(0)
	}
	ok(t, l.settle(ctx))
	still, of := idle.end()
	if still > time.Minute {
		t.Errorf("%s stood still for %.0f s", of, still.Seconds())
	}
	judge(ctx, t, l, o, result{fault: fault, times: changes, note: fmt.Sprintf("every %.1f s; a partition stood still for %.1f s at most", every.Seconds(), still.Seconds())})
}
