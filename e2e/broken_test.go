package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// broken is a file that no page comes of.
type broken struct {
	corpus.File
	status int    // by HTTP; 202 where only opening it tells
	http   string // code of the refusal
	code   string // of the document that fails
	page   uint32 // that says so, where the document itself can be opened
}

func (b broken) stage() string {
	if b.page > 0 {
		return "splitter"
	}
	return "planner"
}

func brokenFiles(t *testing.T) []broken {
	t.Helper()
	whole := sample(t).Data
	file := func(name string, data []byte) corpus.File { return corpus.File{Name: name, Data: data} }
	return []broken{
		{file("truncated.pdf", whole[:200]), http.StatusAccepted, "", "unreadable-document", 0},
		{file("broken.pdf", append([]byte("%PDF-1.7\n"), bytes.Repeat([]byte("\x00\xffleaf"), 4000)...)), http.StatusAccepted, "", "unreadable-document", 0},
		{file("encrypted.pdf", must(corpus.Encrypted(whole))(t)), http.StatusAccepted, "", "encrypted", 0},
		{file("no-pages.pdf", corpus.NoPages()), http.StatusAccepted, "", "no-pages", 0},
		{file("cut.png", must(corpus.PNG(corpus.Scan(200, 300, 1)))(t)[:60]), http.StatusAccepted, "", "unreadable-page", 1},
		{file("archive.pdf", append([]byte("PK\x03\x04\x14\x00"), make([]byte, 500)...)), http.StatusUnsupportedMediaType, "unsupported-file-type", "unsupported-type", 0},
		{file("drawing.pdf", []byte(`<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>`)), http.StatusUnsupportedMediaType, "unsupported-file-type", "unsupported-type", 0},
		{file("letter.pdf", []byte("Dear colony,\nthe leaves are in the post.\n")), http.StatusUnsupportedMediaType, "unsupported-file-type", "unsupported-type", 0},
		{file("empty.pdf", nil), http.StatusUnprocessableEntity, "empty-file", "empty-document", 0},
	}
}

// Files that are broken in any way end in a clear state with a stable code, visible by API and by SQL, and healthy ones
// between them complete.
func TestBrokenFilesFailAndDisturbNothing(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	healthy := corpus.File{Name: "healthy.pdf", Data: corpus.Report(2, 5)}
	var well []string
	failing := map[string]broken{}
	for _, b := range brokenFiles(t) {
		well = append(well, submit(ctx, t, p, healthy, client.Options{}))
		// By HTTP.
		accepted, err := p.Client.Submit(ctx, b.Name, bytes.NewReader(b.Data), client.Options{})
		switch {
		case b.status == http.StatusAccepted && err == nil:
			failing[accepted.DocumentID] = b
		case b.status == http.StatusAccepted || err == nil || client.Code(err) != b.http || !strings.Contains(err.Error(), statusText(b.status)):
			t.Errorf("%s by HTTP: %v, want %d %s", b.Name, err, b.status, b.http)
		}
		// By a JSON record that refers to it.
		key := "inbox/" + b.Name
		ok(t, p.Objects.Put(ctx, key, b.Data, "application/pdf"))
		id := must(uuid.NewV7())(t).String()
		value := must(json.Marshal(map[string]any{"document_id": id, "source": p.Objects.URI(key)}))(t)
		produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(id), Value: value})
		failing[id] = b
		// By a record that is the file itself.
		if len(b.Data) > 0 {
			id := must(uuid.NewV7())(t).String()
			produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(id), Value: b.Data,
				Headers: []kgo.RecordHeader{{Key: schemas.HeaderTitle, Value: []byte(b.Name)}}})
			failing[id] = b
		}
	}
	// Records that are no document at all.
	missing := must(uuid.NewV7())(t).String()
	value := must(json.Marshal(map[string]any{"document_id": missing, "source": p.Objects.URI("inbox/nowhere.pdf")}))(t)
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(missing), Value: value})
	failing[missing] = broken{File: corpus.File{Name: "nowhere.pdf"}, code: "object-missing"}
	foreign := must(uuid.NewV7())(t).String()
	value = must(json.Marshal(map[string]any{"document_id": foreign, "source": "s3://elsewhere/report.pdf"}))(t)
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(foreign), Value: value})
	failing[foreign] = broken{File: corpus.File{Name: "s3://elsewhere"}, code: "source-not-allowed"}
	unknown := must(uuid.NewV7())(t).String()
	value = must(json.Marshal(map[string]any{"document_id": unknown, "source": p.Objects.URI("inbox/no-pages.pdf"), "model": "nobody-has-it"}))(t)
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(unknown), Value: value})
	failing[unknown] = broken{File: corpus.File{Name: "a model that nobody has"}, code: "unknown-model"}
	garbled := must(uuid.NewV7())(t).String()
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(garbled), Value: []byte(`{"source": "s3://`)})
	failing[garbled] = broken{File: corpus.File{Name: "garbled JSON"}, code: "record-invalid"}

	for id, b := range failing {
		checkFailed(ctx, t, p, id, b)
	}
	for _, id := range well {
		await(ctx, t, p, id, schemas.Completed)
	}
	checkDeadLetters(ctx, t, p, failing)
}

func statusText(status int) string { return "HTTP " + strconv.Itoa(status) }

func checkFailed(ctx context.Context, t *testing.T, p *pipeline.Pipeline, id string, b broken) {
	t.Helper()
	eventually(ctx, t, b.Name+" is known", func() (bool, error) {
		_, err := p.Client.Get(ctx, id)
		return err == nil, err
	})
	d := must(p.Client.Wait(ctx, id, nil))(t)
	told := d.Error
	if b.page > 0 && len(d.Failures) == 1 {
		told = d.Failures[0].Error
	}
	if d.State != schemas.Failed || d.Code != b.code || told == "" {
		t.Errorf("%s (%s): the API says %s, code %q, error %q; want failed, %q", b.Name, id, d.State, d.Code, told, b.code)
	}
	var rows []struct {
		State string `ch:"state"`
		Code  string `ch:"code"`
		Error string `ch:"error"`
		Page  uint32 `ch:"page"`
		Stage string `ch:"stage"`
	}
	ok(t, p.Select(ctx, &rows, `SELECT s.state AS state, f.code AS code, f.error AS error, f.page AS page, f.stage AS stage
		FROM document_status AS s JOIN failures AS f ON f.document_id = s.document_id WHERE s.document_id = ?`, id))
	if len(rows) != 1 || rows[0].State != "failed" || rows[0].Code != b.code || rows[0].Error == "" || rows[0].Page != b.page || rows[0].Stage != b.stage() {
		t.Errorf("%s (%s): SQL says %+v; want one row: failed, %q", b.Name, id, rows, b.code)
	}
}

// checkDeadLetters holds the dead letters to one each, with the reason and the original key, and the original value where
// it is small.
func checkDeadLetters(ctx context.Context, t *testing.T, p *pipeline.Pipeline, failing map[string]broken) {
	t.Helper()
	letters := map[string]int{}
	for _, r := range records(ctx, t, p, schemas.TopicDeadLetters) {
		id := header(r, schemas.HeaderDocumentID)
		b, mine := failing[id]
		if !mine {
			continue
		}
		letters[id]++
		topic, key := schemas.TopicDocuments, id
		if b.page > 0 {
			topic, key = schemas.TopicPageRanges, header(r, schemas.HeaderRunID)+"/1"
		}
		if header(r, schemas.HeaderCode) != b.code || header(r, schemas.HeaderStage) != b.stage() || header(r, schemas.HeaderError) == "" ||
			header(r, schemas.HeaderTopic) != topic || string(r.Key) != key {
			t.Errorf("%s: the dead letter has key %q and headers %q", b.Name, r.Key, r.Headers)
		}
		if len(r.Value) == 0 {
			t.Errorf("%s: the dead letter is empty", b.Name)
		}
	}
	for id, b := range failing {
		if letters[id] != 1 {
			t.Errorf("%s (%s): %d dead letters, want 1", b.Name, id, letters[id])
		}
	}
}

// A page that fails does not fail its document: the rest is done, and the failure names page and reason.
func TestOneBadPageAmongGoodOnes(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	id := submit(ctx, t, p, corpus.File{Name: "poster.pdf", Data: corpus.OneTooLarge(4, 2)}, client.Options{})
	d := await(ctx, t, p, id, schemas.CompletedWithFailures)
	if d.PagesDone != 3 || d.PagesFailed != 1 || d.PagesSelected != 4 {
		t.Errorf("%d done, %d failed of %d", d.PagesDone, d.PagesFailed, d.PagesSelected)
	}
	if len(d.Failures) != 1 || d.Failures[0].Page != 2 || d.Failures[0].Code != "page-too-large" || d.Failures[0].Error == "" {
		t.Errorf("the API's failures: %+v", d.Failures)
	}
	status, body, err := p.Curl(ctx, "SELECT page, stage, code FROM failures WHERE document_id = '"+id+"'")
	ok(t, err)
	if want := "2\tsplitter\tpage-too-large\n"; status != http.StatusOK || body != want {
		t.Errorf("SQL's failures: %d %q, want %q", status, body, want)
	}
	var pages []struct {
		Page  uint32 `ch:"page"`
		State string `ch:"state"`
	}
	ok(t, p.Select(ctx, &pages, "SELECT page, state FROM page_results FINAL WHERE document_id = ? ORDER BY page", id))
	if len(pages) != 4 || pages[0].State != "done" || pages[1].State != "failed" || pages[3].State != "done" {
		t.Errorf("pages %+v", pages)
	}
	// The dead letter is the smallest record that replays the page.
	var replayed *schemas.PageRange
	for _, r := range records(ctx, t, p, schemas.TopicDeadLetters) {
		if header(r, schemas.HeaderDocumentID) == id {
			one := must(schemas.Unmarshal[schemas.PageRange](r.Value))(t)
			replayed = &one
		}
	}
	if replayed == nil || len(replayed.Pages) != 1 || replayed.Pages[0] != 2 {
		t.Errorf("the dead letter replays %+v", replayed)
	}
	checkObjects(ctx, t, p, id, schemas.DefaultPadding)
}
