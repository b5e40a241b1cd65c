package pipeline

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startTied starts cmd so that the kernel ends it with the test's process, even where that is killed or panics at its
// time limit. The kernel watches the thread that forked, not the process, so that thread is kept until cmd has ended.
func startTied(cmd *exec.Cmd, ended <-chan struct{}) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-ended
		}
	}()
	return <-started
}
