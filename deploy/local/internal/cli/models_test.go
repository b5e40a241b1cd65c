//go:build !windows

package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"leafcutter/deploy/local/internal/up"
	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas/api"
)

// tools are stand-ins for the binaries beside this one: scripts, in a folder.
func tools(t *testing.T, scripts map[string]string) string {
	t.Helper()
	bin := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return "LEAFCUTTER_BIN_DIR=" + bin
}

// echo tells what a tool was given, an argument after the other, and its environment's S3. What is added has that for a name.
const echo = `[ "$1" = add-model ] && printf '{"name":"'
for a; do printf '<%s>' "$a"; done
[ "$1" = add-model ] && printf '"}'
echo " $AWS_ENDPOINT_URL"`

// What the tools are asked is what the user asked.
func TestModelCommandsPassOn(t *testing.T) {
	bin := tools(t, map[string]string{"detector": echo, "page-splitter": `echo "a page"`})
	data := pretend(t, up.State{S3: "http://here:9000", ModelsFrom: "/from/up"})
	for _, c := range []struct {
		name    string
		environ []string
		args    []string
		want    string
	}{
		{"add", nil, []string{"add", "best.onnx", "--family", "yolo", "--classes", "names.txt", "-o", "json"},
			`{"name":"<add-model><-models><><-classes><names.txt><-family><yolo><-name><><-version><><-channels><><--><best.onnx>"} ` + "\n"},
		{"add all", nil, []string{"add", "--to", "m", "--size", "640x480", "--name", "n", "--version", "2", "--channels", "bgr", "--threshold", "0.25", "--classes", "a,b", "-o", "json", "--", "-o.onnx"},
			`{"name":"<add-model><-models><m><-classes><a,b><-family><><-name><n><-version><2><-channels><bgr><-threshold><0.25><-size><640x480><--><-o.onnx>"} ` + "\n"},
		{"add in XML", nil, []string{"add", "best.onnx", "-o", "xml"}, "text or json"},
		{"where the variable says", []string{"LEAFCUTTER_MODELS_DIR=/mine"}, []string{"check", "n"}, "<check-model><-models></mine><-image><><-out><><--><n> \n"},
		{"where the pipeline has them", nil, []string{"check", "n", "--data-dir", data, "--out", "drawn.png"}, "<check-model><-models></from/up><-image><><-out><drawn.png><--><n> \n"},
		{"S3 of the pipeline", nil, []string{"check", "n", "--data-dir", data, "--models", "s3://b/m"}, "<check-model><-models><s3://b/m><-image><><-out><><--><n> http://here:9000\n"},
		{"S3 of the environment", []string{"AWS_ENDPOINT_URL=http://there"}, []string{"check", "s3://b/m/n"}, "<check-model><-models><s3://b/m><-image><><-out><><--><n> http://there\n"},
		{"a page image", nil, []string{"check", "./n", "--image", "p.png"}, "<check-model><-models><><-image><p.png><-out><><--><./n> \n"},
		{"two pages", nil, []string{"check", "n", "--image", "p.png", "--pdf", "r.pdf"}, "give one"},
		{"a page of nothing", nil, []string{"check", "n", "--page", "3"}, "which is missing"},
		{"a pipeline that does not run", nil, []string{"check", "n", "--data-dir", t.TempDir()}, "no pipeline runs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := newHeard()
			environ := append([]string{bin, "XDG_DATA_HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, c.environ...)
			err := run(t, out, newHeard(), environ, append([]string{"models"}, c.args...)...)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %s", err, c.want)
				}
				return
			}
			if out.String() != c.want {
				t.Errorf("got  %swant %s", out, c.want)
			}
		})
	}
	// A page of a PDF is rendered first; its image is gone afterwards.
	bin = tools(t, map[string]string{"detector": `for a; do [ -f "$a" ] && echo "$a: $(cat "$a")"; done; true`, "page-splitter": echo})
	out := newHeard()
	if err := run(t, out, newHeard(), []string{bin, "PATH=" + os.Getenv("PATH")}, "models", "check", "n", "--models", "m", "--pdf", "a/r.pdf", "--page", "3", "--dpi", "72"); err != nil {
		t.Fatal(err)
	}
	image, said, _ := strings.Cut(strings.TrimSpace(out.String()), ": ")
	if filepath.Base(image) != "page 3 of r.pdf" || said != "<render-page><-page><3><-dpi><72><--><a/r.pdf>" {
		t.Errorf("%s: %s", image, said)
	}
	if _, err := os.Stat(image); err == nil {
		t.Errorf("%s is left", image)
	}
}

// A model that is added to where a pipeline here looks has topics at once.
func TestAddedModelsHaveTopics(t *testing.T) {
	broker := localtest.StartBroker(t)
	data := pretend(t, up.State{Kafka: broker.Addr, ModelsFrom: "/models"})
	added := `echo '{"location": "/models", "name": "mine", "version": "2", "family": "yolo", "classes": ["a", "b"],
 "input": {"name": "images", "width": 640, "height": 480, "channels": "rgb"}, "thresholds": {"*": 0.4}, "file": "weights-1.onnx", "drafted": true,
 "boxes": 12, "cropped": 3, "infer_ms": 4.2}'`
	environ := []string{tools(t, map[string]string{"detector": added}), "PATH=" + os.Getenv("PATH"), "XDG_DATA_HOME=" + t.TempDir()}
	cfg := kafka.Config{Brokers: []string{broker.Addr}, SessionTimeout: 10 * time.Second}
	for _, c := range []struct {
		args  []string
		serve string
		made  bool
	}{{nil, "serve it: LEAFCUTTER_MODELS_DIR=/models leafcutter up --model mine\n", false}, {[]string{"--data-dir", data}, "serve it: the pipeline that runs here does", true}} {
		out, errs := newHeard(), newHeard()
		if err := run(t, out, errs, environ, append([]string{"models", "add", "best.onnx"}, c.args...)...); err != nil || errs.String() != "" {
			t.Fatalf("%v\n%s", err, errs)
		}
		for _, part := range []string{"mine 2: family yolo, 2 classes, input images of 640 x 480 pixels (width x height), rgb\n",
			"12 boxes on a sample page, 3 of them above", "stored: /models/mine/manifest.json and weights-1.onnx\n", "assumed, since no file tells: channels rgb, a crop from score 0.4 on", c.serve} {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%q is not in\n%s", part, out)
			}
		}
		client, err := kafka.NewClient(cfg)
		if err != nil {
			t.Fatal(err)
		}
		topics, err := kadm.NewClient(client).ListTopics(t.Context())
		client.Close()
		if err != nil || topics.Has("pages.mine") != c.made || topics.Has("pages.mine.bulk") != c.made {
			t.Errorf("there are the topics %v, %v", topics.Names(), err)
		}
	}
	// Without a broker the model is stored all the same.
	broker.Stop()
	out, errs := newHeard(), newHeard()
	if err := run(t, out, errs, environ, "models", "add", "best.onnx", "--data-dir", data); err != nil || !strings.Contains(out.String(), "stored: ") || !strings.Contains(errs.String(), "leafcutter topics apply --model mine\n") {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
}

// What a tool complains of is the command's error, and its exit status the command's.
func TestModelToolsComplaints(t *testing.T) {
	for name, c := range map[string]struct {
		detector string
		code     int
		want     string
	}{
		"a fault": {"echo 'model-classes: two are missing\nGive them.' >&2; exit 1", exitFailed, "leafcutter: model-classes: two are missing\nGive them.\n"},
		"misuse":  {"echo 'add-model: bad flag' >&2; exit 2", exitUsage, "leafcutter: add-model: bad flag\n"},
		"a death": {"kill -9 $$", exitFailed, "leafcutter: signal: killed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			errs := newHeard()
			term := &terminal{out: newHeard(), err: errs, environ: []string{tools(t, map[string]string{"detector": c.detector}), "PATH=" + os.Getenv("PATH")}}
			if code := term.run(t.Context(), []string{"models", "add", "x.onnx", "--to", "m"}); code != c.code || errs.String() != c.want {
				t.Errorf("%d: %q, want %d: %q", code, errs, c.code, c.want)
			}
		})
	}
	errs := newHeard()
	term := &terminal{out: newHeard(), err: errs, environ: []string{"LEAFCUTTER_BIN_DIR=" + t.TempDir()}}
	if code := term.run(t.Context(), []string{"models", "add", "x.onnx", "--to", "m"}); code != exitFailed || !strings.Contains(errs.String(), "model-tool-missing: ") {
		t.Errorf("%d: %s", code, errs)
	}
}

// The list has what is announced and what lies there, and hides neither for want of the other.
func TestModelsListJoinsBoth(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(api.ModelList{Models: []api.Model{
			{Name: "usual", Default: true},
			{Name: "both", Announced: true, Version: "1", Digest: "d1", Family: "yolo", Classes: []string{"a", "b", "c", "d"}},
			{Name: "gone", Announced: true, Version: "1", Digest: "d3", Family: "yolo", Classes: []string{"a"}},
		}})
	}))
	defer server.Close()
	lying := `cat <<'END'
{"location": "/models", "models": [
 {"name": "both", "version": "2", "digest": "d2", "family": "yolo", "classes": ["a", "b"]},
 {"name": "broken", "code": "model-invalid", "error": "model invalid: version: missing\nfamily: missing"},
 {"name": "Odd Name", "code": "model-invalid", "error": "no name"},
 {"name": "fresh", "version": "1", "digest": "d4", "family": "picodet", "classes": ["a"]}]}
END`
	bin := tools(t, map[string]string{"detector": lying})
	environ := []string{bin, "PATH=" + os.Getenv("PATH"), "XDG_DATA_HOME=" + t.TempDir()}
	out, errs := newHeard(), newHeard()
	if err := run(t, out, errs, environ, "models", "list", "--api", server.URL); err != nil {
		t.Fatal(err)
	}
	folded := strings.Join(strings.Fields(out.String()), " ")
	for _, line := range []string{
		"usual (default) ? not served: no detector has announced it",
		"both 1 d1 yolo 4: a,b,c,… ? announced; version 2 with digest d2 lies there",
		"broken ? broken: model-invalid: model invalid: version: missing; family: missing",
		"fresh 1 d4 picodet 1: a ? not served",
		"gone 1 d3 yolo 1: a ? announced",
	} {
		if !strings.Contains(folded, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}

	// With a Kafka there are counts.
	broker := localtest.StartBroker(t)
	out = newHeard()
	if err := run(t, out, errs, append(environ, "KAFKA_BROKERS="+broker.Addr), "models", "list", "--api", server.URL, "-o", "json"); err != nil {
		t.Fatal(err)
	}
	var told struct {
		Location string
		Models   []modelLine
	}
	if err := json.Unmarshal([]byte(out.String()), &told); err != nil || told.Location != "/models" || len(told.Models) != 6 {
		t.Fatalf("%v in\n%s", err, out)
	}
	for _, m := range told.Models {
		if want := m.Name != "Odd Name"; (m.Detectors != nil) != want || want && *m.Detectors != 0 || m.State == modelAnnounced {
			t.Errorf("%+v", m)
		}
	}

	// One of the two is away, then both.
	out, errs = newHeard(), newHeard()
	if err := run(t, out, errs, environ, "models", "list", "--api", "http://127.0.0.1:1"); err != nil || !strings.Contains(out.String(), "fresh") || !strings.Contains(errs.String(), "announced is not known") {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	environ[0] = tools(t, map[string]string{"detector": "echo 'model-absent: nothing' >&2; exit 1"})
	out, errs = newHeard(), newHeard()
	if err := run(t, out, errs, environ, "models", "list", "--api", server.URL); err != nil || !strings.Contains(out.String(), "gone") || !strings.Contains(errs.String(), "model-absent: nothing") {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	if err := run(t, out, errs, environ, "models", "list", "--api", "http://127.0.0.1:1"); err == nil {
		t.Error("nothing can be asked, and that is no error")
	}
	if err := run(t, out, errs, environ, "models", "list", "-o", "xml"); err == nil {
		t.Error("-o xml is no error")
	}
}
