package session

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// resident is how many bytes of the files in a folder this process has in memory.
func resident(t *testing.T, dir string) (bytes int) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	within := false
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		if !strings.HasSuffix(fields[0], ":") {
			within = strings.Contains(line, dir+"/")
		} else if within && fields[0] == "Rss:" {
			kb, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			bytes += kb << 10
		}
	}
	return bytes
}

// Weights that are let go of after a run are there again in the next.
func TestWeightsAreLetGo(t *testing.T) {
	r, s := open(t, 1)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	graph := filepath.Join(dir, "graph.onnx")
	if err := r.Optimize(build(t, "models", "layout_cdla", "layout_cdla.onnx"), graph, "graph.weights"); err != nil {
		t.Fatal(err)
	}
	own := slot(t, r)
	if err := s.Run(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(dir)) // the folder of prepared models may be named from where the program runs
	prepared := func(least uintptr) *Session {
		p, err := r.Open(Config{Model: filepath.Join(filepath.Base(dir), "graph.onnx"), Prepared: true, Inputs: []string{"image"}, Outputs: []string{"transpose_6.tmp_0", "transpose_7.tmp_0"}, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		p.weights.least = least
		return p
	}
	kept := prepared(largeWeights)
	if err := kept.Run(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(own.Outputs[0].Data)
	if got := resident(t, dir); got < 5<<20 {
		t.Errorf("%d bytes of small weights are left after a run", got)
	}
	if err := kept.Close(); err != nil {
		t.Fatal(err)
	}
	p := prepared(1)
	defer p.Close()
	if err := p.Run(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	other := prepared(1) // of the same file, as two versions of a model with other thresholds are
	if err := errors.Join(other.Run(t.Context(), own), other.Close()); err != nil {
		t.Fatal(err)
	}
	another := prepared(1)
	defer another.Close()
	if err := another.Run(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	for _, m := range another.weights.at {
		for _, o := range p.weights.at {
			if m.at < o.end() && o.at < m.end() {
				t.Errorf("both sessions let go of what is in %+v and in %+v, and goes with one of them", m, o)
			}
		}
	}
	if len(p.weights.at) == 0 || len(another.weights.at) == 0 {
		t.Errorf("mappings of one session %v, of the other %v", p.weights.at, another.weights.at)
	}
	for range 3 {
		clear(own.Outputs[0].Data)
		if err := p.Run(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(own.Outputs[0].Data, want) {
			t.Error("outputs differ")
		}
		if got := resident(t, dir); got > 1<<20 {
			t.Errorf("%d bytes of weights are still there after a run", got)
		}
	}
}

func TestWithout(t *testing.T) {
	all := []mapping{{10, 10}, {30, 10}, {50, 10}}
	for name, c := range map[string]struct{ others, want []mapping }{
		"none":               {nil, all},
		"one":                {[]mapping{{30, 10}}, []mapping{{10, 10}, {50, 10}}},
		"beside":             {[]mapping{{20, 10}, {0, 10}, {60, 1}}, all},
		"the beginning":      {[]mapping{{5, 8}}, []mapping{{13, 7}, {30, 10}, {50, 10}}},
		"the end, and all":   {[]mapping{{18, 23}, {50, 10}}, []mapping{{10, 8}}},
		"the middle, twice":  {[]mapping{{12, 2}, {16, 2}}, []mapping{{10, 2}, {14, 2}, {18, 2}, {30, 10}, {50, 10}}},
		"everything at once": {[]mapping{{0, 100}}, nil},
	} {
		if got := without(slices.Clone(all), c.others); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
