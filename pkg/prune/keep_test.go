package prune

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/schemas"
)

func TestAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"720h": 720 * time.Hour, "30d": 720 * time.Hour, " 1h30m ": 90 * time.Minute, "1ms": time.Millisecond, "0s": 0} {
		var a Age
		if err := a.Set(text); err != nil || time.Duration(a) != want {
			t.Errorf("%q: %s, %v", text, a, err)
		}
	}
	for _, text := range []string{"", "30", "-1h", "-3d", "1.5d", "d", "99999d", "x"} {
		if err := new(Age).Set(text); err == nil {
			t.Errorf("%q is an age", text)
		}
	}
}

func TestOnly(t *testing.T) {
	for _, what := range All() {
		k, err := Only(Age(time.Hour), what)
		if err != nil || k.Empty() || len(k.cutoffs(time.Now())) != 1 {
			t.Errorf("%s: %+v, %v", what, k, err)
		}
	}
	if _, err := Only(Age(time.Hour), Images, "everything"); err == nil {
		t.Error("everything can be pruned")
	}
	if !(Keep{}).Empty() {
		t.Error("nothing is not empty")
	}
}

// Every object of the layout is a part, but for the marker, which tells that the document was accepted.
func TestKindOf(t *testing.T) {
	const id, run = "0193568e-0000-7000-8000-000000000001", "0193568e-0000-7000-8000-000000000002"
	image := schemas.PageImageKey(id, 108, "mupdf1", 7)
	for key, want := range map[string]string{
		image: Images, schemas.PageTextKey(id, 108, "mupdf1", 7): Images, schemas.AnnotatedKey(id, run, 7): Annotated,
		schemas.CropKey(id, run, 7, image, [4]int{1, 2, 3, 4}, 4): Crops, schemas.SourceKey(id): Sources, schemas.RecordKey(id): Sources,
		schemas.DocumentPrefix(id) + "submission.json": "", schemas.DocumentPrefix(id) + "runs/x": "",
	} {
		if got := kindOf(key[len(schemas.DocumentPrefix(id)):]); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

func TestDueOf(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	days := func(n int) int64 { return now.AddDate(0, 0, -n).UnixMilli() }
	day := Age(24 * time.Hour)
	j := &job{cutoffs: Keep{Images: 7 * day, Crops: 14 * day, Documents: 30 * day}.cutoffs(now)}
	for name, c := range map[string]struct {
		ended  int64
		pruned map[string]int64
		want   []string
	}{
		"young":                       {days(6), nil, nil},
		"old enough for images":       {days(8), nil, []string{Images}},
		"images pruned":               {days(8), map[string]int64{Images: days(1)}, nil},
		"images pruned, then made":    {days(8), map[string]int64{Images: days(9)}, []string{Images}},
		"crops too":                   {days(15), map[string]int64{Images: days(1)}, []string{Crops}},
		"old as a whole":              {days(31), map[string]int64{Images: days(1)}, []string{Documents}},
		"to the millisecond: not yet": {days(7), nil, nil},
	} {
		if diff := cmp.Diff(c.want, j.dueOf(c.ended, c.pruned)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
