package up

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
			// Without it nothing is lost but processor time.
			_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack.Nanoseconds()), 0, 0, 0)
			for f := range forks {
				f.err <- f.cmd.Start()
			}
		}()
	})
	f := fork{cmd: cmd, err: make(chan error, 1)}
	forks <- f
	return <-f.err
}

// timerSlack is by how much the kernel may wake threads of the children late, which they inherit: of eight Go processes that
// make many short system calls, each has a thread that looks after the others and sleeps 20 µs at a time, which was an
// eighth of the processor time of a page. It makes timers as much later; what the stages wait for is longer than that, and
// answers from the network are not waited for by timers.
const timerSlack = 2 * time.Millisecond

type fork struct {
	cmd *exec.Cmd
	err chan error
}

// The thread is the process's, not a pipeline's: two pipelines in one process share it.
var (
	forkOnce sync.Once
	forks    = make(chan fork)
)
