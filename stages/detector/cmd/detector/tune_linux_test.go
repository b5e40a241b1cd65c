package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program that has started anew is called what its file is; one whose file is gone
// starts anew as well.
func TestTunedProgramKeepsItsName(t *testing.T) {
	const asked = "LEAFCUTTER_TEST_TUNED"
	if remove := os.Getenv(asked); remove != "" { // this is the program
		if err := os.RemoveAll(remove); err != nil {
			t.Fatal(err)
		}
		tune()
		comm, err := os.ReadFile("/proc/self/comm")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("tuned with %s as %s", os.Getenv("GLIBC_TUNABLES"), comm)
		return
	}
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "program")
	for remove, comm := range map[string]string{program + ".other": "program", program: "exe"} {
		if err := os.WriteFile(program, own, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-test.v", "-test.run=^"+t.Name()+"$")
		cmd.Env = []string{asked + "=" + remove}
		out, err := cmd.CombinedOutput()
		if want := "tuned with " + tunables + " as " + comm + "\n"; err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s removed: %v, said %s, want %q", remove, err, out, want)
		}
	}
}
