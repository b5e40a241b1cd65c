package pagesplitter

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/objectstore/objectstoretest"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/render"
	"leafcutter/stages/page-splitter/internal/sourcecache"
)

func TestMain(m *testing.M) {
	if IsRenderChild(os.Args) {
		os.Exit(RenderChild())
	}
	goleak.VerifyTestMain(m)
}

// bench is both stages on a real object store, a real cache and real children.
type bench struct {
	store    *objectstore.Store
	models   *Models
	planner  *Planner
	splitter *Splitter
	renderer *counter
	asked    *controls.Set
}

// counter counts what is rendered, and may fail it.
type counter struct {
	render.Renderer
	opened, rendered atomic.Int64
	fail             func(page int) error
}

func (c *counter) Open(ctx context.Context, path string) (render.Document, error) {
	c.opened.Add(1)
	doc, err := c.Renderer.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return countedDocument{doc, c}, nil
}

type countedDocument struct {
	render.Document
	counter *counter
}

func (d countedDocument) Page(ctx context.Context, number, dpi int) (*render.Page, error) {
	if d.counter.fail != nil {
		if err := d.counter.fail(number); err != nil {
			return nil, err
		}
	}
	d.counter.rendered.Add(1)
	return d.Document.Page(ctx, number, dpi)
}

const attempts = 3

func newBench(t *testing.T) *bench {
	t.Helper()
	cfg := Config{
		DefaultModel: "layout_cdla", MaxDocument: 8 << 20, CacheDir: t.TempDir(), CacheBytes: 64 << 20, Uploads: 4,
		Render: render.Config{PageTimeout: 10 * time.Second, Memory: 512 << 20, MaxPixels: 40_000_000, MaxPages: 1000,
			RecyclePages: 500, RecycleRSS: 256 << 20},
	}
	if err := errors.Join(cfg.Validate(), cfg.Render.Validate()); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	store := objectstoretest.New(t)
	pool, err := render.NewPool(t.Context(), 2, cfg.Render, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	sources, err := sourcecache.Open(cfg.CacheDir, int64(cfg.CacheBytes), int64(cfg.MaxDocument),
		func(ctx context.Context, uri string) (io.ReadCloser, int64, error) {
			body, info, err := store.OpenURI(ctx, uri)
			return body, info.Size, err
		})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sources.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{store: store, models: NewModels(cfg.DefaultModel, logger), renderer: &counter{Renderer: pool}, asked: controls.New(logger)}
	b.planner = NewPlanner(cfg, store, sources, b.renderer, b.models, b.asked)
	b.splitter = NewSplitter(cfg, store, sources, b.renderer, attempts, b.asked)
	b.announce(t, "layout_cdla")
	return b
}

func (b *bench) announce(t *testing.T, model string) {
	t.Helper()
	value, err := schemas.Marshal(schemas.ModelAnnounced{
		Model: model, Version: "1", Digest: "d1", Family: "picodet", Classes: []string{"title"}, ScoreFloor: 0.1,
		Thresholds: map[string]float64{"*": 0.4, "table": 0.5}, AnnouncedAt: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.models.Apply(model, value)
}

// put stores an object and returns its reference.
func (b *bench) put(t *testing.T, key string, body []byte) string {
	t.Helper()
	if err := b.store.Put(t.Context(), key, body, "application/octet-stream"); err != nil {
		t.Fatal(err)
	}
	return b.store.URI(key)
}

var submittedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// record is a record of the topic documents.
func record(value []byte, headers map[string]string) stage.In {
	return stage.In{Topic: schemas.TopicDocuments, Partition: 2, Offset: 17, Timestamp: submittedAt, Value: value, Headers: headers, Attempt: 1}
}

func reference(t *testing.T, d schemas.DocumentSubmitted) stage.In {
	t.Helper()
	value, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return record(value, map[string]string{schemas.HeaderContentType: "application/json"})
}

// handle gives a record to a stage as the runtime does, a permanent fault
// included: what it gives up is told by Condemned.
func handle(t *testing.T, s stage.Config, in stage.In) ([]stage.Out, stage.Result) {
	t.Helper()
	result := s.Handler.Handle(t.Context(), []stage.In{in})[0]
	if result.Err != nil {
		if fault.ClassOf(result.Err) != fault.Permanent {
			return nil, result
		}
		return s.Condemned(in, fault.CodeOf(result.Err), result.Err), result
	}
	return result.Out, result
}

// on returns the records for one topic, read as T.
func on[T schemas.Record](t *testing.T, outs []stage.Out, topic string) []T {
	t.Helper()
	var all []T
	var zero T
	for _, out := range outs {
		if out.Topic != topic || out.Headers[schemas.HeaderSchema] != zero.Schema() {
			continue
		}
		r, err := schemas.Unmarshal[T](out.Value)
		if err != nil {
			t.Fatalf("%v: %s", err, out.Value)
		}
		all = append(all, r)
	}
	return all
}

// refusing is a store that takes no page image.
type refusing struct{ Store }

func (r refusing) Put(ctx context.Context, key string, body []byte, contentType string) error {
	if contentType == "image/png" {
		return fault.AsUnavailable(objectstore.Dependency, errors.New("slow down"))
	}
	return r.Store.Put(ctx, key, body, contentType)
}
