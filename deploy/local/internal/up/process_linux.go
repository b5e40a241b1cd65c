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

// start starts cmd from a thread that lives as long as the process: Pdeathsig follows the thread that forked, and Go ends a
// thread whenever a goroutine that is locked to it ends. A child that yields comes from a thread of its own, whose
// niceness it inherits: set afterwards it would be that of a child's first thread alone.
func start(cmd *exec.Cmd, yields bool) error {
	from := &forking
	if yields {
		from = &yielding
	}
	from.once.Do(func() { go from.run() })
	f := fork{cmd: cmd, err: make(chan error, 1)}
	from.forks <- f
	return <-f.err
}

// timerSlack is by how much the kernel may wake threads of the children late, which they inherit: of eight Go processes that
// make many short system calls, each has a thread that looks after the others and sleeps 20 µs at a time, which was an
// eighth of the processor time of a page. It makes timers as much later; what the stages wait for is longer than that, and
// answers from the network are not waited for by timers.
const timerSlack = 2 * time.Millisecond

// forker is a thread that forks.
type forker struct {
	niceness int
	once     sync.Once
	forks    chan fork
}

type fork struct {
	cmd *exec.Cmd
	err chan error
}

func (f *forker) run() {
	runtime.LockOSThread()
	// Without these nothing is lost but processor time.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack.Nanoseconds()), 0, 0, 0)
	if own, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && f.niceness > 0 {
		const most = 20 // what the system call gives is 20 less the niceness
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, most-own+f.niceness)
	}
	for f := range f.forks {
		f.err <- f.cmd.Start()
	}
}

// The threads are the process's, not a pipeline's: two pipelines in one process share them.
var (
	forking  = forker{forks: make(chan fork)}
	yielding = forker{niceness: yieldsBy, forks: make(chan fork)}
)
