package annotator_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"leafcutter/pkg/controls"
	"leafcutter/schemas"
	"leafcutter/stages/annotator"
)

func TestCancelledPagesAreDropped(t *testing.T) {
	p := page(t)
	asked := controls.New(nil)
	a, err := annotator.New(config(), newMemory(), asked)
	if err != nil {
		t.Fatal(err)
	}
	s := a.Stage()
	if s.Cancelled(s.About(in(t, p))) {
		t.Error("dropped before anything was asked")
	}
	asked.Asked(schemas.Control{DocumentID: p.DocumentID, Action: schemas.ActionCancel, Sequence: 5})
	if outs := s.Dropped(in(t, p)); !s.Cancelled(s.About(in(t, p))) || len(outs) != 1 || outs[0].Key != p.DocumentID {
		t.Errorf("cancelled, and %+v", outs)
	}
	p.Control = 6 // a later resume asked for it
	if s.Cancelled(s.About(in(t, p))) {
		t.Error("dropped though it was resumed")
	}
}

// Whoever deletes the objects of a document cannot wait for a page that is just being stored.
func TestWhatIsStoredOfADeletedDocumentGoes(t *testing.T) {
	for _, crops := range []annotator.Crops{annotator.Eager, annotator.Lazy} {
		t.Run(string(crops), func(t *testing.T) {
			p := page(t)
			store, asked := newMemory(), controls.New(nil)
			splitterDid(t, store, p)
			stored := 0
			store.fail = func(key string) error {
				if strings.Contains(key, "/runs/") {
					stored++
					asked.Asked(schemas.Control{DocumentID: p.DocumentID, Action: schemas.ActionDelete, Sequence: 5})
				}
				return nil
			}
			cfg := config()
			cfg.Crops = crops
			a, err := annotator.New(cfg, store, asked)
			if err != nil {
				t.Fatal(err)
			}
			result := a.Handle(t.Context(), in(t, p))
			if result.Err != nil || len(result.Out) != 0 || stored == 0 {
				t.Errorf("%d stored, %+v", stored, result)
			}
			left := slices.DeleteFunc(slices.Collect(maps.Keys(store.snapshot())), func(key string) bool { return key == p.ImageKey || key == p.TextKey })
			if len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
