//go:build !linux

package pipeline

import (
	"os/exec"
	"syscall"
)

// startTied starts cmd. Here nothing ends it with the test's process but the test itself.
func startTied(cmd *exec.Cmd, _ <-chan struct{}) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.Start()
}
