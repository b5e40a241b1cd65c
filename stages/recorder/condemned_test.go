package recorder

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// giveUp condemns a record of p and adds what is said in its place.
func giveUp(t *testing.T, r *Recorder, p *partition, in stage.In, code string, err error) []stage.Out {
	t.Helper()
	outs := r.Stage().Condemned(in, code, err)
	for _, out := range outs {
		if out.Topic != schemas.TopicResults || out.Key != docA {
			t.Fatalf("%+v", out)
		}
		p.in = append(p.in, stage.In{Topic: out.Topic, Offset: int64(len(p.in)), Timestamp: day0.Add(time.Hour), Key: out.Key, Value: out.Value})
	}
	return outs
}

// A document whose record is given up still shows, and the end of its run still reaches whoever waits for it.
func TestDocumentGivenUpStillShows(t *testing.T) {
	tables := newMemory()
	r := newRecorder(t, tables)
	run := runOf(docA, 1)
	p := (&partition{t: t}).add(accepted(docA, strings.Repeat("ü", 4000)), planned(run), done(run, 1, 2))
	if events := handle(t, r, p.in[1:], 1); len(events) != 0 {
		t.Fatalf("%+v", events)
	}
	if outs := giveUp(t, r, p, p.in[0], "crashed-consumer", errors.New("it died")); len(outs) != 1 {
		t.Fatalf("%d records stand in for it, want 1", len(outs))
	}
	events := handle(t, r, p.in[3:], 1)
	if len(events) != 1 || events[0].WebhookURL == "" || len(events[0].Title) != leastTitle || !utf8.ValidString(events[0].Title) {
		t.Errorf("%+v", events)
	}
	if row := tables.documents[[2]any{day0.UnixMilli(), docA}]; row.SourceURI != "s3://b/"+docA || row.SHA256 != "" {
		t.Errorf("%+v", row)
	}
	// Given up again, it is the end of it: no record is to beget others for ever.
	if outs := giveUp(t, r, p, p.in[3], "crashed-consumer", errors.New("it died")); len(outs) != 0 {
		t.Errorf("%s", outs[0].Value)
	}
}

// A time that no table holds is every record's of the document. It shows nevertheless, as failed.
func TestDocumentOfNoStorableTimeShowsAsFailed(t *testing.T) {
	tables := newMemory()
	r := newRecorder(t, tables)
	d, run := accepted(docA, "Report"), runOf(docA, 1)
	d.SHA256, d.Bytes, d.PageCount = "", 0, 0 // as of a document that could not be opened
	d.SubmittedAt, run.SubmittedAt = time.Unix(0, 0).UTC(), time.Unix(0, 0).UTC()
	p := (&partition{t: t}).add(d, planned(run))
	for i, result := range r.Handle(context.Background(), p.in[:2]) {
		if fault.ClassOf(result.Err) != fault.Permanent {
			t.Fatalf("%v", result.Err)
		}
		if outs := giveUp(t, r, p, p.in[i], fault.CodeOf(result.Err), result.Err); len(outs) != 1 {
			t.Fatalf("%d records stand in for %s", len(outs), p.in[i].Value)
		}
	}
	events := handle(t, r, p.in[2:], 1)
	if len(events) != 1 || events[0].State != schemas.Failed || events[0].Code != "bad-record" || events[0].Title != "Report" {
		t.Errorf("%+v", events)
	}
	if row, ok := tables.documents[[2]any{p.in[0].Timestamp.UnixMilli(), docA}]; !ok || row.Title != "Report" {
		t.Errorf("%+v", tables.documents)
	}
}

func TestCondemnedErrorIsBounded(t *testing.T) {
	run := runOf(docA, 1)
	p := (&partition{t: t}).add(planned(run), done(run, 1, 1))
	r := newRecorder(t, newMemory())
	for _, in := range p.in[:2] {
		outs := giveUp(t, r, p, in, "row-rejected", errors.New(strings.Repeat("long ", 1<<18)+"\xff"))
		if len(outs) != 1 || len(outs[0].Value) > 16<<10 || !utf8.Valid(outs[0].Value) {
			t.Fatalf("%d records, the first of %d bytes", len(outs), len(outs[0].Value))
		}
	}
}
