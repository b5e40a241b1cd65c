//go:build !linux && !windows

package up

import (
	"os/exec"
	"syscall"
)

// childAttributes keep the terminal's Ctrl-C from the children: they are stopped in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func start(cmd *exec.Cmd) error { return cmd.Start() }
