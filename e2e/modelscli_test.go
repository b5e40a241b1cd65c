package e2e

import (
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
)

// An ONNX file becomes a model that is served, by the commands about models alone: into the folder that a pipeline takes its
// models from while it runs, and into its S3.
func TestModelCommands(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	models := newModelFolder(t)
	p := pipeline.Own(t, "LEAFCUTTER_MODELS_DIR="+string(models), "LEAFCUTTER_MODELS=*", "LEAFCUTTER_MODELS_REFRESH=200ms")
	file := func(model string) string {
		return filepath.Join(p.Root, "stages/detector/testdata/families", model, "model.onnx")
	}
	dir := t.TempDir()
	names, pdf, drawn := filepath.Join(dir, "names.txt"), filepath.Join(dir, "report.pdf"), filepath.Join(dir, "drawn.png")
	ok(t, os.WriteFile(names, []byte("text\ntitle\ntable\n"), 0o600))
	ok(t, os.WriteFile(pdf, corpus.Report(3, 6), 0o600))
	run := func(want int, args ...string) (string, string) {
		t.Helper()
		out, code, err := p.CLI(ctx, nil, append(append([]string{"models"}, args...), "--data-dir", p.Data)...)
		ok(t, err)
		if code != want {
			t.Fatalf("leafcutter models %s: exit status %d, want %d\n%s", strings.Join(args, " "), code, want, out)
		}
		return string(out.Stdout), string(out.Stderr)
	}
	type line struct {
		Name, State, Version string
		Detectors            *int
		Stored               *struct{ Version, Code string }
	}
	list := func(args ...string) map[string]line {
		t.Helper()
		out, _ := run(0, append([]string{"list", "-o", "json"}, args...)...)
		var told struct{ Models []line }
		ok(t, json.Unmarshal([]byte(out), &told))
		all := map[string]line{}
		for _, l := range told.Models {
			all[l.Name] = l
		}
		return all
	}

	// What does not fit is refused with a code, and nothing is left of it.
	if _, errs := run(1, "add", file("yolo"), "--classes", "text,title", "--name", "mine"); !strings.HasPrefix(errs, "leafcutter: model-classes: ") {
		t.Errorf("a class too few: %s", errs)
	}
	if _, errs := run(1, "add", pdf, "--classes", names); !strings.HasPrefix(errs, "leafcutter: model-unreadable: ") {
		t.Errorf("a PDF for a model: %s", errs)
	}
	run(2, "add")
	run(2, "check", "mine", "--page", "3")
	if left := must(os.ReadDir(string(models)))(t); len(left) != 1 {
		t.Errorf("what was refused left %v", left)
	}

	out, errs := run(0, "add", file("yolo"), "--family", "yolo", "--classes", names, "--name", "mine")
	if !strings.Contains(out, "the pipeline that runs here does") || errs != "" {
		t.Errorf("%s%s", out, errs)
	}
	served(ctx, t, p, "mine", "1")
	done, code, err := p.CLI(ctx, nil, "submit", "--wait", "--model", "mine", "--data-dir", p.Data, pdf)
	ok(t, err)
	if code != 0 || !strings.Contains(done.String(), "3 of 3 pages") {
		t.Errorf("a document for it: exit status %d\n%s", code, done)
	}
	if l := list()["mine"]; l.State != "served" || l.Detectors == nil || *l.Detectors != 1 || l.Stored == nil || l.Stored.Version != "1" {
		t.Errorf("%+v", l)
	}
	out, _ = run(0, "check", "mine", "--pdf", pdf, "--page", "2", "--out", drawn)
	if !strings.Contains(out, "fits its manifest") || !strings.Contains(out, " boxes on page 2 of report.pdf, ") {
		t.Error(out)
	}
	f := must(os.Open(drawn))(t)
	defer f.Close()
	if img, err := png.DecodeConfig(f); err != nil || img.Height < 1000 {
		t.Errorf("drawn: %+v, %v", img, err)
	}

	// The same in S3, where it comes from there and is broken there.
	const s3 = "s3://leafcutter/models"
	run(0, "add", filepath.Join(string(models), "mine"), "--to", s3, "--version", "2")
	if out, _ := run(0, "check", s3+"/mine"); !strings.Contains(out, "mine 2: family yolo, 3 classes, fits its manifest") {
		t.Error(out)
	}
	ok(t, p.Objects.Put(ctx, "models/broken/manifest.json", []byte(`{"name": "broken"}`), "application/json"))
	if all := list("--models", s3); all["broken"].State != "broken" || all["broken"].Stored.Code != "model-invalid" || all["mine"].State != "served" || all["mine"].Stored.Version != "2" {
		t.Errorf("%+v", all)
	}
	if _, errs := run(1, "check", "broken", "--models", s3); !strings.HasPrefix(errs, "leafcutter: model-invalid: ") {
		t.Error(errs)
	}
}
