package render

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"leafcutter/schemas"
)

// helloTimeout is how long a new child may take until it can be used. It takes
// some 20 ms; the rest is for a machine that is starved.
const helloTimeout = 20 * time.Second

// process is a parent's hold on one child. Only pid and kill are for concurrent
// use.
type process struct {
	cmd    *exec.Cmd
	conn   *net.UnixConn
	limits limits
	stderr *tail
	exited chan struct{} // closed when the child is dead and buried

	pages int     // rendered in its life
	rss   int64   // bytes, the most it has had
	cpu   float64 // seconds it had used at its last reply
}

// start starts a child and confines it.
func start(ctx context.Context, l limits) (*process, error) {
	self, err := selfPath()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }() // the child has its own by then
	p := &process{conn: ours, limits: l, stderr: &tail{}, exited: make(chan struct{})}
	p.cmd = &exec.Cmd{
		Path: self,
		Args: []string{os.Args[0], ChildArg},
		// No credentials, no endpoints, nothing. The three that there are
		// are for the C heap: one arena for all threads, and blocks of more
		// than 8 MiB mapped by themselves and given back when they are
		// freed. A page's smaller buffers stay with the child for its next
		// page, which would take half its time again for new memory.
		Env:         []string{"MALLOC_ARENA_MAX=1", "MALLOC_MMAP_THRESHOLD_=8388608", "MALLOC_TRIM_THRESHOLD_=8388608"},
		Dir:         "/",
		Stderr:      p.stderr,
		ExtraFiles:  []*os.File{theirs}, // descriptor socketFD
		SysProcAttr: childAttributes(),
		WaitDelay:   time.Second,
	}
	if err := p.cmd.Start(); err != nil {
		_ = ours.Close() // nobody is at the other end
		return nil, fmt.Errorf("starting a render child: %w", err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // how it ended is read from ProcessState
	}()
	ans, err := p.call(ctx, helloTimeout, request{Op: "hello", Limits: &l}, nil)
	if err == nil && ans.Code != "" {
		err = fmt.Errorf("it cannot confine itself: %.500s", ans.Error)
	}
	if err != nil {
		p.kill()
		<-p.exited
		return nil, fmt.Errorf("starting a render child: %w", err)
	}
	return p, nil
}

// socketPair returns a connected pair: a connection with deadlines for this
// process and a plain file to hand down.
func socketPair() (*net.UnixConn, *os.File, error) {
	// Between making the descriptors and marking them no other goroutine may
	// fork: its child would hold them open, and a dead peer would go unnoticed.
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "render child"), os.NewFile(uintptr(fds[1]), "stage")
	defer func() { _ = ours.Close() }() // net.FileConn has its own copy
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("using a socket pair: %w", err), theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// answer is a reply with the image that followed it.
type answer struct {
	reply
	png []byte
}

// The ways in which a call ends without an answer. The child is dead afterwards.
var (
	errCrashed = errors.New("the render child died")
	errTimeout = errors.New("the render child took too long")
	errStarved = errors.New("the render child got no processor time")
)

// call sends a request, with a file's descriptor where one is given, and waits
// for the answer. Unless it returns an answer, the child has been killed; the
// error is then that of the context or one of the above.
func (p *process) call(ctx context.Context, timeout time.Duration, req request, file *os.File) (answer, error) {
	// A context that ends wakes the connection up through its deadline, so that
	// there is one place where waiting ends.
	if err := p.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return answer{}, p.dead(ctx, timeout, err)
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = p.conn.SetDeadline(time.Unix(1, 0)) // fails only when closed: then waiting has ended
	})
	defer func() {
		// A context that ends just as the answer arrives must not cut the
		// deadline of the next call, which may be another document's.
		if !stop() {
			<-cut
		}
	}()
	ans, err := p.exchange(req, file)
	if err != nil {
		return answer{}, p.dead(ctx, timeout, err)
	}
	p.rss, p.cpu = ans.RSS, ans.CPU
	return ans, nil
}

func (p *process) exchange(req request, file *os.File) (answer, error) {
	if err := writeFrame(p.conn, req); err != nil {
		return answer{}, err
	}
	if file != nil {
		if err := sendFile(p.conn, file); err != nil {
			return answer{}, err
		}
	}
	var ans answer
	if err := readFrame(p.conn, &ans.reply); err != nil {
		return answer{}, err
	}
	// A child that was taken over by its document may say anything.
	if !p.believable(req, ans.reply) {
		return answer{}, fmt.Errorf("%w: code %.80q, %d pages, %d bytes for %d × %d pixels", errLie, ans.Code, ans.PageCount, ans.PNG, ans.Width, ans.Height)
	}
	if ans.PNG > 0 {
		ans.png = make([]byte, ans.PNG)
		if _, err := io.ReadFull(p.conn, ans.png); err != nil {
			return answer{}, fmt.Errorf("reading the image: %w", err)
		}
		if w, h := pngSize(ans.png); w != ans.Width || h != ans.Height {
			return answer{}, fmt.Errorf("%w: %d × %d pixels are an image of %d × %d", errLie, ans.Width, ans.Height, w, h)
		}
	}
	return ans, nil
}

var errLie = errors.New("impossible answer")

func (p *process) believable(req request, rep reply) bool {
	if rep.Code != "" {
		return slices.Contains(codes, rep.Code) && rep.PNG == 0
	}
	switch req.Op {
	case "open":
		return rep.PageCount >= 1 && rep.PageCount <= p.limits.MaxPages && rep.PNG == 0
	case "page":
		return rep.Width >= 1 && rep.Width <= schemas.MaxPageSide &&
			rep.Height >= 1 && rep.Height <= min(schemas.MaxPageSide, p.limits.MaxPixels/rep.Width) &&
			rep.PNG >= 1 && rep.PNG <= p.limits.maxPNG()
	}
	return rep.PNG == 0
}

// dead kills the child after a failed exchange and tells how it failed.
func (p *process) dead(ctx context.Context, timeout time.Duration, cause error) error {
	p.kill()
	<-p.exited
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(cause, os.ErrDeadlineExceeded) {
		// Wall time is what a caller waits for, but only processor time tells a
		// page that never ends from a machine that is overloaded: a page that
		// is not done after a tenth of the time at work is the former.
		state := p.cmd.ProcessState
		used := (state.UserTime() + state.SystemTime()).Seconds() - p.cpu
		if used < timeout.Seconds()/10 {
			return fmt.Errorf("%w: %.2f s in %s", errStarved, used, timeout)
		}
		return fmt.Errorf("%w: %s", errTimeout, timeout)
	}
	return fmt.Errorf("%w: %w, %s%s", errCrashed, cause, p.cmd.ProcessState, p.stderr)
}

// kill ends the child at once; it has nothing to save. It is legal at any time,
// any number of times.
func (p *process) kill() {
	_ = p.conn.Close() // fails only when closed before
	select {
	case <-p.exited: // its number may belong to somebody else by now
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // the whole group; fails only when it is gone
	}
}

// tail keeps the last of what a child writes to its standard error.
type tail struct {
	mu   sync.Mutex
	last []byte
}

const tailSize = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p[max(0, len(p)-tailSize):]...)
	if len(t.last) > tailSize {
		t.last = append([]byte(nil), t.last[len(t.last)-tailSize:]...)
	}
	return len(p), nil
}

// String is empty or begins with a separator.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.last) == 0 {
		return ""
	}
	return fmt.Sprintf(", stderr %q", t.last)
}
