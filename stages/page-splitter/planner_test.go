package pagesplitter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/png"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/render"
	"leafcutter/stages/page-splitter/internal/sourcecache"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

// TestRawDocument: the record is the PDF itself, as kcat produces it.
func TestRawDocument(t *testing.T) {
	b := newBench(t)
	document := testpdf.Text(40)
	for name, headers := range map[string]map[string]string{
		"no headers":   {},
		"content type": {schemas.HeaderContentType: "application/pdf", schemas.HeaderTitle: "Report"},
		"vague type":   {schemas.HeaderContentType: "application/octet-stream", schemas.HeaderTitle: strings.Repeat("é", 300)},
	} {
		t.Run(name, func(t *testing.T) {
			outs, result := handle(t, b.planner.Stage(), record(document, headers))
			if result.Err != nil || len(result.Failures) != 0 {
				t.Fatal(result.Err, result.Failures)
			}
			accepted := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)
			planned := on[schemas.RunPlanned](t, outs, schemas.TopicResults)
			if len(accepted) != 1 || len(planned) != 1 {
				t.Fatalf("%d accepted, %d planned", len(accepted), len(planned))
			}
			sum := sha256.Sum256(document)
			a := accepted[0]
			title := headers[schemas.HeaderTitle]
			if name == "vague type" {
				title = strings.Repeat("é", schemas.MaxTitle)
			}
			if a.Title != title || a.ContentType != "application/pdf" || a.PageCount != 40 || a.Bytes != int64(len(document)) ||
				a.SHA256 != hex.EncodeToString(sum[:]) || !a.SubmittedAt.Equal(submittedAt) || a.Source != b.store.URI(schemas.SourceKey(a.DocumentID)) {
				t.Errorf("accepted %+v", a)
			}
			stored, err := b.store.Get(t.Context(), schemas.SourceKey(a.DocumentID), 1<<20)
			if err != nil || !bytes.Equal(stored, document) {
				t.Errorf("%d bytes stored, %v", len(stored), err)
			}
			run := planned[0]
			if run.PagesSelected != 40 || !slices.Equal(run.Pages, []schemas.PageSpan{{First: 1, Last: 40}}) || run.RunID != schemas.RunID(a.DocumentID, run.Options) {
				t.Errorf("planned %+v", run)
			}
			first := on[schemas.PageRange](t, outs, schemas.TopicPageRanges)
			rest := on[schemas.PageRange](t, outs, schemas.Lane(schemas.TopicPageRanges, true))
			if len(first) != 1 || len(rest) != 2 || first[0].Position != 0 || rest[0].Position != 16 || rest[1].Position != 32 {
				t.Fatalf("ranges %+v and %+v", first, rest)
			}
			if len(first[0].Pages) != 16 || len(rest[0].Pages) != 16 || !slices.Equal(rest[1].Pages, []int{33, 34, 35, 36, 37, 38, 39, 40}) {
				t.Errorf("pages %v, %v, %v", first[0].Pages, rest[0].Pages, rest[1].Pages)
			}
			for _, out := range outs {
				if out.OwnTrace != strings.HasSuffix(out.Topic, schemas.BulkSuffix) {
					t.Errorf("%s: trace of its own %v", out.Topic, out.OwnTrace)
				}
				if out.Topic == schemas.TopicResults && out.Key != a.DocumentID || out.Topic != schemas.TopicResults && !strings.HasPrefix(out.Key, run.RunID+"/") {
					t.Errorf("%s: key %s", out.Topic, out.Key)
				}
			}
			// Delivered again it is the same document, the same run and the same ranges.
			again, _ := handle(t, b.planner.Stage(), record(document, headers))
			if len(again) != len(outs) {
				t.Fatalf("%d records, then %d", len(outs), len(again))
			}
			for i := range again {
				if again[i].Key != outs[i].Key || again[i].Headers[schemas.HeaderID] != outs[i].Headers[schemas.HeaderID] {
					t.Errorf("record %d: %+v, then %+v", i, outs[i], again[i])
				}
			}
		})
	}
	named := record(document, nil)
	named.Key = "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b"
	outs, _ := handle(t, b.planner.Stage(), named)
	if got := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults); len(got) != 1 || got[0].DocumentID != named.Key {
		t.Errorf("a document that its producer named: %+v", got)
	}
}

func TestReferenceWithOptions(t *testing.T) {
	b := newBench(t)
	b.announce(t, "tables")
	padding := 0
	d := schemas.DocumentSubmitted{
		DocumentID: "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b", Source: b.put(t, "inbox/Annual report.pdf", testpdf.Text(50)),
		Models: []string{"layout_cdla", "tables"}, DPI: 150, Pages: "40-,1-3,2,18", Thresholds: map[string]float64{"title": 0.9, "*": 0.2},
		CropPadding: &padding, WebhookURL: "https://example.com/hook",
	}
	outs, result := handle(t, b.planner.Stage(), reference(t, d))
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	accepted := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)
	if len(accepted) != 1 || accepted[0].Title != "Annual report.pdf" || accepted[0].WebhookURL != d.WebhookURL || accepted[0].PageCount != 50 {
		t.Errorf("accepted %+v", accepted)
	}
	planned := on[schemas.RunPlanned](t, outs, schemas.TopicResults)
	if len(planned) != 2 || planned[0].RunID == planned[1].RunID {
		t.Fatalf("planned %+v", planned)
	}
	for i, model := range []string{"layout_cdla", "tables"} {
		o := planned[i].Options
		if o.Model != model || o.ModelDigest != "d1" || o.DPI != 150 || o.Pages != "1-3,18,40-" || o.CropPadding != 0 || o.Renderer != b.renderer.Build() ||
			o.Threshold("title") != 0.9 || o.Threshold("table") != 0.5 || o.Threshold("figure") != 0.2 {
			t.Errorf("options %+v", o)
		}
		if !slices.Equal(planned[i].Pages, []schemas.PageSpan{{First: 1, Last: 3}, {First: 18, Last: 18}, {First: 40, Last: 50}}) || planned[i].PagesSelected != 15 {
			t.Errorf("pages %+v of %d", planned[i].Pages, planned[i].PagesSelected)
		}
	}
	ranges := on[schemas.PageRange](t, outs, schemas.TopicPageRanges)
	if len(ranges) != 2 || !slices.Equal(ranges[0].Pages, []int{1, 2, 3, 18, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50}) || ranges[1].Options.Model != "tables" {
		t.Errorf("ranges %+v", ranges)
	}

	// Defaults, and an image.
	var scan bytes.Buffer
	if err := png.Encode(&scan, image.NewGray(image.Rect(0, 0, 30, 20))); err != nil {
		t.Fatal(err)
	}
	outs, result = handle(t, b.planner.Stage(), reference(t, schemas.DocumentSubmitted{Title: "Scan", Source: b.put(t, "inbox/scan", scan.Bytes())}))
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	run := on[schemas.RunPlanned](t, outs, schemas.TopicResults)[0]
	if o := run.Options; run.ContentType != "image/png" || o.Model != "layout_cdla" || o.DPI != schemas.DefaultDPI || o.Pages != "all" || o.CropPadding != schemas.DefaultPadding || o.Threshold("x") != 0.4 {
		t.Errorf("defaults %+v", run)
	}
}

// TestRefusals: whatever is wrong with a document, it ends as a document that can
// be seen, with a failed run that says why.
func TestRefusals(t *testing.T) {
	b := newBench(t)
	encrypted, err := os.ReadFile("internal/render/testdata/encrypted.pdf")
	if err != nil {
		t.Fatal(err)
	}
	source := b.put(t, "inbox/two.pdf", testpdf.Text(2))
	for _, c := range []struct {
		name string
		in   stage.In
		code string
	}{
		{"text", record([]byte("Dear Sir or Madam"), nil), CodeUnsupported},
		{"text called a PDF", record([]byte("Dear Sir or Madam"), map[string]string{"content-type": "application/pdf"}), CodeUnsupported},
		{"broken JSON", record([]byte(`{"source":`), nil), CodeRecord},
		{"JSON that is no submission", record([]byte(`[1]`), map[string]string{"content-type": "application/json"}), CodeRecord},
		{"garbage", record([]byte("%PDF-1.7\nnothing"), nil), render.CodeUnreadable},
		{"encrypted", record(encrypted, nil), render.CodeEncrypted},
		{"no pages", record(testpdf.NoPages(), nil), render.CodeNoPages},
		{"too many pages", record(testpdf.LyingCount(5000), nil), render.CodeTooManyPages},
		{"pages that are not there", reference(t, schemas.DocumentSubmitted{Source: source, Pages: "3-"}), CodeNoSelection},
		{"bad options", reference(t, schemas.DocumentSubmitted{Source: source, Pages: "x", DPI: 7, Model: "No Model!"}), CodeRecord},
		{"unknown model", reference(t, schemas.DocumentSubmitted{Source: source, Model: "nobody"}), CodeUnknownModel},
		{"missing", reference(t, schemas.DocumentSubmitted{Source: b.store.URI("inbox/none")}), objectstore.CodeMissing},
		{"another's bucket", reference(t, schemas.DocumentSubmitted{Source: "s3://secrets/passwords.pdf"}), objectstore.CodeSource},
		{"empty object", reference(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/empty", nil)}), render.CodeEmpty},
		{"too large", reference(t, schemas.DocumentSubmitted{Source: b.put(t, "inbox/large", make([]byte, 8<<20+1))}), sourcecache.CodeTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			outs, result := handle(t, b.planner.Stage(), c.in)
			if fault.CodeOf(result.Err) != c.code || fault.ClassOf(result.Err) != fault.Permanent {
				t.Fatalf("got %v, want code %s", result.Err, c.code)
			}
			accepted := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults)
			failed := on[schemas.RunFailed](t, outs, schemas.TopicResults)
			if len(outs) != 2 || len(accepted) != 1 || len(failed) != 1 {
				t.Fatalf("%d accepted, %d failed of %d records", len(accepted), len(failed), len(outs))
			}
			f := failed[0]
			if f.Code != c.code || f.Error == "" || f.Stage != PlannerName || f.DocumentID != accepted[0].DocumentID || !f.SubmittedAt.Equal(submittedAt) {
				t.Errorf("failed %+v", f)
			}
			if strings.HasPrefix(accepted[0].Source, b.store.URI("documents/")) {
				if _, err := b.store.Head(t.Context(), schemas.SourceKey(accepted[0].DocumentID)); err != nil {
					t.Errorf("the source that is named: %v", err)
				}
			}
			again, _ := handle(t, b.planner.Stage(), c.in)
			if id := on[schemas.RunFailed](t, again, schemas.TopicResults)[0].RunID; id != f.RunID {
				t.Errorf("run %s, then %s", f.RunID, id)
			}
		})
	}
	if outs, result := handle(t, b.planner.Stage(), record(nil, nil)); fault.CodeOf(result.Err) != CodeRecord || len(outs) != 0 {
		t.Errorf("an empty record: %v and %d records", result.Err, len(outs))
	}
}

// TestUnknownModelBesideKnown: one run fails, the other goes on.
func TestUnknownModelBesideKnown(t *testing.T) {
	b := newBench(t)
	d := schemas.DocumentSubmitted{Source: b.put(t, "inbox/two.pdf", testpdf.Text(2)), Models: []string{"layout_cdla", "nobody"}}
	outs, result := handle(t, b.planner.Stage(), reference(t, d))
	planned, failed := on[schemas.RunPlanned](t, outs, schemas.TopicResults), on[schemas.RunFailed](t, outs, schemas.TopicResults)
	if result.Err != nil || len(planned) != 1 || len(failed) != 1 || failed[0].Code != CodeUnknownModel || failed[0].Options.Model != "nobody" {
		t.Fatalf("%v: %+v, %+v", result.Err, planned, failed)
	}
	if len(result.Failures) != 1 || result.Failures[0].About.RunID != failed[0].RunID {
		t.Fatalf("failures %+v", result.Failures)
	}
	// Once somebody serves the model, the dead letter is all that is needed.
	b.announce(t, "nobody")
	replay := result.Failures[0].Replay
	outs, result = handle(t, b.planner.Stage(), stage.In{Topic: replay.Topic, Key: replay.Key, Value: replay.Value, Headers: replay.Headers, Timestamp: submittedAt, Attempt: 1})
	again := on[schemas.RunPlanned](t, outs, schemas.TopicResults)
	if result.Err != nil || len(again) != 1 || again[0].Options.Model != "nobody" || again[0].DocumentID != planned[0].DocumentID {
		t.Errorf("replayed: %v, %+v", result.Err, again)
	}
}

// TestModelIsWaitedFor: at first start documents may come before the detector has
// optimised its model; nothing may be given up for that.
func TestModelIsWaitedFor(t *testing.T) {
	b := newBench(t)
	b.models.Apply("layout_cdla", nil)
	in := record(testpdf.Text(1), nil)
	probe := b.planner.Stage().Probes[modelDependency]
	_, result := handle(t, b.planner.Stage(), in)
	if fault.ClassOf(result.Err) != fault.Unavailable || fault.DependencyOf(result.Err) != modelDependency || probe(t.Context()) == nil {
		t.Fatalf("got %v", result.Err)
	}
	if b.renderer.opened.Load() != 0 {
		t.Error("the document was opened for nothing")
	}
	b.announce(t, "layout_cdla")
	if outs, result := handle(t, b.planner.Stage(), in); result.Err != nil || len(outs) != 3 || probe(t.Context()) != nil {
		t.Errorf("once it is announced: %v, %d records", result.Err, len(outs))
	}
	b.models.Apply("layout_cdla", []byte("nonsense"))
	if err := probe(t.Context()); err != nil {
		t.Errorf("an announcement that cannot be read: %v", err)
	}
}

func TestModelsAwait(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.models.Await(ctx); err == nil {
		t.Error("caught up before anything was read")
	}
	b.models.CaughtUp()
	b.models.CaughtUp()
	if err := b.models.Await(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestModelThatNobodyServes is told: once a minute in the log, and where the program
// is asked whether it is ready.
func TestModelThatNobodyServes(t *testing.T) {
	b := newBench(t)
	var log bytes.Buffer
	b.models.logger = slog.New(slog.NewTextHandler(&log, nil))
	b.models.Apply("layout_cdla", nil)
	if err := b.models.Ready(); err == nil || strings.Contains(err.Error(), "layout_cdla") {
		t.Errorf("before the topic was read: %v", err)
	}
	b.models.CaughtUp()
	if err := b.models.Ready(); err == nil || !strings.Contains(err.Error(), "layout_cdla") {
		t.Errorf("ready without the default model: %v", err)
	}
	lines := func() int { return strings.Count(log.String(), "model=layout_cdla") }
	if lines() != 0 {
		t.Errorf("a line with no document that waits: %s", log.String())
	}
	for range 3 {
		handle(t, b.planner.Stage(), record(testpdf.Text(1), nil))
	}
	if lines() != 1 {
		t.Errorf("%d lines after three looks", lines())
	}
	b.models.reminded = time.Now().Add(-time.Minute)
	handle(t, b.planner.Stage(), record(testpdf.Text(1), nil))
	if lines() != 2 {
		t.Errorf("%d lines after a minute", lines())
	}
	handle(t, b.planner.Stage(), reference(t, schemas.DocumentSubmitted{Source: "s3://b/k", Model: "other"}))
	b.announce(t, "layout_cdla")
	handle(t, b.planner.Stage(), record(testpdf.Text(1), nil))
	if err := b.models.Ready(); err != nil || lines() != 2 {
		t.Errorf("announced: %v, %d lines", err, lines())
	}
}

// TestLargeSubmissionIsKept beside the document that it names, and not in its place.
func TestLargeSubmissionIsKept(t *testing.T) {
	b := newBench(t)
	const id = "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b"
	b.put(t, schemas.SourceKey(id), []byte("the document"))
	in := record(fmt.Appendf(nil, `{"document_id":%q,"source":%q,"title":%q}`, id, b.store.URI(schemas.SourceKey(id)), strings.Repeat("x", 300<<10)), nil)
	if about := b.planner.Stage().About(in); about.DocumentID != id {
		t.Errorf("about %+v", about)
	}
	ref, err := b.planner.Stage().StoreLarge(t.Context(), in)
	if err != nil || ref != b.store.URI(schemas.RecordKey(id)) {
		t.Fatal(ref, err)
	}
	if source, err := b.store.Get(t.Context(), schemas.SourceKey(id), 100); err != nil || string(source) != "the document" {
		t.Errorf("the document has become %q, %v", source, err)
	}
	body, _, err := b.store.OpenURI(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(body); err != nil || !bytes.Equal(got.Bytes(), in.Value) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	err := Config{DefaultModel: "No!"}.Validate()
	for _, name := range []string{"DEFAULT_MODEL", "MAX_DOCUMENT_BYTES", "UPLOADS"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("no word of %s in %v", name, err)
		}
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	if err := (Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "LEAFCUTTER_CACHE_DIR") {
		t.Errorf("no folder for the cache: %v", err)
	}
	t.Setenv("HOME", "/home/somebody")
	if dir, err := (Config{}).cacheDir(); err != nil || !strings.HasPrefix(dir, "/home/somebody/") {
		t.Errorf("the cache of somebody lies in %s, %v", dir, err)
	}
	if err := (Config{DefaultModel: "m", MaxDocument: 64 << 20, CacheBytes: 1 << 20, Uploads: 1}).Validate(); err == nil || !strings.Contains(err.Error(), "CACHE_BYTES") {
		t.Errorf("a cache smaller than a document: %v", err)
	}
}

func FuzzReadSubmission(f *testing.F) {
	f.Add([]byte("%PDF-1.7"), "", "title")
	f.Add([]byte(`{"source":"s3://b/k","dpi":100}`), "application/json", "")
	f.Add([]byte(`{"source":"s3://b/k","document_id":"x","submitted_at":"0001-01-01T00:00:00Z"}`), "", "")
	f.Add([]byte{}, "image/png", "\xff")
	f.Fuzz(func(t *testing.T, value []byte, contentType, title string) {
		s, err := readSubmission(record(value, map[string]string{schemas.HeaderContentType: contentType, schemas.HeaderTitle: title}))
		if err != nil && fault.ClassOf(err) != fault.Permanent {
			t.Fatalf("class %s: %v", fault.ClassOf(err), err)
		}
		if !schemas.IsUUID(s.DocumentID) {
			t.Fatalf("document id %q", s.DocumentID)
		}
		if err == nil && s.raw == nil && s.Source == "" {
			t.Fatal("neither a document nor a reference")
		}
		out, err := stage.Emit(schemas.TopicResults, s.DocumentID, s.failed("m", "c", err))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := schemas.UnmarshalResult(out.Value); err != nil {
			t.Fatalf("its failure cannot be told: %v", err)
		}
		if !schemas.StorableTime(s.SubmittedAt) {
			t.Fatalf("submitted at %s", s.SubmittedAt)
		}
	})
}
