package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/thejerf/suture/v4"
)

// process is one child. As a suture service it is started again whenever it ends before its time.
type process struct {
	name string
	path string
	args []string
	env  []string
	dir  string // working directory
	logs string // file that keeps what it says
	say  io.Writer
	log  *slog.Logger

	ends   ends // Serve's alone, which suture runs once at a time
	starts atomic.Int64
	pid    atomic.Int64
}

// stopGrace is how long a child may take to stop in order; it is above the stages' own grace time.
const stopGrace = 35 * time.Second

// Serve runs the child until it ends or ctx does.
func (p *process) Serve(ctx context.Context) error {
	keep := openLog(p.logs, p.log)
	defer keep.Close()
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	out := io.MultiWriter(keep, p.say)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	cmd.SysProcAttr = childAttributes()
	began := time.Now()
	starts := p.starts.Add(1)
	err := start(cmd)
	if err != nil {
		fmt.Fprintln(keep, err) // the child cannot say it
	} else {
		if starts > 1 && p.ends.inRow < hopeless {
			p.log.Warn("a child is back", "child", p.name, "pid", cmd.Process.Pid)
		}
		p.pid.Store(int64(cmd.Process.Pid))
		err = cmd.Wait()
		p.pid.Store(0)
	}
	if ctx.Err() != nil {
		return suture.ErrDoNotRestart
	}
	switch p.ends.next(time.Now(), time.Since(began)) {
	case sayEnded:
		p.log.Warn("a child ended before its time and is started again", "child", p.name, "error", errText(err), "log", p.logs)
	case sayHopeless:
		p.log.Error("a child does not stay up; it is started again and again until it does", "child", p.name,
			"ends", p.ends.inRow, "error", errText(err), "last", tail(p.logs, 1), "log", p.logs)
	case sayNothing:
	}
	return fmt.Errorf("%s ended: %s", p.name, errText(err))
}

// String names the child for suture.
func (p *process) String() string { return p.name }

func errText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// supervise runs processes under one supervisor until stop is called, which waits for their orderly end and may
// be called again.
func supervise(name string, log *slog.Logger, processes []*process) (stop func()) {
	s := suture.New(name, suture.Spec{
		EventHook: func(e suture.Event) { log.Debug("supervisor", "event", e.String()) },
		// Ten ends in a row still bring a child back within seconds; a child that never stays up costs a start a second.
		FailureThreshold: 10, FailureDecay: 10, FailureBackoff: time.Second,
		Timeout: stopGrace + 5*time.Second,
	})
	for _, p := range processes {
		s.Add(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := s.ServeBackground(ctx)
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			log.Warn("stopping was not orderly", "error", err)
		}
	})
}

// adminAddr is where a child's admin server listens, once it has said so.
func adminAddr(data, name string) (string, error) {
	b, err := os.ReadFile(adminFile(data, name))
	return strings.TrimSpace(string(b)), err
}

func adminFile(data, name string) string { return filepath.Join(data, "run", name+".admin") }
