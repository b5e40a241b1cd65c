package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// ask puts a control of a document onto the topic, as the API does.
func ask(ctx context.Context, t *testing.T, p *pipeline.Pipeline, id, action string) schemas.Control {
	t.Helper()
	c := schemas.Control{DocumentID: id, Action: action, Sequence: time.Now().UnixMilli(), At: time.Now().UTC()}
	value := must(schemas.Marshal(c))(t)
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicControls, Key: []byte(id), Value: value})
	return c
}

// idle waits until every stage has done all that is on its topics, one after the other, as the work goes.
func idle(ctx context.Context, t *testing.T, p *pipeline.Pipeline) {
	t.Helper()
	for _, group := range []string{"planner", "splitter", schemas.DetectorGroup(p.Model), "annotator", "recorder"} {
		drained(ctx, t, p, group)
	}
}

// ofRun counts the records of a topic and its bulk twin that are of a run.
func ofRun(ctx context.Context, t *testing.T, p *pipeline.Pipeline, topic, runID string) (n int) {
	t.Helper()
	topics := []string{topic}
	if topic != schemas.TopicDetections {
		topics = append(topics, schemas.Lane(topic, true))
	}
	for _, topic := range topics {
		for _, r := range records(ctx, t, p, topic) {
			if strings.HasPrefix(string(r.Key), runID+"/") {
				n++
			}
		}
	}
	return n
}

// A book that is cancelled while it is running: its queued pages are dropped in every stage, the pages that are done stay,
// its end is said once, and other documents go on.
func TestACancelledBookLeavesTheQueues(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t)
	ctx := bounded(t, 2*patience)
	const pages = 200
	book := submit(ctx, t, p, corpus.File{Name: "book.pdf", Data: corpus.Report(pages, 1)}, client.Options{})
	eventually(ctx, t, "pages of the book are done", func() (bool, error) {
		d, err := p.Client.Get(ctx, book)
		return err == nil && d.PagesDone >= 3, err
	})
	run := must(p.Client.Get(ctx, book))(t).Runs[0].RunID
	letter := submit(ctx, t, p, corpus.File{Name: "letter.pdf", Data: corpus.Report(2, 2)}, client.Options{})
	before := ofRun(ctx, t, p, schemas.TopicDetections, run)
	asked := time.Now()
	control := ask(ctx, t, p, book, schemas.ActionCancel)
	d := await(ctx, t, p, book, schemas.Cancelled)
	took := time.Since(asked)
	if d.FinishedAt == nil || d.FinishedAt.UnixMilli() != control.Sequence {
		t.Errorf("cancelled at %v, it was asked at %v", d.FinishedAt, control.At)
	}
	await(ctx, t, p, letter, schemas.Completed)
	idle(ctx, t, p)
	d = must(p.Client.Get(ctx, book))(t)
	rendered, detected := ofRun(ctx, t, p, schemas.PagesTopic(p.Model), run), ofRun(ctx, t, p, schemas.TopicDetections, run)
	t.Logf("%d pages: cancelled after %s; %d detected before, %d in all, %d rendered, %d done", pages, took.Round(time.Millisecond), before, detected, rendered, d.PagesDone)
	if d.State != schemas.Cancelled || d.PagesDone < 3 || d.PagesDone > detected || d.PagesFailed != 0 {
		t.Errorf("%+v", d.Summary)
	}
	// What a stage has in its hands when it reads the control is done; nothing that waits is.
	if detected > pages/2 {
		t.Errorf("%d of %d pages are detected, %d of them after the cancellation", detected, pages, detected-before)
	}
	found := must(p.Boxes(ctx, book))(t)
	for _, b := range found {
		if _, err := p.Objects.Head(ctx, b.AnnotatedKey); err != nil {
			t.Errorf("page %d: %v", b.Page, err)
		}
	}
	ids := map[string]bool{}
	for _, e := range ends(ctx, t, p)[book] {
		ids[e.ID] = true
		if e.State != schemas.Cancelled || e.Control != control.Sequence {
			t.Errorf("said: %+v", e)
		}
	}
	if len(ids) != 1 {
		t.Errorf("the cancellation is said with %d identities", len(ids))
	}
	if letters := records(ctx, t, p, schemas.TopicDeadLetters); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}

	// A document that is cancelled before it is planned is seen, and nothing of it is done. A stage that was away when it
	// was asked reads it before its first record.
	pid := must(p.KillChild("page-splitter"))(t)
	early := schemas.NewDocumentID(time.Now())
	ask(ctx, t, p, early, schemas.ActionCancel)
	source := submit(ctx, t, p, corpus.File{Name: "source.pdf", Data: corpus.Report(3, 3)}, client.Options{})
	submitted := schemas.DocumentSubmitted{DocumentID: early, Title: "Early", Source: p.Objects.URI(schemas.SourceKey(source)), SubmittedAt: time.Now()}
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(early), Value: must(schemas.Marshal(submitted))(t)})
	ok(t, p.AwaitChild(ctx, "page-splitter", pid))
	eventually(ctx, t, "the document is known", func() (bool, error) {
		_, err := p.Client.Get(ctx, early)
		return err == nil, err
	})
	await(ctx, t, p, early, schemas.Cancelled) // said from the control alone: the row of its run may land later
	idle(ctx, t, p)
	d = must(p.Client.Get(ctx, early))(t)
	if len(d.Runs) != 1 {
		t.Fatalf("%d runs: %+v", len(d.Runs), d.Summary)
	}
	if n := ofRun(ctx, t, p, schemas.TopicPageRanges, d.Runs[0].RunID); n != 0 || d.State != schemas.Cancelled || d.PagesSelected != 3 || d.PagesDone != 0 {
		t.Errorf("%d ranges; %+v", n, d.Summary)
	}
	await(ctx, t, p, source, schemas.Completed)
}

// A deleted document has no rows, and whatever of it comes late, or again by a replay of every result, brings none back.
func TestADeletedDocumentStaysAway(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t)
	ctx := bounded(t, 2*patience)
	gone := submit(ctx, t, p, corpus.File{Name: "gone.pdf", Data: corpus.Report(4, 1)}, client.Options{})
	stays := submit(ctx, t, p, corpus.File{Name: "stays.pdf", Data: corpus.Report(2, 2)}, client.Options{})
	await(ctx, t, p, gone, schemas.Completed)
	await(ctx, t, p, stays, schemas.Completed)
	want := must(p.Answers(ctx, stays))(t)
	control := ask(ctx, t, p, gone, schemas.ActionDelete)
	deleted := schemas.DocumentDeleted{DocumentID: gone, Sequence: control.Sequence, RequestedAt: control.At, DeletedAt: time.Now(), Objects: 7}
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicResults, Key: []byte(gone), Value: must(schemas.Marshal(deleted))(t)})
	rows := func() (counts []uint64) {
		for _, table := range []string{"documents", "runs", "page_results", "detections", "document_status"} {
			var n []struct {
				N uint64 `ch:"n"`
			}
			ok(t, p.Select(ctx, &n, "SELECT count() AS n FROM "+table+" WHERE document_id = ?", gone))
			counts = append(counts, n[0].N)
		}
		return counts
	}
	none := func() bool { return !slices.ContainsFunc(rows(), func(n uint64) bool { return n != 0 }) }
	eventually(ctx, t, "its rows are gone", func() (bool, error) { return none(), nil })
	var said []struct {
		Sequence int64 `ch:"sequence"`
	}
	ok(t, p.Select(ctx, &said, "SELECT sequence FROM deletions FINAL WHERE document_id = ?", gone))
	if len(said) != 1 || said[0].Sequence != control.Sequence {
		t.Errorf("deletions: %+v", said)
	}
	// The whole of it again, by every stage, in groups of their own: the submission, the ranges, the pages, the results.
	replays := []string{"page-splitter", "detector", "annotator", "recorder"}
	for _, stage := range replays {
		replay(ctx, t, p, stage, "replay-")
	}
	idle(ctx, t, p)
	if !none() {
		t.Errorf("rows are back: %v", rows())
	}
	if again := must(p.Answers(ctx, stays))(t); timeless(again) != timeless(want) {
		t.Errorf("the other document has changed:\n%s\nit was\n%s", again, want)
	}
	for id, all := range ends(ctx, t, p) {
		for _, e := range all {
			if e.ID != all[0].ID {
				t.Errorf("document %s ends twice: %s", id, fmt.Sprint(all))
			}
		}
	}
}
