//go:build full && linux

package detector

import (
	"image"
	"testing"
)

// Ten thousand pages end within a tenth of what there was at page 1,000, in
// about twenty minutes.
func TestMemoryStaysFlatForLong(t *testing.T) {
	staysFlat(t, 1000, 10_000, []image.Point{{300, 400}, {1240, 1754}, {1754, 1240}, {2480, 3508}, {50, 3000}})
}
