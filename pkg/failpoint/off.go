//go:build !failpoints

package failpoint

// Hit says that the process is at a gap: the first is the stage or the edge, the second what has just happened.
func Hit(_, _ string) {}
