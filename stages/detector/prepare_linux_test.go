package detector

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A detector that is killed takes the process along that prepares a model for it.
func TestChildEndsWithItsDetector(t *testing.T) {
	const script = "LEAFCUTTER_TEST_PREPARES"
	if child := os.Getenv(script); child != "" { // this is the detector
		t.Fatal((&loader{child: child}).fillInChild(t.Context(), ""))
	}
	child := filepath.Join(t.TempDir(), "child")
	if err := os.WriteFile(child, []byte("#!/bin/sh\necho $$ >&3\nexec sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	detector := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	detector.Env = append(os.Environ(), script+"="+child, "TMPDIR="+t.TempDir()) // killed, it leaves its files
	detector.ExtraFiles = []*os.File{theirs}                                     // descriptor 3, which the child inherits
	if err := detector.Start(); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	soon := func() {
		if err := ours.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
	}
	soon()
	said := bufio.NewReader(ours)
	line, started := said.ReadString('\n')
	if err := detector.Process.Kill(); err != nil {
		t.Error(err)
	}
	soon()
	_ = detector.Wait() // it was killed
	if started != nil {
		t.Fatalf("no child was started: %v", started)
	}
	if _, err := said.ReadByte(); !errors.Is(err, io.EOF) { // nobody holds the other end any more
		t.Errorf("the child runs on: %v", err)
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
