package detector

import (
	"bytes"
	"encoding/json"
	"errors"
	"image/jpeg"
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
			if code != 0 || !strings.Contains(out, "fits its manifest") || !strings.Contains(out, " boxes on ") {
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
		"no model":          {t.TempDir(), "model-absent: there is no "},
		"another name":      {altered(t, "yolo", `"name": "yolo"`, `"name": "other"`), "model-invalid: "},
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
	if _, complaints, code := tool(t, "check-model", dir); code != 1 || !strings.Contains(complaints, "model-digest: ") {
		t.Errorf("%d: %s", code, complaints)
	}
	t.Setenv("LEAFCUTTER_INFERENCE_PROVIDER", "openvino") // as it is to be served
	if _, complaints, code := tool(t, "check-model", "testdata/families/yolo"); code != 1 || !strings.Contains(complaints, CodeProvider) {
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
	checkpoint := filepath.Join(t.TempDir(), "best.pt")
	if err := errors.Join(os.WriteFile(names, []byte("title\ntable\n\n"), 0o600), os.WriteFile(checkpoint, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-classes", "a,b", file}, 1, "model-classes: testdata/families/yolo/model.onnx knows 3 classes, a,b names 2"},
		{[]string{file}, 1, "model-classes: --classes is missing"},
		{[]string{"-classes", "none.txt", file}, 1, "model-classes: read the names"},
		{[]string{"-classes", "a", "-family", family.FasterRCNN, file}, 1, "is of the family yolo, not faster-rcnn"},
		{[]string{"-classes", "a,b,c", "-size", "640", file}, 1, "model-mismatch: testdata/families/yolo/model.onnx has an input of height 160 and width 128, --size says 640 and 640"},
		{[]string{"-classes", "a,b,c", "-size", "160x128", file}, 0, ""},
		{[]string{"-classes", "a,b,c", "-size", "big", file}, 2, "want 1024"},
		{[]string{"-classes", "a,b,c", "-name", "My Model", file}, 1, "is no name for a model"},
		{[]string{"-classes", "a,b,c", "-channels", "grey", file}, 1, "input.channels"},
		{[]string{"-classes", "a", "-size", "640", "testdata/families/faster_rcnn/model.onnx"}, 1, "takes pages of any size"},
		{[]string{"-classes", names, "testdata/families/faster_rcnn/model.onnx"}, 0, ""},
		{[]string{"-classes", "a", "report.png"}, 1, "model-unreadable: model not accepted"},
		{[]string{"-classes", "a", checkpoint}, 1, "is a checkpoint of the framework"},
		{[]string{"-classes", "a", "testdata"}, 1, "is a folder"},
		{[]string{"-classes", "a", "absent.onnx"}, 1, "there is no file"},
		{[]string{"-classes", "a"}, 2, "0 arguments, want 1"},
	} {
		if _, complaints, code := tool(t, append([]string{"draft-manifest"}, c.args...)...); code != c.code || !strings.Contains(complaints, c.want) {
			t.Errorf("%v: %d: %s", c.args, code, complaints)
		}
	}
}

// addModel adds one of the tiny models, as detector add-model does.
func addModel(t *testing.T, to, file string, args ...string) (out, complaints string, code int) {
	t.Helper()
	return tool(t, append(append([]string{"add-model", "-models", to}, args...), file)...)
}

func TestAddModelStoresOnlyWhatRuns(t *testing.T) {
	models := t.TempDir()
	file := "testdata/families/yolo/model.onnx"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-classes", "text,title"}, "model-classes: "},
		{[]string{"-classes", "text,title,table", "-family", family.RTDETR}, "model-mismatch: "},
	} {
		if out, complaints, code := addModel(t, models, file, c.args...); code != 1 || !strings.HasPrefix(complaints, c.want) || strings.Count(complaints, "\n") != 2 {
			t.Errorf("%v: %d: %s%s", c.args, code, out, complaints)
		}
	}
	if out, complaints, code := addModel(t, models, cutOff(t), "-classes", "text,title,table"); code != 1 || complaints == "" {
		t.Errorf("%d: %s%s", code, out, complaints)
	}
	if left, err := filepath.Glob(filepath.Join(models, "*")); err != nil || len(left) != 0 {
		t.Fatalf("what was refused left %v, %v", left, err)
	}

	// Named by its folder, since the file is called as any model.
	out, complaints, code := addModel(t, models, file, "-classes", "text,title,table", "-threshold", "0.9")
	var told added
	if err := json.Unmarshal([]byte(out), &told); err != nil || code != 0 || told.Location != models || told.Name != "yolo" || told.Version != "1" || !told.Drafted ||
		told.Boxes == 0 || told.Cropped > told.Boxes || told.Input.Height != 160 || told.Thresholds["*"] != 0.9 {
		t.Fatalf("%d: %s%s%v", code, out, complaints, err)
	}
	if out, complaints, code = tool(t, "check-model", "-models", models, "yolo"); code != 0 || !strings.Contains(out, " boxes on a sample page, ") {
		t.Errorf("%d: %s%s", code, out, complaints)
	}
	if _, complaints, code = addModel(t, models, "testdata/families/yolo_end_to_end/model.onnx", "-classes", "a,b,c", "-name", "yolo"); code != 1 || !strings.HasPrefix(complaints, "model-exists: ") {
		t.Errorf("%d: %s", code, complaints)
	}
	if out, complaints, code = addModel(t, models, "testdata/families/yolo_end_to_end/model.onnx", "-classes", "a,b,c", "-name", "yolo", "-version", "2"); code != 0 {
		t.Errorf("%d: %s%s", code, out, complaints)
	}
	m, err := manifest.Read(filepath.Join(models, "yolo"))
	if err != nil || m.Version != "2" || m.Input.Width != 160 || m.Thresholds["*"] != 0.4 {
		t.Errorf("%+v, %v", m, err)
	}
}

// A folder that an export script wrote goes elsewhere as it is.
func TestAddModelTakesAFolderWithItsManifest(t *testing.T) {
	models, from := t.TempDir(), "testdata/families/yolo"
	if out, complaints, code := addModel(t, models, from, "-version", "7"); code != 0 || !strings.Contains(out, `"drafted": false`) {
		t.Fatalf("%d: %s%s", code, out, complaints)
	}
	got, err := manifest.Read(filepath.Join(models, "yolo"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := manifest.Read(from)
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := want.Digest(); err != nil || got.Version != "7" || got.ScoreFloor != want.ScoreFloor {
		t.Errorf("%+v, want %+v, %v", got, want, err)
	} else if stored, err := got.Digest(); err != nil || stored != digest {
		t.Errorf("digest %s, want %s, %v", stored, digest, err)
	}
	if _, complaints, code := addModel(t, models, from, "-classes", "a,b,c"); code != 1 || !strings.HasPrefix(complaints, "model-mismatch: testdata/families/yolo has a manifest") {
		t.Errorf("%d: %s", code, complaints)
	}
	if _, complaints, code := addModel(t, models, altered(t, "yolo", `"classes": [`, `"classes": ["more",`)); code != 1 || !strings.HasPrefix(complaints, "model-mismatch: ") {
		t.Errorf("%d: %s", code, complaints)
	}
}

// cutOff is a model's file of which half is missing.
func cutOff(t *testing.T) string {
	t.Helper()
	b := read(t, "testdata/families/yolo/model.onnx")
	at := filepath.Join(t.TempDir(), "cut.onnx")
	if err := os.WriteFile(at, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestListModelsTellsBrokenOnesToo(t *testing.T) {
	models := t.TempDir()
	if _, complaints, code := addModel(t, models, "testdata/families/faster_rcnn/model.onnx", "-classes", "title,table", "-name", "good"); code != 0 {
		t.Fatal(complaints)
	}
	m, err := manifest.Read(filepath.Join(models, "good"))
	if err != nil {
		t.Fatal(err)
	}
	m.Name, m.Family = "strange", "abacus"
	b, err := m.Text()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"strange/manifest.json": string(b), "strange/" + m.File: "", "bare/best.onnx": ""} {
		at := filepath.Join(models, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	out, complaints, code := tool(t, "list-models", "-models", models)
	var told struct {
		Location string
		Models   []listed
	}
	if err := json.Unmarshal([]byte(out), &told); err != nil || code != 0 || told.Location != models || len(told.Models) != 3 {
		t.Fatalf("%d: %s%s%v", code, out, complaints, err)
	}
	for i, want := range []listed{{Name: "bare", Code: CodeModelAbsent}, {Name: "good"}, {Name: "strange", Code: CodeModelInvalid}} {
		if got := told.Models[i]; got.Name != want.Name || got.Code != want.Code || (got.Code == "") != (got.Error == "") {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if _, complaints, code := tool(t, "list-models", "-models", filepath.Join(models, "none")); code != 1 || !strings.HasPrefix(complaints, "model-absent: ") {
		t.Errorf("%d: %s", code, complaints)
	}
}

func TestCheckModelTakesAPhotographOfAPage(t *testing.T) {
	page, err := png.Decode(bytes.NewReader(read(t, "report.png")))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, page, nil); err != nil {
		t.Fatal(err)
	}
	at, drawn := filepath.Join(t.TempDir(), "page.jpg"), filepath.Join(t.TempDir(), "drawn.png")
	if err := os.WriteFile(at, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, complaints, code := tool(t, "check-model", "-image", at, "-out", drawn, "testdata/families/yolo"); code != 0 || !strings.Contains(out, " boxes on page.jpg, ") {
		t.Errorf("%d: %s%s", code, out, complaints)
	}
	if _, err := png.Decode(bytes.NewReader(read(t, drawn))); err != nil {
		t.Error(err)
	}
	if _, complaints, code := tool(t, "check-model", "-image", "modeltool.go", "testdata/families/yolo"); code != 1 || !strings.HasPrefix(complaints, "page-image-invalid: ") {
		t.Errorf("%d: %s", code, complaints)
	}
	// Where no page is given a sample is drawn.
	if err := os.Remove(drawn); err != nil {
		t.Fatal(err)
	}
	if out, complaints, code := tool(t, "check-model", "-out", drawn, "testdata/families/yolo"); code != 0 || !strings.Contains(out, "on a sample page") || len(read(t, drawn)) == 0 {
		t.Errorf("%d: %s%s", code, out, complaints)
	}
}
