package recorder

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// topic draws what one partition of results may hold: documents with a run or two, pages done, failed and repeated,
// cancellations and failures, the streams of the documents interleaved, clocks that disagree by up to skew milliseconds,
// and up to attempts results for a page.
func topic(t *rapid.T, skew, attempts int) []stage.In {
	var records []schemas.Result
	documents := rapid.IntRange(1, 3).Draw(t, "documents")
	streams := make([][]schemas.Result, documents)
	for d := range documents {
		id := fmt.Sprintf("0198a000-0000-7000-8000-%012d", d)
		var stream []schemas.Result
		for r := range rapid.IntRange(1, 2).Draw(t, "runs") {
			o := options
			o.Model = fmt.Sprint("model", r)
			run := runOf(id, rapid.IntRange(0, 5).Draw(t, "pages"))
			run.Options, run.RunID = o, schemas.RunID(id, o)
			stream = append(stream, planned(run))
			for page := 1; page <= run.PagesSelected; page++ {
				for range rapid.IntRange(0, attempts).Draw(t, "results") {
					if rapid.Bool().Draw(t, "done") {
						stream = append(stream, done(run, page, rapid.IntRange(0, 3).Draw(t, "boxes")))
					} else {
						stream = append(stream, failed(run, page, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "code")))
					}
				}
			}
			// Whatever was asked of the run, a control may be said by many and come at any time.
			for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 5}).Draw(t, "controls") {
				sequence := day0.UnixMilli() + rapid.Int64Range(1, 3).Draw(t, "sequence")
				var said schemas.Result = schemas.RunCancelled{DocumentID: id, RunID: run.RunID, SubmittedAt: day0, Sequence: sequence, CancelledAt: day0}
				if rapid.Bool().Draw(t, "resume") {
					said = schemas.RunResumed{DocumentID: id, RunID: run.RunID, SubmittedAt: day0, Sequence: sequence, ResumedAt: day0}
				}
				stream = slices.Insert(stream, rapid.IntRange(0, len(stream)).Draw(t, "said"), said)
			}
			switch rapid.IntRange(0, 9).Draw(t, "word") {
			case 1:
				stream = append(stream, schemas.RunFailed{Run: run, Stage: "planner", Code: "broken", Error: "e", FailedAt: day0})
			case 2:
				stream = append(stream, planned(run))
			}
		}
		// Another stage's records may come before the planner's own, so the document may come last.
		at := rapid.IntRange(0, len(stream)).Draw(t, "accepted")
		streams[d] = slices.Insert(stream, at, schemas.Result(accepted(id, fmt.Sprint("title ", d))))
	}
	for len(streams) > 0 {
		d := rapid.IntRange(0, len(streams)-1).Draw(t, "next")
		records = append(records, streams[d][0])
		if streams[d] = streams[d][1:]; len(streams[d]) == 0 {
			streams = slices.Delete(streams, d, d+1)
		}
	}
	in := make([]stage.In, len(records))
	for i, record := range records {
		value, err := schemas.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		at := day0.Add(time.Hour + time.Duration(10*i)*time.Millisecond)
		if skew > 0 {
			at = at.Add(time.Duration(rapid.IntRange(-skew, skew).Draw(t, "clock")) * time.Millisecond)
		}
		in[i] = stage.In{Topic: schemas.TopicResults, Offset: int64(i), Timestamp: at, Key: record.Document(), Value: value, Attempt: 1}
	}
	return in
}

// batches cuts in at random.
func batches(t *rapid.T, in []stage.In) [][]stage.In {
	var parts [][]stage.In
	for len(in) > 0 {
		n := rapid.IntRange(1, len(in)).Draw(t, "batch")
		parts = append(parts, in[:n])
		in = in[n:]
	}
	return parts
}

func landAll(t *rapid.T, r *Recorder, parts [][]stage.In, events map[string]schemas.RunEnded) {
	for _, part := range parts {
		for i, result := range r.Handle(context.Background(), part) {
			if result.Err != nil {
				t.Fatalf("offset %d: %v", part[i].Offset, result.Err)
			}
			for _, out := range result.Out {
				e, err := schemas.Unmarshal[schemas.RunEnded](out.Value)
				if err != nil {
					t.Fatal(err)
				}
				if e.Title != "title "+strings.TrimLeft(e.DocumentID[24:], "0") && e.Title != "title 0" || e.WebhookURL == "" {
					t.Fatalf("said of a document that is not known: %+v", e)
				}
				e = theEnd(e)
				if old, said := events[e.ID]; said && old != e {
					t.Fatalf("one identity, two ends:\n%+v\n%+v", old, e)
				}
				events[e.ID] = e
			}
		}
	}
}

// theEnd is what an event says that its identity must fix. The rest may have become known better since it was first said:
// another reason to fail, boxes of another attempt, the document's title, pages that were in flight at a cancellation.
func theEnd(e schemas.RunEnded) schemas.RunEnded {
	if e.State == schemas.Cancelled {
		return schemas.RunEnded{ID: e.ID, RunID: e.RunID, State: e.State, Control: e.Control, FinishedAt: e.FinishedAt}
	}
	return schemas.RunEnded{ID: e.ID, RunID: e.RunID, State: e.State, PagesDone: e.PagesDone, PagesFailed: e.PagesFailed, FinishedAt: e.FinishedAt}
}

// answers is what the tables answer: all but the versions of runs, which nobody is shown.
func answers(m *memory) (map[[2]any]documentRow, map[[3]any]runRow, map[[4]any]pageRow) {
	runs := maps.Clone(m.runs)
	for key, row := range runs {
		row.Version = 0
		runs[key] = row
	}
	return m.documents, runs, m.pages
}

func sameAnswers(t *rapid.T, what string, a, b *memory) {
	ad, ar, ap := answers(a)
	bd, br, bp := answers(b)
	if diff := cmp.Diff(ad, bd) + cmp.Diff(ar, br) + cmp.Diff(ap, bp); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// However records fall into batches, and wherever the recorder is replaced by another that knows nothing, the answers
// and the events are those of records that came one by one.
func TestBatchesAndRestartsChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := topic(t, 500, 3)
		want, wantEvents := newMemory(), map[string]schemas.RunEnded{}
		for _, one := range in {
			r, _ := build(Config{}, want)
			landAll(t, r, [][]stage.In{{one}}, wantEvents)
		}
		got, gotEvents := newMemory(), map[string]schemas.RunEnded{}
		r, _ := build(Config{}, got)
		for _, part := range batches(t, in) {
			if rapid.Bool().Draw(t, "restart") {
				r, _ = build(Config{}, got)
			}
			landAll(t, r, [][]stage.In{part}, gotEvents)
		}
		sameAnswers(t, "batches", want, got)
		// Ends that were not the last one may pass unsaid within a batch: what is said is the state after it.
		for id, e := range gotEvents {
			if wantEvents[id] != e {
				t.Fatalf("an event of its own: %+v", e)
			}
		}
		for _, row := range want.runs {
			if !row.State.Final() {
				continue
			}
			e := schemas.RunEnded{RunID: row.RunID, State: row.State, PagesDone: int(row.PagesDone), PagesFailed: int(row.PagesFailed), Control: row.Control}
			if _, said := gotEvents[e.EventID()]; !said {
				t.Fatalf("the end of %+v was not said", row)
			}
		}
	})
}

// A replay of the topic from its start into the same tables changes no answer and says nothing new; nor does one into
// empty tables.
func TestReplayChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := topic(t, 500, 3)
		tables, events := newMemory(), map[string]schemas.RunEnded{}
		r, _ := build(Config{}, tables)
		landAll(t, r, batches(t, in), events)
		before := tables.clone()
		said := len(events)

		again, _ := build(Config{MaxRuns: rapid.IntRange(1, 3).Draw(t, "max runs")}, tables)
		landAll(t, again, batches(t, in), events)
		sameAnswers(t, "replay into the same tables", before, tables)
		if len(events) != said {
			t.Fatalf("%d events became %d", said, len(events))
		}

		empty := newMemory()
		fresh, _ := build(Config{}, empty)
		landAll(t, fresh, [][]stage.In{in}, map[string]schemas.RunEnded{})
		_, _, wantPages := answers(before)
		_, _, gotPages := answers(empty)
		if diff := cmp.Diff(wantPages, gotPages); diff != "" {
			t.Fatalf("replay into empty tables (-want +got):\n%s", diff)
		}
	})
}

// Records in any order, each any number of times, end in one state. Only the times at which a run first ended and was
// planned tell of the order.
func TestOrderAndRepetitionDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := topic(t, 500, 3)
		want := newMemory()
		r, _ := build(Config{}, want)
		landAll(t, r, [][]stage.In{in}, map[string]schemas.RunEnded{})
		shuffled := slices.Clone(in)
		for range rapid.IntRange(0, 10).Draw(t, "repeats") {
			shuffled = append(shuffled, rapid.SampledFrom(in).Draw(t, "repeat"))
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got := newMemory()
		r, _ = build(Config{}, got)
		landAll(t, r, batches(t, shuffled), map[string]schemas.RunEnded{})

		for _, m := range []*memory{want, got} {
			for key, row := range m.runs {
				row.FinishedAt, row.PlannedAt = 0, 0
				m.runs[key] = row
			}
		}
		sameAnswers(t, "order", want, got)
	})
}

// Wherever an insert breaks off, what was landed of it or not, the records come again and all is as if nothing had
// happened. A record that is refused is condemned alone.
func TestBrokenInsertsAreMadeGood(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attempts := rapid.IntRange(1, 3).Draw(t, "attempts")
		in := topic(t, 0, attempts)
		want, wantEvents := newMemory(), map[string]schemas.RunEnded{}
		r, _ := build(Config{}, want)
		landAll(t, r, [][]stage.In{in}, wantEvents)

		got, gotEvents := newMemory(), map[string]schemas.RunEnded{}
		r, _ = build(Config{}, got)
		for _, part := range batches(t, in) {
			breaks := rapid.SampledFrom([]string{"", "documents", "page_results", "runs"}).Draw(t, "breaks")
			got.fail = func(table string, _ []documentRow, _ []pageRow, _ []runRow) error {
				if table == breaks {
					return errAway
				}
				return nil
			}
			if breaks != "" {
				for i, result := range r.Handle(context.Background(), part) {
					if result.Err == nil || len(result.Out) > 0 {
						t.Fatalf("offset %d is done though nothing landed", part[i].Offset)
					}
				}
				if rapid.Bool().Draw(t, "restart") {
					r, _ = build(Config{}, got)
				}
			}
			got.fail = nil
			landAll(t, r, [][]stage.In{part}, gotEvents)
		}
		if attempts > 1 {
			// Where pages have landed and their run has not, and one of them came once more before the break, the page's
			// row has the later time, and that is all there is to tell by when the run ended.
			for _, m := range []*memory{want, got} {
				for key, row := range m.runs {
					row.FinishedAt = 0
					m.runs[key] = row
				}
			}
		}
		sameAnswers(t, "broken inserts", want, got)
	})
}
