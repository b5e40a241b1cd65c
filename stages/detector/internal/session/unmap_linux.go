package session

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Forgo lets go of the pages of program and library files that this process has
// mapped and not written to. Starting needs far more of them than running: all
// kernels are registered, all packages initialised. Those that are needed again
// are mapped again, from the system's cache; those that are not are no longer
// this process's. Errors only mean that they still are.
func Forgo() {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var at, size uintptr // of a mapping that may be let go of
	var written bool     // one of its pages was
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && strings.HasSuffix(fields[0], ":") {
			switch fields[0] {
			case "Anonymous:", "Swap:":
				// A page that was written to, by the loader for instance,
				// has no other copy, in memory or swapped out.
				written = written || fields[1] != "0"
			case "VmFlags:": // the last line of a mapping
				if size != 0 && !written {
					_, _, _ = unix.Syscall(unix.SYS_MADVISE, at, size, unix.MADV_DONTNEED)
				}
			}
			continue
		}
		at, size, written = 0, 0, false
		if len(fields) < 6 || !strings.HasPrefix(fields[5], "/") || (fields[1] != "r-xp" && fields[1] != "r--p") {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		a, errA := strconv.ParseUint(from, 16, 64)
		b, errB := strconv.ParseUint(to, 16, 64)
		if errA == nil && errB == nil {
			at, size = uintptr(a), uintptr(b-a)
		}
	}
}
