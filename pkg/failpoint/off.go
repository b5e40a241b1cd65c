//go:build !failpoints

package failpoint

// Hit says that the process is at a gap: where is the stage or the edge, gap what has just happened.
func Hit(where, gap string) {}
