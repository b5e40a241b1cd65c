package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"leafcutter/e2e/corpus"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// The same Idempotency-Key names one document for ever, and another body under it is refused.
func TestIdempotencyKeyNamesOneDocument(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	file := corpus.File{Name: "once.pdf", Data: corpus.Report(1, 7)}
	key := client.Options{IdempotencyKey: "one and the same"}
	id := submit(ctx, t, p, file, key)
	if again := submit(ctx, t, p, file, key); again != id {
		t.Errorf("sent again it is document %s, before %s", again, id)
	}
	await(ctx, t, p, id, schemas.Completed)
	if again := submit(ctx, t, p, file, key); again != id {
		t.Errorf("sent again after its end it is document %s, before %s", again, id)
	}
	_, err := p.Client.Submit(ctx, "once.pdf", bytes.NewReader(corpus.Report(1, 8)), key)
	if client.Code(err) != "idempotency-mismatch" || !strings.Contains(err.Error(), "HTTP 422") {
		t.Errorf("another body under the same key: %v", err)
	}
	d := await(ctx, t, p, id, schemas.Completed)
	status, body, err := p.Curl(ctx, "SELECT count(), uniqExact(document_id) FROM page_results FINAL WHERE document_id IN (SELECT document_id FROM documents FINAL WHERE sha256 = '"+d.SHA256+"')")
	ok(t, err)
	if status != http.StatusOK || body != "1\t1\n" || len(d.Runs) != 1 {
		t.Errorf("rows and documents: %d %q; %d runs", status, body, len(d.Runs))
	}
}

// Each option comes through to what is found: pages, resolution, thresholds, padding.
func TestOptionsComeThrough(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	padding := 0
	id := submit(ctx, t, p, corpus.File{Name: "options.pdf", Data: corpus.Report(5, 2)}, client.Options{
		Title: "Só uma parte ☃", DPI: 72, Pages: "4-,2", Thresholds: map[string]float64{"*": 0.9}, CropPadding: &padding,
	})
	d := await(ctx, t, p, id, schemas.Completed)
	if d.Title != "Só uma parte ☃" || d.PagesDone != 3 || d.PageCount != 5 || len(d.Runs) != 1 || d.Runs[0].DPI != 72 || d.Runs[0].Options.CropPadding != 0 {
		t.Errorf("%+v", d)
	}
	checkObjects(ctx, t, p, id, padding)
	for _, b := range must(p.Boxes(ctx, id))(t) {
		if b.Width != 612 || b.Height != 792 || b.Page != 2 && b.Page != 4 && b.Page != 5 {
			t.Errorf("page %d has %d × %d pixels", b.Page, b.Width, b.Height)
		}
		if cut := b.CropKey != ""; cut && b.Class == "text" && b.Score < 0.9 {
			t.Errorf("a %s with score %g is cut", b.Class, b.Score)
		}
	}
	for name, o := range map[string]client.Options{
		"dpi": {DPI: 9}, "pages": {Pages: "3-1"}, "thresholds": {Thresholds: map[string]float64{"text": 2}},
		"title": {Title: strings.Repeat("x", 201)}, "model": {Models: []string{"nobody-has-it"}},
	} {
		_, err := p.Client.Submit(ctx, "options.pdf", bytes.NewReader(corpus.Report(1, 2)), o)
		if err == nil || !strings.Contains(err.Error(), "HTTP 422") {
			t.Errorf("a faulty %s is answered with %v", name, err)
		}
	}
}

// The tutorial's own address takes its form and lists what came by it.
func TestTutorialsAddress(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	ok(t, w.WriteField("title", "Tutorial"))
	part := must(w.CreateFormFile("file", "tutorial.pdf"))(t)
	must(part.Write(corpus.Report(1, 4)))(t)
	ok(t, w.Close())
	request := must(http.NewRequestWithContext(ctx, http.MethodPost, p.API+"/api/create/", &form))(t)
	request.Header.Set("Content-Type", w.FormDataContentType())
	response, err := p.HTTP().Do(request)
	ok(t, err)
	body := must(io.ReadAll(response.Body))(t)
	ok(t, response.Body.Close())
	var made struct{ ID, Title, File, State string }
	ok(t, json.Unmarshal(body, &made))
	if response.StatusCode != http.StatusCreated || made.Title != "Tutorial" || !strings.HasPrefix(made.File, p.API+"/") {
		t.Fatalf("%d %s", response.StatusCode, body)
	}
	await(ctx, t, p, made.ID, schemas.Completed)
	status, list, err := p.Get(ctx, p.API+"/api/create/")
	ok(t, err)
	var all []struct{ ID, Title, State string }
	ok(t, json.Unmarshal([]byte(list), &all))
	found := false
	for _, one := range all {
		found = found || one.ID == made.ID && one.Title == "Tutorial" && one.State == string(schemas.Completed)
	}
	if status != http.StatusOK || !found {
		t.Errorf("%d: the document is not in the list %s", status, list)
	}
}
