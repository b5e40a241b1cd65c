package stage_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

func TestAHeldRecordWaitsAndHoldsNothingUp(t *testing.T) {
	b := newBroker(t)
	var open atomic.Bool
	var asked, tries atomic.Int64
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		tries.Store(max(tries.Load(), int64(in.Attempt)))
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Limits.Workers = 1
	cfg.Hold = func(in stage.In) time.Duration {
		if in.Topic != schemas.Lane("in", true) || open.Load() {
			return 0
		}
		asked.Add(1)
		return time.Millisecond
	}
	b.produce("in.bulk", numbers(100, 110)...)
	b.produce("in", numbers(0, 20)...)
	b.start(cfg)
	if diff := cmp.Diff(numbers(0, 20), b.values("out", 20)); diff != "" {
		t.Error(diff)
	}
	eventually(t, "held records are asked about again and again", func() bool { return asked.Load() > 50 })
	if n := b.ends("out"); n != 20 {
		t.Errorf("%d records came out while ten of thirty were held", n)
	}
	open.Store(true)
	b.values("out", 30)
	b.waitCommitted("test", 30)
	if n := tries.Load(); n != 1 {
		t.Errorf("being held counted as a try: %d", n)
	}
}
