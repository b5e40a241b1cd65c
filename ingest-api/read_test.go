package ingestapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"image/png"
	"net/http"
	"strings"
	"testing"
	"time"

	"leafcutter/ingest-api/client"
	"leafcutter/ingest-api/internal/query"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

func TestWhatWasFound(t *testing.T) {
	w := start(t, nil)
	now := time.Now()
	d := w.land(schemas.NewDocumentID(now), "A report", now, schemas.CompletedWithFailures)

	t.Run("document", func(t *testing.T) {
		got, err := w.api.Get(t.Context(), d.documentID)
		if err != nil {
			t.Fatal(err)
		}
		if got.Title != "A report" || got.State != schemas.CompletedWithFailures || got.PageCount != 4 || got.Bytes != 1234 ||
			got.PagesSelected != 3 || got.PagesDone != 2 || got.PagesFailed != 1 || got.Boxes != 5 || !got.SubmittedAt.Equal(d.submittedAt) || got.FinishedAt == nil {
			t.Errorf("%+v", got)
		}
		if len(got.Runs) != 1 || got.Runs[0].RunID != d.runID || got.Runs[0].Options == nil || got.Runs[0].Options.Threshold("title") != 0.4 {
			t.Errorf("runs %+v", got.Runs)
		}
		if len(got.Failures) != 1 || got.Failures[0].Page != 3 || got.Failures[0].Code != "page-too-large" || got.Failures[0].Stage != "splitter" {
			t.Errorf("failures %+v", got.Failures)
		}
	})
	t.Run("detections", func(t *testing.T) {
		for _, c := range []struct {
			name string
			b    client.Boxes
			want string
		}{
			{"all", client.Boxes{}, "1/1 1/2 1/3 2/1 2/2 2/3"},
			{"by class", client.Boxes{Class: "table"}, "1/2 2/2"},
			{"a threshold is a query", client.Boxes{MinScore: 0.6}, "1/1 1/2 2/1 2/2"},
			{"of a page", client.Boxes{Page: 2, MinScore: 0.5}, "2/1 2/2"},
			{"of a run by name", client.Boxes{Run: d.runID, Page: 1, Class: "text"}, "1/3"},
			{"none", client.Boxes{Class: "figure"}, ""},
		} {
			var got []string
			for box, err := range w.api.Detections(t.Context(), d.documentID, c.b) {
				if err != nil {
					t.Fatal(err)
				}
				want := d.boxes[box.Page][box.K-1]
				if box.Class != want.Class || box.Score != want.Score || box.Rect != want.Rect || box.Text != want.Text || (box.Crop != "") != (want.CropKey != "") {
					t.Errorf("%s: %+v, want %+v", c.name, box, want)
				}
				got = append(got, fmt.Sprintf("%d/%d", box.Page, box.K))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s: %v, want %s", c.name, got, c.want)
			}
		}
	})
	t.Run("detections in parts", func(t *testing.T) {
		var got []int
		cursor := ""
		for {
			_, body := w.get("/v1/documents/" + d.documentID + "/detections?limit=4&cursor=" + cursor)
			var list api.DetectionList
			if err := json.Unmarshal(body, &list); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			for _, b := range list.Detections {
				got = append(got, 10*b.Page+b.K)
			}
			if cursor = list.Next; cursor == "" {
				break
			}
		}
		if fmt.Sprint(got) != "[11 12 13 21 22 23]" {
			t.Errorf("%v", got)
		}
	})
	t.Run("pages", func(t *testing.T) {
		var states []string
		for page, err := range w.api.Pages(t.Context(), d.documentID, "") {
			if err != nil {
				t.Fatal(err)
			}
			states = append(states, fmt.Sprintf("%d %s %d", page.Page, page.State, len(page.Boxes)))
		}
		if strings.Join(states, ", ") != "1 done 3, 2 done 3, 3 failed 0" {
			t.Errorf("%v", states)
		}
		page, err := w.api.Page(t.Context(), d.documentID, d.runID, 2)
		if err != nil {
			t.Fatal(err)
		}
		if page.Width != pageWidth || page.InferMS != 3.5 || page.DetectedAt == nil || page.Links.Image == "" {
			t.Errorf("%+v", page)
		}
	})
	t.Run("images", func(t *testing.T) {
		base := "/v1/documents/" + d.documentID + "/pages/1"
		for path, want := range map[string][]byte{
			base + "/image": d.images[1], base + "/annotated": d.images[1],
			base + "/crops/2": []byte("\x89PNG\r\n\x1a\n crop table"),
		} {
			response, body := w.get(path)
			if response.StatusCode != http.StatusOK || !bytes.Equal(body, want) || response.Header.Get("Content-Type") != "image/png" {
				t.Errorf("%s: %d, %d bytes, %v", path, response.StatusCode, len(body), response.Header)
			}
			tag := response.Header.Get("ETag")
			again, body := w.get(path, "If-None-Match", tag)
			if tag == "" || again.StatusCode != http.StatusNotModified || len(body) != 0 {
				t.Errorf("%s: again with ETag %q: %d, %d bytes", path, tag, again.StatusCode, len(body))
			}
		}
		response, body := w.get("/v1/documents/" + d.documentID + "/source")
		if response.StatusCode != http.StatusOK || string(body) != "%PDF-1.7 of A report" || !strings.HasPrefix(response.Header.Get("Content-Disposition"), "attachment") {
			t.Errorf("source: %d %q %v", response.StatusCode, body, response.Header)
		}
	})
	t.Run("the source of a record that named another place", func(t *testing.T) {
		w.put(t.Context(), "inbox/elsewhere.pdf", []byte("%PDF-1.7 elsewhere"), "application/pdf")
		id := schemas.NewDocumentID(now)
		for version, c := range []struct{ source, want string }{
			{"s3://leafcutter/inbox/elsewhere.pdf", "%PDF-1.7 elsewhere"},
			{"s3://not-ours/x.pdf", "source-not-allowed"},
			{"s3://leafcutter/inbox/gone.pdf", "object-not-found"},
		} {
			w.insert(t.Context(), "documents (document_id, title, source_uri, submitted_at, version)", []any{id, "Elsewhere", c.source, d.submittedAt, uint64(version)})
			if response, body := w.get("/v1/documents/" + id + "/source"); !strings.Contains(string(body), c.want) {
				t.Errorf("%s: %d %s", c.source, response.StatusCode, body)
			}
		}
	})
	t.Run("a crop is cut on request, and kept", func(t *testing.T) {
		box := d.boxes[2][0]
		if ok, err := w.store.Exists(t.Context(), box.CropKey); ok || err != nil {
			t.Fatalf("there before: %v, %v", ok, err)
		}
		response, body := w.get(api.CropLink(d.documentID, d.runID, 2, 1))
		if response.StatusCode != http.StatusOK {
			t.Fatalf("%d: %s", response.StatusCode, body)
		}
		m, err := png.Decode(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		// The box is 20,10 to 200,40, with 4 pixels around it.
		if m.Bounds().Dx() != 188 || m.Bounds().Dy() != 38 {
			t.Errorf("bounds %v", m.Bounds())
		}
		if got := color.RGBAModel.Convert(m.At(0, 0)); got != (color.RGBA{R: 16, G: 6, B: 100, A: 255}) {
			t.Errorf("first pixel %v", got)
		}
		kept, err := w.store.Get(t.Context(), box.CropKey, 1<<20)
		if err != nil || !bytes.Equal(kept, body) {
			t.Errorf("kept: %d bytes, %v", len(kept), err)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		doc := "/v1/documents/" + d.documentID
		for path, want := range map[string]string{
			"/v1/documents/" + schemas.NewDocumentID(now):    "document-not-found",
			"/v1/documents/nonsense":                         "document-not-found",
			"/v1/documents/nonsense/source":                  "document-not-found",
			doc + "/pages?run=" + schemas.NewDocumentID(now): "run-not-found",
			doc + "/pages/4":                                 "page-not-found",
			doc + "/pages/0":                                 "invalid-request",
			doc + "/pages/3/image":                           "object-not-found",
			doc + "/pages/one/image":                         "page-not-found",
			doc + "/pages/1/crops/3":                         "crop-not-found",
			doc + "/pages/1/crops/9":                         "crop-not-found",
			doc + "/detections?limit=0":                      "invalid-request",
			doc + "/detections?cursor=x":                     "invalid-cursor",
			"/v1/documents?state=odd":                        "invalid-request",
			"/v2/nothing":                                    "not-found",
		} {
			response, body := w.get(path)
			var p api.Problem
			if err := json.Unmarshal(body, &p); err != nil || p.Code != want || p.Status != response.StatusCode || p.Detail == "" ||
				response.Header.Get("Content-Type") != "application/problem+json" || p.RequestID != response.Header.Get("X-Request-Id") {
				t.Errorf("%s: %d %s, want %s", path, response.StatusCode, body, want)
			}
		}
	})
	t.Run("web page", func(t *testing.T) {
		response, body := w.get("/documents/" + d.documentID)
		page := string(body)
		if response.StatusCode != http.StatusOK || !strings.Contains(page, "A report") || !strings.Contains(page, "page-too-large") {
			t.Fatalf("%d %s", response.StatusCode, page)
		}
		if strings.Contains(page, "<script>alert") || !strings.Contains(page, "Heading 1 &lt;script&gt;") {
			t.Error("text of a document is not escaped")
		}
		if strings.Contains(page, "below the threshold") || !strings.Contains(page, "1 hidden") {
			t.Error("a box below the threshold is shown")
		}
		if _, body := w.get("/documents/" + d.documentID + "?min_score=0"); !strings.Contains(string(body), "below the threshold") {
			t.Error("a threshold of 0 does not show every box")
		}
		if response, body := w.get("/documents/" + schemas.NewDocumentID(now)); response.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "document-not-found") {
			t.Errorf("an unknown document: %d", response.StatusCode)
		}
		for path, want := range map[string]string{"/documents/": "text/html; charset=utf-8", "/nowhere": "text/html; charset=utf-8", "/v1/nowhere": "application/problem+json"} {
			response, body := w.get(path, "Accept", "text/html,*/*")
			if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusNotFound || got != want || !strings.Contains(string(body), "There is nothing at") {
				t.Errorf("a browser at %s gets %d %s: %s", path, response.StatusCode, got, body)
			}
		}
	})
}

func TestListIsInPartsAndStandsStill(t *testing.T) {
	w := start(t, nil)
	begin := time.Now().Add(-time.Hour)
	var want []string
	for i := range 5 {
		// Two of them at the same moment: their order must be the same at every question.
		at := begin.Add(time.Duration(i/2) * time.Minute)
		state := schemas.Completed
		if i == 2 {
			state = schemas.Running
		}
		d := w.land(schemas.NewDocumentID(at), fmt.Sprintf("Report %d", i), at, state)
		want = append(want, d.documentID)
	}
	var first api.DocumentList
	_, body := w.get("/v1/documents?limit=2")
	if err := json.Unmarshal(body, &first); err != nil || len(first.Documents) != 2 || first.Next == "" {
		t.Fatalf("%v: %s", err, body)
	}
	// What arrives between two parts is not in them, and shifts nothing.
	w.land(schemas.NewDocumentID(time.Now()), "Late", time.Now(), schemas.Running)
	seen := map[string]bool{first.Documents[0].DocumentID: true, first.Documents[1].DocumentID: true}
	for cursor := first.Next; cursor != ""; {
		_, body := w.get("/v1/documents?limit=2&cursor=" + cursor)
		var part api.DocumentList
		if err := json.Unmarshal(body, &part); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		for _, d := range part.Documents {
			if seen[d.DocumentID] {
				t.Errorf("%s twice", d.Title)
			}
			seen[d.DocumentID] = true
		}
		cursor = part.Next
	}
	for _, id := range want {
		if !seen[id] {
			t.Errorf("%s is missing", id)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("%d documents, want %d", len(seen), len(want))
	}
	count := func(f client.Filter) (titles []string) {
		for d, err := range w.api.List(t.Context(), f) {
			if err != nil {
				t.Fatal(err)
			}
			titles = append(titles, d.Title)
		}
		return titles
	}
	if got := count(client.Filter{State: schemas.Running}); fmt.Sprint(got) != "[Late Report 2]" {
		t.Errorf("running: %v", got)
	}
	if got := count(client.Filter{Title: "port 4"}); fmt.Sprint(got) != "[Report 4]" {
		t.Errorf("by title: %v", got)
	}
	if got := count(client.Filter{Title: "%"}); got != nil {
		t.Errorf("a sign is taken for a pattern: %v", got)
	}
	if got := count(client.Filter{Title: `' OR 1 --\`}); got != nil {
		t.Errorf("a quote ends a string: %v", got)
	}
	_, body = w.get("/?title=Report&state=completed")
	if page := string(body); !strings.Contains(page, "Report 4") || strings.Contains(page, "Report 2") {
		t.Error("the web page does not filter")
	}
}

// TestProgressIsThatOfTheView compares what watchers are told with the view, of a document that was run twice and tried
// with a shadow, of one that has no run, and of none.
func TestProgressIsThatOfTheView(t *testing.T) {
	w := start(t, nil)
	now := time.Now()
	twice := w.land(schemas.NewDocumentID(now), "Twice", now, schemas.Completed)
	queued := schemas.NewDocumentID(now)
	if err := w.db.Exec(t.Context(), `INSERT INTO documents (document_id, title, submitted_at, version) VALUES (?, 'Queued', ?, 1)`, queued, now); err != nil {
		t.Fatal(err)
	}
	for _, run := range []struct {
		state    schemas.State
		done     uint32
		decision uint64
		shadow   bool
	}{{schemas.Running, 1, 5, false}, {schemas.Queued, 0, 3, false}, {schemas.Running, 2, 9, true}} {
		err := w.db.Exec(t.Context(), `INSERT INTO runs (run_id, document_id, state, pages_selected, pages_done, decision, shadow, submitted_at, version)
			VALUES (generateUUIDv4(), ?, ?, 3, ?, ?, ?, fromUnixTimestamp64Milli(?, 'UTC'), 1)`, twice.documentID, string(run.state), run.done, run.decision, run.shadow, twice.submittedAt.UnixMilli())
		if err != nil {
			t.Fatal(err)
		}
	}
	reader := &query.Reader{DB: w.db}
	ids := []string{twice.documentID, queued, schemas.NewDocumentID(now)}
	told, err := reader.Progress(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	view, err := reader.Summaries(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || len(view) != 2 {
		t.Fatalf("%d and %d documents, want 2", len(told), len(view))
	}
	for id, s := range view {
		if told[id] != s.Progress() {
			t.Errorf("watchers are told %+v, the view has %+v", told[id], s.Progress())
		}
	}
	if p := told[twice.documentID]; p.State != schemas.Running || p.PagesDone != 1 {
		t.Errorf("the newest run is not what is told: %+v", p)
	}
}
