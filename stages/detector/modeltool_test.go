package detector

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/session"
)

// tool runs one of the commands and returns what it said and its exit code.
func tool(t *testing.T, args ...string) (out, complaints string, code int) {
	t.Helper()
	var o, c bytes.Buffer
	all := append([]string{"detector", args[0], "-library", built(t, "lib", session.LibraryFile())}, args[1:]...)
	if !IsModelTool(all) {
		t.Fatalf("%v is no question about a model", all)
	}
	code = ModelTool(t.Context(), all, &o, &c)
	return o.String(), c.String(), code
}

func TestCheckModelTriesEachFamilyOnAPage(t *testing.T) {
	dirs, err := filepath.Glob("testdata/families/*")
	if err != nil || len(dirs) < 6 {
		t.Fatalf("%v, %v", dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			drawn := filepath.Join(t.TempDir(), "drawn.png")
			out, complaints, code := tool(t, "check-model", "-image", "report.png", "-out", drawn, dir)
			if code != 0 || !strings.Contains(out, "fits its manifest") || !strings.Contains(out, " boxes, ") {
				t.Fatalf("%d: %s%s", code, out, complaints)
			}
			if strings.Contains(out, "\n0 boxes") {
				t.Error("nothing is found")
			}
			f, err := os.Open(drawn)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if c, err := png.DecodeConfig(f); err != nil || c.Width != 918 || c.Height != 1188 {
				t.Errorf("drawn: %+v, %v", c, err)
			}
		})
	}
}

// altered is a tiny model's folder whose manifest reads otherwise.
func altered(t *testing.T, model, from, to string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), model)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := string(read(t, filepath.Join("testdata/families", model, manifest.File)))
	if !strings.Contains(m, from) {
		t.Fatalf("the manifest of %s does not have %s", model, from)
	}
	for name, b := range map[string][]byte{
		manifest.File: []byte(strings.Replace(m, from, to, 1)), "model.onnx": read(t, filepath.Join("testdata/families", model, "model.onnx")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheckModelSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ dir, want string }{
		"no model":          {t.TempDir(), "manifest absent"},
		"another name":      {altered(t, "yolo", `"name": "yolo"`, `"name": "other"`), "a model called other"},
		"no version":        {altered(t, "yolo", `"version": "1"`, `"version": ""`), "version: missing"},
		"a class too many":  {altered(t, "yolo", `"classes": [`, `"classes": ["more",`), "the model knows 3, the manifest names 4"},
		"a mistyped field":  {altered(t, "rtdetr_logits", `"score_floor"`, `"nonsense": 1, "score_floor"`), "nonsense"},
		"another size":      {altered(t, "yolo_end_to_end", `"width": 160`, `"width": 320`), "want [1 3 160 320]"},
		"an output renamed": {altered(t, "faster_rcnn", `"scores": "scores"`, `"scores": "confidence"`), `no output "confidence"`},
	} {
		t.Run(name, func(t *testing.T) {
			out, complaints, code := tool(t, "check-model", c.dir)
			if code != 1 || !strings.Contains(complaints, c.want) {
				t.Errorf("%d: %s%s", code, out, complaints)
			}
		})
	}
	dir := altered(t, "yolo", `"version": "1"`, `"version": "2"`)
	if err := os.WriteFile(filepath.Join(dir, "model.onnx"), []byte("other weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, complaints, code := tool(t, "check-model", dir); code != 1 || !strings.Contains(complaints, "another digest") {
		t.Errorf("%d: %s", code, complaints)
	}
}

func TestDraftManifestIsOneThatFits(t *testing.T) {
	file := "testdata/families/yolo/model.onnx"
	out, complaints, code := tool(t, "draft-manifest", "-name", "mine", "-family", family.YOLO, "-classes", "text, title, table", file)
	if code != 0 {
		t.Fatalf("%d: %s", code, complaints)
	}
	m, err := manifest.Parse([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "mine" || m.Family != family.YOLO || m.Input.Width != 128 || len(m.Classes) != 3 || m.NMS.IoU != 0.7 {
		t.Errorf("%+v", m)
	}
	names := filepath.Join(t.TempDir(), "names.txt")
	if err := os.WriteFile(names, []byte("title\ntable\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-classes", "a,b", file}, 1, "knows 3 classes, -classes names 2"},
		{[]string{file}, 1, "-classes is missing"},
		{[]string{"-classes", "a", "-family", family.FasterRCNN, file}, 1, "is of the family yolo, not faster-rcnn"},
		{[]string{"-classes", names, "testdata/families/faster_rcnn/model.onnx"}, 0, ""},
		{[]string{"-classes", "a", "report.png"}, 1, "model not accepted"},
		{[]string{"-classes", "a"}, 2, "one argument"},
	} {
		if _, complaints, code := tool(t, append([]string{"draft-manifest"}, c.args...)...); code != c.code || !strings.Contains(complaints, c.want) {
			t.Errorf("%v: %d: %s", c.args, code, complaints)
		}
	}
}
