package up

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/deploy/local/internal/datadir"
)

// TestMain: the thread that forks children is the process's and stays (process_linux.go).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("leafcutter/deploy/local/internal/up.start.func1.1"))
}

// said is a log that can be read while it is written.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// A child outlives a disk that is full: what it says is lost, and that is said once.
func TestChildOutlivesAFullDisk(t *testing.T) {
	dir, log := t.TempDir(), &said{}
	path := filepath.Join(dir, "child.log")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(log, nil))
	script := `i=0; while [ $i -lt 300 ]; do echo '{"level":"WARN","msg":"line"}' || exit 9; i=$((i+1)); done; echo > done; exec sleep 600`
	p := &process{name: "child", path: "/bin/sh", args: []string{"-c", script}, env: []string{"PATH=" + os.Getenv("PATH")}, dir: dir, logs: path, say: &relay{name: "child", log: logger}, log: logger}
	stop := supervise("test", logger, []*process{p})
	defer stop()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := os.Stat(filepath.Join(dir, "done")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the child did not get to its end:\n%s", log)
		}
		time.Sleep(10 * time.Millisecond) // a poll with a deadline
	}
	stop()
	if n := p.starts.Load(); n != 1 {
		t.Errorf("%d starts", n)
	}
	if n := strings.Count(log.String(), "a child's log is incomplete"); n != 1 {
		t.Errorf("said %d times that the log is incomplete, want once", n)
	}
	if n := strings.Count(log.String(), "msg=line"); n != 300 {
		t.Errorf("%d of 300 lines were passed on", n)
	}
}

// A child that cannot be started counts as one that does not stay up, and its log says why.
func TestChildThatCannotBeStarted(t *testing.T) {
	dir, log := t.TempDir(), &said{}
	p := &process{name: "child", path: filepath.Join(dir, "missing"), dir: dir, logs: filepath.Join(dir, "child.log"), log: slog.New(slog.NewTextHandler(log, nil))}
	p.say = &relay{name: p.name, log: p.log}
	defer supervise("test", p.log, []*process{p})()
	const why = "missing: no such file or directory"
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := (&Pipeline{servers: []*process{p}}).await(ctx, p.name, func(context.Context) error { return errors.New("it does not answer") })
	if err == nil || !strings.Contains(err.Error(), "does not stay up") || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want an error that says %q", err, why)
	}
	if text := log.String(); !strings.Contains(text, "a child ended before its time") || !strings.Contains(text, why) {
		t.Errorf("said %q", text)
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "child.log")
	write := func(l *logFile, n int) {
		if got, err := l.Write(bytes.Repeat([]byte("x"), n)); got != n || err != nil {
			t.Fatal(got, err)
		}
	}
	sizes := func(want ...int64) {
		t.Helper()
		for i, name := range []string{path, path + ".1"} {
			info, err := os.Stat(name)
			if want[i] < 0 && os.IsNotExist(err) {
				continue
			}
			if err != nil || info.Size() != want[i] {
				t.Errorf("%s: %v, %v; want %d bytes", filepath.Base(name), info, err, want[i])
			}
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	l := openLog(path, quiet)
	l.most = 100
	write(l, 60)
	write(l, 40)
	sizes(100, -1)
	write(l, 1) // while it runs
	sizes(1, 100)
	l.Close()
	// At a start a small one is carried on, a large one set aside.
	l = openLog(path, quiet)
	write(l, 4)
	l.Close()
	sizes(5, 100)
	if err := os.Truncate(path, logAtStart); err != nil {
		t.Fatal(err)
	}
	l = openLog(path, quiet)
	write(l, 3)
	l.Close()
	sizes(3, logAtStart)
}

// A state that a killed pipeline left names a process, maybe one that runs: ours, here. Running is who holds the lock.
func TestPipelineRunsWhileItsDirectoryIsHeld(t *testing.T) {
	data := t.TempDir()
	if err := os.Mkdir(filepath.Join(data, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (State{PID: os.Getpid(), Data: data, API: "http://127.0.0.1:1"}).write(); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadState(data); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v, want %v", err, ErrNotRunning)
	}
	lock, err := datadir.Take(data)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := ReadState(data); err != nil || s.API != "http://127.0.0.1:1" {
		t.Errorf("%+v %v", s, err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadState(data); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v, want %v", err, ErrNotRunning)
	}
	// Asking keeps nobody from starting.
	ctx, cancel := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			for ctx.Err() == nil {
				if _, err := datadir.Held(data); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond) // between two questions nobody asks
			}
		})
	}
	for range 20 {
		lock, err := datadir.Take(data)
		if err != nil {
			t.Error(err)
			break
		}
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	asking.Wait()
}

// TestYielding asks a child by how much nicer it is.
func TestYielding(t *testing.T) {
	ask := func(command ...string) int {
		t.Helper()
		cmd := exec.Command(command[0], command[1:]...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const most = 19 // there is no nicer
	own := ask("nice")
	if got := ask(yielding("nice")...); got != min(own+niceness, most) {
		t.Errorf("a child that yields has niceness %d, its parent %d", got, own)
	}
}
