package eraser

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

const id = "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b"

// store counts what it is asked for.
type store map[string]int

func (s store) DeletePrefix(_ context.Context, prefix string) (int, error) {
	s[prefix]++
	return 7, nil
}

func in(t *testing.T, key string, c schemas.Control, age time.Duration) stage.In {
	t.Helper()
	out, err := stage.Emit(schemas.TopicControls, key, c)
	if err != nil {
		t.Fatal(err)
	}
	return stage.In{Topic: out.Topic, Key: out.Key, Value: out.Value, Headers: out.Headers, Timestamp: time.Now().Add(-age)}
}

func TestADeletionIsPassedTwiceAndNothingElseIsTouched(t *testing.T) {
	deleted := store{}
	passes := Stages(deleted, time.Second, slog.New(slog.DiscardHandler))
	if len(passes) != 2 || passes[0].Group == passes[1].Group {
		t.Fatalf("passes %+v", passes)
	}
	first, second := passes[0], passes[1]
	deletion := schemas.Control{DocumentID: id, Action: schemas.ActionDelete, Sequence: 3, At: time.Now()}
	cancel := schemas.Control{DocumentID: id, Action: schemas.ActionCancel, Sequence: 4, At: time.Now()}
	if first.Hold != nil {
		t.Error("the first pass waits")
	}
	for _, key := range []string{deletion.Key(), id} {
		if wait := second.Hold(in(t, key, deletion, 0)); wait <= 0 || wait > late {
			t.Errorf("the second pass over a deletion under %s waits %s", key, wait)
		}
		if wait := second.Hold(in(t, key, deletion, late+time.Second)); wait > 0 {
			t.Errorf("an old deletion waits %s", wait)
		}
	}
	if wait := second.Hold(in(t, id, cancel, 0)); wait != 0 {
		t.Errorf("a cancel waits %s", wait)
	}
	for _, c := range []stage.In{in(t, id, cancel, 0), in(t, "another", deletion, 0), {Key: id, Value: []byte("{")}, {Key: id}} {
		if r := first.Handler.Handle(t.Context(), []stage.In{c})[0]; r.Err != nil || len(r.Out) != 0 {
			t.Errorf("%+v is no deletion: %+v", c, r)
		}
	}
	if len(deleted) != 0 {
		t.Errorf("deleted %v", deleted)
	}
	for _, pass := range passes {
		r := pass.Handler.Handle(t.Context(), []stage.In{in(t, deletion.Key(), deletion, late)})[0]
		if r.Err != nil || len(r.Out) != 1 || r.Out[0].Topic != schemas.TopicResults || r.Out[0].Key != id {
			t.Errorf("%s: %+v", pass.Name, r)
		}
	}
	if deleted[schemas.DocumentPrefix(id)] != 2 || len(deleted) != 1 {
		t.Errorf("deleted %v", deleted)
	}
	if a := first.About(in(t, deletion.Key(), deletion, 0)); a.DocumentID != id {
		t.Errorf("about %+v", a)
	}
}
