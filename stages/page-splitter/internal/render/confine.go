package render

import (
	"fmt"
	"syscall"
)

// confine is the one place where a child gives up what it could do, after it has
// said hello and before it sees a document: a sandbox belongs here as well.
// Limits are never raised afterwards, except that of memory for each document.
func confine(l limits) error {
	for _, limit := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"core size", syscall.RLIMIT_CORE, 0}, // a core would hold the document
		{"file size", syscall.RLIMIT_FSIZE, 0},
		{"open files", syscall.RLIMIT_NOFILE, 32},
		{"processor time", syscall.RLIMIT_CPU, uint64(l.CPU)},
	} {
		rlimit := syscall.Rlimit{Cur: limit.value, Max: limit.value}
		if err := syscall.Setrlimit(limit.resource, &rlimit); err != nil {
			return fmt.Errorf("limiting %s to %d: %w", limit.name, limit.value, err)
		}
	}
	return nil
}
