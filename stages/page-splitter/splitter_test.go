package pagesplitter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"slices"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/render"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

// planned plans a document and returns its ranges as the splitter gets them.
func (b *bench) planned(t *testing.T, d schemas.DocumentSubmitted) []stage.In {
	t.Helper()
	outs, result := handle(t, b.planner.Stage(), reference(t, d))
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	var ins []stage.In
	for _, out := range outs {
		if out.Topic != schemas.TopicResults {
			ins = append(ins, stage.In{Topic: out.Topic, Key: out.Key, Value: out.Value, Headers: out.Headers, Timestamp: submittedAt, Attempt: 1})
		}
	}
	return ins
}

// asOuts is what the planner made of what the splitter gets.
func asOuts(ins []stage.In) (outs []stage.Out) {
	for _, in := range ins {
		outs = append(outs, stage.Out{Topic: in.Topic, Key: in.Key, Value: in.Value, Headers: in.Headers})
	}
	return outs
}

const pagesTopic = "pages.layout_cdla"

func TestSplit(t *testing.T) {
	b := newBench(t)
	ins := b.planned(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/a.pdf", testpdf.Text(20)), DPI: 72})
	var rendered []schemas.PageRendered
	for i, in := range ins {
		outs, result := handle(t, b.splitter.Stage(), in)
		if result.Err != nil || len(result.Failures) != 0 {
			t.Fatal(result.Err, result.Failures)
		}
		topic := schemas.Lane(pagesTopic, i > 0)
		for _, out := range outs {
			if out.Topic != topic || out.OwnTrace != (i > 0) {
				t.Errorf("range %d: %s, trace of its own %v", i, out.Topic, out.OwnTrace)
			}
		}
		rendered = append(rendered, on[schemas.PageRendered](t, outs, topic)...)
	}
	if len(rendered) != 20 {
		t.Fatalf("%d pages", len(rendered))
	}
	for i, p := range rendered {
		if p.Page != i+1 || p.Position != i || p.Width != 612 || p.Height != 792 || p.DPI != 72 || p.RenderMS <= 0 || p.RenderedAt.IsZero() || p.PagesSelected != 20 {
			t.Errorf("page %d: %+v", i+1, p)
		}
		file, err := b.store.Get(t.Context(), p.ImageKey, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := png.Decode(bytes.NewReader(file)); err != nil || m.Bounds() != image.Rect(0, 0, 612, 792) {
			t.Errorf("page %d: the image: %v", i+1, err)
		}
		value, err := b.store.Get(t.Context(), p.TextKey, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var text schemas.PageText
		if err := json.Unmarshal(value, &text); err != nil || len(text.Lines) != 2 || text.Lines[0].Text != fmt.Sprintf("Page %d of 20", i+1) {
			t.Errorf("page %d: text %s, %v", i+1, value, err)
		}
	}

	// Delivered again, and by a second run: nothing is rendered or opened again.
	opened, renders := b.renderer.opened.Load(), b.renderer.rendered.Load()
	outs, result := handle(t, b.splitter.Stage(), ins[0])
	if result.Err != nil || b.renderer.opened.Load() != opened || b.renderer.rendered.Load() != renders {
		t.Fatalf("%v: opened %d times more, rendered %d pages more", result.Err, b.renderer.opened.Load()-opened, b.renderer.rendered.Load()-renders)
	}
	for i, p := range on[schemas.PageRendered](t, outs, pagesTopic) {
		want := rendered[i]
		p.RenderMS, want.RenderMS, p.RenderedAt = 0, 0, want.RenderedAt
		a, _ := json.Marshal(p)
		b, _ := json.Marshal(want)
		if !bytes.Equal(a, b) {
			t.Errorf("page %d again: %s, before %s", i+1, a, b)
		}
	}
}

// TestSplitImage: a photo has its own size, its own resolution and no text, also
// when it is found there later.
func TestSplitImage(t *testing.T) {
	b := newBench(t)
	var photo bytes.Buffer
	if err := jpeg.Encode(&photo, image.NewGray(image.Rect(0, 0, 320, 200)), nil); err != nil {
		t.Fatal(err)
	}
	in := b.planned(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/photo.jpg", photo.Bytes()), DPI: 300})[0]
	for range 2 {
		outs, result := handle(t, b.splitter.Stage(), in)
		got := on[schemas.PageRendered](t, outs, pagesTopic)
		if result.Err != nil || len(got) != 1 || got[0].Width != 320 || got[0].Height != 200 || got[0].TextKey != "" || got[0].DPI != 96 {
			t.Fatalf("%v: %+v", result.Err, got)
		}
	}
	if n := b.renderer.rendered.Load(); n != 1 {
		t.Errorf("rendered %d times", n)
	}
	// What is there but is no page image is put right.
	key := schemas.PageImageKey(on[schemas.PageRange](t, []stage.Out{{Topic: "x", Value: in.Value, Headers: in.Headers}}, "x")[0].DocumentID, 300, b.renderer.Build(), 1)
	b.put(t, key, []byte("half a pag"))
	if _, result := handle(t, b.splitter.Stage(), in); result.Err != nil || b.renderer.rendered.Load() != 2 {
		t.Errorf("%v, rendered %d times", result.Err, b.renderer.rendered.Load())
	}
}

// TestPagesAtFault: a page that fails leaves the others alone, and its failure
// holds all that is needed to do it again.
func TestPagesAtFault(t *testing.T) {
	b := newBench(t)
	in := b.planned(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/lying.pdf", testpdf.LyingCount(18))})
	in[0].Headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	outs, result := handle(t, b.splitter.Stage(), in[0])
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	rendered, failed := on[schemas.PageRendered](t, outs, pagesTopic), on[schemas.PageFailed](t, outs, schemas.TopicResults)
	if len(rendered) != 1 || len(failed) != 15 || len(result.Failures) != 15 {
		t.Fatalf("%d rendered, %d failed, %d failures", len(rendered), len(failed), len(result.Failures))
	}
	for i, f := range failed {
		failure := result.Failures[i]
		replay, err := schemas.Unmarshal[schemas.PageRange](failure.Replay.Value)
		if err != nil {
			t.Fatal(err)
		}
		if f.Page != i+2 || f.Code != render.CodeUnreadablePage || f.Error == "" || f.Stage != SplitterName || f.TraceID != "0af7651916cd43dd8448eb211c80319c" ||
			failure.About != (stage.About{DocumentID: f.DocumentID, RunID: f.RunID, Page: f.Page}) || fault.CodeOf(failure.Err) != f.Code ||
			!slices.Equal(replay.Pages, []int{f.Page}) || replay.Position != f.Page-1 || failure.Replay.Topic != schemas.TopicPageRanges {
			t.Errorf("page %d: %+v, %+v", i+2, f, failure)
		}
	}
	outs, result = handle(t, b.splitter.Stage(), in[1])
	if len(outs) != 2 || len(result.Failures) != 2 || result.Failures[0].Replay.Topic != schemas.Lane(schemas.TopicPageRanges, true) {
		t.Errorf("the bulk range: %d records, %+v", len(outs), result.Failures)
	}
}

// TestStarvedPage: a fault that may pass has the range tried again, with what is
// done kept; the last try gives up the page and not the range.
func TestStarvedPage(t *testing.T) {
	b := newBench(t)
	in := b.planned(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/a.pdf", testpdf.Text(5))})[0]
	starved := fault.AsTransient(render.CodeTimeout, errors.New("no processor"))
	b.renderer.fail = func(page int) error {
		if page == 3 {
			return starved
		}
		return nil
	}
	for in.Attempt = 1; in.Attempt < attempts; in.Attempt++ {
		if _, result := handle(t, b.splitter.Stage(), in); !errors.Is(result.Err, starved) {
			t.Fatalf("attempt %d: %v", in.Attempt, result.Err)
		}
	}
	if n := b.renderer.rendered.Load(); n != 2 {
		t.Errorf("%d pages rendered before the last try, want the two before the one at fault once each", n)
	}
	outs, result := handle(t, b.splitter.Stage(), in)
	if result.Err != nil || len(on[schemas.PageRendered](t, outs, pagesTopic)) != 4 || len(on[schemas.PageFailed](t, outs, schemas.TopicResults)) != 1 {
		t.Errorf("the last try: %v, %d records", result.Err, len(outs))
	}
}

func TestRangeAtFault(t *testing.T) {
	b := newBench(t)
	in := b.planned(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/gone.pdf", testpdf.Text(3))})[0]
	r, err := schemas.Unmarshal[schemas.PageRange](in.Value)
	if err != nil {
		t.Fatal(err)
	}
	r.Source = b.store.URI("inbox/never-there.pdf")
	value, err := schemas.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	in.Value = value
	outs, result := handle(t, b.splitter.Stage(), in)
	failed := on[schemas.PageFailed](t, outs, schemas.TopicResults)
	if fault.CodeOf(result.Err) != objectstore.CodeMissing || len(outs) != 3 || len(failed) != 3 || failed[2].Page != 3 || failed[2].Code != objectstore.CodeMissing {
		t.Errorf("%v: %+v", result.Err, failed)
	}
	for _, value := range []string{"", "{}", "%PDF-1.7", `{"type":"PageRange"}`} {
		outs, result := handle(t, b.splitter.Stage(), stage.In{Topic: schemas.TopicPageRanges, Value: []byte(value)})
		if fault.CodeOf(result.Err) != CodeRecord || len(outs) != 0 {
			t.Errorf("%q: %v, %d records", value, result.Err, len(outs))
		}
	}
	about := b.splitter.Stage().About(in)
	if about.DocumentID != r.DocumentID || about.RunID != r.RunID || about.Page != 0 {
		t.Errorf("about %+v", about)
	}
}

// TestStoreAway: an upload that cannot be done condemns nothing, and is told as
// what it is.
func TestStoreAway(t *testing.T) {
	b := newBench(t)
	in := b.planned(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/a.pdf", testpdf.Text(9))})[0]
	b.splitter.store = refusing{b.store}
	_, result := handle(t, b.splitter.Stage(), in)
	if fault.ClassOf(result.Err) != fault.Unavailable || fault.DependencyOf(result.Err) != objectstore.Dependency {
		t.Errorf("class %s: %v", fault.ClassOf(result.Err), result.Err)
	}
}
