package stage

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOnlyAnswersAskedForAfterTheFaultCount(t *testing.T) {
	var asked atomic.Int64
	var away atomic.Bool
	p := newProbes(map[string]func(context.Context) error{"s3": func(context.Context) error {
		asked.Add(1)
		if away.Load() {
			return errors.New("away")
		}
		return nil
	}})
	before := time.Now()
	if err := p.away(t.Context(), "s3", before); err != nil {
		t.Fatal(err)
	}
	if err := p.away(t.Context(), "s3", before); err != nil || asked.Load() != 1 {
		t.Fatalf("asked %d times for a fault that an answer is younger than", asked.Load())
	}
	away.Store(true)
	if err := p.away(t.Context(), "s3", time.Now()); err == nil {
		t.Fatal("an answer from before the fault was believed")
	}
	if p.away(t.Context(), "nobody", time.Now()) != nil {
		t.Fatal("a dependency without a probe is believed to be away")
	}
}

func TestManyFaultsShareAnAnswer(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	p := newProbes(map[string]func(context.Context) error{"s3": func(context.Context) error {
		asked.Add(1)
		<-release
		return errors.New("away")
	}})
	var all sync.WaitGroup
	failed := time.Now()
	for range 100 {
		all.Go(func() {
			if p.away(t.Context(), "s3", failed) == nil {
				t.Error("not away")
			}
		})
	}
	close(release)
	all.Wait()
	if n := asked.Load(); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestADependencyThatWasAwayIsComingBackForAWhile(t *testing.T) {
	var away atomic.Bool
	p := newProbes(map[string]func(context.Context) error{"s3": func(context.Context) error {
		if away.Load() {
			return errors.New("away")
		}
		return nil
	}})
	if p.away(t.Context(), "s3", time.Now()) != nil || p.lately("s3") {
		t.Fatal("it was never away")
	}
	away.Store(true)
	if p.away(t.Context(), "s3", time.Now()) == nil || !p.lately("s3") {
		t.Fatal("it is away")
	}
	away.Store(false)
	if p.away(t.Context(), "s3", time.Now()) != nil || !p.lately("s3") {
		t.Fatal("it answers, and was away a moment ago")
	}
	p.gone["s3"] = time.Now().Add(-comingBack)
	if p.lately("s3") {
		t.Fatal("it has been back for long enough")
	}
}
