package ingestapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	ingestapi "leafcutter/ingest-api"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

const letter = "%PDF-1.7\nDear Sir or Madam"

// records are those on the topic documents, as the planner reads them.
func (w *world) records() (all []*kgo.Record) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// A record of ours behind all others tells that the end was reached.
	c, err := kafka.NewClient(w.cfg.Kafka, kgo.ConsumeTopics(schemas.TopicDocuments), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.Fatal(err)
	}
	defer c.Close()
	ends := map[int32]bool{}
	for p := range int32(12) {
		mark := &kgo.Record{Topic: schemas.TopicDocuments, Partition: p, Key: []byte("end")}
		producer, err := kafka.NewClient(w.cfg.Kafka, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			w.Fatal(err)
		}
		err = producer.ProduceSync(ctx, mark).FirstErr()
		producer.Close()
		if err != nil {
			w.Fatal(err)
		}
	}
	seen := map[int32]int{}
	for len(ends) < 12 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			w.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Key) != "end" {
				all = append(all, r)
				return
			}
			if seen[r.Partition]++; seen[r.Partition] == w.asked+1 {
				ends[r.Partition] = true
			}
		})
	}
	w.asked++
	return all
}

// record is the one record of a document.
func (w *world) record(documentID string) (schemas.DocumentSubmitted, *kgo.Record) {
	w.Helper()
	var found []*kgo.Record
	for _, r := range w.records() {
		if string(r.Key) == documentID {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		w.Fatalf("%d records of document %s", len(found), documentID)
	}
	d, err := schemas.Unmarshal[schemas.DocumentSubmitted](found[0].Value)
	if err != nil {
		w.Fatal(err)
	}
	return d, found[0]
}

func TestSubmit(t *testing.T) {
	w := start(t, nil)
	padding := 7
	accepted, err := w.api.Submit(t.Context(), "../../etc/letter.pdf", strings.NewReader(letter), client.Options{
		Title: "A letter", Models: []string{"layout_cdla"}, DPI: 150, Pages: "1-3,7", Thresholds: map[string]float64{"title": 0.5, "*": 0.3},
		CropPadding: &padding, WebhookURL: "https://example.org/hook",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !schemas.IsUUID(accepted.DocumentID) || accepted.State != schemas.Queued || accepted.Title != "A letter" || accepted.Bytes != int64(len(letter)) {
		t.Errorf("%+v", accepted)
	}
	key := schemas.SourceKey(accepted.DocumentID)
	stored, err := w.store.Get(t.Context(), key, 1<<20)
	if err != nil || string(stored) != letter {
		t.Errorf("stored %q, %v", stored, err)
	}
	d, record := w.record(accepted.DocumentID)
	want := schemas.DocumentSubmitted{
		DocumentID: accepted.DocumentID, Title: "A letter", FileName: "letter.pdf", Source: w.store.URI(key), ContentType: "application/pdf",
		SHA256: accepted.SHA256, Bytes: int64(len(letter)), SubmittedAt: accepted.SubmittedAt, Models: []string{"layout_cdla"}, DPI: 150,
		Pages: "1-3,7", Thresholds: map[string]float64{"title": 0.5, "*": 0.3}, CropPadding: &padding, WebhookURL: "https://example.org/hook",
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	headers := map[string]string{}
	for _, h := range record.Headers {
		headers[h.Key] = string(h.Value)
	}
	if headers[schemas.HeaderSchema] != "DocumentSubmitted.v1" || headers[schemas.HeaderID] == "" || headers[schemas.HeaderContentType] != "application/json" {
		t.Errorf("headers %v", headers)
	}

	// Its row has not landed, and yet it is known.
	state, err := w.api.Get(t.Context(), accepted.DocumentID)
	if err != nil || state.State != schemas.Queued || state.Title != "A letter" || state.Bytes != int64(len(letter)) || state.SHA256 != accepted.SHA256 {
		t.Errorf("%+v, %v", state, err)
	}
	if page, err := w.api.Page(t.Context(), accepted.DocumentID, "", 1); client.Code(err) != "page-not-ready" {
		t.Errorf("a page of it: %+v, %v", page, err)
	}
	for box, err := range w.api.Detections(t.Context(), accepted.DocumentID, client.Boxes{}) {
		t.Errorf("a box of it: %+v, %v", box, err)
	}
	body, err := w.api.Download(t.Context(), accepted.Links.Source)
	if err != nil {
		t.Fatal(err)
	}
	source, err := io.ReadAll(body)
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if err != nil || string(source) != letter {
		t.Errorf("source %q, %v", source, err)
	}
	if _, page := w.get("/documents/" + accepted.DocumentID); !strings.Contains(string(page), "A letter") || !strings.Contains(string(page), "queued") {
		t.Error("its web page does not show it")
	}
}

func TestSubmitWithLittle(t *testing.T) {
	w := start(t, nil)
	accepted, err := w.api.Submit(t.Context(), "scan.png", strings.NewReader("\x89PNG\r\n\x1a\n and so on"), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := w.record(accepted.DocumentID)
	if d.Title != "" || d.FileName != "scan.png" || d.ContentType != "image/png" || d.ModelNames() != nil || accepted.Title != "scan.png" {
		t.Errorf("%+v", d)
	}
}

func TestTheTutorialsAddress(t *testing.T) {
	w := start(t, nil)
	var form bytes.Buffer
	writer := multipart.NewWriter(&form)
	for name, value := range map[string]string{"csrfmiddlewaretoken": "xyz", "title": "From the tutorial"} {
		if err := writer.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	file, err := writer.CreateFormFile("file", "page.jpg")
	if err == nil {
		_, err = file.Write([]byte("\xff\xd8\xff\xe0 a picture"))
	}
	if err == nil {
		err = writer.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(w.base+"/api/create/", writer.FormDataContentType(), &form)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	var made struct{ ID, Title, File, State string }
	err = json.NewDecoder(response.Body).Decode(&made)
	_ = response.Body.Close()
	if err != nil || response.StatusCode != http.StatusCreated || made.Title != "From the tutorial" || !strings.HasPrefix(made.File, w.base) {
		t.Fatalf("%d %+v %v", response.StatusCode, made, err)
	}
	if d, _ := w.record(made.ID); d.Title != "From the tutorial" || d.ContentType != "image/jpeg" {
		t.Errorf("%+v", d)
	}
	now := time.Now()
	w.land(made.ID, "From the tutorial", now, schemas.Running)
	list, body := w.get("/api/create/")
	var all []struct{ ID, Title, File, State string }
	if err := json.Unmarshal(body, &all); err != nil || list.StatusCode != http.StatusOK || len(all) != 1 || all[0].ID != made.ID || all[0].State != "running" {
		t.Errorf("%d %s %v", list.StatusCode, body, err)
	}
}

func TestReference(t *testing.T) {
	w := start(t, nil)
	w.put(t.Context(), "inbox/a b.pdf", []byte(letter), "application/pdf")
	w.put(t.Context(), "inbox/notes.txt", []byte("not a document"), "text/plain")
	w.put(t.Context(), "inbox/empty.pdf", nil, "application/pdf")
	accepted, err := w.api.SubmitReference(t.Context(), "s3://leafcutter/inbox/a b.pdf", client.Options{Title: "Referred"})
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := w.record(accepted.DocumentID); d.Source != "s3://leafcutter/inbox/a b.pdf" || d.Bytes != int64(len(letter)) || d.ContentType != "application/pdf" {
		t.Errorf("%+v", d)
	}
	if state, err := w.api.Get(t.Context(), accepted.DocumentID); err != nil || state.State != schemas.Queued || state.Title != "Referred" {
		t.Errorf("%+v, %v", state, err)
	}
	if body, err := w.api.Download(t.Context(), accepted.Links.Source); err != nil {
		t.Error(err)
	} else if source, err := io.ReadAll(body); err != nil || string(source) != letter || body.Close() != nil {
		t.Errorf("source %q, %v", source, err)
	}
	for source, want := range map[string]string{
		"s3://elsewhere/secret.pdf":        "source-not-allowed",
		"s3://leafcutter/inbox/absent.pdf": "source-not-found",
		"s3://leafcutter/inbox/notes.txt":  "unsupported-file-type",
		"s3://leafcutter/inbox/empty.pdf":  "empty-file",
		"s3://leafcutter/../other/x.pdf":   "source-not-allowed",
		"http://127.0.0.1/x.pdf":           "invalid-request",
		"file:///etc/passwd":               "invalid-request",
	} {
		if _, err := w.api.SubmitReference(t.Context(), source, client.Options{}); client.Code(err) != want {
			t.Errorf("%s: %v, want %s", source, err, want)
		}
	}
	for body, want := range map[string]string{
		`{"source":"s3://leafcutter/inbox/a b.pdf","document_id":"x"}`: "invalid-request",
		`{"source":"s3://leafcutter/inbox/a b.pdf","tile":"x"}`:        "malformed-upload",
		`{"source":"s3://leafcutter/inbox/a b.pdf"} {}`:                "malformed-upload",
		`{"title":"x"}`: "invalid-request",
		`[]`:            "malformed-upload",
		`{"title":"` + strings.Repeat("x", 70<<10) + `"}`: "malformed-upload",
	} {
		if code := w.post("/v1/documents", "application/json", body); code != want {
			t.Errorf("%.60s: %s, want %s", body, code, want)
		}
	}
}

// post posts a body and returns the code of the problem, or the status where there is none.
func (w *world) post(path, contentType, body string, headers ...string) string {
	w.Helper()
	r, err := http.NewRequest(http.MethodPost, w.base+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var p api.Problem
	if err := json.NewDecoder(response.Body).Decode(&p); err != nil || p.Code == "" {
		return fmt.Sprint(response.StatusCode)
	}
	return p.Code
}

func TestRefusals(t *testing.T) {
	w := start(t, func(c *ingestapi.Config) { c.HTTP.MaxUpload = 1 << 20 })
	w.until("the models are read", func() bool {
		_, err := w.api.Submit(t.Context(), "x.pdf", strings.NewReader(letter), client.Options{Models: []string{"no-such-model"}})
		return client.Code(err) == "unknown-model"
	})
	_, err := w.api.Submit(t.Context(), "x.pdf", strings.NewReader(letter), client.Options{Models: []string{"no-such-model"}})
	if client.Code(err) != "unknown-model" || !strings.Contains(err.Error(), "layout_cdla") {
		t.Errorf("%v", err)
	}
	negative := -1
	for name, c := range map[string]struct {
		body string
		o    client.Options
		want string
	}{
		"too large":        {letter + strings.Repeat("x", 1<<20), client.Options{}, "file-too-large"},
		"much too large":   {letter + strings.Repeat("x", 20<<20), client.Options{}, "file-too-large"},
		"empty":            {"", client.Options{}, "empty-file"},
		"text":             {"Dear Sir or Madam", client.Options{}, "unsupported-file-type"},
		"a zip":            {"PK\x03\x04 and more", client.Options{}, "unsupported-file-type"},
		"svg":              {"<svg xmlns='http://www.w3.org/2000/svg'/>", client.Options{}, "unsupported-file-type"},
		"dpi":              {letter, client.Options{DPI: 10_000}, "invalid-request"},
		"pages":            {letter, client.Options{Pages: "3-1"}, "invalid-request"},
		"title":            {letter, client.Options{Title: strings.Repeat("é", 201)}, "invalid-request"},
		"thresholds":       {letter, client.Options{Thresholds: map[string]float64{"title": 1.5}}, "invalid-request"},
		"padding":          {letter, client.Options{CropPadding: &negative}, "invalid-request"},
		"model":            {letter, client.Options{Models: []string{"../x"}}, "invalid-request"},
		"webhook":          {letter, client.Options{WebhookURL: "ftp://example.org"}, "invalid-request"},
		"a webhook to us":  {letter, client.Options{WebhookURL: "http://10.0.0.1/hook"}, "webhook-url-not-allowed"},
		"a key too long":   {letter, client.Options{IdempotencyKey: strings.Repeat("k", 256)}, "invalid-idempotency-key"},
		"200 é are enough": {letter, client.Options{Title: strings.Repeat("é", 200)}, ""},
	} {
		_, err := w.api.Submit(t.Context(), "x.pdf", strings.NewReader(c.body), c.o)
		if got := client.Code(err); got != c.want || c.want == "" && err != nil {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, c := range map[string]struct{ contentType, body, want string }{
		"no form":     {"text/plain", "hello", "unsupported-request-type"},
		"no boundary": {"multipart/form-data", "hello", "malformed-upload"},
		"no file":     {"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nx\r\n--b--\r\n", "missing-file"},
		"cut off":     {"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n%PDF-1.7 and", "upload-broken"},
	} {
		if got := w.post("/v1/documents", c.contentType, c.body); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := len(w.records()); got != 1 {
		t.Errorf("%d records after refusals and one acceptance", got)
	}
	left, err := os.ReadDir(w.cfg.SpoolDir)
	if err != nil || len(left) != 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	w := start(t, nil)
	submit := func(body, key string, o client.Options) (*api.Accepted, error) {
		o.IdempotencyKey = key
		return w.api.Submit(t.Context(), "x.pdf", strings.NewReader(body), o)
	}
	first, err := submit(letter, "key-1", client.Options{Title: "Once", Thresholds: map[string]float64{"a": 0.1, "b": 0.2}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := submit(letter, "key-1", client.Options{Title: "Once", Thresholds: map[string]float64{"b": 0.2, "a": 0.1}})
	if err != nil || again.DocumentID != first.DocumentID || !again.SubmittedAt.Equal(first.SubmittedAt) || again.SHA256 != first.SHA256 {
		t.Errorf("%+v, %v; first %+v", again, err, first)
	}
	for name, try := range map[string]func() (*api.Accepted, error){
		"another file":  func() (*api.Accepted, error) { return submit(letter+".", "key-1", client.Options{Title: "Once"}) },
		"another title": func() (*api.Accepted, error) { return submit(letter, "key-1", client.Options{Title: "Twice"}) },
	} {
		if _, err := try(); client.Code(err) != "idempotency-mismatch" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if stored, err := w.store.Get(t.Context(), schemas.SourceKey(first.DocumentID), 1<<20); err != nil || string(stored) != letter {
		t.Errorf("what was accepted changed: %q, %v", stored, err)
	}
	other, err := submit(letter, "key-2", client.Options{Title: "Once"})
	if err != nil || other.DocumentID == first.DocumentID {
		t.Errorf("another key: %+v, %v", other, err)
	}
	if got := len(w.records()); got != 2 {
		t.Errorf("%d records, want 2", got)
	}

	// Many at once with two bodies: one body wins, all of its senders are told the same, the others are refused.
	var wg sync.WaitGroup
	ids, refused := make([]string, 16), make([]bool, 16)
	for i := range ids {
		wg.Go(func() {
			accepted, err := submit(letter+strings.Repeat("!", i%2), "key-3", client.Options{})
			if err == nil {
				ids[i] = accepted.DocumentID
			}
			refused[i] = client.Code(err) == "idempotency-mismatch"
			if err != nil && !refused[i] {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	winner := slices.IndexFunc(ids, func(id string) bool { return id != "" })
	for i := range ids {
		if same := i%2 == winner%2; same != (ids[i] == ids[winner]) || same == refused[i] {
			t.Errorf("sender %d: id %q, refused %v; the winner is %d", i, ids[i], refused[i], winner)
		}
	}
	if got := len(w.records()); got != 3 {
		t.Errorf("%d records, want 3", got)
	}
}

func TestServersAway(t *testing.T) {
	w := start(t, func(c *ingestapi.Config) { c.QueryTimeout = 5 * time.Second })
	submit := func(key string) (*api.Accepted, error) {
		return w.api.Submit(t.Context(), "x.pdf", strings.NewReader(letter), client.Options{IdempotencyKey: key})
	}

	w.sql.Kill()
	response, body := w.get("/v1/documents")
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "clickhouse-unavailable") {
		t.Errorf("list without ClickHouse: %d %s", response.StatusCode, body)
	}
	if response, body := w.get("/"); response.StatusCode != http.StatusOK || !strings.Contains(string(body), "ClickHouse cannot be reached") {
		t.Errorf("web page without ClickHouse: %d", response.StatusCode)
	}
	if _, err := submit("without-clickhouse"); err != nil {
		t.Errorf("upload without ClickHouse: %v", err)
	}
	if w.status("/readyz") != http.StatusOK {
		t.Error("not ready without ClickHouse, though uploads go on")
	}

	w.broker.Kill()
	if _, err := submit("without-kafka"); client.Code(err) != "kafka-unavailable" {
		t.Errorf("upload without Kafka: %v", err)
	}
	w.until("it says that it is not ready", func() bool { return w.status("/readyz") == http.StatusServiceUnavailable })
	w.broker.Restart()
	var accepted *api.Accepted
	w.until("the same upload is taken again", func() (ok bool) {
		var err error
		accepted, err = submit("without-kafka")
		return err == nil
	})
	// What Kafka may have got of the first try is the same record once more.
	for _, r := range w.records() {
		if d, err := schemas.Unmarshal[schemas.DocumentSubmitted](r.Value); err != nil {
			t.Error(err)
		} else if string(r.Key) == accepted.DocumentID && (d.SHA256 != accepted.SHA256 || !d.SubmittedAt.Equal(accepted.SubmittedAt)) {
			t.Errorf("%+v", d)
		}
	}

	w.objects.Kill()
	if _, err := submit("without-s3"); client.Code(err) != "s3-unavailable" {
		t.Errorf("upload without S3: %v", err)
	}
	w.objects.Restart()
	w.sql.Restart()
	w.until("all is well again", func() bool {
		_, err := submit("without-s3")
		return err == nil && w.status("/readyz") == http.StatusOK && w.status("/v1/documents") == http.StatusOK
	})
}

func TestEvents(t *testing.T) {
	w := start(t, nil)
	accepted, err := w.api.Submit(t.Context(), "x.pdf", strings.NewReader(letter), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan api.Progress, 16)
	ended := make(chan error, 1)
	var final *api.Document
	go func() {
		var err error
		final, err = w.api.Wait(t.Context(), accepted.DocumentID, func(p api.Progress) { told <- p })
		ended <- err
	}()
	if p := <-told; p.State != schemas.Queued {
		t.Errorf("first %+v", p)
	}
	w.land(accepted.DocumentID, "x.pdf", accepted.SubmittedAt, schemas.Running)
	// The document's row lands before its run's: it may be told as queued once more in between, but never twice the same.
	p := <-told
	if p.State != schemas.Running || p.PagesSelected != 3 || p.PagesDone != 2 || p.PagesFailed != 1 {
		t.Errorf("then %+v", p)
	}
	if err := w.db.Exec(t.Context(), `INSERT INTO runs (run_id, document_id, model, dpi, pages_selected, pages_done, pages_failed, boxes, state, planned_at, finished_at, submitted_at, version)
		SELECT run_id, document_id, model, dpi, pages_selected, pages_done, pages_failed, boxes, 'completed_with_failures', planned_at, submitted_at, submitted_at, 2 FROM runs FINAL`); err != nil {
		t.Fatal(err)
	}
	if p := <-told; p.State != schemas.CompletedWithFailures {
		t.Errorf("last %+v", p)
	}
	if err := <-ended; err != nil || final.State != schemas.CompletedWithFailures {
		t.Errorf("%+v, %v", final, err)
	}
	if response, body := w.get(accepted.Links.Events); !strings.HasPrefix(string(body), "event: end\ndata: {") || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("events of what has ended: %s", body)
	}
	if _, err := w.api.Wait(t.Context(), schemas.NewDocumentID(time.Now()), nil); client.Code(err) != "document-not-found" {
		t.Errorf("waiting for an unknown document: %v", err)
	}
}

func TestSubmitFile(t *testing.T) {
	w := start(t, nil)
	path := filepath.Join(t.TempDir(), "letter.pdf")
	big := letter + strings.Repeat("x", 3<<20)
	if err := os.WriteFile(path, []byte(big), 0o600); err != nil {
		t.Fatal(err)
	}
	var sent int64
	accepted, err := w.api.SubmitFile(t.Context(), path, client.Options{Progress: func(n int64) { sent = n }})
	if err != nil || sent != int64(len(big)) || accepted.Bytes != int64(len(big)) || accepted.Title != "letter.pdf" {
		t.Errorf("%+v, %v, %d sent", accepted, err, sent)
	}
	for i := range 3 {
		again, err := w.api.SubmitFile(t.Context(), path, client.Options{IdempotencyKey: "file"})
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if again.SHA256 != accepted.SHA256 {
			t.Errorf("%d: the same file has digest %s", i, again.SHA256)
		}
	}
}
