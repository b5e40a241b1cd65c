//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

const asProgram = "FAILPOINT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		for range 3 {
			Hit("edge", "done")
		}
		return
	}
	os.Exit(m.Run())
}

// The process ends at the pass that was armed, and not before.
func TestProcessEndsAtTheArmedPass(t *testing.T) {
	for _, c := range []struct {
		armed string
		dies  bool
	}{{"1", true}, {"3", true}, {"4", false}, {"", false}} {
		dir := t.TempDir()
		path := filepath.Join(dir, filepath.Base(os.Args[0])+".edge.done")
		if c.armed != "" {
			if err := os.WriteFile(path, []byte(c.armed), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asProgram+"=1", Dir+"="+dir)
		err := cmd.Run()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if killed != c.dies || err != nil && !killed {
			t.Errorf("armed with %q: %v", c.armed, err)
		}
		if _, err := os.Stat(path); (err == nil) != (c.armed == "4") {
			t.Errorf("armed with %q: %v", c.armed, err)
		}
	}
}
