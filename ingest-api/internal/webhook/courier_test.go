package webhook_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"leafcutter/ingest-api/internal/webhook"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// page is a book of one delivery that cannot be written while broken is set.
type page struct {
	row    webhook.Delivery
	writes int
	broken error
}

func (p *page) Read(context.Context, string, string) (webhook.Delivery, error) { return p.row, nil }

func (p *page) Write(_ context.Context, row webhook.Delivery) error {
	if p.broken != nil {
		return p.broken
	}
	p.row, p.writes = row, p.writes+1
	return nil
}

// script answers posts one after the other; the last answer for ever.
type script struct {
	answers []webhook.Answer
	errs    []error
	posts   int
}

func (s *script) Post(context.Context, string, string, []byte) (webhook.Answer, error) {
	i := min(s.posts, len(s.answers)-1)
	s.posts++
	return s.answers[i], s.errs[i]
}

func event(t testing.TB, target string) schemas.RunEnded {
	t.Helper()
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	id := schemas.NewDocumentID(at)
	e := schemas.RunEnded{DocumentID: id, RunID: schemas.NewDocumentID(at), Title: "T", Model: "m", State: schemas.Completed, PagesSelected: 2, PagesDone: 2,
		SubmittedAt: at, FinishedAt: at.Add(time.Second), WebhookURL: target}
	e.ID = e.EventID()
	return e
}

func record(t testing.TB, e schemas.RunEnded, attempt int) stage.In {
	t.Helper()
	value, err := schemas.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return stage.In{Topic: schemas.TopicDocumentEvents, Key: e.DocumentID, Value: value, Headers: map[string]string{}, Attempt: attempt}
}

var config = webhook.Config{Secrets: []string{secretA}, Timeout: time.Second, Retries: []time.Duration{time.Second, time.Minute}}

// handle gives the result of a record whose turn it is.
func handle(t testing.TB, c *webhook.Courier, in stage.In) error {
	t.Helper()
	if wait := c.Hold(in); wait > 0 {
		t.Fatalf("held for %s", wait)
	}
	return c.Handle(t.Context(), in).Err
}

// A post whose row cannot be written is not made again: only the row is.
func TestNothingIsPostedTwiceWhileTheTableIsAway(t *testing.T) {
	book := &page{broken: fault.AsUnavailable("clickhouse", errors.New("away"))}
	poster := &script{answers: []webhook.Answer{{Status: 200}}, errs: []error{nil}}
	c := webhook.NewCourier(poster, book, config, time.Now)
	in := record(t, event(t, "https://example.org"), 1)
	for range 3 {
		if err := handle(t, c, in); fault.ClassOf(err) != fault.Unavailable {
			t.Fatal(err)
		}
	}
	book.broken = nil
	for range 2 {
		if err := handle(t, c, in); err != nil {
			t.Fatal(err)
		}
	}
	if poster.posts != 1 || book.writes != 1 || book.row.State != webhook.Delivered || book.row.Attempts != 1 {
		t.Errorf("%d posts, %d rows, %+v", poster.posts, book.writes, book.row)
	}
}

// Each try is written down, the pause of a receiver that asks for a longer one is kept, and the last try is the end.
func TestTriesAndTheirEnd(t *testing.T) {
	now := time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)
	book := &page{}
	down := fault.AsTransient(webhook.CodeUndelivered, errors.New("503"))
	poster := &script{answers: []webhook.Answer{{Status: 503, Wait: 10 * time.Minute}, {Status: 503}}, errs: []error{down, down}}
	c := webhook.NewCourier(poster, book, config, func() time.Time { return now })
	e := event(t, "https://example.org")
	if err := handle(t, c, record(t, e, 1)); fault.ClassOf(err) != fault.Transient {
		t.Fatal(err)
	}
	if wait := book.row.NextAt.Sub(now); book.row.State != webhook.Pending || wait < 10*time.Minute || wait > 12*time.Minute {
		t.Errorf("%+v", book.row)
	}
	if wait := c.Hold(record(t, e, 2)); wait < 10*time.Minute {
		t.Errorf("held for %s", wait)
	}
	now = now.Add(12 * time.Minute)
	if err := handle(t, c, record(t, e, 2)); fault.ClassOf(err) != fault.Transient {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Minute)
	if err := handle(t, c, record(t, e, 3)); fault.ClassOf(err) != fault.Permanent || fault.CodeOf(err) != webhook.CodeUndelivered {
		t.Fatal(err)
	}
	if book.row.State != webhook.Failed || book.row.Attempts != 3 || poster.posts != 3 || book.row.Status != 503 {
		t.Errorf("%d posts, %+v", poster.posts, book.row)
	}
	// Read again from the topic it stays what it is; a replayed letter is posted, as often as any.
	if err := handle(t, c, record(t, e, 1)); fault.ClassOf(err) != fault.Permanent || poster.posts != 3 {
		t.Errorf("%d posts, %v", poster.posts, err)
	}
	poster.answers, poster.errs = []webhook.Answer{{Status: 204}}, []error{nil}
	replayed := record(t, e, 1)
	replayed.Headers[schemas.HeaderLetter] = "x"
	if err := handle(t, c, replayed); err != nil || book.row.State != webhook.Delivered || book.row.Attempts != 4 {
		t.Errorf("%v, %+v", err, book.row)
	}
}

// The events of a receiver that is gone leave after their tries, whether it was asked each time or not.
func TestEventsOfAReceiverThatIsGoneLeave(t *testing.T) {
	now := time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)
	poster := &script{answers: []webhook.Answer{{}}, errs: []error{fault.AsTransient(webhook.CodeUndelivered, errors.New("refused"))}}
	book := &page{}
	c := webhook.NewCourier(poster, book, config, func() time.Time { return now })
	for n := range 50 {
		in := record(t, event(t, "https://example.org/"+string(rune('a'+n%26))), len(config.Retries)+1)
		in.Offset = int64(n)
		book.row = webhook.Delivery{}
		if err := handle(t, c, in); fault.ClassOf(err) != fault.Permanent || book.row.State != webhook.Failed {
			t.Fatalf("%v, %+v", err, book.row)
		}
	}
	if poster.posts != 5 {
		t.Errorf("%d posts", poster.posts)
	}
}

func TestWithoutASecretNothingIsPosted(t *testing.T) {
	book, poster := &page{}, &script{}
	c := webhook.NewCourier(poster, book, webhook.Config{Timeout: time.Second}, time.Now)
	if err := handle(t, c, record(t, event(t, "https://example.org"), 1)); fault.ClassOf(err) != fault.Permanent || book.row.State != webhook.Failed {
		t.Errorf("%v, %+v", err, book.row)
	}
	if err := handle(t, c, record(t, event(t, ""), 1)); err != nil || book.writes != 1 {
		t.Errorf("an event that nobody wants to be told: %v", err)
	}
	if err := handle(t, c, stage.In{Value: []byte(`{"type":"RunEnded","document_id":"x"}`), Attempt: 1}); fault.CodeOf(err) != webhook.CodeRecord {
		t.Errorf("%v", err)
	}
}
