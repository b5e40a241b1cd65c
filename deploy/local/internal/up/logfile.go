package up

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// Sizes of a child's log in bytes: from the first on it is set aside at a start, from the second on while running. One
// generation is kept, beside it as .1, so a child's logs take about twice the second at most.
const (
	logAtStart = 16 << 20
	logAtMost  = 64 << 20
)

// logFile keeps what a child says. Writing never fails, for what a child writes comes through a pipe that this process
// empties: if it stopped at a full disk, the child would die of its next line.
type logFile struct {
	path string
	most int64
	warn *slog.Logger

	mu     sync.Mutex
	file   *os.File // nil where it cannot be written
	size   int64
	failed bool // and it has been said
}

// openLog opens the log at path for a child that is about to start.
func openLog(path string, warn *slog.Logger) *logFile {
	l := &logFile{path: path, most: logAtMost, warn: warn}
	if info, err := os.Stat(path); err == nil && info.Size() >= logAtStart {
		l.note(os.Rename(path, path+".1"))
	}
	l.open()
	return l
}

// Write never fails.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.size > 0 && l.size+int64(len(b)) > l.most {
		l.note(errors.Join(l.file.Close(), os.Rename(l.path, l.path+".1")))
		l.open()
	}
	if l.file != nil {
		n, err := l.file.Write(b)
		l.size += int64(n)
		l.note(err)
	}
	return len(b), nil
}

// Close never fails, for the same reason.
func (l *logFile) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.note(l.file.Close())
		l.file = nil
	}
}

func (l *logFile) open() {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.file = nil
		l.note(fmt.Errorf("open: %w", err))
		return
	}
	l.file, l.size = file, 0
	if info, err := file.Stat(); err == nil {
		l.size = info.Size()
	}
}

// note says the first fault.
func (l *logFile) note(err error) {
	if err == nil || l.failed {
		return
	}
	l.failed = true
	l.warn.Warn("a child's log is incomplete", "log", l.path, "error", err)
}
