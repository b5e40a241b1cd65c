package schemas_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"leafcutter/schemas"
)

var update = flag.Bool("update", false, "write records that have no golden file yet; existing ones never change")

var (
	at  = time.Date(2026, 11, 22, 12, 0, 0, 123e6, time.UTC)
	doc = "0193568e-0000-7000-8000-000000000001"
	run = schemas.Run{
		DocumentID: doc, RunID: "5d6a0b4e-2f0a-5c3b-9d0e-1a2b3c4d5e6f", SubmittedAt: at,
		Source: "s3://leafcutter/documents/" + doc + "/source", ContentType: "application/pdf", PagesSelected: 40,
		Options: schemas.RunOptions{Model: "layout_cdla", ModelDigest: "25b1f27e", DPI: 108, Pages: "1-40",
			Thresholds: map[string]float64{"*": 0.4, "title": 0.5}, CropPadding: 4, Renderer: "mupdf1"},
	}
	page = schemas.RenderedPage{Run: run, Page: 18, Position: 17, ImageKey: schemas.PageImageKey(doc, 108, "mupdf1", 18),
		TextKey: schemas.PageTextKey(doc, 108, "mupdf1", 18), Width: 893, Height: 1263, DPI: 108, RenderMS: 8.5, RenderedAt: at}
	box = schemas.Box{Class: "title", Score: 0.93, Rect: [4]float64{100.25, 80, 420.5, 110}}
)

func records() []schemas.Record {
	padding := 6
	return []schemas.Record{
		schemas.DocumentSubmitted{DocumentID: doc, Title: "Report", FileName: "report.pdf", Source: run.Source, ContentType: "application/pdf",
			SHA256: strings.Repeat("ab", 32), Bytes: 12345, SubmittedAt: at, Models: []string{"layout_cdla"}, DPI: 108, Pages: "1-3,7,10-",
			Thresholds: map[string]float64{"title": 0.5}, CropPadding: &padding, WebhookURL: "https://example.org/hook"},
		schemas.PageRange{Run: run, Pages: []int{17, 18, 19}, Position: 16},
		schemas.PageRendered{RenderedPage: page},
		schemas.PageDetected{RenderedPage: page, Boxes: []schemas.Box{box}, QueueMS: 3, InferMS: 60.5, DetectedAt: at},
		schemas.DocumentAccepted{DocumentID: doc, Title: "Report", Source: run.Source, ContentType: "application/pdf", SHA256: strings.Repeat("ab", 32),
			Bytes: 12345, PageCount: 40, SubmittedAt: at, WebhookURL: "https://example.org/hook"},
		schemas.RunPlanned{Run: run, Pages: []schemas.PageSpan{{First: 1, Last: 40}}, PlannedAt: at},
		schemas.PageDone{RenderedPage: page, AnnotatedKey: schemas.AnnotatedKey(doc, run.RunID, 18), QueueMS: 3, InferMS: 60.5, AnnotateMS: 20, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", DetectedAt: at,
			Boxes: []schemas.CutBox{{Box: box, CropKey: schemas.CropKey(doc, run.RunID, 18, page.ImageKey, [4]int{96, 76, 425, 114}, 4), Text: "Results"}}},
		schemas.PageFailed{Run: run, Page: 18, Stage: "splitter", Code: "page-too-large", Error: "the page has 90 megapixels", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", FailedAt: at},
		schemas.RunFailed{Run: run, Stage: "planner", Code: "encrypted", Error: "the document needs a password", FailedAt: at},
		schemas.RunCancelled{DocumentID: doc, RunID: run.RunID, CancelledAt: at},
		schemas.RunResumed{DocumentID: doc, RunID: run.RunID, Sequence: 8, ResumedAt: at},
		schemas.DocumentDeleted{DocumentID: doc, Sequence: 9, RequestedAt: at, DeletedAt: at, Objects: 321},
		schemas.RunEnded{ID: "00000000-0000-5000-8000-000000000000", DocumentID: doc, RunID: run.RunID, Title: "Report", Model: "layout_cdla", State: schemas.CompletedWithFailures,
			Code: "page-too-large", PagesSelected: 40, PagesDone: 39, PagesFailed: 1, Boxes: 300, SubmittedAt: at, FinishedAt: at, WebhookURL: "https://example.org/hook"},
		schemas.Control{DocumentID: doc, Action: schemas.ActionCancel, Sequence: 7, At: at},
		schemas.ModelAnnounced{Model: "layout_cdla", Version: "1", Digest: "25b1f27e", Family: "picodet", Classes: []string{"text", "title"},
			ScoreFloor: 0.1, Thresholds: map[string]float64{"*": 0.4}, AnnouncedAt: at},
	}
}

// Golden records parse for ever: what this build writes must be what the golden file holds, field for field, and what
// the golden file holds must be read back as it was meant.
func TestGoldenRecords(t *testing.T) {
	for _, r := range records() {
		t.Run(r.Schema(), func(t *testing.T) {
			path := filepath.Join("testdata", r.Schema()+".json")
			compact, err := schemas.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, compact, "", "  "); err != nil {
				t.Fatal(err)
			}
			pretty.WriteByte('\n')
			golden, err := os.ReadFile(path)
			if os.IsNotExist(err) && *update {
				if err := os.WriteFile(path, pretty.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				golden, err = os.ReadFile(path)
			}
			if err != nil {
				t.Fatal(err)
			}
			if pretty.String() != string(golden) {
				t.Errorf("this build writes\n%s\nthe golden record is\n%s", pretty.String(), golden)
			}
			back := reflect.New(reflect.TypeOf(r))
			if err := json.Unmarshal(golden, back.Interface()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back.Elem().Interface(), r) {
				t.Errorf("read back as %+v, want %+v", back.Elem().Interface(), r)
			}
			if !schemas.IsUUID(schemas.LCID(r)) {
				t.Errorf("lc-id %q", schemas.LCID(r))
			}
		})
	}
}

func TestUnmarshalResult(t *testing.T) {
	for _, r := range records() {
		result, ok := r.(schemas.Result)
		if !ok {
			continue
		}
		b, err := schemas.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		got, err := schemas.UnmarshalResult(b)
		if err != nil || !reflect.DeepEqual(got, result) {
			t.Errorf("%s: %+v, %v", r.Schema(), got, err)
		}
	}
	for _, tc := range []struct {
		value string
		fails bool
	}{
		{`{"type":"SomethingNew","document_id":"x"}`, false}, // a newer producer's
		{`{"document_id":"x"}`, true},
		{`{"type":"PageDone","document_id":"not-a-uuid"}`, true},
		{`{"type":"PageDone"`, true},
		{`[]`, true},
	} {
		got, err := schemas.UnmarshalResult([]byte(tc.value))
		if (err != nil) != tc.fails || got != nil {
			t.Errorf("%s: %v, %v", tc.value, got, err)
		}
	}
}

func FuzzUnmarshalResult(f *testing.F) {
	for _, r := range records() {
		b, err := schemas.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := schemas.UnmarshalResult(b)
		if err != nil || r == nil {
			return
		}
		if !schemas.IsUUID(r.Document()) {
			t.Fatalf("accepted with document %q", r.Document())
		}
		if _, err := schemas.Marshal(r); err != nil {
			t.Fatalf("read but cannot be written: %v", err)
		}
	})
}
