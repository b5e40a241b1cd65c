package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// dirLock keeps a second broker off a data directory: kfake itself would write into it beside the first one.
// The kernel drops the lock with the process, so a kill leaves nothing behind to clean up.
type dirLock struct{ file *os.File }

func lockDir(dir string) (*dirLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the broker's data: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "leafcutter.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the broker's data: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := file.ReadAt(holder, 0)
		return nil, errors.Join(fmt.Errorf("%s is in use by process %s: stop it, or choose another data directory: %w",
			dir, strings.TrimSpace(string(holder[:n])), err), file.Close())
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the broker's data: %w", err), file.Close())
	}
	return &dirLock{file}, nil
}

func (l *dirLock) release() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("releasing the broker's data: %w", err)
	}
	return nil
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }
