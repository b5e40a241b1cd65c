package annotator_test

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/pkg/crop"
	"leafcutter/pkg/pngdec"
	"leafcutter/pkg/pngenc"
	"leafcutter/schemas"
	"leafcutter/stages/annotator"
)

func TestPage(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	done := handle(t, newAnnotator(t, config(), store), p)

	if done.AnnotateMS <= 0 || done.AnnotateMS > 60_000 {
		t.Errorf("took %v ms", done.AnnotateMS)
	}
	done.AnnotateMS = 0
	got := indented(t, done)
	if diff := cmp.Diff(string(golden(t, "done.golden.json", got)), string(got)); diff != "" {
		t.Errorf("the record (-want +got):\n%s", diff)
	}

	annotated := store.snapshot()[done.AnnotatedKey]
	same(t, golden(t, "annotated.golden.png", annotated), annotated)

	img, err := pngdec.New(1 << 20).Decode(testdata(t, "page.png"))
	if err != nil {
		t.Fatal(err)
	}
	crops := 0
	for k, box := range done.Boxes {
		if diff := cmp.Diff(p.Boxes[k], box.Box); diff != "" {
			t.Errorf("box %d has changed: %s", k+1, diff)
		}
		if (box.CropKey != "") != (box.Score >= p.Options.Threshold(box.Class)) {
			t.Errorf("box %d: %s %v has the crop key %q", k+1, box.Class, box.Score, box.CropKey)
		}
		if box.CropKey == "" {
			continue
		}
		crops++
		want, err := crop.PNG(img, crop.Rect(box.Rect, p.Options.CropPadding, p.Width, p.Height))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(store.snapshot()[box.CropKey], want) {
			t.Errorf("box %d: the object is not what pkg/crop cuts", k+1)
		}
	}
	if crops == 0 || store.puts != crops+1 {
		t.Errorf("%d crops, %d uploads", crops, store.puts)
	}
}

// same compares pictures. Letters may differ by rounding where processors round in other places.
func same(t *testing.T, want, got []byte) {
	t.Helper()
	a, errA := png.Decode(bytes.NewReader(want))
	b, errB := png.Decode(bytes.NewReader(got))
	if errA != nil || errB != nil || a.Bounds() != b.Bounds() {
		t.Fatalf("%v, %v, sizes %v and %v", errA, errB, a.Bounds(), b.Bounds())
	}
	ma, mb := a.(*image.RGBA), b.(*image.RGBA)
	for i := range ma.Pix {
		if d := int(ma.Pix[i]) - int(mb.Pix[i]); d > 2 || d < -2 {
			t.Fatalf("pixel %d,%d differs from the golden page; look at both, then run with -update",
				i/4%a.Bounds().Dx(), i/4/a.Bounds().Dx())
		}
	}
}

func TestTheSameRecordGivesTheSameObjects(t *testing.T) {
	p := page(t)
	first := newMemory()
	splitterDid(t, first, p)
	a := newAnnotator(t, config(), first)
	done := handle(t, a, p)
	objects := first.snapshot()

	// Again by the same process, whose buffers and encoders are used now.
	again := handle(t, a, p)
	if diff := cmp.Diff(objects, first.snapshot()); diff != "" {
		t.Error("a redelivery changed objects")
	}
	// And by another, one upload at a time.
	cfg := config()
	cfg.Uploads = 1
	second := newMemory()
	splitterDid(t, second, p)
	other := handle(t, newAnnotator(t, cfg, second), p)
	if !cmp.Equal(objects, second.snapshot()) {
		t.Error("another process makes other objects")
	}
	if second.most != 1 {
		t.Errorf("%d uploads at once, 1 allowed", second.most)
	}
	done.AnnotateMS, again.AnnotateMS, other.AnnotateMS = 0, 0, 0
	if !cmp.Equal(done, again) || !cmp.Equal(done, other) {
		t.Error("the records differ by more than time")
	}
}

func TestCropsWhenAskedForOrNever(t *testing.T) {
	p := page(t)
	records := map[annotator.Crops]schemas.PageDone{}
	annotated := map[annotator.Crops][]byte{}
	for _, crops := range []annotator.Crops{annotator.Eager, annotator.Lazy, annotator.Off} {
		store, cfg := newMemory(), config()
		cfg.Crops = crops
		splitterDid(t, store, p)
		records[crops] = handle(t, newAnnotator(t, cfg, store), p)
		annotated[crops] = store.objects[records[crops].AnnotatedKey]
		if crops != annotator.Eager && store.puts != 1 {
			t.Errorf("%s: %d objects", crops, store.puts)
		}
	}
	if !bytes.Equal(annotated[annotator.Eager], annotated[annotator.Lazy]) || !bytes.Equal(annotated[annotator.Eager], annotated[annotator.Off]) {
		t.Error("the annotated pages differ")
	}
	if diff := cmp.Diff(records[annotator.Eager].Boxes, records[annotator.Lazy].Boxes); diff != "" {
		t.Errorf("lazy crops have other keys: %s", diff)
	}
	for _, box := range records[annotator.Off].Boxes {
		if box.CropKey != "" {
			t.Errorf("crops are off, and there is the key %s", box.CropKey)
		}
	}
}

func TestBoxesBelowTheirThresholdAreOnlyInTheRecord(t *testing.T) {
	p := page(t)
	p.Options.Thresholds = map[string]float64{schemas.AllClasses: 0.9, "title": 0.95, "footer": 0}
	all, some := newMemory(), newMemory()
	splitterDid(t, all, p)
	splitterDid(t, some, p)
	done := handle(t, newAnnotator(t, config(), all), p)

	kept := p
	kept.Boxes = nil
	for _, box := range p.Boxes {
		if box.Score >= p.Options.Threshold(box.Class) {
			kept.Boxes = append(kept.Boxes, box)
		}
	}
	if len(kept.Boxes) == 0 || len(kept.Boxes) == len(p.Boxes) {
		t.Fatalf("%d of %d boxes are kept: nothing is tested", len(kept.Boxes), len(p.Boxes))
	}
	handle(t, newAnnotator(t, config(), some), kept)
	if !cmp.Equal(all.objects, some.objects) {
		t.Error("boxes below their threshold left objects or were drawn")
	}
	if len(done.Boxes) != len(p.Boxes) {
		t.Errorf("%d of %d boxes in the record", len(done.Boxes), len(p.Boxes))
	}
}

func TestBoxesOfAllShapes(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	w, h := float64(p.Width), float64(p.Height)
	shape := func(x0, y0, x1, y1 float64) schemas.Box {
		return schemas.Box{Class: "figure", Score: 0.9, Rect: [4]float64{x0, y0, x1, y1}}
	}
	p.Boxes = []schemas.Box{
		shape(0, 0, w, h),
		shape(-1e300, -1e300, 1e300, 1e300), // the same pixels
		shape(100, 100, 100, 200),           // no width
		shape(300, 300, 200, 200),           // inside out
		shape(w, 0, w+50, 50),               // beside the page
		shape(-50, -50, -1, -1),
		shape(w-0.5, h-0.5, w, h), // half a pixel in the corner
		shape(10.2, 10.2, 10.4, 10.4),
	}
	done := handle(t, newAnnotator(t, config(), store), p)
	cut := []bool{true, true, false, false, false, false, true, true}
	for i, box := range done.Boxes {
		if (box.CropKey != "") != cut[i] {
			t.Errorf("box %d %v: crop key %q", i+1, box.Rect, box.CropKey)
		}
	}
	if done.Boxes[0].CropKey != done.Boxes[1].CropKey {
		t.Error("equal rectangles have different keys")
	}
	if store.puts != 4 { // three crops and the page
		t.Errorf("%d uploads", store.puts)
	}
	if text := done.Boxes[0].Text; !strings.Contains(text, "Appendix: what is known of a box\n") {
		t.Errorf("the page-sized box has the text %q", text)
	}
}

func TestAPageWithoutBoxesOrText(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	delete(store.objects, p.TextKey)
	p.Boxes, p.TextKey = nil, ""
	result := newAnnotator(t, config(), store).Handle(t.Context(), in(t, p))
	done := pageDone(t, result)
	if len(done.Boxes) != 0 || !bytes.Contains(result.Out[0].Value, []byte(`"boxes":[]`)) {
		t.Errorf("boxes %v", done.Boxes)
	}
	same(t, testdata(t, "page.png"), store.objects[done.AnnotatedKey])
}

func TestAThousandBoxes(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	p.Boxes = nil
	for i := range 1000 {
		x, y := float64(i%20), float64(i/20)
		p.Boxes = append(p.Boxes, schemas.Box{Class: "table", Score: 0.9, Rect: [4]float64{50 + x, 150 + y, 342 + x, 262 + y}})
	}
	// What is alive after a collection, beside the objects that this store keeps: the page, and the files in the making.
	live := 0
	store.fail = func(string) error {
		if store.puts%100 == 99 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			stored := 0
			for _, body := range store.objects {
				stored += len(body)
			}
			live = max(live, int(m.HeapAlloc)-stored)
		}
		return nil
	}
	result := newAnnotator(t, config(), store).Handle(t.Context(), in(t, p))
	done := pageDone(t, result)
	if len(result.Out[0].Value) > 1_000_000 { // what Kafka takes where nobody has configured it
		t.Errorf("a record of %d bytes", len(result.Out[0].Value))
	}
	if store.puts != 1001 || store.most > 8 {
		t.Errorf("%d uploads, %d at once", store.puts, store.most)
	}
	if live == 0 || live > 40<<20 { // all crops together are 108 MB of pixels
		t.Errorf("%d MB alive", live>>20)
	}
	if done.Boxes[0].Text == "" {
		t.Error("the best box has no text")
	}
}

func TestTraceAndTimes(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	id, err := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	if err != nil {
		t.Fatal(err)
	}
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{1}}))
	done := pageDone(t, newAnnotator(t, config(), store).Handle(ctx, in(t, p)))
	if done.TraceID != id.String() {
		t.Errorf("trace %q", done.TraceID)
	}
	if done.QueueMS != p.QueueMS || done.InferMS != p.InferMS || done.RenderMS != p.RenderMS || !done.DetectedAt.Equal(p.DetectedAt) {
		t.Errorf("times have changed: %+v", done)
	}
}

// TestMemoryIsBoundedByPixels: as many pages as fit are in work, and the next one waits for the first to end.
func TestMemoryIsBoundedByPixels(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	p.Boxes = nil
	store.blocked = make(chan struct{})
	cfg := config()
	cfg.MaxPixels = 2*p.Width*p.Height + 1
	a := newAnnotator(t, cfg, store)
	finished := make(chan error, 5)
	for range 5 {
		go func() { finished <- a.Handle(t.Context(), in(t, p)).Err }()
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		store.mu.Lock()
		putting := store.putting
		store.mu.Unlock()
		if putting == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pages in work", putting)
		}
		time.Sleep(time.Millisecond)
	}
	close(store.blocked)
	for range 5 {
		if err := <-finished; err != nil {
			t.Error(err)
		}
	}
	if store.most != 2 {
		t.Errorf("%d pages in work at once, there is room for 2", store.most)
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	_, err := annotator.New(annotator.Config{Crops: "sometimes", MaxPixels: 1, Uploads: 0}, newMemory(), nil)
	for _, name := range []string{"LEAFCUTTER_CROPS", "LEAFCUTTER_MAX_PAGE_PIXELS", "LEAFCUTTER_UPLOADS"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
}

// BenchmarkPage is a page as it comes, without the store: A4 at 108 dpi with twenty boxes of text.
func BenchmarkPage(b *testing.B) {
	store, p := newMemory(), page(b)
	splitterDid(b, store, p)
	small, err := pngdec.New(1 << 20).Decode(store.objects[p.ImageKey])
	if err != nil {
		b.Fatal(err)
	}
	// Larger, by repeating the page's own pixels.
	large := image.NewRGBA(image.Rect(0, 0, 893, 1263))
	for y := range 1263 {
		for x := range 893 {
			copy(large.Pix[large.PixOffset(x, y):], append(small.Row(y % small.Height)[3*(x%small.Width):][:3:3], 255))
		}
	}
	var file bytes.Buffer
	if err := pngenc.Encode(&file, large); err != nil {
		b.Fatal(err)
	}
	store.objects[p.ImageKey], p.Width, p.Height = file.Bytes(), 893, 1263
	p.Boxes = nil
	for i := range 20 {
		x, y := float64(40+i%2*430), float64(40+i/2*120)
		p.Boxes = append(p.Boxes, schemas.Box{Class: "text", Score: 0.9, Rect: [4]float64{x, y, x + 400, y + 100}})
	}
	for _, crops := range []annotator.Crops{annotator.Eager, annotator.Lazy} {
		b.Run(fmt.Sprint(crops), func(b *testing.B) {
			cfg := config()
			cfg.Crops = crops
			a, record := newAnnotator(b, cfg, store), in(b, p)
			b.ReportAllocs()
			for b.Loop() {
				if r := a.Handle(b.Context(), record); r.Err != nil {
					b.Fatal(r.Err)
				}
			}
		})
	}
}
