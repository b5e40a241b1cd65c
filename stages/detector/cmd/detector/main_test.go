package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
	"leafcutter/pkg/telemetry"
	"leafcutter/schemas"
	"leafcutter/stages/detector"
)

func TestMain(m *testing.M) {
	if detector.IsPrepareChild(os.Args) {
		os.Exit(detector.PrepareChild(context.Background()))
	}
	goleak.VerifyTestMain(m)
}

func file(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v: run make deps", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// world is Kafka and S3 as the program sees them, and a program not yet
// started.
type world struct {
	program *program.Program
	cfg     config
	client  *kgo.Client
	fetched []*kgo.Record // and not asked for yet
}

func newWorld(t *testing.T) *world {
	t.Helper()
	var topics []string
	for _, topic := range schemas.Topics("layout_cdla", "yolo") {
		topics = append(topics, topic.Name)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(schemas.TopicDetections, schemas.TopicResults, schemas.TopicModels),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)

	image := file(t, "report.png")
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pages/report.png" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`<Error><Code>NoSuchKey</Code></Error>`))
			return
		}
		_, _ = w.Write(image)
	}))
	t.Cleanup(s3.Close)

	models := t.TempDir()
	tel, err := telemetry.Start(t.Context(), "detector", "test", telemetry.Config{LogLevel: "error", LogFormat: "text"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := tel.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	library, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "build", "lib", "libonnxruntime.*"))
	if err != nil || len(library) != 1 {
		t.Fatalf("ONNX Runtime's library: %v, %v: run make deps", library, err)
	}
	return &world{
		program: &program.Program{Name: "detector", Logger: tel.Logger, Telemetry: tel, Health: program.NewHealth()},
		client:  client,
		cfg: config{
			Detector: detector.Config{Model: "layout_cdla", ModelsDir: models, Library: library[0], CacheDir: t.TempDir(), Threads: 1, MaxPixels: 4_000_000, MaxBytes: 1 << 20},
			Kafka:    kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 10 * time.Second},
			Objects:  objectstore.Config{Endpoint: s3.URL, Region: "us-east-1", AccessKeyID: "key", SecretAccessKey: "secret", Bucket: "pages", ForcePathStyle: true, Checksum: "when-required", Connections: 4},
			Limits: stage.Limits{BatchSize: 1, MaxInFlight: 16, MaxBytes: 1 << 20, MaxAttempts: 2, RetryBackoff: 10 * time.Millisecond,
				CommitEvery: 50 * time.Millisecond, Grace: 20 * time.Second, Watchdog: time.Minute},
		},
	}
}

// giveModel puts the model where the program looks for it.
func (w *world) giveModel(t *testing.T) {
	t.Helper()
	dir := filepath.Join(w.cfg.Detector.ModelsDir, "layout_cdla")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	weights, err := filepath.Abs(filepath.Join("..", "..", "..", "..", "build", "models", "layout_cdla", "layout_cdla.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	file(t, "..", "..", "build", "models", "layout_cdla", "layout_cdla.onnx")
	if err := os.Symlink(weights, filepath.Join(dir, "layout_cdla.onnx")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), file(t, "models", "layout_cdla.json"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs the program until the test ends, and checks that it ends cleanly.
func (w *world) start(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, w.program, w.cfg) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

// until polls for a state of health.
func (w *world) until(t *testing.T, what string, is func(r program.Report, ready bool) bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		r, ready := w.program.Health.Ready()
		if is(r, ready) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never %s: %+v", what, r)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// next is the next record of a topic.
func (w *world) next(t *testing.T, topic string) *kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		for i, r := range w.fetched {
			if r.Topic == topic {
				w.fetched = slices.Delete(w.fetched, i, i+1)
				return r
			}
		}
		fetches := w.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("waiting for a record on %s: %v", topic, err)
		}
		w.fetched = append(w.fetched, fetches.Records()...)
	}
}

func (w *world) produce(t *testing.T, image string) {
	t.Helper()
	w.produceFor(t, image, "layout_cdla", "")
}

// produceFor puts a page of a run for a version of a model into its topic.
func (w *world) produceFor(t *testing.T, image, model, digest string) {
	t.Helper()
	page := schemas.PageRendered{RenderedPage: schemas.RenderedPage{
		Run: schemas.Run{
			DocumentID: "0190a2c0-0000-7000-8000-000000000001", RunID: "0190a2c0-0000-5000-8000-000000000002",
			SubmittedAt: time.Now(), ContentType: "application/pdf", PagesSelected: 1,
			Options: schemas.RunOptions{Model: model, ModelDigest: digest, DPI: 108, Pages: "1-", Thresholds: map[string]float64{"*": 0.4}},
		},
		Page: 1, ImageKey: image, Width: 918, Height: 1188, DPI: 108,
	}}
	value, err := schemas.Marshal(page)
	if err != nil {
		t.Fatal(err)
	}
	r := &kgo.Record{Topic: schemas.PagesTopic(model), Key: []byte(page.Key()), Value: value}
	if err := w.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func TestRun(t *testing.T) {
	w := newWorld(t)
	w.giveModel(t)
	w.start(t)

	announced, err := schemas.Unmarshal[schemas.ModelAnnounced](w.next(t, schemas.TopicModels).Value)
	if err != nil || announced.Model != "layout_cdla" || len(announced.Digest) != 64 {
		t.Fatalf("%+v, %v", announced, err)
	}
	w.until(t, "ready", func(_ program.Report, ready bool) bool { return ready })

	w.produce(t, "report.png")
	found, err := schemas.Unmarshal[schemas.PageDetected](w.next(t, schemas.TopicDetections).Value)
	if err != nil {
		t.Fatal(err)
	}
	titles := 0
	for _, b := range found.Boxes {
		if b.Class == "title" && b.Score >= 0.4 {
			titles++
		}
	}
	if titles != 3 {
		t.Errorf("%d titles at 0.4, want 3: %+v", titles, found.Boxes)
	}

	w.produce(t, "gone.png")
	failed, err := schemas.Unmarshal[schemas.PageFailed](w.next(t, schemas.TopicResults).Value)
	if err != nil || failed.Code != objectstore.CodeMissing || failed.Stage != detector.Name {
		t.Errorf("%+v, %v", failed, err)
	}
}

// What was cancelled before the program began is not detected, and it says so.
func TestRunHeedsWhatWasAskedBefore(t *testing.T) {
	w := newWorld(t)
	w.giveModel(t)
	c := schemas.Control{DocumentID: "0190a2c0-0000-7000-8000-000000000001", Action: schemas.ActionCancel, Sequence: 7, At: time.Now()}
	value, err := schemas.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.client.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.TopicControls, Key: []byte(c.DocumentID), Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.produce(t, "report.png")
	w.start(t)
	r := w.next(t, schemas.TopicResults)
	cancelled, err := schemas.Unmarshal[schemas.RunCancelled](r.Value)
	if err != nil || cancelled.Sequence != 7 || string(r.Key) != c.DocumentID {
		t.Errorf("%s, %v", r.Value, err)
	}
}

// Without a model the program stays, is not ready and says why; once there is
// one it serves it.
func TestRunWaitsForItsModel(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	w.until(t, "without its model", func(r program.Report, ready bool) bool {
		return !ready && slices.ContainsFunc(r.Checks, func(c program.Check) bool {
			return c.Name == "model" && !c.OK && strings.Contains(c.Reason, "layout_cdla") && strings.Contains(c.Reason, "make deps")
		})
	})
	w.giveModel(t)
	w.until(t, "ready", func(_ program.Report, ready bool) bool { return ready })
}

// Several models are served by one process, each from its topic, and announced
// anew when they change.
func TestRunServesSeveralAndWhatChanges(t *testing.T) {
	w := newWorld(t)
	w.giveModel(t)
	w.cfg.Detector.Models, w.cfg.Detector.Refresh = []string{"layout_cdla", "yolo"}, 100*time.Millisecond
	dir := filepath.Join(w.cfg.Detector.ModelsDir, "yolo")
	manifest := file(t, "testdata", "families", "yolo", "manifest.json")
	give := func(manifest []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), manifest, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "model.onnx"), file(t, "testdata", "families", "yolo", "model.onnx"), 0o600)); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	w.until(t, "without one of its models", func(r program.Report, ready bool) bool {
		return !ready && slices.ContainsFunc(r.Checks, func(c program.Check) bool {
			return c.Name == "model" && strings.Contains(c.Reason, "yolo: ") && !strings.Contains(c.Reason, "layout_cdla")
		})
	})
	give(manifest)
	w.until(t, "ready", func(_ program.Report, ready bool) bool { return ready })
	announced := map[string]schemas.ModelAnnounced{}
	next := func() {
		t.Helper()
		a, err := schemas.Unmarshal[schemas.ModelAnnounced](w.next(t, schemas.TopicModels).Value)
		if err != nil {
			t.Fatal(err)
		}
		announced[a.Model] = a
	}
	next()
	next()
	first := announced["yolo"].Digest
	if len(announced) != 2 || first == "" {
		t.Fatalf("announced %+v", announced)
	}
	boxes := func(model, digest string) int {
		t.Helper()
		w.produceFor(t, "report.png", model, digest)
		found, err := schemas.Unmarshal[schemas.PageDetected](w.next(t, schemas.TopicDetections).Value)
		if err != nil || found.Options.Model != model {
			t.Fatalf("%+v, %v", found, err)
		}
		return len(found.Boxes)
	}
	many := boxes("yolo", first)
	if boxes("layout_cdla", "") == 0 || many == 0 {
		t.Error("no boxes")
	}
	give(bytes.Replace(manifest, []byte(`"score_floor": 0.8`), []byte(`"score_floor": 0.9`), 1))
	next()
	second := announced["yolo"].Digest
	if second == first {
		t.Fatal("announced what it was")
	}
	if few, old := boxes("yolo", second), boxes("yolo", first); few >= many || old != many {
		t.Errorf("%d boxes by the first version, %d by the second, %d by the first again", many, few, old)
	}
}

func TestVariablesAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range program.Variables(program.Spec[config]{Name: detector.Name, AdminAddr: "127.0.0.1:0"}) {
		if seen[v.Name] {
			t.Errorf("%s twice", v.Name)
		}
		seen[v.Name] = true
	}
	for _, want := range []string{"LEAFCUTTER_MODEL", "LEAFCUTTER_MODELS", "LEAFCUTTER_MODELS_MEMORY", "LEAFCUTTER_MODELS_REFRESH", "LEAFCUTTER_MODELS_DIR", "LEAFCUTTER_ONNXRUNTIME_LIB", "LEAFCUTTER_WORKERS", "KAFKA_BROKERS", "S3_BUCKET"} {
		if !seen[want] {
			t.Errorf("%s is not read", want)
		}
	}
}
