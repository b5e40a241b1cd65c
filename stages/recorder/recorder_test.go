package recorder

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	day0    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	docA    = "0198a000-0000-7000-8000-00000000000a"
	docB    = "0198a000-0000-7000-8000-00000000000b"
	options = schemas.RunOptions{Model: "layout_cdla", ModelDigest: "d1", DPI: 108, Pages: "all",
		Thresholds: map[string]float64{"*": 0.4}, CropPadding: 4, Renderer: "r1"}
)

func runOf(document string, pages int) schemas.Run {
	return schemas.Run{DocumentID: document, RunID: schemas.RunID(document, options), SubmittedAt: day0,
		Source: "s3://b/" + document, ContentType: "application/pdf", PagesSelected: pages, Options: options}
}

func accepted(document, title string) schemas.DocumentAccepted {
	return schemas.DocumentAccepted{DocumentID: document, Title: title, Source: "s3://b/" + document, ContentType: "application/pdf",
		SHA256: "ab", Bytes: 1000, PageCount: 3, SubmittedAt: day0, WebhookURL: "https://example.org/hook"}
}

func planned(r schemas.Run) schemas.RunPlanned {
	return schemas.RunPlanned{Run: r, Pages: []schemas.PageSpan{{First: 1, Last: max(1, r.PagesSelected)}}, PlannedAt: day0.Add(time.Second)}
}

func done(r schemas.Run, page, boxes int) schemas.PageDone {
	d := schemas.PageDone{RenderedPage: schemas.RenderedPage{Run: r, Page: page, Position: page - 1,
		ImageKey: schemas.PageImageKey(r.DocumentID, 108, "r1", page), Width: 918, Height: 1188, DPI: 108, RenderMS: 12},
		AnnotatedKey: schemas.AnnotatedKey(r.DocumentID, r.RunID, page), QueueMS: 1, InferMS: 90, AnnotateMS: 20,
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", DetectedAt: day0.Add(3 * time.Second)}
	for k := range boxes {
		d.Boxes = append(d.Boxes, schemas.CutBox{Box: schemas.Box{Class: []string{"title", "text", "table"}[k%3],
			Score: 0.9 - float64(k)/20, Rect: [4]float64{10.25, float64(20 * k), 200.5, float64(20*k + 15)}},
			CropKey: fmt.Sprintf("crop-%d-%d", page, k), Text: "Text"})
	}
	return d
}

func failed(r schemas.Run, page int, code string) schemas.PageFailed {
	return schemas.PageFailed{Run: r, Page: page, Stage: "splitter", Code: code, Error: "what went wrong", FailedAt: day0.Add(2 * time.Second)}
}

// partition is one partition of the topic results: offsets and times are given as records are added.
type partition struct {
	t  testing.TB
	id int32
	in []stage.In
}

func (p *partition) add(records ...schemas.Result) *partition {
	for _, r := range records {
		value, err := schemas.Marshal(r)
		if err != nil {
			p.t.Fatal(err)
		}
		p.in = append(p.in, stage.In{Topic: schemas.TopicResults, Partition: p.id, Offset: int64(len(p.in)),
			Timestamp: day0.Add(time.Duration(10+len(p.in)) * time.Second), Key: r.Document(), Value: value, Attempt: 1})
	}
	return p
}

func newRecorder(t testing.TB, tables tables) *Recorder {
	t.Helper()
	r, err := build(Config{}, tables)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// handle hands in to r in batches of n, and gives the events said, failing the test where a record failed.
func handle(t testing.TB, r *Recorder, in []stage.In, n int) []schemas.RunEnded {
	t.Helper()
	var events []schemas.RunEnded
	for part := range slices.Chunk(in, n) {
		for i, result := range r.Handle(context.Background(), part) {
			if result.Err != nil {
				t.Fatalf("record %d: %v", part[i].Offset, result.Err)
			}
			events = append(events, eventsOf(t, result)...)
		}
	}
	return events
}

func eventsOf(t testing.TB, result stage.Result) []schemas.RunEnded {
	t.Helper()
	var events []schemas.RunEnded
	for _, out := range result.Out {
		e, err := schemas.Unmarshal[schemas.RunEnded](out.Value)
		if err != nil || out.Topic != schemas.TopicDocumentEvents || out.Key != e.DocumentID {
			t.Fatalf("not an event of its document: %v %+v", err, out)
		}
		events = append(events, e)
	}
	return events
}

func TestRunIsFollowedFromPlanToEnd(t *testing.T) {
	tables := newMemory()
	r := newRecorder(t, tables)
	run := runOf(docA, 3)
	p := &partition{t: t}
	p.add(accepted(docA, "Report"), planned(run), done(run, 1, 2), failed(run, 2, "render-failed"), done(run, 3, 1))
	for i, want := range []struct {
		state        schemas.State
		done, failed uint32
	}{{"", 0, 0}, {schemas.Queued, 0, 0}, {schemas.Running, 1, 0}, {schemas.Running, 1, 1}, {schemas.CompletedWithFailures, 2, 1}} {
		events := handle(t, r, p.in[i:i+1], 1)
		row := tables.runs[[3]any{day0.UnixMilli(), docA, run.RunID}]
		if row.State != want.state || row.PagesDone != want.done || row.PagesFailed != want.failed {
			t.Fatalf("after record %d: %s, %d done, %d failed; want %+v", i, row.State, row.PagesDone, row.PagesFailed, want)
		}
		if (len(events) == 1) != want.state.Final() {
			t.Fatalf("after record %d: %d events", i, len(events))
		}
		if i < 4 {
			continue
		}
		event := schemas.RunEnded{DocumentID: docA, RunID: run.RunID, Title: "Report", Model: "layout_cdla",
			State: schemas.CompletedWithFailures, PagesSelected: 3, PagesDone: 2, PagesFailed: 1, Boxes: 3,
			SubmittedAt: day0, FinishedAt: p.in[4].Timestamp, WebhookURL: "https://example.org/hook"}
		event.ID = event.EventID()
		if diff := cmp.Diff(event, events[0]); diff != "" {
			t.Errorf("event (-want +got):\n%s", diff)
		}
		want := runRow{RunID: run.RunID, DocumentID: docA, Model: "layout_cdla", ModelDigest: "d1", Options: options.Canonical(), DPI: 108,
			PagesSelected: 3, PagesDone: 2, PagesFailed: 1, Boxes: 3, State: schemas.CompletedWithFailures,
			PlannedAt: day0.Add(time.Second).UnixMilli(), FirstResultAt: p.in[2].Timestamp.UnixMilli(),
			FinishedAt: p.in[4].Timestamp.UnixMilli(), SubmittedAt: day0.UnixMilli(),
			Decision: schemas.RowVersion(p.in[1].Timestamp, 1), Version: schemas.RowVersion(p.in[4].Timestamp, 4) | outranks}
		if diff := cmp.Diff(want, row); diff != "" {
			t.Errorf("row (-want +got):\n%s", diff)
		}
	}
}

func TestWaysToEnd(t *testing.T) {
	run := runOf(docA, 2)
	none := runOf(docA, 0)
	early := run
	early.PagesSelected = 0
	cancelled := schemas.RunCancelled{DocumentID: docA, RunID: run.RunID, SubmittedAt: day0, Sequence: 5, CancelledAt: day0}
	again := cancelled
	again.Sequence = 7
	first := schemas.RunCancelled{DocumentID: docA, RunID: run.RunID, CancelledAt: day0} // as the first version had it
	resumed := schemas.RunResumed{DocumentID: docA, RunID: run.RunID, SubmittedAt: day0, Sequence: 6, ResumedAt: day0}
	broken := schemas.RunFailed{Run: early, Stage: "planner", Code: "broken-document", Error: "no xref", FailedAt: day0}
	for name, c := range map[string]struct {
		records []schemas.Result
		state   schemas.State
		code    string
		events  int
	}{
		"every page done":            {[]schemas.Result{planned(run), done(run, 1, 1), done(run, 2, 0)}, schemas.Completed, "", 1},
		"plan comes last":            {[]schemas.Result{done(run, 1, 1), done(run, 2, 0), planned(run)}, schemas.Completed, "", 1},
		"no page selected":           {[]schemas.Result{planned(none)}, schemas.Failed, "no-pages", 1},
		"no page successful":         {[]schemas.Result{planned(run), failed(run, 1, "x"), failed(run, 2, "x")}, schemas.Failed, "x", 1},
		"commonest code":             {[]schemas.Result{planned(runOf(docA, 3)), failed(runOf(docA, 3), 1, "a"), failed(runOf(docA, 3), 2, "z"), failed(runOf(docA, 3), 3, "z")}, schemas.Failed, "z", 1},
		"planner failed":             {[]schemas.Result{accepted(docA, ""), broken}, schemas.Failed, "broken-document", 1},
		"failed, then planned again": {[]schemas.Result{broken, planned(run)}, schemas.Queued, "", 1},
		"cancelled midway":           {[]schemas.Result{planned(run), done(run, 1, 1), cancelled}, schemas.Cancelled, "", 1},
		"cancelled before a plan":    {[]schemas.Result{accepted(docA, ""), cancelled}, schemas.Cancelled, "", 1},
		"cancelled without sequence": {[]schemas.Result{planned(run), first}, schemas.Cancelled, "", 1},
		"planned after the control":  {[]schemas.Result{cancelled, planned(run)}, schemas.Cancelled, "", 1},
		"planned again":              {[]schemas.Result{planned(run), cancelled, planned(run)}, schemas.Cancelled, "", 1},
		"pages that were in flight":  {[]schemas.Result{planned(runOf(docA, 4)), cancelled, done(runOf(docA, 4), 1, 1), failed(runOf(docA, 4), 2, "x"), cancelled}, schemas.Cancelled, "", 1},
		"said by every stage":        {[]schemas.Result{planned(run), cancelled, cancelled, cancelled}, schemas.Cancelled, "", 1},
		"cancelled and resumed":      {[]schemas.Result{planned(run), cancelled, resumed, done(run, 1, 1), done(run, 2, 1)}, schemas.Completed, "", 2},
		"resumed, said late":         {[]schemas.Result{planned(run), resumed, cancelled, done(run, 1, 1)}, schemas.Running, "", 0},
		"resumed and queued":         {[]schemas.Result{planned(run), cancelled, resumed}, schemas.Queued, "", 1},
		"cancelled twice":            {[]schemas.Result{planned(run), cancelled, resumed, again}, schemas.Cancelled, "", 2},
		"resumed before the second":  {[]schemas.Result{planned(run), again, resumed}, schemas.Cancelled, "", 1},
		"in flight to the last":      {[]schemas.Result{planned(run), done(run, 1, 1), cancelled, done(run, 2, 1)}, schemas.Completed, "", 2},
		"failed by itself":           {[]schemas.Result{cancelled, broken}, schemas.Failed, "broken-document", 2},
		"cancelled after the end":    {[]schemas.Result{planned(run), done(run, 1, 1), done(run, 2, 1), cancelled}, schemas.Completed, "", 1},
		"failure repaired":           {[]schemas.Result{planned(run), done(run, 1, 1), failed(run, 2, "x"), done(run, 2, 1)}, schemas.Completed, "", 2},
		"done outranks its failure":  {[]schemas.Result{planned(run), done(run, 1, 1), done(run, 2, 1), failed(run, 2, "x")}, schemas.Completed, "", 1},
		"a page twice":               {[]schemas.Result{planned(run), done(run, 1, 1), done(run, 1, 1)}, schemas.Running, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			tables := newMemory()
			events := handle(t, newRecorder(t, tables), (&partition{t: t}).add(accepted(docA, "")).add(c.records...).in, 1)
			row := tables.runs[[3]any{day0.UnixMilli(), docA, run.RunID}]
			if row.State != c.state || row.Code != c.code {
				t.Errorf("%s %q, want %s %q", row.State, row.Code, c.state, c.code)
			}
			if len(events) != c.events {
				t.Errorf("%d events, want %d: %+v", len(events), c.events, events)
			}
			if row.State.Final() != (row.FinishedAt != 0) {
				t.Errorf("%s with finished_at %d", row.State, row.FinishedAt)
			}
		})
	}
}

func TestAnotherAttemptReplacesAPageAsOne(t *testing.T) {
	tables := newMemory()
	run := runOf(docA, 1)
	p := (&partition{t: t}).add(accepted(docA, ""), planned(run), done(run, 1, 3), done(run, 1, 2))
	events := handle(t, newRecorder(t, tables), p.in, 1)
	row := tables.runs[[3]any{day0.UnixMilli(), docA, run.RunID}]
	if row.Boxes != 2 || row.PagesDone != 1 {
		t.Errorf("%d boxes on %d pages, want the second attempt's 2 on 1", row.Boxes, row.PagesDone)
	}
	if row.FinishedAt != p.in[2].Timestamp.UnixMilli() {
		t.Errorf("finished_at moved to the second attempt")
	}
	if len(events) != 1 {
		t.Errorf("%d events, want 1: the end is the same", len(events))
	}
}

func TestUnreadableRecordsFailAlone(t *testing.T) {
	tables := newMemory()
	run := runOf(docA, 1)
	bad := done(run, 1, 1)
	bad.Page = maxPage + 1
	old := done(run, 1, 1)
	old.SubmittedAt = time.Time{}
	p := (&partition{t: t}).add(planned(run), bad, old, done(run, 1, 1))
	p.in = append(p.in, stage.In{Value: []byte("{"), Timestamp: day0}, stage.In{Value: []byte(`{"type":"SomethingNew","document_id":"x"}`), Timestamp: day0})
	results := newRecorder(t, tables).Handle(context.Background(), p.in)
	for i, want := range []bool{false, true, true, false, true, false} {
		if got := results[i].Err != nil; got != want || got && (fault.ClassOf(results[i].Err) != fault.Permanent || fault.CodeOf(results[i].Err) != "bad-record") {
			t.Errorf("record %d: %v", i, results[i].Err)
		}
	}
	if row := tables.runs[[3]any{day0.UnixMilli(), docA, run.RunID}]; row.State != schemas.Completed {
		t.Errorf("the others did not land: %+v", row)
	}
}

func TestRefusedBatchIsHalvedToTheBadRecord(t *testing.T) {
	tables := newMemory()
	tables.fail = func(table string, _ []documentRow, pages []pageRow, _ []runRow) error {
		for _, p := range pages {
			if table == "page_results" && p.Page == 7 {
				return errRefused
			}
		}
		return nil
	}
	r := newRecorder(t, tables)
	run := runOf(docA, 20)
	p := (&partition{t: t}).add(accepted(docA, ""), planned(run))
	for n := range 20 {
		p.add(done(run, n+1, 1))
	}
	results := r.Handle(context.Background(), p.in)
	for i, result := range results {
		if bad := i == 8; bad != (result.Err != nil) {
			t.Fatalf("record %d: %v", i, result.Err)
		}
	}
	row := tables.runs[[3]any{day0.UnixMilli(), docA, run.RunID}]
	if row.PagesDone != 19 || row.State != schemas.Running {
		t.Fatalf("%+v", row)
	}
	// What is produced in place of the condemned record ends the run.
	outs := r.Stage().Condemned(p.in[8], fault.CodeOf(results[8].Err), results[8].Err)
	if len(outs) != 1 || outs[0].Topic != schemas.TopicResults || outs[0].Key != docA {
		t.Fatalf("%+v", outs)
	}
	p.add()
	p.in = append(p.in, stage.In{Partition: 0, Offset: int64(len(p.in)), Timestamp: day0.Add(time.Hour), Key: docA, Value: outs[0].Value})
	tables.fail = nil
	events := handle(t, r, p.in[len(p.in)-1:], 1)
	if len(events) != 1 || events[0].State != schemas.CompletedWithFailures || events[0].PagesFailed != 1 {
		t.Errorf("%+v", events)
	}
	if got := tables.pages[[4]any{day0.UnixMilli(), docA, run.RunID, uint32(7)}]; got.Code != "row-rejected" || got.Stage != Name {
		t.Errorf("page 7: %+v", got)
	}
	if about := r.Stage().About(p.in[8]); about != (stage.About{DocumentID: docA, RunID: run.RunID, Page: 7}) {
		t.Errorf("about %+v", about)
	}
}

func TestNothingIsHalvedWhileClickHouseIsAway(t *testing.T) {
	tables := newMemory()
	tables.fail = func(string, []documentRow, []pageRow, []runRow) error { return errAway }
	run := runOf(docA, 2)
	p := (&partition{t: t}).add(accepted(docA, ""), planned(run), done(run, 1, 1), done(run, 2, 1))
	r := newRecorder(t, tables)
	for _, result := range r.Handle(context.Background(), p.in) {
		if fault.ClassOf(result.Err) != fault.Unavailable || len(result.Out) != 0 {
			t.Fatalf("%+v", result)
		}
	}
	if tables.inserts != 1 {
		t.Errorf("%d inserts, want 1", tables.inserts)
	}
	tables.fail = nil
	if events := handle(t, r, p.in, 4); len(events) != 1 || events[0].State != schemas.Completed {
		t.Errorf("%+v", events)
	}
}

func TestEventIsSaidAgainOnlyIfItMayBeLost(t *testing.T) {
	r := newRecorder(t, newMemory())
	run := runOf(docA, 1)
	p := (&partition{t: t}).add(accepted(docA, ""), planned(run), done(run, 1, 1), done(run, 1, 1))
	if events := handle(t, r, p.in[:3], 1); len(events) != 1 {
		t.Fatalf("%d events", len(events))
	}
	if events := handle(t, r, p.in[3:], 1); len(events) != 0 {
		t.Errorf("a later delivery of the page ended the run again")
	}
	if events := handle(t, r, p.in[2:3], 1); len(events) != 1 {
		t.Errorf("the record that the event went out with came again, and it was not said")
	}
	// The partition goes and comes back: nothing is known of what was said.
	r.Stage().Revoked(schemas.TopicResults, []int32{0})
	if events := handle(t, r, p.in[3:], 1); len(events) != 1 {
		t.Errorf("%d events after a rebalance", len(events))
	}
}

func TestMemoryIsNotBelievedAfterARebalance(t *testing.T) {
	tables := newMemory()
	one, two := newRecorder(t, tables), newRecorder(t, tables)
	run := runOf(docA, 3)
	p := (&partition{t: t}).add(accepted(docA, ""), planned(run), done(run, 1, 1), done(run, 2, 1), done(run, 3, 1))
	handle(t, one, p.in[:3], 1)
	one.Stage().Revoked(schemas.TopicResults, []int32{0})
	handle(t, two, p.in[3:4], 1)
	two.Stage().Revoked(schemas.TopicResults, []int32{0})
	events := handle(t, one, p.in[4:], 1)
	if len(events) != 1 || events[0].PagesDone != 3 {
		t.Errorf("%+v", events)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	tables := newMemory()
	r, err := build(Config{MaxRuns: 3, MaxPages: 10}, tables)
	if err != nil {
		t.Fatal(err)
	}
	p := &partition{t: t}
	var runs []schemas.Run
	for n := range 8 {
		run := runOf(fmt.Sprintf("0198a000-0000-7000-8000-%012d", n), 6)
		runs = append(runs, run)
		p.add(accepted(run.DocumentID, "t"), planned(run))
		for page := range 5 {
			p.add(done(run, page+1, 1))
		}
	}
	for _, run := range runs {
		p.add(done(run, 6, 1))
	}
	var events []schemas.RunEnded
	for part := range slices.Chunk(p.in, 7) {
		events = append(events, handle(t, r, part, 7)...)
		pages := 0
		for _, element := range r.cache.runs.slots {
			pages += len(element.Value.(*slot[runKey, *run]).value.pages)
		}
		if pages > 10 || len(r.cache.runs.slots) > 3 || len(r.cache.documents.slots) > 3 {
			t.Fatalf("%d pages of %d runs of %d documents are kept", pages, len(r.cache.runs.slots), len(r.cache.documents.slots))
		}
	}
	if len(events) != 8 {
		t.Errorf("%d runs ended, want 8", len(events))
	}
	for _, e := range events {
		if e.State != schemas.Completed || e.Boxes != 6 || e.Title != "t" {
			t.Errorf("%+v", e)
		}
	}
}

// A cancellation says no time. Whoever hears of it first must not lay the document where there is no time either.
func TestCancellationDoesNotPlaceItsDocument(t *testing.T) {
	run := runOf(docA, 1)
	tables := newMemory()
	p := (&partition{t: t}).add(schemas.RunCancelled{DocumentID: docA, RunID: run.RunID, CancelledAt: day0}, accepted(docA, "Report"))
	handle(t, newRecorder(t, tables), p.in, 1)
	if row, ok := tables.documents[[2]any{day0.UnixMilli(), docA}]; !ok || row.SubmittedAt != day0.UnixMilli() || len(tables.documents) != 1 {
		t.Errorf("%+v", tables.documents)
	}
}

func TestDocumentKeepsTheTimeItFirstCameWith(t *testing.T) {
	tables := newMemory()
	first, again := accepted(docA, "Old"), accepted(docA, "New")
	again.SubmittedAt = day0.Add(48 * time.Hour)
	run := runOf(docA, 1)
	run.SubmittedAt = again.SubmittedAt
	p := (&partition{t: t}).add(first, again, planned(run), done(run, 1, 1))
	for range 2 {
		handle(t, newRecorder(t, tables), p.in, 1)
		if len(tables.documents) != 1 || len(tables.runs) != 1 || len(tables.pages) != 1 {
			t.Fatalf("%d documents, %d runs, %d pages", len(tables.documents), len(tables.runs), len(tables.pages))
		}
		for _, row := range tables.documents {
			if row.Title != "New" || row.SubmittedAt != day0.UnixMilli() {
				t.Errorf("%+v", row)
			}
		}
		for _, row := range tables.pages {
			if row.SubmittedAt != day0.UnixMilli() {
				t.Errorf("the page lies elsewhere than its document: %+v", row)
			}
		}
	}
}
