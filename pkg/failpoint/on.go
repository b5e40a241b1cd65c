//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Dir is the variable that names the folder in which tests arm gaps.
const Dir = "LEAFCUTTER_FAILPOINTS"

// one at a time: of two goroutines at the same gap one takes it.
var one sync.Mutex

// Hit says that the process is at a gap: where is the stage or the edge, gap what has just happened. A test arms it by a
// file BINARY.WHERE.GAP in the folder that LEAFCUTTER_FAILPOINTS names: the number in it says at which pass to act, and
// the process kills itself, or where "hang" follows the number, the goroutine waits for ever. The file is gone then.
func Hit(where, gap string) {
	dir := os.Getenv(Dir)
	if dir == "" {
		return
	}
	path := filepath.Join(dir, filepath.Base(os.Args[0])+"."+where+"."+gap)
	if !due(path) {
		return
	}
	select {}
}

// due counts a pass. It returns true where the goroutine is to hang, and not at all where the process is to end.
func due(path string) bool {
	one.Lock()
	defer one.Unlock()
	armed, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	number, how, _ := strings.Cut(strings.TrimSpace(string(armed)), " ")
	if passes, err := strconv.Atoi(number); err == nil && passes > 1 {
		// A pass that cannot be counted comes earlier than wanted: no harm.
		_ = os.WriteFile(path, []byte(strconv.Itoa(passes-1)+" "+how), 0o600)
		return false
	}
	if os.Remove(path) != nil {
		return false // another process was faster
	}
	if how != "hang" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // to oneself it cannot fail
		select {}
	}
	return true
}
