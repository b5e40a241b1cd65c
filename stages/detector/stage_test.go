package detector

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// shelf is a store whose objects lie in memory. says, where set, is the size
// that it claims.
type shelf struct {
	objects map[string][]byte
	says    int64
	breaks  error // of the body, half way
	endless bool  // the body never ends
}

func (s shelf) Open(_ context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	b, ok := s.objects[key]
	if !ok {
		return nil, objectstore.Info{}, fault.Permanentf(objectstore.CodeMissing, "no object %s", key)
	}
	info := objectstore.Info{Key: key, Size: int64(len(b))}
	if s.says != 0 {
		info.Size = s.says
	}
	var body io.Reader = bytes.NewReader(b)
	if s.endless {
		body = zeros{}
	}
	if s.breaks != nil {
		body = io.MultiReader(bytes.NewReader(b[:len(b)/2]), broken{s.breaks})
	}
	return io.NopCloser(body), info, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// serving are the models of a configuration, taken up.
func serving(t testing.TB, c Config) *Models {
	t.Helper()
	m, err := OpenModels(t.Context(), c, objectstore.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	m.look(t.Context(), func(schemas.ModelAnnounced) {})
	if err := m.Ready(); err != nil {
		t.Fatal(err)
	}
	return m
}

func rendered(d *Models) schemas.PageRendered {
	return schemas.PageRendered{RenderedPage: schemas.RenderedPage{
		Run: schemas.Run{
			DocumentID: "0190a2c0-0000-7000-8000-000000000001", RunID: "0190a2c0-0000-5000-8000-000000000002",
			SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Source: "s3://leafcutter/documents/x/source", ContentType: "application/pdf",
			PagesSelected: 1,
			Options:       schemas.RunOptions{Model: "layout_cdla", ModelDigest: d.recall("layout_cdla", "").Digest, DPI: 108, Pages: "1-", Thresholds: map[string]float64{"*": 0.4}},
		},
		Page: 7, ImageKey: "report.png", Width: 918, Height: 1188, DPI: 108, RenderedAt: time.Now().UTC(),
	}}
}

func record(t testing.TB, r schemas.Record) stage.In {
	t.Helper()
	b, err := schemas.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return stage.In{Topic: "pages.layout_cdla", Key: "k", Value: b, Timestamp: time.Now().Add(-time.Second), Attempt: 1}
}

func one(t testing.TB, c stage.Config, in stage.In) stage.Result {
	t.Helper()
	out := c.Handler.Handle(t.Context(), []stage.In{in})
	if len(out) != 1 {
		t.Fatalf("%d results for one record", len(out))
	}
	return out[0]
}

func TestStage(t *testing.T) {
	d := serving(t, testConfig(t))
	good := map[string][]byte{"report.png": samplePage, "walden.png": read(t, "testdata/walden.png")}
	c := d.Stage("layout_cdla", shelf{objects: good})
	if c.Group != "detector-layout_cdla" || len(c.Topics) != 1 || c.Topics[0] != "pages.layout_cdla" || !c.Bulk {
		t.Fatalf("stage is %+v", c)
	}

	page := rendered(d)
	r := one(t, c, record(t, page))
	if r.Err != nil || len(r.Out) != 1 {
		t.Fatalf("%+v", r)
	}
	out := r.Out[0]
	if out.Topic != schemas.TopicDetections || out.Key != page.Key() || out.Headers[schemas.HeaderSchema] != "PageDetected.v1" {
		t.Errorf("record for %s, key %s, headers %v", out.Topic, out.Key, out.Headers)
	}
	found, err := schemas.Unmarshal[schemas.PageDetected](out.Value)
	if err != nil {
		t.Fatal(err)
	}
	same(t, found.Boxes, golden(t, "report"))
	if found.Page != 7 || found.RunID != page.RunID || found.ImageKey != page.ImageKey || !found.RenderedAt.Equal(page.RenderedAt) {
		t.Errorf("the page's facts are not carried on: %+v", found.RenderedPage)
	}
	if found.QueueMS < 1000 || found.QueueMS > 60_000 || found.InferMS <= 0 || found.DetectedAt.IsZero() {
		t.Errorf("timings: queue %v ms, infer %v ms, at %v", found.QueueMS, found.InferMS, found.DetectedAt)
	}
}

// A page without any box is a result like any other: an empty list, not null.
func TestStageEmptyPage(t *testing.T) {
	models := modelsDir(t, func(m map[string]any) {
		m["score_floor"], m["thresholds"] = 0.9999, map[string]any{"*": 0.9999}
	})
	cfg := testConfig(t)
	cfg.ModelsDir = models
	d := serving(t, cfg)
	r := one(t, d.Stage("layout_cdla", shelf{objects: map[string][]byte{"report.png": samplePage}}), record(t, rendered(d)))
	if r.Err != nil || !strings.Contains(string(r.Out[0].Value), `"boxes":[]`) {
		t.Fatalf("%v, %+v", r.Err, r.Out)
	}
}

func TestStageFaults(t *testing.T) {
	d := serving(t, testConfig(t))
	objects := map[string][]byte{"report.png": samplePage, "notes.txt": []byte("not a picture")}
	unavailable := fault.AsUnavailable(objectstore.Dependency, errors.New("away"))
	for name, c := range map[string]struct {
		change func(p *schemas.PageRendered)
		store  shelf
		class  fault.Class
		code   string
	}{
		"no image":                  {func(p *schemas.PageRendered) { p.ImageKey = "gone.png" }, shelf{}, fault.Permanent, objectstore.CodeMissing},
		"no picture":                {func(p *schemas.PageRendered) { p.ImageKey = "notes.txt" }, shelf{}, fault.Permanent, CodePageImage},
		"another size":              {func(p *schemas.PageRendered) { p.Width = 919 }, shelf{}, fault.Permanent, CodePageImage},
		"another digest":            {func(p *schemas.PageRendered) { p.Options.ModelDigest = strings.Repeat("0", 64) }, shelf{}, fault.Permanent, CodeModelChanged},
		"another model":             {func(p *schemas.PageRendered) { p.Options.Model = "other" }, shelf{}, fault.Permanent, CodeModelChanged},
		"no page":                   {func(p *schemas.PageRendered) { p.Page = 0 }, shelf{}, fault.Permanent, CodeRecord},
		"too many bytes":            {nil, shelf{says: 1 << 30}, fault.Permanent, CodePageTooLarge},
		"more than allowed, unsaid": {nil, shelf{says: -1, endless: true}, fault.Permanent, CodePageTooLarge},
		"fewer than said":           {nil, shelf{says: 100_000}, fault.Transient, CodePageImage},
		"more than said":            {nil, shelf{says: 1000}, fault.Transient, CodePageImage},
		"store goes away":           {nil, shelf{breaks: unavailable}, fault.Unavailable, "s3-unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			page := rendered(d)
			if c.change != nil {
				c.change(&page)
			}
			c.store.objects = objects
			r := one(t, d.Stage("layout_cdla", c.store), record(t, page))
			if fault.ClassOf(r.Err) != c.class || fault.CodeOf(r.Err) != c.code {
				t.Fatalf("got %v: %v, %s; want %v, %s", r.Err, fault.ClassOf(r.Err), fault.CodeOf(r.Err), c.class, c.code)
			}
		})
	}
	t.Run("no record", func(t *testing.T) {
		r := one(t, d.Stage("layout_cdla", shelf{objects: objects}), stage.In{Value: []byte("{")})
		if fault.ClassOf(r.Err) != fault.Permanent || fault.CodeOf(r.Err) != CodeRecord {
			t.Fatalf("got %v", r.Err)
		}
	})
	t.Run("a size that the server does not say", func(t *testing.T) {
		if r := one(t, d.Stage("layout_cdla", shelf{objects: objects, says: -1}), record(t, rendered(d))); r.Err != nil {
			t.Fatal(r.Err)
		}
	})
	t.Run("no digest is any", func(t *testing.T) {
		page := rendered(d)
		page.Options.ModelDigest = ""
		if r := one(t, d.Stage("layout_cdla", shelf{objects: objects}), record(t, page)); r.Err != nil {
			t.Fatal(r.Err)
		}
	})
}

// counted is a shelf that counts the bytes that were read from it.
type counted struct {
	shelf
	read *atomic.Int64
}

func (c counted) Open(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	body, info, err := c.shelf.Open(ctx, key)
	return countedBody{body, c.read}, info, err
}

type countedBody struct {
	io.ReadCloser
	read *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	return n, err
}

// However many records are handled at once, page images take no more memory
// than the limit, and all are done.
func TestStageHoldsNoMoreThanItsBytes(t *testing.T) {
	cfg := testConfig(t)
	cfg.MaxBytes = 1 << 17 // one report, and not two
	d := serving(t, cfg)
	// While nothing can be detected no page ends: what was read is what is held.
	detector, leave, err := d.enter(t.Context(), d.recall("layout_cdla", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	var idle []*page
	for range detector.made {
		idle = append(idle, <-detector.pages)
	}
	var read atomic.Int64
	c := d.Stage("layout_cdla", counted{shelf{objects: map[string][]byte{"report.png": samplePage}}, &read})
	const pages = 8
	var wg sync.WaitGroup
	for range pages {
		wg.Go(func() {
			if r := one(t, c, record(t, rendered(d))); r.Err != nil {
				t.Error(r.Err)
			}
		})
	}
	waiting := func() int {
		d.held.mu.Lock()
		defer d.held.mu.Unlock()
		return len(d.held.waiting)
	}
	size := int64(len(samplePage))
	for began := time.Now(); read.Load()+int64(waiting())*size < pages*size; { // until each was read or waits to be
		if time.Since(began) > time.Minute {
			t.Fatalf("%d bytes read and %d pages waiting after a minute", read.Load(), waiting())
		}
		time.Sleep(time.Millisecond)
	}
	if got := read.Load(); got != size {
		t.Errorf("%d bytes of page images are held at once, want one page's %d: at most %d are allowed", got, size, cfg.MaxBytes)
	}
	for _, p := range idle {
		detector.pages <- p
	}
	wg.Wait()
	if got := read.Load(); got != pages*size {
		t.Errorf("%d bytes were read, want %d", got, pages*size)
	}
}

func TestStageCondemned(t *testing.T) {
	d := serving(t, testConfig(t))
	c := d.Stage("layout_cdla", shelf{})
	page := rendered(d)
	in := record(t, page)
	in.Headers = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	outs := c.Condemned(in, CodePageImage, errors.New(strings.Repeat("long ", 2000)))
	if len(outs) != 1 || outs[0].Topic != schemas.TopicResults || outs[0].Key != page.DocumentID {
		t.Fatalf("%+v", outs)
	}
	failed, err := schemas.Unmarshal[schemas.PageFailed](outs[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	if failed.Page != 7 || failed.RunID != page.RunID || failed.Code != CodePageImage || failed.Stage != Name ||
		len(failed.Error) > 4<<10 || failed.TraceID != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("%+v", failed)
	}
	if got := c.About(in); got != (stage.About{DocumentID: page.DocumentID, RunID: page.RunID, Page: 7}) {
		t.Errorf("about %+v", got)
	}
	for _, value := range []string{"", "{", `{"page":3}`} {
		if outs := c.Condemned(stage.In{Value: []byte(value)}, "x", nil); outs != nil {
			t.Errorf("%q failed a page: %+v", value, outs)
		}
		c.About(stage.In{Value: []byte(value)})
	}
}

func FuzzHandle(f *testing.F) {
	d := serving(f, testConfig(f))
	c := d.Stage("layout_cdla", shelf{objects: map[string][]byte{}})
	good, err := json.Marshal(rendered(d))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"type":"PageRendered","page":-1,"options":null}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		in := stage.In{Value: value}
		if r := one(t, c, in); r.Err == nil {
			t.Fatal("a page without an image was done")
		}
		c.About(in)
		c.Condemned(in, "code", nil)
	})
}
