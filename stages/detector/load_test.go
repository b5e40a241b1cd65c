package detector

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"leafcutter/stages/detector/internal/family"
)

// What decides whether a prepared model is trusted must not be fooled by
// values that compare false with everything.
func TestDifference(t *testing.T) {
	nan := float32(math.NaN())
	inf := float32(math.Inf(1))
	for name, c := range map[string]struct {
		a, b    []float32
		trusted bool
	}{
		"the same":                {[]float32{1, -2, 0}, []float32{1, -2, 0}, true},
		"rounding":                {[]float32{1000, 0.001}, []float32{1000.01, 0.0011}, true},
		"a large value changed":   {[]float32{1000}, []float32{1002}, false},
		"a small value changed":   {[]float32{0}, []float32{0.01}, false},
		"not a number":            {[]float32{1, 2}, []float32{1, nan}, false},
		"was not a number":        {[]float32{nan}, []float32{nan}, false},
		"infinite":                {[]float32{1}, []float32{inf}, false},
		"one fewer":               {[]float32{1, 2}, []float32{1}, false},
		"after one that is equal": {[]float32{nan, 1}, []float32{nan, 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := difference([]family.Tensor{{Data: c.a}}, []family.Tensor{{Data: c.b}})
			if (d <= tolerance) != c.trusted {
				t.Fatalf("difference %v, trusted %v", d, d <= tolerance)
			}
		})
	}
}

func TestSweepRemovesWhatIsOldAndUnfinished(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{".new-old", ".new-young", "prepared"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if name != ".new-young" {
			if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweep(dir, time.Hour)
	sweep(filepath.Join(dir, "absent"), time.Hour)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 || left[0].Name() != ".new-young" || left[1].Name() != "prepared" {
		t.Fatalf("left: %v, %v", left, err)
	}
}
