package pagesplitter

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// TestBooksWaitForDetectors: bulk ranges are held while the detectors of their
// model have pages enough, and never first pages, nor those of a model that nobody
// serves.
func TestBooksWaitForDetectors(t *testing.T) {
	const bound = 3
	bulk := schemas.Lane(schemas.PagesTopic("layout_cdla"), true)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, bulk))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cfg := kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 10 * time.Second}
	a, err := newAhead(cfg, bound, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	rest, first, other := rangeOf(t, "layout_cdla", 16), rangeOf(t, "layout_cdla", 0), rangeOf(t, "tables", 16)
	// Each is asked for twice, so that what is answered was known after the call.
	held := func(in stage.In) bool {
		t.Helper()
		for range 2 {
			a.Hold(in)
			a.asking.Wait()
			for _, w := range a.models {
				w.asked = time.Time{}
			}
		}
		return a.Hold(in) > 0
	}
	client, err := kafka.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for n := range bound {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: bulk, Key: fmt.Append(nil, n)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if held(rest) {
		t.Error("held for detectors that there are not")
	}
	detector, err := kafka.NewClient(cfg, kgo.ConsumerGroup(schemas.DetectorGroup("layout_cdla")), kgo.ConsumeTopics(bulk),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	defer detector.Close()
	fetches := detector.PollRecords(t.Context(), bound)
	if !held(rest) {
		t.Error("not held although the detector has pages enough")
	}
	if held(first) || held(other) {
		t.Error("first pages or another model's are held")
	}
	if err := detector.CommitRecords(t.Context(), fetches.Records()...); err != nil {
		t.Fatal(err)
	}
	if held(rest) {
		t.Error("held although the detector has done its pages")
	}
}

func rangeOf(t *testing.T, model string, position int) stage.In {
	t.Helper()
	r := schemas.PageRange{Run: schemas.Run{
		DocumentID: "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b", RunID: "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5c",
		Options: schemas.RunOptions{Model: model, DPI: schemas.DefaultDPI},
	}, Pages: []int{position + 1}, Position: position}
	out, err := stage.Emit(schemas.Lane(schemas.TopicPageRanges, r.Bulk()), r.Key(), r)
	if err != nil {
		t.Fatal(err)
	}
	return stage.In{Topic: out.Topic, Key: out.Key, Value: out.Value, Headers: out.Headers}
}
