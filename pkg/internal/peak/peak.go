// Package peak measures how much memory something takes at most. Tests of bounds call it.
package peak

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// Heap watches the heap, garbage included, until the function that it returns is called: that gives the most that there was
// beyond what there is now, in bytes.
func Heap() (most func() int) {
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	before := heap()
	highest := before
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				highest = max(highest, heap())
			}
		}
	}()
	return func() int {
		close(stop)
		<-stopped
		return highest - before
	}
}

func heap() int {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int(s[0].Value.Uint64())
}
