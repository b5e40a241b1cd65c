package annotator_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/objectstore/objectstoretest"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/annotator"
)

// TestStage runs the stage as it is deployed but for the process: real records by the Kafka protocol, real objects by
// S3's. A page, the same page again, a page whose image is broken and a value that is no record go in.
func TestStage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	otel.SetTextMapPropagator(propagation.TraceContext{}) // as package program does
	tracers := sdktrace.NewTracerProvider()
	t.Cleanup(func() {
		if err := tracers.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})

	cluster, err := kfake.NewCluster(kfake.NumBrokers(1),
		kfake.SeedTopics(3, "lc."+schemas.TopicDetections, "lc."+schemas.TopicResults, "lc."+schemas.TopicDeadLetters))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	k := kafka.Config{Brokers: cluster.ListenAddrs(), TopicPrefix: "lc.", SessionTimeout: 6 * time.Second}
	store := objectstoretest.New(t)

	p := page(t)
	broken := p
	broken.Page, broken.ImageKey = 5, schemas.PageImageKey(p.DocumentID, p.DPI, "mupdf-1.24.9", 5)
	for key, file := range map[string][]byte{
		p.ImageKey: testdata(t, "page.png"), p.TextKey: testdata(t, "lines.json"), broken.ImageKey: []byte("no picture"),
	} {
		if err := store.Put(ctx, key, file, "application/octet-stream"); err != nil {
			t.Fatal(err)
		}
	}

	s := newAnnotator(t, config(), store).Stage()
	s.TracerProvider = tracers
	s.Probes = map[string]func(context.Context) error{objectstore.Dependency: store.Probe, "kafka": kafka.Probe(k)}
	s.Limits = stage.Limits{Workers: 2, BatchSize: 1, MaxInFlight: 64, MaxBytes: 1 << 20, MaxAttempts: 3,
		RetryBackoff: time.Millisecond, CommitEvery: 10 * time.Millisecond, Grace: 20 * time.Second, Watchdog: time.Minute}
	runner, err := stage.New(k, s)
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	client, err := kafka.NewClient(k, kgo.ConsumeTopics("lc."+schemas.TopicResults, "lc."+schemas.TopicDeadLetters),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	send := func(key string, value []byte) {
		record := &kgo.Record{Topic: "lc." + schemas.TopicDetections, Key: []byte(key), Value: value,
			Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-" + traceID + "-b7ad6b7169203331-01")}}}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	send(p.Key(), in(t, p).Value)
	send(p.Key(), in(t, p).Value)
	send(broken.Key(), in(t, broken).Value)
	send("nothing", []byte("%PDF-1.7"))

	var done []schemas.PageDone
	var failed []schemas.PageFailed
	letters := map[string]string{}
	for len(done) < 2 || len(failed) < 1 || len(letters) < 2 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d pages done, %d failed, dead letters %v", len(done), len(failed), letters)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Topic == "lc."+schemas.TopicDeadLetters {
				for _, h := range r.Headers {
					if h.Key == schemas.HeaderCode {
						letters[string(r.Key)] = string(h.Value)
					}
				}
				return
			}
			result, err := schemas.UnmarshalResult(r.Value)
			if err != nil || string(r.Key) != p.DocumentID {
				t.Fatalf("key %s: %v", r.Key, err)
			}
			switch result := result.(type) {
			case schemas.PageDone:
				done = append(done, result)
			case schemas.PageFailed:
				failed = append(failed, result)
			}
		})
	}

	want := map[string]string{broken.Key(): annotator.CodePageImage, "nothing": annotator.CodeRecord}
	if diff := cmp.Diff(want, letters); diff != "" {
		t.Errorf("dead letters: %s", diff)
	}
	if f := failed[0]; f.Page != 5 || f.Code != annotator.CodePageImage || f.TraceID != traceID {
		t.Errorf("failed: %+v", f)
	}
	for i := range done {
		if done[i].TraceID != traceID {
			t.Errorf("trace %q", done[i].TraceID)
		}
		done[i].AnnotateMS = 0
	}
	if !cmp.Equal(done[0], done[1]) {
		t.Error("the same page twice gives different records")
	}
	keys := []string{done[0].AnnotatedKey}
	for _, box := range done[0].Boxes {
		if box.CropKey != "" {
			keys = append(keys, box.CropKey)
		}
	}
	if len(keys) < 5 {
		t.Errorf("%d objects", len(keys))
	}
	for _, key := range keys {
		file, err := store.Get(ctx, key, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		info, err := store.Head(ctx, key)
		if err != nil || info.ContentType != "image/png" || !bytes.HasPrefix(file, []byte("\x89PNG")) {
			t.Errorf("%s: %+v, %v", key, info, err)
		}
	}
}
