package detector

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
)

// Name of the stage. Its consumer group is the model's own: schemas.DetectorGroup.
const Name = "detector"

// Codes of what can be wrong with a record for ever, beside those of Detect.
const (
	CodeRecord       = "record-invalid" // the value is no PageRendered
	CodeModelChanged = "model-changed"  // the run was planned for another model, or for a version of this one that cannot be had any more
)

// Store is what the stage needs of the object store; *objectstore.Store is one.
type Store interface {
	// Open starts to read an object.
	Open(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error)
}

// handler is the stage's handler for one model: PageRendered in, PageDetected
// out.
type handler struct {
	*Models
	name  string
	store Store
}

// Stage is the stage around one of the models, to be run by package stage once
// Follow has told of it. Limits, telemetry and further probes are the caller's.
func (m *Models) Stage(name string, store Store) stage.Config {
	h := &handler{m, name, store}
	return stage.Config{
		Name:      Name,
		Group:     schemas.DetectorGroup(name),
		Topics:    []string{schemas.PagesTopic(name)},
		Bulk:      true,
		Handler:   stage.Each(h.handle),
		Hold:      h.hold,
		Condemned: condemned,
		About:     stage.AboutPage,
		Probes: map[string]func(context.Context) error{
			modelDependency: func(ctx context.Context) error { return m.probe(ctx, name) },
		},
	}
}

// Workers is how many records the stage of one of the models should handle at once
// where nobody says otherwise: those in work, and one whose image is being fetched.
// It goes by the version that is served when it is asked.
func (m *Models) Workers(name string) int {
	var served manifest.Manifest
	if v := m.recall(name, ""); v != nil {
		served = v.Manifest
	}
	return m.config.pages(served) + 1
}

// hold puts pages off whose version of the model has to wait for its turn: in the
// handler they would keep pages of the other from it.
func (h *handler) hold(in stage.In) time.Duration {
	var page struct {
		Options struct {
			ModelDigest string `json:"model_digest"`
		} `json:"options"`
	}
	if json.Unmarshal(in.Value, &page) != nil {
		return 0 // it is given up at once
	}
	v := h.recall(h.name, page.Options.ModelDigest)
	if v == nil {
		return 0
	}
	return h.room.wait(v)
}

// handle does one page. Its result is a PageDetected under the page's key.
func (h *handler) handle(ctx context.Context, in stage.In) stage.Result {
	h.started.Do(h.room.forgo) // what only starting needed, before a page needs the rest
	started := time.Now()
	page, err := schemas.Unmarshal[schemas.PageRendered](in.Value)
	if err != nil {
		return stage.Fail(fault.AsPermanent(CodeRecord, err))
	}
	if o := page.Options; o.Model != h.name {
		return stage.Fail(fault.Permanentf(CodeModelChanged, "the run is for model %s, this is the topic of %s: submit the document again", o.Model, h.name))
	}
	// A run's identity contains the digest: boxes of other weights under it would
	// be false for ever. A run that names no digest takes what is served now.
	v, err := h.find(ctx, h.name, page.Options.ModelDigest)
	if err != nil {
		return stage.Fail(err)
	}
	found, err := h.detect(ctx, page, v)
	if err != nil {
		return stage.Fail(fmt.Errorf("detect on page %d: %w", page.Page, err))
	}
	trace.SpanFromContext(ctx).SetAttributes(
		attribute.Int("leafcutter.boxes", len(found.Boxes)),
		attribute.Int("leafcutter.batch", found.Together),
		attribute.Float64("leafcutter.preprocess_ms", milliseconds(found.Preprocess)),
		attribute.Float64("leafcutter.wait_ms", milliseconds(found.Wait)),
		attribute.Float64("leafcutter.infer_ms", milliseconds(found.Infer)),
		attribute.Float64("leafcutter.decode_ms", milliseconds(found.Decode)),
	)
	detected := schemas.PageDetected{
		RenderedPage: page.RenderedPage,
		Boxes:        found.Boxes,
		QueueMS:      milliseconds(max(0, started.Sub(in.Timestamp)) + found.Wait),
		InferMS:      milliseconds(found.Preprocess + found.Infer + found.Decode),
		DetectedAt:   time.Now().UTC(),
	}
	out, err := stage.Emit(schemas.TopicDetections, page.Key(), detected)
	if err != nil {
		return stage.Fail(fault.AsPermanent(CodeRecord, err))
	}
	return stage.Result{Out: []stage.Out{out}}
}

// detect fetches a page's image and finds its boxes.
func (h *handler) detect(ctx context.Context, page schemas.PageRendered, v *version) (Page, error) {
	body, info, err := h.store.Open(ctx, page.ImageKey)
	if err != nil {
		return Page{}, fmt.Errorf("fetch page image: %w", err)
	}
	defer body.Close()
	limit := int64(h.config.MaxBytes)
	if info.Size > limit {
		return Page{}, fault.Permanentf(CodePageTooLarge, "page image of %d bytes, at most %d allowed", info.Size, limit)
	}
	held := info.Size
	if held <= 0 { // the server did not say
		held = limit
	}
	release, err := h.held.take(ctx, h.name, held)
	if err != nil {
		return Page{}, err
	}
	defer release()

	file, _ := h.files.Get().(*bytes.Buffer)
	if file == nil {
		file = new(bytes.Buffer)
	}
	file.Reset()
	defer h.keep(file)
	if info.Size > 0 {
		file.Grow(int(info.Size) + bytes.MinRead) // one allocation, and none for a buffer that had its like
	}
	// No more than was accounted for, whatever the server sends.
	if _, err := file.ReadFrom(io.LimitReader(body, held+1)); err != nil {
		return Page{}, fmt.Errorf("fetch page image: %w", err)
	}
	switch got := int64(file.Len()); {
	case info.Size > 0 && got != info.Size:
		return Page{}, fault.AsTransient(CodePageImage, fmt.Errorf("fetch page image: %d bytes or more came of %d", got, info.Size))
	case got > limit:
		return Page{}, fault.Permanentf(CodePageTooLarge, "page image of more than %d bytes", limit)
	}
	detector, leave, err := h.enter(ctx, v)
	if err != nil {
		return Page{}, err
	}
	defer leave() // of a panic too: else the version would be unloaded no more
	found, err := detector.Detect(ctx, file.Bytes())
	if err != nil {
		return Page{}, err
	}
	if found.Width != page.Width || found.Height != page.Height {
		return Page{}, fault.Permanentf(CodePageImage, "the page image has %d × %d pixels, the record says %d × %d",
			found.Width, found.Height, page.Width, page.Height)
	}
	return found, nil
}

// keptFile is the size in bytes up to which a buffer is kept for another page.
// Page images are some hundred kilobytes; one of many megabytes must not stay.
const keptFile = 2 << 20

func (h *handler) keep(file *bytes.Buffer) {
	if file.Cap() <= keptFile {
		h.files.Put(file)
	}
}

// milliseconds is d to a hundredth of a millisecond.
func milliseconds(d time.Duration) float64 {
	return math.Round(d.Seconds()*1e5) / 1e2
}

// condemned is the PageFailed of a record that was given up. A record that
// does not name its page fails no page: its dead letter is all there is to say.
func condemned(in stage.In, code string, cause error) []stage.Out {
	page, err := schemas.Unmarshal[schemas.PageRendered](in.Value)
	if err != nil {
		return nil
	}
	out, err := stage.PageFailed(in, page.Run, page.Page, Name, code, cause)
	if err != nil {
		return nil // it was read from JSON, so it can be written as JSON
	}
	return []stage.Out{out}
}
