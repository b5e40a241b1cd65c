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
	if err := start(cmd, false); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(said.String()), strconv.FormatInt(timerSlack.Nanoseconds(), 10); got != want {
		t.Errorf("a child's timer slack is %s ns, want %s", got, want)
	}
}

// TestChildrenYieldAllTheirThreads looks at the niceness of a child and of what it starts.
func TestChildrenYieldAllTheirThreads(t *testing.T) {
	own := niceness(t, false)
	const most = 19 // there is no nicer
	if got := niceness(t, true); got != min(most, own+yieldsBy) {
		t.Errorf("a child that yields has niceness %d, another %d", got, own)
	}
	if got := niceness(t, false); got != own {
		t.Errorf("after one that yields a child has niceness %d, before it %d", got, own)
	}
}

func niceness(t *testing.T, yields bool) int {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command("sh", "-c", "nice") // from a child of the child
	cmd.Stdout, cmd.SysProcAttr = &said, childAttributes()
	if err := start(cmd, yields); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(said.String()))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
