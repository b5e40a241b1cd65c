package detector

import (
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestThreads(t *testing.T) {
	measured := []speed{{1, 54}, {2, 34}, {4, 21}, {8, 19}}
	for name, c := range map[string]struct {
		asked, processors int
		speeds            []speed
		want              int
	}{
		"the user's word":         {3, 16, measured, 3},
		"as far as it is worth":   {0, 16, measured, 4},
		"no more than processors": {0, 2, measured, 2},
		"one processor":           {0, 1, measured, 1},
		"not worth it":            {0, 4, []speed{{1, 54}, {2, 44}, {4, 20}}, 1},
		"not measured":            {0, 3, nil, 3},
		"not measured, many":      {0, 64, nil, 4},
	} {
		if got := threadsFor(c.asked, c.processors, c.speeds); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// Where nobody says how many threads, they are measured once, and the next start
// knows.
func TestThreadsAreMeasuredOnce(t *testing.T) {
	c := testConfig(t)
	c.CacheDir, c.Threads = t.TempDir(), 0
	var first string
	for range 2 {
		var log strings.Builder
		d, err := New(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		f, ok := trusted(preparedDir(c.CacheDir, d.manifest.SHA256), d.manifest.SHA256)
		if !ok || len(f.Speeds) == 0 || f.Speeds[0].Threads != 1 || f.Speeds[0].MS <= 0 {
			t.Fatalf("facts %+v, %v", f, ok)
		}
		_, threads, _ := strings.Cut(log.String(), "threads=")
		if first == "" {
			first = threads
		} else if threads != first {
			t.Errorf("threads=%s at the first start, %s at the second", first, threads)
		}
	}
}

// A model that was prepared where the number was given was not measured, and is where
// it no longer is.
func TestThreadsAreMeasuredLater(t *testing.T) {
	c := testConfig(t)
	c.CacheDir = t.TempDir()
	for _, threads := range []int{1, 0, 1} {
		c.Threads = threads
		d, err := New(t.Context(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if f, ok := trusted(preparedDir(c.CacheDir, d.manifest.SHA256), d.manifest.SHA256); !ok || threads == 0 && len(f.Speeds) == 0 {
			t.Errorf("%d threads: facts %+v, %v", threads, f, ok)
		}
	}
}

// A provider that the library does not have is told by name and code, and the
// model does not silently run on the processor instead.
func TestProviderThatIsMissing(t *testing.T) {
	for _, provider := range []string{"cuda", "openvino"} {
		for from, change := range map[string]func(c *Config){
			"the variable": func(c *Config) { c.Provider = provider },
			"the manifest": func(c *Config) {
				c.ModelsDir = modelsDir(t, func(m map[string]any) { m["provider"] = provider })
			},
		} {
			t.Run(provider+" by "+from, func(t *testing.T) {
				c := testConfig(t)
				change(&c)
				d, err := New(t.Context(), c, slog.New(slog.DiscardHandler))
				if err == nil {
					t.Fatal("a detector was made", d.Close())
				}
				for _, want := range []string{CodeProvider, provider, "LEAFCUTTER_ONNXRUNTIME_LIB"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q is not in: %v", want, err)
					}
				}
			})
		}
	}
	// The variable wins over the manifest.
	c := testConfig(t)
	c.ModelsDir = modelsDir(t, func(m map[string]any) { m["provider"] = "cuda" })
	c.Provider = "cpu"
	open(t, c)
	if err := (Config{Model: "m", Provider: "abacus", MaxPixels: 1 << 20, MaxBytes: 1 << 20}).Validate(); err == nil || !strings.Contains(err.Error(), "LEAFCUTTER_INFERENCE_PROVIDER") {
		t.Errorf("got %v", err)
	}
	documented, err := os.ReadFile("../../docs/errors.md")
	if err != nil || !strings.Contains(string(documented), "`"+CodeProvider+"`") {
		t.Errorf("docs/errors.md does not explain %s: %v", CodeProvider, err)
	}
}
