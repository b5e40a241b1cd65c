package detector

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"leafcutter/pkg/fault"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/onnx"
)

// batched asks for batches of four.
func batched(m map[string]any) {
	m["dynamic_batching"] = map[string]any{"max_batch_size": 4, "max_queue_delay_ms": 20}
}

// openBatched is a detector of one of the tiny models that infers four at once.
func openBatched(t *testing.T, name string, options ...Option) *Detector {
	t.Helper()
	c := families(t, name)
	c.Model = name
	give(t, c.ModelsDir, name, batched)
	return open(t, c, options...)
}

// inOneBatch has pages inferred at once: there is no room for it until all wait, but
// for those that cannot be read.
func inOneBatch(t *testing.T, d *Detector, readable int, pngs ...[]byte) (found []Page, errs []error) {
	t.Helper()
	found, errs = make([]Page, len(pngs)), make([]error, len(pngs))
	d.runs <- struct{}{}
	var wg sync.WaitGroup
	for i, png := range pngs {
		wg.Go(func() { found[i], errs[i] = d.Detect(t.Context(), png) })
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		d.batches.mu.Lock()
		together := d.batches.open != nil && len(d.batches.open.seats) == readable
		d.batches.mu.Unlock()
		if together {
			break
		}
		if time.Now().After(deadline) {
			t.Error("they never came together")
			break
		}
	}
	<-d.runs
	wg.Wait()
	return found, errs
}

// Pages that are inferred together have the boxes that each has alone. With these
// models outputs agree in every bit; a thousandth of a score and a tenth of a pixel
// are allowed, as between releases of the runtime.
func TestBatchesFindTheSame(t *testing.T) {
	walden := read(t, "testdata/walden.png")
	for _, name := range []string{"yolo_batch", "rtdetr_batch"} {
		t.Run(name, func(t *testing.T) {
			d := openBatched(t, name)
			var want map[string][]schemas.Box
			if err := json.Unmarshal(read(t, filepath.Join("testdata/families", name, "boxes.json")), &want); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				found, errs := inOneBatch(t, d, 3, samplePage, walden, walden)
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				for i, p := range found {
					same(t, p.Boxes, want[[]string{"report", "walden", "walden"}[i]])
					if p.Together != 3 || p.Infer <= 0 || p.Height == 0 {
						t.Errorf("%+v", p)
					}
				}
				alone, err := d.Detect(t.Context(), walden)
				if err != nil {
					t.Fatal(err)
				}
				same(t, alone.Boxes, want["walden"])
				if alone.Together != 1 {
					t.Errorf("one page was %d", alone.Together)
				}
			}
		})
	}
}

// Any number at once, as workers bring them.
func TestManyInBatches(t *testing.T) {
	reader := metric.NewManualReader()
	metered, err := Metered(metric.NewMeterProvider(metric.WithReader(reader)))
	if err != nil {
		t.Fatal(err)
	}
	d := openBatched(t, "yolo_batch", metered)
	walden := read(t, "testdata/walden.png")
	alone, err := d.Detect(t.Context(), walden)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 9 {
		wg.Go(func() {
			for range 4 {
				p, err := d.Detect(t.Context(), walden)
				if err != nil || p.Together < 1 || p.Together > 4 {
					t.Errorf("%d at once, %v", p.Together, err)
					return
				}
				if len(p.Boxes) != len(alone.Boxes) {
					t.Errorf("%d boxes, alone %d", len(p.Boxes), len(alone.Boxes))
				}
			}
		})
	}
	wg.Wait()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	sizes := all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Histogram[int64]).DataPoints[0]
	if sizes.Sum != 37 || sizes.Count < 10 || sizes.Count > 37 {
		t.Errorf("%d pages counted in %d inferences", sizes.Sum, sizes.Count)
	}
}

func TestBadPageOfABatch(t *testing.T) {
	d := openBatched(t, "rtdetr_batch")
	t.Run("that cannot be read", func(t *testing.T) {
		found, errs := inOneBatch(t, d, 2, samplePage, bytes.Repeat([]byte("no page"), 9), samplePage)
		if fault.CodeOf(errs[1]) != CodePageImage || errs[0] != nil || errs[2] != nil || found[0].Together != 2 || len(found[2].Boxes) == 0 {
			t.Errorf("%v", errs)
		}
	})
	t.Run("that is not inferred", func(t *testing.T) {
		pages := []*page{<-d.pages, <-d.pages, <-d.pages}
		defer func() {
			for _, p := range pages {
				d.pages <- p
			}
		}()
		for _, p := range pages {
			if _, err := p.preprocess(d.family, samplePage, 1<<22); err != nil {
				t.Fatal(err)
			}
		}
		if err := pages[1].slot.Resize([]int64{1, 3, 7, 7}); err != nil {
			t.Fatal(err)
		}
		errs := d.inferTogether(t.Context(), pages)
		if errs[0] != nil || errs[1] == nil || errs[2] != nil {
			t.Errorf("%v", errs)
		}
		if worst := difference(pages[0].outputs(), pages[2].outputs()); worst != 0 || len(pages[0].slot.Outputs) != 3 {
			t.Errorf("the others differ by %v", worst)
		}
	})
}

// A model that does not take several pages is refused when it is to be loaded, or
// checked, and not at its first batch.
func TestModelThatTakesNoBatch(t *testing.T) {
	for name, code := range map[string]string{"yolo": CodeModelMismatch, "rtdetr_logits": CodeModelInvalid} { // the second says that it does
		t.Run(name, func(t *testing.T) {
			c := families(t)
			c.Model = name
			give(t, c.ModelsDir, name, batched)
			d, err := New(t.Context(), c, slog.New(slog.DiscardHandler))
			if err == nil {
				err = d.Close()
			}
			if !errors.Is(err, ErrModelInvalid) || !strings.Contains(err.Error(), "dynamic_batching: 4 pages in one inference") {
				t.Errorf("got %v", err)
			}
			_, complaints, status := tool(t, "check-model", filepath.Join(c.ModelsDir, name))
			if status != 1 || !strings.HasPrefix(complaints, code+": ") || !strings.Contains(complaints, "dynamic first axis") {
				t.Errorf("%d: %s", status, complaints)
			}
		})
	}
}

// A model that takes any number of pages and does the first alone, or for each what
// the first has, is refused as well: boxes of the others would be lost, or false.
func TestModelThatDoesTheFirstOfABatch(t *testing.T) {
	node := func(op string, in []string, out string, attrs ...onnx.Attribute) *onnx.Node {
		return onnx.NewNode(op, op+" for "+out, in, []string{out}, attrs...)
	}
	begin := []*onnx.Node{
		node("Constant", nil, "0", onnx.Float{Name: "value_float", Value: 0}),
		node("Constant", nil, "1", onnx.Float{Name: "value_float", Value: 1}),
		node("Constant", nil, "2", onnx.Float{Name: "value_float", Value: 2}),
		node("Size", []string{"0"}, "whole"),
		node("CastLike", []string{"0", "whole"}, "first"), // 0, as places are counted
		node("Sub", []string{"output_", "output_"}, "nothing"),
	}
	for name, end := range map[string][]*onnx.Node{
		"nothing of the others": {
			node("Add", []string{"nothing", "1"}, "ones"),
			node("CumSum", []string{"ones", "first"}, "place"),
			node("Sub", []string{"2", "place"}, "left"),
			node("Relu", []string{"left"}, "mask"),
			node("Mul", []string{"output_", "mask"}, "output0"),
		},
		"nothing of the one between": {
			node("Add", []string{"nothing", "1"}, "ones"),
			node("CumSum", []string{"ones", "first"}, "place"),
			node("Sub", []string{"2", "place"}, "left"),
			node("Abs", []string{"left"}, "mask"),
			node("Mul", []string{"output_", "mask"}, "output0"),
		},
		"the same of the others": {
			node("Gather", []string{"output_", "first"}, "page"),
			node("Add", []string{"nothing", "page"}, "output0"),
		},
	} {
		for _, size := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s, %d pages", name, size), func(t *testing.T) {
				c := families(t)
				c.Model = "yolo_batch"
				made := []byte("\x12\x07output0") // by the last node
				weights := bytes.Replace(read(t, "testdata/families/yolo_batch/model.onnx"), made, []byte("\x12\x07output_"), 1)
				m, err := onnx.Parse(weights)
				if err != nil {
					t.Fatal(err)
				}
				m.Graph.Nodes = slices.Concat(m.Graph.Nodes, begin, end)
				var file bytes.Buffer
				if err := m.Encode(&file); err != nil {
					t.Fatal(err)
				}
				batches := false
				change := func(m map[string]any) {
					m["sha256"] = fmt.Sprintf("%x", sha256.Sum256(file.Bytes()))
					if batches {
						m["dynamic_batching"] = map[string]any{"max_batch_size": size, "max_queue_delay_ms": 20}
					}
				}
				give(t, c.ModelsDir, c.Model, change)
				path := filepath.Join(c.ModelsDir, c.Model, "model.onnx")
				if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				found, err := open(t, c).Detect(t.Context(), samplePage)
				if err != nil || len(found.Boxes) == 0 {
					t.Fatalf("a page alone: %d boxes, %v", len(found.Boxes), err)
				}
				batches = true
				give(t, c.ModelsDir, c.Model, change)
				if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				d, err := New(t.Context(), c, slog.New(slog.DiscardHandler))
				if err == nil {
					err = d.Close()
				}
				if !errors.Is(err, ErrModelInvalid) || !strings.Contains(err.Error(), "on page 2 and") {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

// There are pages for a batch in work and for the next one, and workers for them,
// unless somebody says how many.
func TestPagesOfBatches(t *testing.T) {
	c := families(t, "yolo_batch", "yolo")
	give(t, c.ModelsDir, "yolo_batch", batched)
	c.Runs = 2
	m := openModels(t, c)
	if a, b := m.Workers("yolo_batch"), m.Workers("yolo"); a != 3*4+1 || b != 3+1 {
		t.Errorf("%d and %d workers", a, b)
	}
	if _, err := m.detected(t, "yolo_batch", ""); err != nil {
		t.Error(err)
	}
	// Asking for batches is another version of the model, though its digest stays.
	digest := m.digest("yolo_batch")
	give(t, c.ModelsDir, "yolo_batch", nil)
	m.look(t)
	if _, err := m.detected(t, "yolo_batch", digest); err != nil || m.Workers("yolo_batch") != 3+1 || m.digest("yolo_batch") != digest {
		t.Errorf("%v, %d workers without batches", err, m.Workers("yolo_batch"))
	}
	for pages, size := range map[int]int{1: 0, 3: 3, 9: 4} {
		c := families(t)
		c.Model, c.Pages = "yolo_batch", pages
		give(t, c.ModelsDir, "yolo_batch", batched)
		d := open(t, c)
		if (d.batches == nil) != (size == 0) || d.batches != nil && d.batches.size != size || d.made != pages {
			t.Errorf("%d pages: %+v", d.made, d.batches)
		}
	}
}

// What the room counts for a batch is no less than was measured, and nothing where
// there are none. It follows how many inferences go on at once, and how large batches
// may be.
func TestBytesOfMore(t *testing.T) {
	m := manifest.Manifest{Input: manifest.Input{Width: 640, Height: 640}}
	one := Config{Runs: 1}
	if got := bytesOfMore(one, m, 273e6); got != 0 {
		t.Errorf("%d without batches", got)
	}
	alone := manifest.Manifest{Input: manifest.Input{Width: 608, Height: 800}}
	if got, measured := bytesOfMore(Config{Runs: 2}, alone, 7e6), int64(50e6); got < measured || got > measured*4/3 {
		t.Errorf("%d for a second inference", got)
	}
	anySize := manifest.Manifest{Input: manifest.Input{ShortestEdge: 800, LongestEdge: 1333}}
	if got := bytesOfMore(Config{Runs: 2}, anySize, 166e6); got < 4*3*800*1333 {
		t.Errorf("%d for a second inference of pages of any size", got)
	}
	m.Batching.MaxSize = 2
	for weights, measured := range map[int64]int64{13e6: 50e6, 104e6: 103e6, 273e6: 189e6} {
		if got := bytesOfMore(one, m, weights); got < measured || got > measured*4/3 {
			t.Errorf("%d for weights of %d", got, weights)
		}
	}
	m.Batching.MaxSize = 8
	const input, layers = 4 * 3 * 640 * 640, 9*4*3*640*640 + 104e6/2
	for name, c := range map[string]struct {
		runs, pages int
		want        int64
	}{
		"one batch at once":     {1, 0, 3*7*input + 7*layers},
		"two at once":           {2, 0, (21+15)*input + 15*layers},
		"two of three pages":    {2, 3, 5*input + 5*layers},
		"one, and many pages":   {1, 30, (28+7)*input + 7*layers},
		"one page, so no batch": {1, 1, 0},
	} {
		if got := bytesOfMore(Config{Runs: c.runs, Pages: c.pages}, m, 104e6); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	c := families(t, "yolo_batch")
	give(t, c.ModelsDir, "yolo_batch", batched)
	models := openModels(t, c)
	v := *models.recall("yolo_batch", "")
	with := models.room.bytes(&v)
	v.Manifest.Batching = manifest.Batching{}
	if before := models.room.bytes(&v); with < before+3*12*4*3*160*128 {
		t.Errorf("%d, without batches %d", with, before)
	}
}

// BenchmarkBatches is what batches are worth to the default model on this
// processor, made to take any number of pages: the time of a page, while as many
// are in work as may be, and how much of it a processor had.
func BenchmarkBatches(b *testing.B) {
	for _, size := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			c := testConfig(b)
			c.ModelsDir, c.Threads = takesAny(b, size), runtime.GOMAXPROCS(0)
			d := open(b, c)
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			before := processor(b)
			b.ResetTimer()
			for range d.made {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := d.Detect(b.Context(), samplePage); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((processor(b)-before).Microseconds())/1000/float64(b.N), "ms-processor/op")
		})
	}
}

// processor is how long this process has had one.
func processor(t testing.TB) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// takesAny is a folder with the default model made to take any number of pages, and
// to have so many at once: of its input the first size is left open (a name of no
// letters, where 1 was), and what was to become the shape of one page keeps as many
// as there are.
func takesAny(t testing.TB, size int) (models string) {
	t.Helper()
	weights := read(t, built(t, "models", "layout_cdla", "layout_cdla.onnx"))
	shape := func(n, channels int64) []byte {
		var b []byte
		for _, d := range []int64{n, channels, -1} {
			b = binary.LittleEndian.AppendUint64(b, uint64(d))
		}
		return b
	}
	for _, p := range []struct {
		from, to []byte
		times    int
	}{
		{[]byte("\x0a\x02\x08\x01\x0a\x02\x08\x03\x0a\x03\x08\xa0\x06"), []byte("\x0a\x02\x12\x00\x0a\x02\x08\x03\x0a\x03\x08\xa0\x06"), 1},
		{shape(1, 10), shape(0, 10), 4}, {shape(1, 32), shape(0, 32), 4},
	} {
		if n := bytes.Count(weights, p.from); n != p.times {
			t.Fatalf("%q is there %d times, want %d", p.from, n, p.times)
		}
		weights = bytes.ReplaceAll(weights, p.from, p.to)
	}
	models = modelsDir(t, func(m map[string]any) {
		m["sha256"] = fmt.Sprintf("%x", sha256.Sum256(weights))
		if size > 1 {
			m["dynamic_batching"] = map[string]any{"max_batch_size": size, "max_queue_delay_ms": 20}
		}
	})
	file := filepath.Join(models, "layout_cdla", "layout_cdla.onnx")
	if err := errors.Join(os.Remove(file), os.WriteFile(file, weights, 0o600)); err != nil { // it was a link
		t.Fatal(err)
	}
	return models
}
