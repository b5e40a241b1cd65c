package detector

import (
	"math"
	"testing"

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
