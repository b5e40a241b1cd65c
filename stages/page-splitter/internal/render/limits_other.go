//go:build !linux

package render

import (
	"os"
	"syscall"
)

// maxrssUnit is what getrusage counts resident memory in.
const maxrssUnit = 1

// childAttributes puts a child into a process group of its own. A stage that dies
// closes the socket, upon which its children end once they are done with a page.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

func selfPath() (string, error) { return os.Executable() }

// memoryBase and limitMemory do nothing: address space limits are not enforced
// outside of Linux. Pixels, pages, time and recycling are bounded everywhere.
func memoryBase() (int64, error) { return 0, nil }

func limitMemory(int64) error { return nil }
