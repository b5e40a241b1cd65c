package submission_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/submission"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/filetype"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// servers are an object store and a Kafka that write down what is asked of them, in order, and fail where they are told.
type servers struct {
	mu      sync.Mutex
	steps   []string
	objects map[string][]byte
	outs    []stage.Out
	fail    string // the step that fails
	err     error
	during  func(step string) // what happens meanwhile
	asked   *controls.Set
}

func newServers() *servers {
	return &servers{objects: map[string][]byte{}, during: func(string) {}, asked: controls.New(nil)}
}

func (s *servers) step(name string) error {
	s.steps = append(s.steps, name)
	s.during(name)
	if s.fail == name {
		return s.err
	}
	return nil
}

func (s *servers) PutReader(_ context.Context, key string, r io.ReadSeeker, _ int64, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step("source"); err != nil {
		return err
	}
	body, err := io.ReadAll(r)
	s.objects[key] = body
	return err
}

func (s *servers) Put(_ context.Context, key string, body []byte, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step("marker"); err != nil {
		return err
	}
	s.objects[key] = bytes.Clone(body)
	return nil
}

func (s *servers) Get(_ context.Context, key string, _ int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if body, ok := s.objects[key]; ok {
		return body, nil
	}
	return nil, fault.Permanentf(objectstore.CodeMissing, "%s", key)
}

func (s *servers) OpenURI(context.Context, string) (io.ReadCloser, objectstore.Info, error) {
	return nil, objectstore.Info{}, errors.New("not asked for here")
}

func (s *servers) Delete(_ context.Context, keys ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		delete(s.objects, key)
	}
	return s.step("delete")
}

func (s *servers) URI(key string) string { return "s3://bucket/" + key }

func (s *servers) Produce(ctx context.Context, outs ...stage.Out) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step("record"); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			<-ctx.Done() // Kafka that says nothing
		}
		return err
	}
	s.outs = append(s.outs, outs...)
	return nil
}

func (s *servers) again() { s.steps, s.fail = nil, "" }

// bench is a desk with a clock that goes on by a second at each submission.
type bench struct {
	*testing.T
	*servers
	desk  *submission.Desk
	spool *upload.Spool
}

func newBench(t *testing.T) *bench {
	t.Helper()
	spool, err := upload.NewSpool(t.TempDir(), 1<<30, 4, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newServers()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	desk := submission.NewDesk(s, s, s.asked, 1<<20, 50*time.Millisecond, func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		now = now.Add(time.Second)
		return now
	})
	return &bench{T: t, servers: s, desk: desk, spool: spool}
}

func (b *bench) submit(body, key string, d schemas.DocumentSubmitted) (schemas.DocumentSubmitted, error) {
	b.Helper()
	file, err := b.spool.NewFile(0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, err := io.WriteString(file, body); err != nil {
		b.Fatal(err)
	}
	return b.desk.Upload(b.Context(), d, filetype.PDF, file, submission.Key{Idempotency: key})
}

func codeOf(err error) string {
	var p *problem.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return fmt.Sprint(err)
}

// An id is told only when everything behind it is there, so the record comes last.
func TestOrder(t *testing.T) {
	for key, want := range map[string]string{"": "source marker record", "k": "marker source record marker"} {
		b := newBench(t)
		if _, err := b.submit("%PDF-1", key, schemas.DocumentSubmitted{}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(b.steps, " "); got != want {
			t.Errorf("key %q: %s, want %s", key, got, want)
		}
	}
}

func TestAFaultAnywhereTellsNoID(t *testing.T) {
	for _, c := range []struct {
		step string
		err  error
		code string
	}{
		{"source", fault.AsUnavailable("s3", io.ErrUnexpectedEOF), "s3-unavailable"},
		{"marker", fault.AsUnavailable("s3", io.ErrUnexpectedEOF), "s3-unavailable"},
		{"record", fault.AsUnavailable("kafka", io.ErrUnexpectedEOF), "kafka-unavailable"},
		{"record", fault.AsUnavailable("kafka", context.DeadlineExceeded), "kafka-unavailable"},
	} {
		for _, key := range []string{"", "k"} {
			b := newBench(t)
			b.fail, b.err = c.step, c.err
			if _, err := b.submit("%PDF-1", key, schemas.DocumentSubmitted{}); codeOf(err) != c.code {
				t.Errorf("%s fails, key %q: %v", c.step, key, err)
			}
			if len(b.outs) != 0 {
				t.Errorf("%s fails, key %q: a record was produced", c.step, key)
			}
			// The same again, with everything well, is taken; under a key as the same document of the same moment.
			b.again()
			d, err := b.submit("%PDF-1", key, schemas.DocumentSubmitted{})
			if err != nil || len(b.outs) != 1 {
				t.Errorf("%s failed, key %q: again: %v, %d records", c.step, key, err, len(b.outs))
			}
			if string(b.objects[schemas.SourceKey(d.DocumentID)]) != "%PDF-1" {
				t.Errorf("%s failed, key %q: the source is not there", c.step, key)
			}
		}
	}
}

// Between the record and the second marker a crash may come: the record is then produced again, and must be the same to
// the byte, its time of submission before all.
func TestRepetitionAfterACrashProducesTheSameRecord(t *testing.T) {
	b := newBench(t)
	first, err := b.submit("%PDF-1", "k", schemas.DocumentSubmitted{Title: "T", Pages: "1-3"})
	if err != nil {
		t.Fatal(err)
	}
	marker := submission.MarkerKey(first.DocumentID)
	var s submission.Submission
	if err := json.Unmarshal(b.objects[marker], &s); err != nil {
		t.Fatal(err)
	}
	if !s.Produced {
		t.Fatal("the marker does not say that the record was acknowledged")
	}
	s.Produced = false // as the crash would have left it
	if b.objects[marker], err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	second, err := b.submit("%PDF-1", "k", schemas.DocumentSubmitted{Title: "T", Pages: "1,2,3"})
	if err != nil || second.DocumentID != first.DocumentID || !second.SubmittedAt.Equal(first.SubmittedAt) {
		t.Errorf("%+v, %v", second, err)
	}
	if len(b.outs) != 2 || !bytes.Equal(b.outs[0].Value, b.outs[1].Value) || b.outs[0].Headers[schemas.HeaderID] != b.outs[1].Headers[schemas.HeaderID] {
		t.Errorf("%d records, not the same", len(b.outs))
	}
	b.again()
	if third, err := b.submit("%PDF-1", "k", schemas.DocumentSubmitted{Title: "T", Pages: "-3"}); err != nil || third.DocumentID != first.DocumentID || len(b.steps) != 0 {
		t.Errorf("acknowledged, and repeated: %v, %v was done", err, b.steps)
	}
}

// A deleted document does not come back by its key, and what was stored while it was being deleted does not stay.
func TestAKeyOfADeletedDocument(t *testing.T) {
	id := schemas.DocumentIDForKey("", "k")
	remove := func(b *bench) {
		b.asked.Asked(schemas.Control{DocumentID: id, Action: schemas.ActionDelete, Sequence: 1})
		clear(b.objects) // as the eraser does
	}
	for _, when := range []string{"before", "source", "record"} {
		b := newBench(t)
		if when == "before" {
			remove(b)
		}
		b.during = func(step string) {
			if step == when {
				remove(b)
			}
		}
		if _, err := b.submit("%PDF-1", "k", schemas.DocumentSubmitted{}); codeOf(err) != "idempotency-deleted" {
			t.Errorf("deleted %s: %v", when, err)
		}
		if len(b.objects) != 0 || len(b.outs) != 0 && when != "record" {
			t.Errorf("deleted %s: there are %d objects and %d records", when, len(b.objects), len(b.outs))
		}
		b.during = func(string) {}
		if _, err := b.submit("%PDF-1", "another", schemas.DocumentSubmitted{}); err != nil {
			t.Errorf("deleted %s: another key: %v", when, err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	padding, same := 4, 4
	base := schemas.DocumentSubmitted{SHA256: "ab", Bytes: 2, Title: "T", Models: []string{"m"}, DPI: 108, Pages: "1-3",
		Thresholds: map[string]float64{"a": 0.1, "b": 0.2}, CropPadding: &padding, WebhookURL: "https://example.org"}
	for name, c := range map[string]struct {
		change func(*schemas.DocumentSubmitted)
		same   bool
	}{
		"another id, time, name and type": {func(d *schemas.DocumentSubmitted) {
			d.DocumentID, d.SubmittedAt, d.FileName, d.ContentType = "x", time.Now(), "other.pdf", "image/png"
		}, true},
		"the same pages otherwise":    {func(d *schemas.DocumentSubmitted) { d.Pages = "3,1-2" }, true},
		"the same padding":            {func(d *schemas.DocumentSubmitted) { d.CropPadding = &same }, true},
		"the same model otherwise":    {func(d *schemas.DocumentSubmitted) { d.Model, d.Models = "m", nil }, true},
		"the same bytes elsewhere":    {func(d *schemas.DocumentSubmitted) { d.Source = "s3://b/k" }, true},
		"other bytes":                 {func(d *schemas.DocumentSubmitted) { d.SHA256 = "cd" }, false},
		"another title":               {func(d *schemas.DocumentSubmitted) { d.Title = "t" }, false},
		"another model":               {func(d *schemas.DocumentSubmitted) { d.Models = []string{"m", "n"} }, false},
		"other pages":                 {func(d *schemas.DocumentSubmitted) { d.Pages = "1-4" }, false},
		"another threshold":           {func(d *schemas.DocumentSubmitted) { d.Thresholds = map[string]float64{"a": 0.1, "b": 0.3} }, false},
		"no padding":                  {func(d *schemas.DocumentSubmitted) { d.CropPadding = nil }, false},
		"another webhook":             {func(d *schemas.DocumentSubmitted) { d.WebhookURL = "" }, false},
		"a source instead of a file":  {func(d *schemas.DocumentSubmitted) { d.SHA256, d.Source = "", "s3://b/k" }, false},
		"another resolution of pages": {func(d *schemas.DocumentSubmitted) { d.DPI = 150 }, false},
	} {
		d := base
		c.change(&d)
		if got := submission.Fingerprint(d) == submission.Fingerprint(base); got != c.same {
			t.Errorf("%s: same %v", name, got)
		}
	}
}

// Callers under one key take turns, callers under others do not wait for them.
func TestTurns(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if _, err := b.submit("%PDF-1", fmt.Sprintf("k%d", i%4), schemas.DocumentSubmitted{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(b.outs) != 4 {
		t.Errorf("%d records for 4 keys", len(b.outs))
	}
}
