package render

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// maxrssUnit is what getrusage counts resident memory in.
const maxrssUnit = 1024

// childAttributes puts a child into a process group of its own, so that it can be
// killed with all that it might have started and so that a terminal's interrupt
// does not reach it, and has the kernel kill it when the stage dies. The latter
// is tied to the thread that starts the child; the Go runtime ends no thread
// unless a goroutine that is locked to it returns, and none here is.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// selfPath starts the very binary that is running, even if another one has been
// put in its place.
func selfPath() (string, error) { return "/proc/self/exe", nil }

// memoryBase returns the address space of the process in bytes. The Go runtime
// reserves far more than it uses, so limits count from there.
func memoryBase() (int64, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("reading the size of the process: %w", err)
	}
	size, _, _ := strings.Cut(string(statm), " ")
	pages, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the size of the process: %w", err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// limitMemory limits the process's address space to so many bytes.
func limitMemory(bytes int64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &limit); err != nil {
		return fmt.Errorf("reading the memory limit: %w", err)
	}
	limit.Cur = min(uint64(bytes), limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
		return fmt.Errorf("limiting memory to %d bytes: %w", limit.Cur, err)
	}
	return nil
}
