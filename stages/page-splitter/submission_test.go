package pagesplitter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/render"
	"leafcutter/stages/page-splitter/internal/sourcecache"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

// TestOverwrittenSource: whoever replaces an object and submits it again gets the
// new pages, and no run gets the pages of both.
func TestOverwrittenSource(t *testing.T) {
	b := newBench(t)
	accepted := func(d schemas.DocumentSubmitted) schemas.DocumentAccepted {
		t.Helper()
		outs, result := handle(t, b.planner.Stage(), reference(t, d))
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		return on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)[0]
	}
	const one, two = "0190a1b2-c3d4-7e5f-8a6b-000000000001", "0190a1b2-c3d4-7e5f-8a6b-000000000002"
	source := b.put(t, "inbox/report.pdf", testpdf.Text(2))
	ranges := b.planned(t, schemas.DocumentSubmitted{DocumentID: one, Source: source})
	old := accepted(schemas.DocumentSubmitted{DocumentID: one, Source: source})

	b.put(t, "inbox/report.pdf", testpdf.Text(5))
	for name, d := range map[string]schemas.DocumentSubmitted{
		"another document": {DocumentID: two, Source: source},
		"the same again":   {DocumentID: one, Source: source},
	} {
		if a := accepted(d); a.PageCount != 5 || a.SHA256 == old.SHA256 {
			t.Errorf("%s: %+v", name, a)
		}
	}

	// The run that was planned for two pages is told so, and is not given the new ones.
	if r := on[schemas.PageRange](t, asOuts(ranges), ranges[0].Topic); r[0].SHA256 != old.SHA256 {
		t.Errorf("the range is of the document %q", r[0].SHA256)
	}
	outs, result := handle(t, b.splitter.Stage(), ranges[0])
	failed := on[schemas.PageFailed](t, outs, schemas.TopicResults)
	if fault.CodeOf(result.Err) != sourcecache.CodeChanged || len(outs) != 2 || len(failed) != 2 || failed[0].Code != sourcecache.CodeChanged {
		t.Errorf("%v: %+v", result.Err, failed)
	}

	// Who names the digest gets that document or none.
	pinned := accepted(schemas.DocumentSubmitted{DocumentID: two, Source: source})
	if a := accepted(schemas.DocumentSubmitted{Source: source, SHA256: strings.ToUpper(pinned.SHA256)}); a.SHA256 != pinned.SHA256 {
		t.Errorf("submitted with its digest: %+v", a)
	}
	outs, result = handle(t, b.planner.Stage(), reference(t, schemas.DocumentSubmitted{Source: source, SHA256: old.SHA256}))
	if ended := on[schemas.RunFailed](t, outs, schemas.TopicResults); fault.CodeOf(result.Err) != sourcecache.CodeChanged || len(ended) != 1 || ended[0].Code != sourcecache.CodeChanged {
		t.Errorf("submitted with another digest: %v, %+v", result.Err, ended)
	}
}

// TestFaultySubmissionIsNotCopied: what tells of a fault holds what is sound of the
// submission, and is small however large that was.
func TestFaultySubmissionIsNotCopied(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("x", 100<<10)
	huge := schemas.DocumentSubmitted{Title: long, FileName: long, Source: "s3://b/" + long, ContentType: long, SHA256: long, Bytes: -5, Pages: "1," + long,
		DPI: 1 << 40, WebhookURL: "https://example.com/" + long, Thresholds: map[string]float64{}}
	for i := range 2000 {
		huge.Thresholds[fmt.Sprintf("class-%060d", i)] = 0.5
		huge.Models = append(huge.Models, fmt.Sprintf("model-%d", i))
	}
	outs, result := handle(t, b.planner.Stage(), reference(t, huge))
	if fault.CodeOf(result.Err) != CodeRecord || len(outs) != 1+schemas.MaxModels {
		t.Fatalf("%v, %d records", result.Err, len(outs))
	}
	for _, out := range outs {
		if len(out.Value) > 6<<10 {
			t.Errorf("%s of %d bytes", out.Headers[schemas.HeaderSchema], len(out.Value))
		}
	}
	a := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)[0]
	a.DocumentID = ""
	if want := (schemas.DocumentAccepted{Title: long[:schemas.MaxTitle], SubmittedAt: submittedAt}); a != want {
		t.Errorf("accepted %+v", a)
	}

	padding := 3
	sound := schemas.DocumentSubmitted{Title: "Report", Source: "s3://b/report.pdf", ContentType: "application/pdf", SHA256: strings.Repeat("a", 64), Bytes: 7, DPI: 72,
		Pages: "1-3", Thresholds: map[string]float64{"title": 0.5}, CropPadding: &padding, WebhookURL: "https://example.com/hook", Models: []string{"layout_cdla", "No!"}}
	outs, _ = handle(t, b.planner.Stage(), reference(t, sound))
	a, f := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)[0], on[schemas.RunFailed](t, outs, schemas.TopicResults)
	if a.Title != "Report" || a.Source != sound.Source || a.ContentType != sound.ContentType || a.SHA256 != sound.SHA256 || a.Bytes != 7 || a.WebhookURL != sound.WebhookURL {
		t.Errorf("accepted %+v", a)
	}
	if len(f) != 1 || f[0].Options.DPI != 72 || f[0].Options.Pages != "1-3" || f[0].Options.CropPadding != 3 || f[0].Options.Threshold("title") != 0.5 || f[0].Options.Model != "layout_cdla" {
		t.Errorf("failed %+v", f)
	}
}

// TestUnreadableRecordHasNoTitle, where the name of its source would be taken for one.
func TestUnreadableRecordHasNoTitle(t *testing.T) {
	b := newBench(t)
	outs, _ := handle(t, b.planner.Stage(), record([]byte(`{"source":`), nil))
	if a := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults); len(a) != 1 || a[0].Title != "" {
		t.Errorf("accepted %+v", a)
	}
}

// TestTimeOfSubmission: any time that a producer gives becomes one that can be
// stored, the same whenever the record is read.
func TestTimeOfSubmission(t *testing.T) {
	good, early, late := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC), time.Unix(-1, 0), time.Date(2250, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct{ given, stamped, want time.Time }{
		{good, submittedAt, good},
		{good, early, good},
		{time.Time{}, submittedAt, submittedAt},
		{early, submittedAt, submittedAt},
		{late, submittedAt, submittedAt},
		{late, early, schemas.MinTime},
		{time.Time{}, late, schemas.MinTime},
	} {
		in := reference(t, schemas.DocumentSubmitted{Source: "s3://b/k", SubmittedAt: c.given})
		in.Timestamp = c.stamped
		s, err := readSubmission(in)
		if err != nil || s.SubmittedAt != c.want {
			t.Errorf("given %s at %s: %s, %v", c.given, c.stamped, s.SubmittedAt, err)
		}
		raw := record(testpdf.Text(1), nil)
		raw.Timestamp = c.stamped
		want := c.stamped
		if !schemas.StorableTime(want) {
			want = schemas.MinTime
		}
		if s, err := readSubmission(raw); err != nil || s.SubmittedAt != want {
			t.Errorf("a document at %s: %s, %v", c.stamped, s.SubmittedAt, err)
		}
	}
	outs, result := handle(t, newBench(t).planner.Stage(), record([]byte(`{"source":"s3://secrets/x","submitted_at":"9999-12-31T23:59:59Z"}`), nil))
	if a := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults); fault.CodeOf(result.Err) != objectstore.CodeSource || len(a) != 1 || !a[0].SubmittedAt.Equal(submittedAt) {
		t.Errorf("%v: %+v", result.Err, a)
	}
}

// TestSourceIsNamedWhereItIs: a document that came as the record is stored by the
// planner, and what failed before that names no source.
func TestSourceIsNamedWhereItIs(t *testing.T) {
	b := newBench(t)
	for code, stored := range map[string]bool{
		render.CodeEncrypted: true, render.CodeCrashed: true, CodeNoSelection: true, sourcecache.CodeChanged: true,
		CodeUnknownModel: false, "model-unavailable": false, "s3-unavailable": false, "s3-error": false, "crashed-consumer": false, "panic": false,
	} {
		outs := b.planner.Stage().Condemned(record(testpdf.Text(1), nil), code, errors.New("why"))
		a := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)[0]
		if want := b.store.URI(schemas.SourceKey(a.DocumentID)); a.Source != want && stored || a.Source != "" && !stored {
			t.Errorf("%s: source %q", code, a.Source)
		}
	}
	outs := b.planner.Stage().Condemned(reference(t, schemas.DocumentSubmitted{Source: "s3://b/k"}), "s3-unavailable", errors.New("why"))
	if a := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)[0]; a.Source != "s3://b/k" {
		t.Errorf("a reference: source %q", a.Source)
	}
}

func FuzzSoundPart(f *testing.F) {
	f.Add([]byte(`{"source":"s3://b/k","dpi":7,"thresholds":{"x":2},"pages":"3-"}`))
	f.Add([]byte(`{"source":7,"webhook_url":"ftp://x","submitted_at":"9999-12-31T23:59:59Z"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		var d schemas.DocumentSubmitted
		_ = json.Unmarshal(value, &d) // as far as it can be read, which is what is made sound
		s := soundPart(d)
		s.DocumentID = ""
		if s.Source == "" {
			s.Source = "s3://bucket/key"
		}
		if err := s.Validate(); err != nil {
			t.Fatalf("what is sound of it is not: %v", err)
		}
	})
}
