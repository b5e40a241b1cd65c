package pagesplitter

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

const asked = "0198a000-0000-7000-8000-00000000000a"

// ask is a control that every stage has read.
func (b *bench) ask(action string, sequence int64) {
	b.asked.Asked(schemas.Control{DocumentID: asked, Action: action, Sequence: sequence, At: submittedAt})
}

// objects are the keys of a document's objects.
func (b *bench) objects(t *testing.T) (keys []string) {
	t.Helper()
	err := b.store.List(t.Context(), schemas.DocumentPrefix(asked), func(info objectstore.Info) error {
		keys = append(keys, info.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestACancelledDocumentIsPlannedWithoutRanges: it is to be seen, and to be resumed.
func TestACancelledDocumentIsPlannedWithoutRanges(t *testing.T) {
	b := newBench(t)
	d := schemas.DocumentSubmitted{DocumentID: asked, Source: b.put(t, "inbox/a.pdf", testpdf.Text(20))}
	b.ask(schemas.ActionCancel, 7)
	s := b.planner.Stage()
	if s.Cancelled(stage.About{DocumentID: asked}) {
		t.Error("a cancelled document is dropped before it is planned")
	}
	outs, result := handle(t, s, reference(t, d))
	accepted, planned := on[schemas.DocumentAccepted](t, outs, schemas.TopicResults), on[schemas.RunPlanned](t, outs, schemas.TopicResults)
	cancelled := on[schemas.RunCancelled](t, outs, schemas.TopicResults)
	if result.Err != nil || len(outs) != 3 || len(accepted) != 1 || len(planned) != 1 || len(cancelled) != 1 {
		t.Fatalf("%v; %d records: %+v %+v %+v", result.Err, len(outs), accepted, planned, cancelled)
	}
	if c := cancelled[0]; c.RunID != planned[0].RunID || c.Sequence != 7 || !c.SubmittedAt.Equal(submittedAt) || planned[0].PagesSelected != 20 {
		t.Errorf("%+v of %+v", c, planned[0])
	}
	b.ask(schemas.ActionResume, 8)
	if ins := b.planned(t, d); len(ins) != 2 {
		t.Errorf("%d ranges after a resume", len(ins))
	}
}

// TestAResumedDocumentIsPlannedAsResumed: its run may have been cancelled before
// anybody knew of it.
func TestAResumedDocumentIsPlannedAsResumed(t *testing.T) {
	b := newBench(t)
	d := schemas.DocumentSubmitted{DocumentID: asked, Source: b.put(t, "inbox/a.pdf", testpdf.Text(20))}
	b.ask(schemas.ActionCancel, 7)
	b.ask(schemas.ActionResume, 9)
	outs, _ := handle(t, b.planner.Stage(), reference(t, d))
	resumed, cancelled := on[schemas.RunResumed](t, outs, schemas.TopicResults), on[schemas.RunCancelled](t, outs, schemas.TopicResults)
	planned := on[schemas.RunPlanned](t, outs, schemas.TopicResults)
	if len(resumed) != 1 || len(cancelled) != 0 || resumed[0].Sequence != 9 || resumed[0].RunID != planned[0].RunID || !resumed[0].SubmittedAt.Equal(submittedAt) {
		t.Errorf("%+v %+v", resumed, cancelled)
	}
	first, rest := on[schemas.PageRange](t, outs, schemas.TopicPageRanges), on[schemas.PageRange](t, outs, schemas.Lane(schemas.TopicPageRanges, true))
	if len(first) != 1 || len(rest) != 1 || first[0].Control != 9 || rest[0].Control != 9 {
		t.Errorf("%+v %+v", first, rest)
	}
}

func TestTheSplitterDropsWhatIsNotWanted(t *testing.T) {
	b := newBench(t)
	in := b.planned(t, schemas.DocumentSubmitted{DocumentID: asked, Source: b.put(t, "inbox/a.pdf", testpdf.Text(2))})[0]
	s := b.splitter.Stage()
	if s.Cancelled(s.About(in)) {
		t.Error("dropped before anything was asked")
	}
	b.ask(schemas.ActionCancel, 7)
	if said := on[schemas.RunCancelled](t, s.Dropped(in), schemas.TopicResults); !s.Cancelled(s.About(in)) || len(said) != 1 || said[0].Sequence != 7 {
		t.Errorf("dropped %v, said %+v", s.Cancelled(s.About(in)), said)
	}
	// What the resume asks for comes before the resume is read.
	r, err := schemas.Unmarshal[schemas.PageRange](in.Value)
	if err != nil {
		t.Fatal(err)
	}
	r.Control = 8
	again, err := schemas.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	in.Value = again
	if s.Cancelled(s.About(in)) {
		t.Error("a range that a later resume asked for is dropped")
	}
	outs, _ := handle(t, s, in)
	if pages := on[schemas.PageRendered](t, outs, pagesTopic); len(pages) != 2 || pages[0].Control != 8 {
		t.Errorf("%+v", pages)
	}
	b.ask(schemas.ActionDelete, 9)
	if outs := s.Dropped(in); !s.Cancelled(s.About(in)) || len(outs) != 0 || !b.planner.Stage().Cancelled(stage.About{DocumentID: asked}) {
		t.Errorf("deleted, and %+v", outs)
	}
}

// meddler is a store while whose first put something happens, and whose first
// deletes may be refused.
type meddler struct {
	Store
	happens func()
	refuses atomic.Int64
}

func (m *meddler) Put(ctx context.Context, key string, body []byte, contentType string) error {
	err := m.Store.Put(ctx, key, body, contentType)
	if m.happens != nil {
		m.happens()
		m.happens = nil
	}
	return err
}

func (m *meddler) Delete(ctx context.Context, keys ...string) error {
	if m.refuses.Add(-1) >= 0 {
		return fault.AsUnavailable(objectstore.Dependency, errors.New("slow down"))
	}
	return m.Store.Delete(ctx, keys...)
}

// TestWhatIsStoredOfADeletedDocumentGoes: whoever deletes the objects of a document cannot wait for a stage that is just
// storing some, so the stage looks again afterwards.
func TestWhatIsStoredOfADeletedDocumentGoes(t *testing.T) {
	t.Run("a document that came by its record", func(t *testing.T) {
		b := newBench(t)
		b.planner.store = &meddler{Store: b.store, happens: func() { b.ask(schemas.ActionDelete, 9) }}
		in := record(testpdf.Text(2), nil)
		in.Key = asked
		if outs, result := handle(t, b.planner.Stage(), in); result.Err != nil || len(outs) != 0 {
			t.Errorf("%v, %+v", result.Err, outs)
		}
		if keys := b.objects(t); len(keys) != 0 {
			t.Errorf("left: %v", keys)
		}
	})
	t.Run("pages", func(t *testing.T) {
		b := newBench(t)
		in := b.planned(t, schemas.DocumentSubmitted{DocumentID: asked, Source: b.put(t, "inbox/a.pdf", testpdf.Text(5))})[0]
		b.splitter.store = &meddler{Store: b.store, happens: func() { b.ask(schemas.ActionDelete, 9) }}
		if outs, result := handle(t, b.splitter.Stage(), in); result.Err != nil || len(outs) != 0 || len(result.Failures) != 0 {
			t.Errorf("%+v, %+v", outs, result)
		}
		if keys := b.objects(t); len(keys) != 0 || b.renderer.rendered.Load() == 0 {
			t.Errorf("%d pages rendered, left: %v", b.renderer.rendered.Load(), keys)
		}
	})
	t.Run("pages of a range that failed", func(t *testing.T) {
		b := newBench(t)
		in := b.planned(t, schemas.DocumentSubmitted{DocumentID: asked, Source: b.put(t, "inbox/a.pdf", testpdf.Text(5))})[0]
		b.splitter.store = &meddler{Store: b.store, happens: func() { b.ask(schemas.ActionDelete, 9) }}
		b.renderer.fail = func(page int) error {
			if page == 4 {
				return fault.AsTransient("render-crashed", errors.New("the child died"))
			}
			return nil
		}
		if outs, result := handle(t, b.splitter.Stage(), in); result.Err != nil || len(outs) != 0 || len(b.objects(t)) != 0 {
			t.Errorf("%v, %+v, left: %v", result.Err, outs, b.objects(t))
		}
	})
	t.Run("once the store takes it", func(t *testing.T) {
		b := newBench(t)
		in := b.planned(t, schemas.DocumentSubmitted{DocumentID: asked, Source: b.put(t, "inbox/a.pdf", testpdf.Text(1))})[0]
		m := &meddler{Store: b.store, happens: func() { b.ask(schemas.ActionDelete, 9) }}
		m.refuses.Store(2)
		b.splitter.store = m
		if outs, result := handle(t, b.splitter.Stage(), in); result.Err != nil || len(outs) != 0 || len(b.objects(t)) != 0 || m.refuses.Load() >= 0 {
			t.Errorf("%v, %+v, left: %v", result.Err, outs, b.objects(t))
		}
	})
}
