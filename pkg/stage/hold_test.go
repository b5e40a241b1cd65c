package stage_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

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

// What is put off is bounded apart: the records behind more of it than may be in flight are handled, and what is put off
// itself is not fetched without bound.
func TestHeldRecordsDoNotFillTheirLane(t *testing.T) {
	b := newBroker(t)
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Limits.MaxInFlight = 8
	const least, most = 15 * 8, 16*8 + 8 // and what one poll brings
	var open atomic.Bool
	var mu sync.Mutex
	held := map[string]bool{}
	cfg.Hold = func(in stage.In) time.Duration {
		if in.Key < "01000" || open.Load() {
			return 0
		}
		mu.Lock()
		defer mu.Unlock()
		held[in.Key] = true
		return time.Millisecond
	}
	many := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(held)
	}
	produce := func(values []string) {
		t.Helper()
		var records []*kgo.Record
		for n, v := range values {
			records = append(records, &kgo.Record{Topic: "in.bulk", Partition: int32(n % 4), Key: []byte(v), Value: []byte(v)})
		}
		if err := manual(t, b).ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produce(append(numbers(1000, 1100), numbers(0, 20)...))
	b.start(cfg)
	if diff := cmp.Diff(numbers(0, 20), b.values("out", 20)); diff != "" {
		t.Error(diff)
	}
	produce(numbers(1100, 1500))
	eventually(t, "as many are put off as may be", func() bool { return many() >= least })
	b.produce("in", numbers(20, 40)...) // the other lane goes on meanwhile
	b.values("out", 40)
	if n := many(); n > most {
		t.Errorf("%d records are put off, want at most %d", n, most)
	}
	open.Store(true)
	b.values("out", 540)
	b.waitCommitted("test", 540)
}
