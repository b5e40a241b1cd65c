// Package datadir keeps a second process off a data directory. Each embedded server takes its own directory
// before it reads anything in it.
package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Lock is a directory that is this process's alone. The kernel drops it with the process, so that a kill
// leaves nothing behind to clean up.
type Lock struct{ file *os.File }

// Take creates dir where it is missing and locks it. Where another holder has it, the error names that
// process.
func Take(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening a data directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "leafcutter.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for range 5 {
		if err == nil {
			break
		}
		time.Sleep(askTime) // it may be one who only asks: see Held
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by process %s: stop it, or choose another data directory: %w", dir, holder(file), err), file.Close())
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), file.Close())
	}
	return &Lock{file}, nil
}

// askTime is longer than Held takes.
const askTime = 10 * time.Millisecond

// Held reports whether a process has dir. To find out it takes the lock for a moment, shared, so that those who ask do
// not see each other; Take tries for longer than that.
func Held(dir string) (bool, error) {
	file, err := os.Open(filepath.Join(dir, "leafcutter.lock"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for the lock of %s: %w", dir, err)
	}
	locked := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	held := errors.Is(locked, syscall.EWOULDBLOCK)
	if held {
		locked = nil
	}
	if err := errors.Join(locked, file.Close()); err != nil {
		return false, fmt.Errorf("asking for the lock of %s: %w", dir, err)
	}
	return held, nil
}

func holder(file *os.File) string {
	text := make([]byte, 32)
	n, err := file.ReadAt(text, 0)
	if n == 0 {
		return fmt.Sprintf("unknown (%v)", err)
	}
	return strings.TrimSpace(string(text[:n]))
}

// Release gives the directory back.
func (l *Lock) Release() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("releasing a data directory: %w", err)
	}
	return nil
}
