package stage_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// A store whose parts come back one by one answers its probe before it has every object again: what fails meanwhile is
// not the records' doing, however often they meet it.
func TestADependencyThatComesBackIsGivenTime(t *testing.T) {
	b := newBroker(t)
	var tries, probed atomic.Int64
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		if tries.Add(1) <= 10 { // far more than MaxAttempts
			return stage.Fail(fault.AsUnavailable("s3", errors.New("internal error")))
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Probes = map[string]func(context.Context) error{"s3": func(context.Context) error {
		if probed.Add(1) == 1 {
			return errors.New("connection refused")
		}
		return nil
	}}
	b.produce("in", "healthy")
	b.start(cfg)
	b.values("out", 1)
	b.waitCommitted("test", 1)
	if n := b.ends(schemas.TopicDeadLetters); n != 0 || tries.Load() != 11 {
		t.Fatalf("%d dead letters after %d tries", n, tries.Load())
	}
}
