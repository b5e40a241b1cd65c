package stage_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/stage"
)

// A partition whose committed offset has fallen out of retention is stopped: that is said once, the stage is not ready,
// and the other partitions go on.
func TestAnOffsetOutOfRetentionStopsItsPartition(t *testing.T) {
	b := newBroker(t)
	client := manual(t, b)
	put := func(partition int32, value string) {
		t.Helper()
		r := &kgo.Record{Topic: "in", Partition: partition, Key: []byte(value), Value: []byte(value)}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range numbers(0, 20) {
		put(0, v)
	}
	admin := kadm.NewClient(client)
	committed, gone := kadm.Offsets{}, kadm.Offsets{}
	committed.AddOffset("in", 0, 5, -1)
	gone.AddOffset("in", 0, 10, -1)
	if err := admin.CommitAllOffsets(t.Context(), "test", committed); err != nil {
		t.Fatal(err)
	}
	if deleted, err := admin.DeleteRecords(t.Context(), gone); err != nil || deleted.Error() != nil {
		t.Fatal(err, deleted.Error())
	}
	log := &journal{}
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r, err := stage.New(b.cfg, cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.run(r)
	eventually(t, "the stage says that it is not ready", func() bool {
		err := r.Ready()
		return err != nil && strings.Contains(err.Error(), "partition 0 is stopped")
	})
	// Each of these takes a fetch, and each fetch would have brought the error again.
	for i, v := range numbers(100, 110) {
		put(1, v)
		b.read("out", i+1)
	}
	if n := strings.Count(log.String(), "fallen out of retention"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	if n := strings.Count(log.String(), "was asked for again"); n > 1 {
		t.Errorf("the partition was asked for again %d times", n)
	}
	if n := b.ends("out"); n != 10 {
		t.Errorf("%d records were handled, want those of the other partition", n)
	}
}

// journal is a log that is written and read at once.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
