//go:build full

package e2e

import "testing"

// Ten cycles of the same work hold no more than the first.
func TestPruneBoundsTheDiskOverTenCycles(t *testing.T) {
	checkHeld(t, cycles(t, 10))
}
