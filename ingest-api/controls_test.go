package ingestapi_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/ingest-api/client"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// tail follows topics from their beginning and gives one record after the other.
func (w *world) tail(topics ...string) (next func() *kgo.Record) {
	w.Helper()
	c, err := kafka.NewClient(w.cfg.Kafka, kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(c.Close)
	var waiting []*kgo.Record
	return func() *kgo.Record {
		w.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for len(waiting) == 0 {
			fetches := c.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				w.Fatal(err)
			}
			waiting = fetches.Records()
		}
		r := waiting[0]
		waiting = waiting[1:]
		return r
	}
}

func unmarshal[T schemas.Record](w *world, r *kgo.Record) T {
	w.Helper()
	v, err := schemas.Unmarshal[T](r.Value)
	if err != nil {
		w.Fatalf("%s: %v", r.Topic, err)
	}
	return v
}

// A cancel and a resume say on the topics what stages and recorder go by: the control first, then what follows for the
// runs that the tables have.
func TestCancelAndResume(t *testing.T) {
	w := start(t, nil)
	now := time.Now()
	d := w.land(schemas.NewDocumentID(now), "A report", now, schemas.Running)
	controls, results := w.tail(schemas.TopicControls), w.tail(schemas.TopicResults)

	done, err := w.api.Cancel(t.Context(), d.documentID)
	if err != nil || done.Sequence < now.UnixMilli() || done.State != schemas.Running || done.Action != schemas.ActionCancel {
		t.Fatalf("%+v, %v", done, err)
	}
	control := unmarshal[schemas.Control](w, controls())
	if control.DocumentID != d.documentID || control.Action != schemas.ActionCancel || control.Sequence != done.Sequence {
		t.Errorf("%+v", control)
	}
	cancelled := unmarshal[schemas.RunCancelled](w, results())
	if cancelled.RunID != d.runID || cancelled.Sequence != done.Sequence || !cancelled.SubmittedAt.Equal(d.submittedAt) {
		t.Errorf("%+v", cancelled)
	}

	// Page 2 has not come yet, and only that is asked for: page 3 has failed, which is an end too.
	if err := w.db.Exec(t.Context(), "DELETE FROM page_results WHERE document_id = toUUID(?) AND page = 2", d.documentID); err != nil {
		t.Fatal(err)
	}
	ranges := w.tail(schemas.TopicPageRanges, schemas.Lane(schemas.TopicPageRanges, true))
	again, err := w.api.Resume(t.Context(), d.documentID)
	if err != nil || again.Sequence <= done.Sequence || again.Pages != 1 {
		t.Fatalf("%+v, %v", again, err)
	}
	if control := unmarshal[schemas.Control](w, controls()); control.Action != schemas.ActionResume || control.Sequence != again.Sequence {
		t.Errorf("%+v", control)
	}
	r := ranges()
	one := unmarshal[schemas.PageRange](w, r)
	if r.Topic != schemas.TopicPageRanges || one.RunID != d.runID || !slices.Equal(one.Pages, []int{2}) || one.Position != 1 || one.Control != again.Sequence {
		t.Errorf("%s: %+v", r.Topic, one)
	}
	if resumed := unmarshal[schemas.RunResumed](w, results()); resumed.RunID != d.runID || resumed.Sequence != again.Sequence {
		t.Errorf("%+v", resumed)
	}
}

// A document that has ended is neither cancelled nor resumed: asking says how it ended.
func TestControlsOfAnEndedDocument(t *testing.T) {
	w := start(t, nil)
	now := time.Now()
	d := w.land(schemas.NewDocumentID(now), "A report", now, schemas.CompletedWithFailures)
	if done, err := w.api.Cancel(t.Context(), d.documentID); err != nil || done.Sequence != 0 || done.State != schemas.CompletedWithFailures {
		t.Errorf("%+v, %v", done, err)
	}
	if done, err := w.api.Resume(t.Context(), d.documentID); err != nil || done.Sequence != 0 || done.State != schemas.CompletedWithFailures {
		t.Errorf("%+v, %v", done, err)
	}

	// A shadow that is still at work is cancelled, and changes nothing of how the document ended.
	if err := w.db.Exec(t.Context(), `INSERT INTO runs (run_id, document_id, model, state, shadow, submitted_at, version)
		SELECT generateUUIDv4(), document_id, 'candidate', 'running', true, submitted_at, 1 FROM runs FINAL WHERE document_id = toUUID(?)`, d.documentID); err != nil {
		t.Fatal(err)
	}
	controls := w.tail(schemas.TopicControls)
	if done, err := w.api.Cancel(t.Context(), d.documentID); err != nil || done.Sequence == 0 || done.State != schemas.CompletedWithFailures {
		t.Errorf("%+v, %v", done, err)
	}
	if control := unmarshal[schemas.Control](w, controls()); control.DocumentID != d.documentID || control.Action != schemas.ActionCancel {
		t.Errorf("%+v", control)
	}
}

// The eraser deletes every object of a deleted document, more than one batch of them, and none of another's; then it
// asks for the rows to be deleted. It passes over what else is on the topic, and an instance that starts later knows what
// was deleted.
func TestDelete(t *testing.T) {
	w := start(t, nil)
	now := time.Now()
	d := w.land(schemas.NewDocumentID(now), "A report", now, schemas.Completed)
	other := w.land(schemas.NewDocumentID(now), "Another", now, schemas.Completed)
	const many = 2100
	for i := range many {
		w.put(t.Context(), fmt.Sprintf("%scrops/%05d", schemas.DocumentPrefix(d.documentID), i), nil, "")
	}
	produce, err := kafka.NewClient(w.cfg.Kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer produce.Close()
	for _, r := range []*kgo.Record{{Key: []byte(other.documentID)}, {Key: []byte("x"), Value: []byte("no control")}, {Value: []byte("{}")}} {
		r.Topic = schemas.TopicControls
		if err := produce.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	results := w.tail(schemas.TopicResults)
	done, err := w.api.Delete(t.Context(), d.documentID)
	if err != nil || done.Sequence == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := w.api.Get(t.Context(), d.documentID); client.Code(err) != "document-deleted" {
		t.Errorf("right after: %v", err)
	}
	deleted := unmarshal[schemas.DocumentDeleted](w, results())
	if deleted.DocumentID != d.documentID || deleted.Sequence != done.Sequence || deleted.Objects < many || deleted.RequestedAt.IsZero() || deleted.DeletedAt.IsZero() {
		t.Errorf("%+v", deleted)
	}
	if n, err := w.store.DeletePrefix(t.Context(), schemas.DocumentPrefix(d.documentID)); n != 0 || err != nil {
		t.Errorf("%d objects were left, %v", n, err)
	}
	if found, err := w.api.Get(t.Context(), other.documentID); err != nil || found.State != schemas.Completed {
		t.Errorf("the other document: %+v, %v", found, err)
	}
	if exists, err := w.store.Exists(t.Context(), schemas.SourceKey(other.documentID)); !exists || err != nil {
		t.Errorf("the other document's source: %v, %v", exists, err)
	}
	// The rows are the recorder's to delete, and there is none here: they are not shown all the same.
	for listed, err := range w.api.List(t.Context(), client.Filter{}) {
		if err != nil || listed.DocumentID == d.documentID {
			t.Errorf("listed: %+v, %v", listed, err)
		}
	}
	if response, page := w.get("/documents/" + d.documentID); response.StatusCode != 410 || !strings.Contains(string(page), "document-deleted") {
		t.Errorf("its page: %d", response.StatusCode)
	}

	w.stop()
	w.until("the API has stopped listening", func() bool { return w.status("/livez") == 0 })
	w.run()
	w.until("the API is ready again", func() bool { return w.status("/readyz") == 200 })
	if _, err := w.api.Get(t.Context(), d.documentID); client.Code(err) != "document-deleted" {
		t.Errorf("after a restart: %v", err)
	}
}
