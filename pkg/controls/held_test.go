package controls

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"leafcutter/schemas"
)

// A table is a map.
func TestTable(t *testing.T) {
	table, model := newTable(), map[key]held{}
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 100_000 {
		k := key{0: byte(random.IntN(100)), 15: byte(random.IntN(200))}
		switch random.IntN(3) {
		case 0:
			table.remove(k)
			delete(model, k)
		default:
			table.put(k, held{sequence: int64(n)})
			model[k] = held{sequence: int64(n)}
		}
		k[0], k[15] = byte(random.IntN(100)), byte(random.IntN(200))
		got, ok := table.get(k)
		if want, wanted := model[k]; got != want || ok != wanted {
			t.Fatalf("%v: %v %v, want %v %v", k, got, ok, want, wanted)
		}
	}
	entries := 0
	for _, share := range table.slices {
		entries += len(share)
	}
	if entries != len(model) {
		t.Errorf("%d entries, want %d", entries, len(model))
	}
}

func TestHeldIsTheControl(t *testing.T) {
	const document = "0198a000-0000-7000-8000-00000000abcd"
	for _, action := range []string{schemas.ActionCancel, schemas.ActionResume, schemas.ActionDelete} {
		for _, at := range []time.Time{{}, time.UnixMilli(-1).UTC(), time.UnixMilli(1_700_000_000_123).UTC(), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)} {
			c := schemas.Control{DocumentID: document, Action: action, Sequence: 1 << 62, At: at}
			if h, known := heldOf(c); !known || h.of(document) != c {
				t.Errorf("%+v became %+v", c, h.of(document))
			}
		}
	}
	if _, known := heldOf(schemas.Control{Action: "burn"}); known {
		t.Error("burn is known")
	}
}

// What is a key is a UUID in its canonical form, and nothing else is.
func FuzzKeyOf(f *testing.F) {
	for _, text := range []string{"", "0198a000-0000-7000-8000-00000000abcd", "0198A000-0000-7000-8000-00000000abcd", "0198a0000000-7000-8000-00000000abcd0",
		"0198a000-0000-7000-8000-00000000abcg", "0198a000-0000-7000-8000-00000000abcd/delete", "------------------------------------"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, ok := keyOf(text)
		if ok != schemas.IsUUID(text) {
			t.Errorf("%q: %v", text, ok)
		}
		if back := fmt.Sprintf("%x-%x-%x-%x-%x", k[:4], k[4:6], k[6:8], k[8:10], k[10:]); ok && back != text {
			t.Errorf("%q became %q", text, back)
		}
	})
}
