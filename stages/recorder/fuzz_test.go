package recorder

import (
	"context"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// FuzzHandle takes any value of the topic: it lands, is ignored or is condemned, and the run beside it ends all the same.
func FuzzHandle(f *testing.F) {
	run := runOf(docA, 1)
	for _, r := range []schemas.Result{accepted(docB, "T"), planned(runOf(docB, 2)), done(runOf(docB, 2), 1, 3), failed(runOf(docB, 2), 2, "x"),
		schemas.RunFailed{Run: runOf(docB, 0), Code: "c"}, schemas.RunCancelled{DocumentID: docB, RunID: run.RunID}} {
		value, err := schemas.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Add([]byte(`{"type":"PageDone"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, value []byte) {
		tables := newMemory()
		p := (&partition{t: t}).add(planned(run), done(run, 1, 1))
		p.in = append([]stage.In{{Offset: 100, Timestamp: day0, Value: value}}, p.in...)
		results := newRecorder(t, tables).Handle(context.Background(), p.in)
		if err := results[0].Err; err != nil && fault.ClassOf(err) != fault.Permanent {
			t.Fatalf("%v", err)
		}
		if results[1].Err != nil || results[2].Err != nil {
			t.Fatalf("%v %v", results[1].Err, results[2].Err)
		}
		for _, row := range tables.runs {
			if row.PagesDone+row.PagesFailed > 2 || row.State == "" || row.State.Final() != (row.FinishedAt != 0) {
				t.Fatalf("%+v", row)
			}
		}
		_ = condemned(p.in[0], "code", errRefused)
	})
}
