package sourcecache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"leafcutter/pkg/fault"
)

// acquire locks a folder for the life of this process: the kernel gives the lock
// up with it, however it ends.
func acquire(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", lock.Name(), err), lock.Close())
	}
	return lock, nil
}

// sweep removes the folders of processes that are gone. One that has been made
// this moment and is not locked yet may be taken for such; its process then fails
// to start and says so.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "sources-*"))
	if err != nil {
		return err
	}
	var faults []error
	for _, folder := range left {
		lock, err := acquire(folder)
		if err != nil {
			continue // in use by another process
		}
		faults = append(faults, os.RemoveAll(folder), lock.Close())
	}
	return errors.Join(faults...)
}

// fileWriter classes the errors of the disk, which io.Copy would mix with those
// of the store.
type fileWriter struct{ file *os.File }

func (w fileWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	if err != nil {
		err = diskFault(err)
	}
	return n, err
}

func diskFault(err error) error {
	return fault.AsUnavailable(Dependency, fmt.Errorf("source cache: %w", err))
}

// fits tells whether the disk has room for size bytes more.
func (c *Cache) fits(size int64) error {
	free, err := c.free(c.dir)
	if err != nil {
		return diskFault(err)
	}
	if free < size {
		return diskFault(fmt.Errorf("%d bytes are free, %d are needed", free, size))
	}
	return nil
}

// freeBytes is how much this user may still write to the file system of dir.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // the types differ between systems
}

// Probe tells whether what failed for want of room may be tried again: whether the
// disk takes a megabyte and has room for the largest document that it did not take.
func (c *Cache) Probe(context.Context) error {
	c.mu.Lock()
	lacking := c.lacking
	c.mu.Unlock()
	if err := c.fits(lacking); err != nil {
		return err
	}
	file, err := os.CreateTemp(c.dir, "probe-")
	if err != nil {
		return fmt.Errorf("source cache: %w", err)
	}
	_, err = file.Write(make([]byte, 1<<20))
	err = errors.Join(err, file.Close(), os.Remove(file.Name()))
	if err == nil {
		c.mu.Lock()
		if c.lacking == lacking {
			c.lacking = 0 // tried again, it tells anew
		}
		c.mu.Unlock()
	}
	return err
}
