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
	for _, m := range unwritten(func(_, may string) bool { return may == "r-xp" || may == "r--p" }) {
		m.letGo()
	}
}

// letGo gives a mapping's pages back. Reading them maps them again, from the
// system's cache. An error only means that they are still held.
func (m mapping) letGo() {
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.at, m.size, unix.MADV_DONTNEED)
}

// unwritten are the mappings of files that are asked for, by path and by what may
// be done with them ("r-xp", as /proc has it), and of which no page was written
// to: such a page has no other copy, in memory or swapped out.
func unwritten(wanted func(path, may string) bool) []mapping {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil
	}
	var all []mapping
	var m mapping // that may be let go of, if none of its pages was written to
	var written bool
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && strings.HasSuffix(fields[0], ":") {
			switch fields[0] {
			case "Anonymous:", "Swap:":
				written = written || fields[1] != "0"
			case "VmFlags:": // the last line of a mapping
				if m.size != 0 && !written {
					all = append(all, m)
				}
			}
			continue
		}
		m, written = mapping{}, false
		if len(fields) < 6 || !strings.HasPrefix(fields[5], "/") || !wanted(strings.Join(fields[5:], " "), fields[1]) {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		a, errA := strconv.ParseUint(from, 16, 64)
		b, errB := strconv.ParseUint(to, 16, 64)
		if errA == nil && errB == nil {
			m = mapping{uintptr(a), uintptr(b - a)}
		}
	}
	return all
}
