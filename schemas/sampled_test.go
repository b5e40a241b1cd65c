package schemas_test

import (
	"fmt"
	"math"
	"testing"

	"leafcutter/schemas"
)

// The same documents are chosen each time, about as many as the share says, and those of a share are among those of a
// larger one.
func TestSampled(t *testing.T) {
	const n = 20_000
	shares := []float64{0, 0.01, 0.1, 0.5, 0.9, 1}
	counts := make([]int, len(shares))
	for i := range n {
		id := fmt.Sprintf("0198a000-%04x-7000-8000-%012x", i%65536, i) // as UUIDv7: most of it is alike
		before := false
		for k, share := range shares {
			is := schemas.Sampled(id, share)
			if before && !is {
				t.Fatalf("%s is among %g and not among %g", id, shares[k-1], share)
			}
			if is != schemas.Sampled(id, share) {
				t.Fatalf("%s is chosen by chance", id)
			}
			if before = is; is {
				counts[k]++
			}
		}
	}
	for k, share := range shares {
		if got := float64(counts[k]) / n; math.Abs(got-share) > 0.01 {
			t.Errorf("%g of all for a share of %g", got, share)
		}
	}
	if counts[0] != 0 || counts[len(counts)-1] != n {
		t.Errorf("none and all are %d and %d of %d", counts[0], counts[len(counts)-1], n)
	}
	// For ever: a deployment that is replayed with another build must choose the same.
	if !schemas.Sampled(doc, 0.104) || schemas.Sampled(doc, 0.103) {
		t.Error("another choice than that of the first version")
	}
}

// A shadow is a run of its own, all of which goes by the bulk lane; options without it are written as before.
func TestShadow(t *testing.T) {
	o := run.Options
	o.Shadow = true
	if schemas.RunID(doc, o) == schemas.RunID(doc, run.Options) {
		t.Error("a shadow has the identity of the run that it is beside")
	}
	r := schemas.PageRange{Run: run, Pages: []int{1}}
	p := schemas.RenderedPage{Run: run, Page: 1}
	if r.Bulk() || p.Bulk() {
		t.Error("first pages go by the bulk lane")
	}
	r.Options, p.Options = o, o
	if !r.Bulk() || !p.Bulk() {
		t.Error("a shadow's first pages go by the plain lane")
	}
}
