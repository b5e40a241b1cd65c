//go:build full && linux

package detector

import (
	"errors"
	"fmt"
	"image"
	"math/rand/v2"
	"slices"
	"testing"
)

// Ten thousand pages end within a tenth of what there was at page 1,000, in
// about twenty minutes.
func TestMemoryStaysFlatForLong(t *testing.T) {
	staysFlat(t, 1000, 10_000, []image.Point{{300, 400}, {1240, 1754}, {1754, 1240}, {2480, 3508}, {50, 3000}})
}

// Batches of one to seven pages by turns, after those of eight on which the model is
// tried, find what they need in the memory of the larger ones.
func TestMemoryOfBatchesStaysFlat(t *testing.T) {
	c := testConfig(t)
	c.ModelsDir = takesAny(t, 8)
	d := open(t, c)
	sizes := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	through := func(n int) (most int) {
		for range n {
			size := 1 + sizes.IntN(7)
			if _, errs := inOneBatch(t, d, size, slices.Repeat([][]byte{samplePage}, size)...); errors.Join(errs...) != nil {
				t.Fatal(errs)
			}
			most = max(most, resident(t))
		}
		return most
	}
	early := through(30)
	late := through(150)
	fmt.Printf("resident in 30 batches %d KiB at most, in 150 further ones %d KiB\n", early, late)
	if float64(late) > 1.1*float64(early) {
		t.Errorf("resident memory grew from %d KiB to %d KiB", early, late)
	}
}
