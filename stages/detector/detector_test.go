package detector

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/pkg/fault"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/session"
)

// preparedModels keeps the prepared model from test to test, as from start to
// start. Tests of the cache itself have one of their own.
var preparedModels string

func TestMain(m *testing.M) {
	if IsPrepareChild(os.Args) {
		os.Exit(PrepareChild(context.Background()))
	}
	dir, err := os.MkdirTemp("", "detector-test-")
	if err != nil {
		panic(err)
	}
	preparedModels = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
		os.Exit(code)
	}))
}

// built is a file that make deps fetches.
func built(t testing.TB, path ...string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.work above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
	file := filepath.Join(append([]string{dir, "build"}, path...)...)
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	return file
}

// modelsDir is a folder of models in which the default one has the committed manifest, after change.
func modelsDir(t testing.TB, change func(m map[string]any)) string {
	t.Helper()
	b, err := os.ReadFile("models/layout_cdla.json")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		if b, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
	}
	models := t.TempDir()
	dir := filepath.Join(models, "layout_cdla")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(built(t, "models", "layout_cdla", "layout_cdla.onnx"), filepath.Join(dir, "layout_cdla.onnx")); err != nil {
		t.Fatal(err)
	}
	return models
}

func testConfig(t testing.TB) Config {
	return Config{
		Model: "layout_cdla", ModelsDir: modelsDir(t, nil), Library: built(t, "lib", session.LibraryFile()), CacheDir: preparedModels,
		Threads: 1, MaxPixels: 40_000_000, MaxBytes: 1 << 20,
	}
}

func open(t testing.TB, c Config, options ...Option) *Detector {
	t.Helper()
	d, err := New(context.Background(), c, slog.New(slog.DiscardHandler), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func golden(t testing.TB, name string) []schemas.Box {
	t.Helper()
	var want []schemas.Box
	if err := json.Unmarshal(read(t, filepath.Join("testdata", name+".json")), &want); err != nil {
		t.Fatal(err)
	}
	return want
}

// same compares boxes with those that the reference in tools found with the
// graph as shipped: the same ones, scores to a thousandth and coordinates to a
// tenth of a pixel, which is what weights of 16 bits and another order of
// arithmetic may cost. Where scores tie within that, the order may differ.
func same(t *testing.T, got, want []schemas.Box) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d boxes, want %d:\n%v\n%v", len(got), len(want), got, want)
	}
	if !slices.IsSortedFunc(got, schemas.CompareBoxes) {
		t.Errorf("boxes are not in order: %v", got)
	}
	left := slices.Clone(got)
	for _, w := range want {
		i := slices.IndexFunc(left, func(g schemas.Box) bool {
			ok := g.Class == w.Class && math.Abs(g.Score-w.Score) <= 1e-3
			for k := range g.Rect {
				ok = ok && math.Abs(g.Rect[k]-w.Rect[k]) <= 0.1
			}
			return ok
		})
		if i < 0 {
			t.Fatalf("no box like %v among %v", w, left)
		}
		left = slices.Delete(left, i, i+1)
	}
}

func TestFindsWhatTheReferenceFinds(t *testing.T) {
	d := open(t, testConfig(t))
	for name, png := range map[string][]byte{"report": samplePage, "walden": read(t, "testdata/walden.png")} {
		t.Run(name, func(t *testing.T) {
			p, err := d.Detect(t.Context(), png)
			if err != nil {
				t.Fatal(err)
			}
			same(t, p.Boxes, golden(t, name))
			again, err := d.Detect(t.Context(), png)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(again.Boxes, p.Boxes) {
				t.Error("the same page gave other boxes the second time")
			}
			if p.Infer <= 0 || p.Preprocess <= 0 || p.Width != again.Width || p.Height == 0 {
				t.Errorf("facts of the page missing: %+v", p)
			}
		})
	}
}

func TestManyAtOnceFindTheSame(t *testing.T) {
	c := testConfig(t)
	c.Runs, c.Pages = 2, 4
	d := open(t, c)
	pages := map[string][]byte{"report": samplePage, "walden": read(t, "testdata/walden.png")}
	var wg sync.WaitGroup
	for range 4 {
		for name, png := range pages {
			wg.Go(func() {
				p, err := d.Detect(t.Context(), png)
				if err != nil {
					t.Error(err)
					return
				}
				if len(p.Boxes) != len(golden(t, name)) {
					t.Errorf("%s: %d boxes, want %d", name, len(p.Boxes), len(golden(t, name)))
				}
			})
		}
	}
	wg.Wait()
}

// The model is prepared at the first start, taken from the cache at the
// second, and made anew where the cache was damaged; what is found is the same.
func TestModelIsPreparedOnce(t *testing.T) {
	c := testConfig(t)
	c.CacheDir = t.TempDir()
	var log strings.Builder
	start := func() (string, []schemas.Box) {
		log.Reset()
		d, err := New(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		p, err := d.Detect(t.Context(), samplePage)
		if err = errors.Join(err, d.Close()); err != nil {
			t.Fatal(err)
		}
		return log.String(), p.Boxes
	}
	first, boxes := start()
	if !strings.Contains(first, "model prepared") || !strings.Contains(first, "hard_swish=94") {
		t.Fatalf("first start did not prepare the model: %s", first)
	}
	second, again := start()
	if strings.Contains(second, "model prepared") || !strings.Contains(second, c.CacheDir) || !slices.Equal(again, boxes) {
		t.Fatalf("second start did not use the cache: %s", second)
	}
	cached, err := filepath.Glob(filepath.Join(c.CacheDir, "models", "*"))
	if err != nil || len(cached) != 1 {
		t.Fatalf("cache holds %v, %v: want one folder", cached, err)
	}
	for _, name := range []string{preparedGraph, preparedWeights} {
		damaged := filepath.Join(cached[0], name)
		b := read(t, damaged)
		b[len(b)/2] ^= 1
		// As another file, for that one may be mapped.
		if err := errors.Join(os.Remove(damaged), os.WriteFile(damaged, b, 0o600)); err != nil {
			t.Fatal(err)
		}
		log, again := start()
		if !strings.Contains(log, "model prepared") || !slices.Equal(again, boxes) {
			t.Fatalf("a damaged %s was trusted: %s", name, log)
		}
	}
	if left, err := filepath.Glob(filepath.Join(c.CacheDir, "models", "*")); err != nil || !slices.Equal(left, cached) {
		t.Errorf("cache holds %v, %v: want %v", left, err, cached)
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	c := testConfig(t)
	c.CacheDir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(c.CacheDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	d, err := New(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close() // TestCloseIsLegalTwice looks at its error
	if !strings.Contains(log.String(), "cache not writable") || !strings.Contains(log.String(), "model prepared") {
		t.Fatalf("log: %s", log.String())
	}
	p, err := d.Detect(t.Context(), samplePage)
	if err != nil {
		t.Fatal(err)
	}
	same(t, p.Boxes, golden(t, "report"))
}

func TestSaysWhyItIsNotReady(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, c *Config)
		want   error
		says   string
	}{
		"no library": {func(_ *testing.T, c *Config) { c.Library += ".not" }, ErrLibrary, "make deps"},
		"not a library": {func(t *testing.T, c *Config) {
			c.Library = filepath.Join(t.TempDir(), "lib.so")
			if err := os.WriteFile(c.Library, []byte("no"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrLibrary, "lib.so"},
		"no manifest": {func(t *testing.T, c *Config) { c.ModelsDir = t.TempDir() }, ErrModelAbsent, "make deps"},
		"another name": {func(t *testing.T, c *Config) {
			c.ModelsDir = modelsDir(t, func(m map[string]any) { m["name"] = "other" })
		}, ErrModelInvalid, "other"},
		"no weights": {func(t *testing.T, c *Config) {
			c.ModelsDir = modelsDir(t, func(m map[string]any) { m["file"] = "other.onnx" })
		}, ErrModelAbsent, "other.onnx"},
		"other weights": {func(t *testing.T, c *Config) {
			c.ModelsDir = modelsDir(t, func(m map[string]any) { m["sha256"] = strings.Repeat("0", 64) })
		}, ErrModelDigest, "25b1f27ec56aa932"},
		"unknown family": {func(t *testing.T, c *Config) {
			c.ModelsDir = modelsDir(t, func(m map[string]any) { m["family"] = "oracle" })
		}, ErrModelInvalid, "oracle"},
		"another input size": {func(t *testing.T, c *Config) {
			c.ModelsDir = modelsDir(t, func(m map[string]any) { m["input"].(map[string]any)["width"] = 640 })
		}, ErrModelInvalid, "608"},
		"another output": {func(t *testing.T, c *Config) {
			c.ModelsDir = modelsDir(t, func(m map[string]any) {
				m["options"].(map[string]any)["heads"].([]any)[0].(map[string]any)["scores"] = "oops"
			})
		}, ErrModelInvalid, "oops"},
		"a class too many": {func(t *testing.T, c *Config) {
			c.ModelsDir = modelsDir(t, func(m map[string]any) { m["classes"] = append(m["classes"].([]any), "stamp") })
		}, ErrModelInvalid, "11"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			c.change(t, &cfg)
			d, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal(errors.Join(errors.New("a detector was made"), d.Close()))
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	err := Config{Model: "My Model", Threads: -1, Runs: 3, Pages: 2, MaxPixels: -5}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"LEAFCUTTER_MODEL:", "LEAFCUTTER_INFERENCE_THREADS:", "LEAFCUTTER_INFERENCE_PAGES:", "LEAFCUTTER_MAX_PAGE_PIXELS:", "LEAFCUTTER_MAX_PAGE_BYTES:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestPageAtFault(t *testing.T) {
	c := testConfig(t)
	c.MaxPixels = 918 * 1188
	d := open(t, c)
	walden := read(t, "testdata/walden.png") // larger
	for name, p := range map[string]struct {
		png  []byte
		code string
	}{
		"too large": {walden, CodePageTooLarge},
		"no PNG":    {[]byte("%PDF-1.7"), CodePageImage},
		"cut":       {samplePage[:len(samplePage)/2], CodePageImage},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Detect(t.Context(), p.png)
			if fault.ClassOf(err) != fault.Permanent || fault.CodeOf(err) != p.code {
				t.Fatalf("got %v: %s, %s", err, fault.ClassOf(err), fault.CodeOf(err))
			}
		})
	}
	// It is still fit for a good one.
	p, err := d.Detect(t.Context(), samplePage)
	if err != nil {
		t.Fatal(err)
	}
	same(t, p.Boxes, golden(t, "report"))
}

func TestEndOfContextEndsTheWait(t *testing.T) {
	c := testConfig(t)
	c.Pages = 1
	d := open(t, c)
	held := <-d.pages // as if a page were in work
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := d.Detect(ctx, samplePage)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	d.pages <- held
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := d.Detect(ctx, samplePage); fault.ClassOf(err) != fault.Shutdown {
		t.Fatalf("got %v", err)
	}
	if _, err := d.Detect(t.Context(), samplePage); err != nil {
		t.Fatalf("after a run that was broken off: %v", err)
	}
}

func TestAnnouncement(t *testing.T) {
	d := open(t, testConfig(t))
	now := time.Now()
	a := announcement(d.manifest, "digest", now)
	if a.Model != "layout_cdla" || a.Family != "picodet" || len(a.Classes) != 10 || a.Digest != "digest" ||
		a.Thresholds[schemas.AllClasses] != 0.4 || !a.AnnouncedAt.Equal(now) {
		t.Fatalf("%+v", a)
	}
}

func TestCloseIsLegalTwice(t *testing.T) {
	d, err := New(t.Context(), testConfig(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkDetect is the path of a page through the detector; its parts are
// reported beside the whole.
func BenchmarkDetect(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run("threads="+string(rune('0'+threads)), func(b *testing.B) {
			c := testConfig(b)
			c.Threads = threads
			d := open(b, c)
			var pre, infer, dec time.Duration
			for b.Loop() {
				p, err := d.Detect(b.Context(), samplePage)
				if err != nil {
					b.Fatal(err)
				}
				pre, infer, dec = pre+p.Preprocess, infer+p.Infer, dec+p.Decode
			}
			each := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
			b.ReportMetric(each(pre), "ms-preprocess")
			b.ReportMetric(each(infer), "ms-infer")
			b.ReportMetric(each(dec), "ms-decode")
		})
	}
}
