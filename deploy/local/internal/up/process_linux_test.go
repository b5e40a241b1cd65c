package up

import (
	"bytes"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestChildrenSleepCoarsely asks a child by how much its timers may be late.
func TestChildrenSleepCoarsely(t *testing.T) {
	var said bytes.Buffer
	cmd := exec.Command("cat", "/proc/self/timerslack_ns")
	cmd.Stdout, cmd.SysProcAttr = &said, childAttributes()
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(said.String()), strconv.FormatInt(timerSlack.Nanoseconds(), 10); got != want {
		t.Errorf("a child's timer slack is %s ns, want %s", got, want)
	}
}
