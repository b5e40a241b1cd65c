package pagesplitter

import (
	"strings"
	"testing"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

// A shadow is one more run of the documents that are chosen, by the bulk lane
// alone, and no other record of the document is another for it.
func TestShadow(t *testing.T) {
	b := newBench(t)
	b.announce(t, "tables")
	d := schemas.DocumentSubmitted{DocumentID: "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b", Source: b.put(t, "inbox/report.pdf", testpdf.Text(20))}
	plan := func() (runs []schemas.RunPlanned, plain, bulk []schemas.PageRange, others []string) {
		t.Helper()
		outs, result := handle(t, b.planner.Stage(), reference(t, d))
		if result.Err != nil || len(result.Failures) != 0 {
			t.Fatal(result.Err, result.Failures)
		}
		for _, o := range outs {
			if !strings.Contains(string(o.Value), `"shadow":true`) && o.Headers[schemas.HeaderSchema] != "RunPlanned.v1" {
				others = append(others, o.Headers[schemas.HeaderID])
			}
		}
		return on[schemas.RunPlanned](t, outs, schemas.TopicResults), on[schemas.PageRange](t, outs, schemas.TopicPageRanges),
			on[schemas.PageRange](t, outs, schemas.Lane(schemas.TopicPageRanges, true)), others
	}
	alone, _, _, before := plan()

	b.planner.cfg.ShadowModel, b.planner.cfg.ShadowShare = "tables", 1
	runs, plain, bulk, others := plan()
	if len(runs) != 2 || runs[0].RunID != alone[0].RunID || runs[0].Options.Shadow {
		t.Fatalf("planned %+v", runs)
	}
	shadow := runs[1]
	if !shadow.Options.Shadow || shadow.Options.Model != "tables" || shadow.Options.DPI != runs[0].Options.DPI || shadow.PagesSelected != 20 ||
		shadow.RunID == runs[0].RunID || shadow.RunID != schemas.RunID(d.DocumentID, shadow.Options) {
		t.Errorf("shadow %+v", shadow)
	}
	if len(plain) != 1 || plain[0].RunID != runs[0].RunID || len(bulk) != 3 {
		t.Errorf("ranges %+v, bulk %+v", plain, bulk)
	}
	if strings.Join(others, " ") != strings.Join(before, " ") {
		t.Errorf("without a shadow %v, with one %v", before, others)
	}

	// Its pages go by the bulk topic of its own model.
	value, err := schemas.Marshal(bulk[1])
	if err != nil {
		t.Fatal(err)
	}
	outs, result := handle(t, b.splitter.Stage(), stage.In{Topic: schemas.Lane(schemas.TopicPageRanges, true), Key: bulk[1].Key(), Value: value, Attempt: 1})
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	pages := on[schemas.PageRendered](t, outs, schemas.Lane(schemas.PagesTopic("tables"), true))
	if len(pages) != len(outs) || len(pages) == 0 {
		t.Errorf("%d pages among %d records", len(pages), len(outs))
	}

	for name, change := range map[string]func(){
		"none chosen":                     func() { b.planner.cfg.ShadowShare = 0 },
		"nobody has announced it":         func() { b.planner.cfg.ShadowModel = "nobody" },
		"the default model is the shadow": func() { b.planner.cfg.ShadowModel = "layout_cdla" },
		"submitted for the shadow too":    func() { d.Models = []string{"layout_cdla", "tables"} },
		"submitted for another":           func() { d.Models = []string{"tables"} },
	} {
		b.planner.cfg.ShadowModel, b.planner.cfg.ShadowShare, d.Models = "tables", 1, nil
		change()
		runs, _, _, _ := plan()
		for _, r := range runs {
			if r.Options.Shadow {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
}

func TestShadowConfig(t *testing.T) {
	for says, change := range map[string]func(c *Config){
		"LEAFCUTTER_SHADOW_MODEL: ":         func(c *Config) { c.ShadowModel = "No Model" },
		"1.5 is outside":                    func(c *Config) { c.ShadowModel, c.ShadowShare = "m", 1.5 },
		"LEAFCUTTER_SHADOW_MODEL names no ": func(c *Config) { c.ShadowShare = 0.5 },
	} {
		c := newBench(t).planner.cfg
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q in: %v", says, err)
		}
	}
}

// A document that was cancelled before it was planned, or before its ranges were
// taken, is cancelled with its shadow, of which the record says what it is: it may
// be read before the plan.
func TestShadowIsCancelledWithItsDocument(t *testing.T) {
	b := newBench(t)
	b.announce(t, "tables")
	b.planner.cfg.ShadowModel, b.planner.cfg.ShadowShare = "tables", 1
	d := schemas.DocumentSubmitted{DocumentID: asked, Source: b.put(t, "inbox/a.pdf", testpdf.Text(20))}
	ranges := b.planned(t, d)
	b.ask(schemas.ActionCancel, 7)
	outs, result := handle(t, b.planner.Stage(), reference(t, d))
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	runs, said := on[schemas.RunPlanned](t, outs, schemas.TopicResults), on[schemas.RunCancelled](t, outs, schemas.TopicResults)
	if len(runs) != 2 || len(said) != 2 || len(outs) != 5 {
		t.Fatalf("planned %+v, cancelled %+v, %d records", runs, said, len(outs))
	}
	for i, c := range said {
		if c.RunID != runs[i].RunID || c.Sequence != 7 || c.Shadow != (i == 1) {
			t.Errorf("%+v of %+v", c, runs[i])
		}
	}
	s, shadows := b.splitter.Stage(), 0
	for _, in := range ranges {
		said := on[schemas.RunCancelled](t, s.Dropped(in), schemas.TopicResults)
		if !s.Cancelled(s.About(in)) || len(said) != 1 {
			t.Fatalf("%s is not dropped: %+v", in.Value, said)
		}
		if said[0].Shadow {
			shadows++
		}
		if said[0].Shadow != (said[0].RunID == runs[1].RunID) {
			t.Errorf("%+v of %+v", said[0], runs)
		}
	}
	if shadows != 2 {
		t.Errorf("%d ranges of a shadow among %d", shadows, len(ranges))
	}
}
