package program

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// childMode makes the test binary a program of its own, so that signals and exit codes are real.
const childMode = "PROGRAM_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		os.Exit(Main(Spec[testConfig]{Name: "child", AdminAddr: "127.0.0.1:0", Run: child(mode)}))
	}
	goleak.VerifyTestMain(m)
}

// child says "running", and "stopping" once its context has ended; the deaf one goes on then.
func child(mode string) func(context.Context, *Program, testConfig) error {
	return func(ctx context.Context, _ *Program, cfg testConfig) error {
		fmt.Println("running", cfg.Word)
		<-ctx.Done()
		fmt.Println("stopping")
		if mode == "deaf" {
			select {}
		}
		return ctx.Err()
	}
}

func TestRealSignals(t *testing.T) {
	for mode, want := range map[string]int{"polite": 0, "deaf": 128 + int(syscall.SIGINT)} {
		t.Run(mode, func(t *testing.T) {
			executable, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), executable, "-word", "from a flag")
			cmd.Env = append(os.Environ(), childMode+"="+mode)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(stdout)
			expect := func(want string) {
				t.Helper()
				if line, err := lines.ReadString('\n'); err != nil || strings.TrimSpace(line) != want {
					t.Errorf("said %q, %v; want %q", line, err, want)
				}
			}
			expect("running from a flag")
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			expect("stopping")
			if mode == "deaf" {
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
			}
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
				t.Errorf("said %q more, %v", rest, err)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("exit code %d, want %d", got, want)
			}
		})
	}
}
