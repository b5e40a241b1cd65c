//go:build full

package reliability

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"leafcutter/e2e/pipeline"
)

// roomy is the size in bytes of the file systems of the embedded servers, before what is left of it is filled.
const roomy = 1 << 30

// A disk that is full under one of the servers: nothing is acknowledged that is not kept, and work goes on once there is
// room again. It needs the right to mount a tmpfs, which root has.
func TestDiskFull(t *testing.T) {
	items, o := undisturbed(t)
	ctx := bounded(t, 40*time.Minute)
	for _, store := range []struct{ folder, fault string }{{"kafka", "the disk of Kafka is full"}, {"objects", "the disk of S3 is full"}, {"clickhouse", "the disk of ClickHouse is full"}} {
		t.Run(store.folder, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			folder := filepath.Join(data, store.folder)
			ok(t, os.MkdirAll(folder, 0o700))
			if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%d", roomy)); err != nil {
				t.Fatalf("mount a tmpfs, which this test needs the right to do: %v", err)
			}
			t.Cleanup(func() { ok(t, syscall.Unmount(folder, 0)) })
			p := pipeline.Again(t, data)
			l := newLoad(t, p)
			ok(t, l.put(ctx, 1, items))
			ok(t, l.settle(ctx))

			stop := make(chan struct{})
			var feeding sync.WaitGroup
			var fed error
			feeding.Go(func() { _, fed = l.flow(ctx, stop, 2, 3*len(items), items) })
			time.Sleep(3 * time.Second) // the load takes hold
			ballast := filepath.Join(folder, "ballast")
			ok(t, fill(ballast))
			full := time.Now()
			for time.Since(full) < 20*time.Second {
				ok(t, fill(ballast)) // what was freed meanwhile
				time.Sleep(200 * time.Millisecond)
			}
			close(stop)
			than := uint64(0)
			within, cancel := context.WithTimeout(ctx, 20*time.Second)
			ok(t, persist(within, func() (err error) { than, err = pagesLanded(ctx, p); return err }))
			cancel()
			ok(t, os.Remove(ballast))
			recovered := untilNextPage(ctx, t, p, than)
			feeding.Wait()
			ok(t, fed)
			judge(ctx, t, l, o, result{fault: store.fault, times: 1, recovery: []time.Duration{recovered}, note: "for 20 s"})
		})
	}
}

// fill takes what room there is on a file system.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the ballast: %w", err)
	}
	chunk := make([]byte, 1<<20)
	for size := len(chunk); size > 0; {
		n, err := f.Write(chunk[:size])
		switch {
		case errors.Is(err, syscall.ENOSPC):
			if n == 0 {
				size /= 2
			}
		case err != nil:
			return errors.Join(fmt.Errorf("write the ballast: %w", err), f.Close())
		}
	}
	return f.Close()
}
