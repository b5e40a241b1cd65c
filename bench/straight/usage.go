//go:build cgo

package main

import (
	"runtime"
	"syscall"
	"time"
)

// usage is what the system says of this process. It fails for no argument that is given here.
func usage() syscall.Rusage {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u
}

// processorTime is that of all threads, in user and system.
func processorTime() time.Duration {
	u := usage()
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMemory is the resident memory at most, in bytes.
func peakMemory() int64 {
	peak := usage().Maxrss
	if runtime.GOOS == "darwin" {
		return peak
	}
	return peak << 10
}
