package objects_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/objectstore"
)

// BenchmarkObjects puts and gets what a page is made of, crops and images, as the stages do. What counts is the server's own
// processor time, server-µs/op: on a laptop the stages want the same processors.
func BenchmarkObjects(b *testing.B) {
	for _, size := range []int{5_000, 300_000} {
		o := localtest.StartObjects(b)
		ctx := context.Background()
		store, err := objectstore.Open(ctx, objectstore.Config{
			Endpoint: o.URL, Region: o.Region, AccessKeyID: o.AccessKey, SecretAccessKey: o.SecretKey,
			Bucket: o.Bucket, ForcePathStyle: true, Checksum: "when-supported", Connections: 4,
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(store.Close)
		body := randomBytes(size)
		stored := 0 // each put is of an object of its own, a folder holds those of a page
		key := func(n int) string { return fmt.Sprintf("documents/d%d/pages/%d/crops/%d.png", n/120, n/12%10, n%12) }
		b.Run(fmt.Sprintf("put/%dKB", size/1000), func(b *testing.B) {
			defer serverTime(b, o)()
			for b.Loop() {
				if err := store.Put(ctx, key(stored), body, "image/png"); err != nil {
					b.Fatal(err)
				}
				stored++
			}
		})
		b.Run(fmt.Sprintf("get/%dKB", size/1000), func(b *testing.B) {
			for ; stored < 120; stored++ { // where only this one was asked for
				if err := store.Put(ctx, key(stored), body, "image/png"); err != nil {
					b.Fatal(err)
				}
			}
			defer serverTime(b, o)()
			for n := 0; b.Loop(); n++ {
				if got, err := store.Get(ctx, key(n*7%stored), int64(size)); err != nil || !bytes.Equal(got, body) {
					b.Fatalf("%d bytes, %v", len(got), err)
				}
			}
		})
		o.Stop()
	}
}

// serverTime reports what the server takes until the function it gives is called; nothing where the system does not tell.
func serverTime(b *testing.B, o *localtest.Objects) func() {
	before, known := processorTime(o.PID())
	return func() {
		if after, _ := processorTime(o.PID()); known {
			b.ReportMetric(float64((after-before).Microseconds())/float64(b.N), "server-µs/op")
		}
	}
}

// processorTime is a process's so far, in steps of 10 ms.
func processorTime(pid int) (time.Duration, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	var ticks int // fields 14 and 15, in the user's code and in the system's; the second, a name in brackets, may have spaces
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, false
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, true
}

func randomBytes(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}
