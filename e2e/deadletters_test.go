package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// What failed for a reason that is mended afterwards is put back by the command line, and ends as if it had never failed.
func TestDeadLettersAreReplayedOnceTheReasonIsMended(t *testing.T) {
	t.Parallel()
	ctx := bounded(t, 2*patience)
	// Too little for the page that is twice as large as the others, and for a document of four pages.
	p := pipeline.Own(t, "LEAFCUTTER_MAX_PAGE_PIXELS=2000000", "LEAFCUTTER_MAX_PAGES=3")
	poster := submit(ctx, t, p, corpus.File{Name: "poster.pdf", Data: corpus.OneOfSize(3, 2, "0 0 1224 1584")}, client.Options{})
	missing, source := must(uuid.NewV7())(t).String(), "inbox/late.pdf"
	value := must(json.Marshal(map[string]any{"document_id": missing, "source": p.Objects.URI(source)}))(t)
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Value: value})
	// Its producer does not name it: its identity comes from the place of its record.
	raw := corpus.Report(4, 3)
	place := produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Value: raw, Headers: []kgo.RecordHeader{{Key: schemas.HeaderTitle, Value: []byte("raw")}}})
	unnamed := schemas.DocumentIDForRecord(place.Topic, place.Partition, place.Offset, place.Timestamp, raw)

	d := await(ctx, t, p, poster, schemas.CompletedWithFailures)
	run := d.Runs[0].RunID
	page := letterOf(ctx, t, p, poster, api.LetterOpen)
	if page.Code != "page-too-large" || page.Page != 2 || page.RunID != run || page.Failures != 1 || page.Replays != 0 || page.Title != "poster.pdf" {
		t.Errorf("%+v", page)
	}
	late := letterOf(ctx, t, p, missing, api.LetterOpen)
	if late.Code != "object-missing" || late.Stage != "planner" || late.Topic != schemas.TopicDocuments {
		t.Errorf("%+v", late)
	}
	long := letterOf(ctx, t, p, unnamed, api.LetterOpen)

	// Nothing is mended yet: it is the same letter that is open again.
	dlq(ctx, t, p, 0, "replay", page.LetterID)
	eventually(ctx, t, "the replay has failed", func() (bool, error) {
		page = letterOf(ctx, t, p, poster, "")
		return page.State == api.LetterOpen && page.Failures == 2 && page.Replays == 1, nil
	})
	if out := dlq(ctx, t, p, 0, "show", page.LetterID); !strings.Contains(out, `"type": "PageRange"`) || !strings.Contains(out, "page-too-large") || !strings.Contains(out, "2 times, first") {
		t.Errorf("dlq show:\n%s", out)
	}
	if out := dlq(ctx, t, p, 0, "show", long.LetterID); !strings.Contains(out, "application/pdf") {
		t.Errorf("dlq show of a document:\n%s", out)
	}
	if n := len(strings.Fields(dlq(ctx, t, p, 0, "list", "--state", "open", "-o", "json", "--document", poster))); n == 0 {
		t.Error("dlq list says nothing of the poster")
	}

	// The object comes late.
	ok(t, p.Objects.Put(ctx, source, corpus.Report(2, 4), "application/pdf"))
	if out := dlq(ctx, t, p, 0, "replay", "--code", "object-missing", "--dry-run"); !strings.Contains(out, late.LetterID) {
		t.Errorf("dlq replay --dry-run:\n%s", out)
	}
	dlq(ctx, t, p, 0, "replay", "--code", "object-missing")
	completes(ctx, t, p, missing, 2)
	resolved(ctx, t, p, missing, late)

	// The limits are raised.
	ok(t, p.Stop())
	p = pipeline.Again(t, p.Data)
	dlq(ctx, t, p, 0, "replay", "--all")
	completes(ctx, t, p, poster, 3)
	completes(ctx, t, p, unnamed, 4)
	resolved(ctx, t, p, poster, page)
	resolved(ctx, t, p, unnamed, long)
	checkObjects(ctx, t, p, poster, schemas.DefaultPadding)
	if out := dlq(ctx, t, p, 1, "replay", page.LetterID); !strings.Contains(out, "letter-resolved") {
		t.Errorf("a resolved letter:\n%s", out)
	}
	if out := dlq(ctx, t, p, 0, "list", "--state", "open"); strings.TrimSpace(out) != "" {
		t.Errorf("there are open letters left:\n%s", out)
	}
	dlq(ctx, t, p, 2, "replay")
	dlq(ctx, t, p, 1, "show", poster)

	// Both ends of the run were said, each under an identity of its own.
	said := map[schemas.State]string{}
	for _, e := range ends(ctx, t, p)[poster] {
		if e.RunID == run {
			said[e.State] = e.ID
		}
	}
	if len(said) != 2 || said[schemas.Completed] == "" || said[schemas.CompletedWithFailures] == "" || said[schemas.Completed] == said[schemas.CompletedWithFailures] {
		t.Errorf("ends of the run: %v", said)
	}
}

// A webhook that its receiver refuses is a dead letter too: it is posted again when that is replayed.
func TestRefusedWebhooksAreReplayed(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	var mended atomic.Bool
	taken := make(chan string, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !mended.Load() {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		taken <- r.Header.Get("webhook-id")
	}))
	t.Cleanup(receiver.Close)
	id := submit(ctx, t, p, corpus.File{Name: "told.pdf", Data: corpus.Report(1, 8)}, client.Options{WebhookURL: receiver.URL})
	await(ctx, t, p, id, schemas.Completed)
	l := letterOf(ctx, t, p, id, api.LetterOpen)
	if l.Stage != "webhooks" || l.Code != "webhook-undelivered" || l.Topic != schemas.TopicDocumentEvents {
		t.Errorf("%+v", l)
	}
	mended.Store(true)
	dlq(ctx, t, p, 0, "replay", "--document", id)
	select {
	case event := <-taken:
		if all := ends(ctx, t, p)[id]; all[0].ID != event {
			t.Errorf("event %s is told, and %+v was said", event, all)
		}
	case <-ctx.Done():
		t.Fatal("the receiver was not told")
	}
	eventually(ctx, t, "the letter is resolved", func() (bool, error) {
		return letterOf(ctx, t, p, id, "").State == api.LetterResolved, nil
	})
}

// dlq runs leafcutter dlq and gives what it printed.
func dlq(ctx context.Context, t *testing.T, p *pipeline.Pipeline, want int, args ...string) string {
	t.Helper()
	out, code, err := p.CLI(ctx, nil, append(append([]string{"dlq"}, args...), "--data-dir", p.Data)...)
	ok(t, err)
	if code != want {
		t.Fatalf("leafcutter dlq %s: exit status %d, want %d\n%s", strings.Join(args, " "), code, want, out)
	}
	return string(out.Stdout)
}

// letterOf waits for the only letter of a document, in the state given or any.
func letterOf(ctx context.Context, t *testing.T, p *pipeline.Pipeline, documentID, state string) api.Letter {
	t.Helper()
	var found []api.Letter
	eventually(ctx, t, "a letter of "+documentID, func() (bool, error) {
		found = nil
		for l, err := range p.Client.Letters(ctx, client.LetterFilter{DocumentID: documentID, State: state}) {
			if err != nil {
				return false, err
			}
			found = append(found, l)
		}
		return len(found) > 0, nil
	})
	if len(found) != 1 {
		t.Fatalf("%d letters of %s: %+v", len(found), documentID, found)
	}
	return found[0]
}

// completes waits until a document that has failed before is completed.
func completes(ctx context.Context, t *testing.T, p *pipeline.Pipeline, documentID string, pages int) {
	t.Helper()
	eventually(ctx, t, documentID+" is completed", func() (bool, error) {
		d, err := p.Client.Get(ctx, documentID)
		return err == nil && d.State == schemas.Completed && d.PagesDone == pages && d.PagesFailed == 0 && len(d.Failures) == 0, err
	})
	status, body, err := p.Curl(ctx, "SELECT page, code FROM failures WHERE document_id = '"+documentID+"'")
	ok(t, err)
	if status != http.StatusOK || body != "" {
		t.Errorf("%s is completed, and SQL's failures are %d %q", documentID, status, body)
	}
}

func resolved(ctx context.Context, t *testing.T, p *pipeline.Pipeline, documentID string, was api.Letter) {
	t.Helper()
	l := letterOf(ctx, t, p, documentID, api.LetterResolved)
	if l.LetterID != was.LetterID || l.Replays != was.Replays+1 || l.Failures != was.Failures || l.ReplayedAt == nil {
		t.Errorf("letter %+v was %+v", l, was)
	}
}
