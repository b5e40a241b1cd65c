package chdb

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"
)

// keptSignals are those whose handlers libchdb or its framework replaces, and which the Go runtime needs: nil
// dereferences arrive as SIGSEGV, preemption as SIGURG, an ordered stop as SIGTERM and SIGINT.
var keptSignals = []syscall.Signal{
	syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGILL, syscall.SIGBUS, syscall.SIGSYS, syscall.SIGFPE,
	syscall.SIGTSTP, syscall.SIGTRAP, syscall.SIGURG, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP,
	syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGPROF, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCHLD,
}

// signals puts Go's signal handlers back after calls into libchdb that replace them.
//
// libchdb's own way of leaving signals alone resets them to their default action, and each connect does it
// again: without this, the first nil dereference in Go would end the process instead of panicking, and
// SIGTERM would kill it instead of stopping it.
type signals struct {
	mu        sync.Mutex
	sigaction func(sig int32, act, old unsafe.Pointer) int32
}

func newSignals() (*signals, error) {
	name := "libc.so.6"
	if runtime.GOOS == "darwin" {
		name = "/usr/lib/libSystem.B.dylib"
	}
	handle, err := purego.Dlopen(name, purego.RTLD_LAZY|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("loading the C library: %w", err)
	}
	s := new(signals)
	purego.RegisterLibFunc(&s.sigaction, handle, "sigaction")
	return s, nil
}

// kept runs f and restores the handlers that were there before.
//
// One call at a time: of two that overlap, the second would save what the first one's f had just reset, and
// restore that for good.
func (s *signals) kept(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Each element is larger than struct sigaction on any platform, and opaque: it is only handed back.
	saved := make([][32]uint64, len(keptSignals))
	for i, sig := range keptSignals {
		if s.sigaction(int32(sig), nil, unsafe.Pointer(&saved[i])) != 0 {
			return fmt.Errorf("reading the handler of %v", sig)
		}
	}
	f()
	for i, sig := range keptSignals {
		if s.sigaction(int32(sig), unsafe.Pointer(&saved[i]), nil) != 0 {
			return fmt.Errorf("restoring the handler of %v", sig)
		}
	}
	return nil
}
