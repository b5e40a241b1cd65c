package up

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// childAttributes make the kernel end a child with this process, however it ends, and keep the terminal's Ctrl-C from
// the children: they are stopped in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// start starts cmd from one thread that lives as long as the process: Pdeathsig follows the thread that forked, and Go
// ends a thread whenever a goroutine that is locked to it ends.
func start(cmd *exec.Cmd) error {
	forkOnce.Do(func() {
		go func() {
			runtime.LockOSThread()
			for f := range forks {
				f.err <- f.cmd.Start()
			}
		}()
	})
	f := fork{cmd: cmd, err: make(chan error, 1)}
	forks <- f
	return <-f.err
}

type fork struct {
	cmd *exec.Cmd
	err chan error
}

// The thread is the process's, not a pipeline's: two pipelines in one process share it.
var (
	forkOnce sync.Once
	forks    = make(chan fork)
)
