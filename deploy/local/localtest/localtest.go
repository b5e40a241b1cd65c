// Package localtest starts the embedded servers (Kafka, S3, ClickHouse) for the tests of any module.
//
// Each one is a process of its own, as under `leafcutter up`: libchdb and the S3 gateway exist once per
// process and change it (signal handlers, working directory), which a test's own process should not suffer,
// and a server that is a process can be killed. The program is built from this module on first use, into the
// build folder beside go.work.
//
//	sql := localtest.StartSQL(t)
//	conn, err := clickhouse.Open(&clickhouse.Options{Protocol: clickhouse.HTTP, Addr: []string{sql.Addr}, …})
//
// Servers stop, and their data go, when the test ends. The package imports the standard library only.
package localtest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a running server.
type Server struct {
	Addr string // host:port on 127.0.0.1, the same after Restart

	t       testing.TB
	program string
	args    []string

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.Closer
	said  *tail
	done  chan struct{}
}

// Broker is a Kafka broker; clients take Addr as seed. Topics are created on first use with 4 partitions, or
// by an admin client with any number.
type Broker struct{ *Server }

// Objects is an S3 endpoint with one bucket; use path style.
type Objects struct {
	*Server
	URL, Region, Bucket, AccessKey, SecretKey string
}

// SQL is ClickHouse's HTTP interface. User writes; user "default" without a password reads.
type SQL struct {
	*Server
	URL, Database, User, Password string
}

// StartBroker starts a broker without data.
func StartBroker(t testing.TB) *Broker {
	t.Helper()
	return &Broker{start(t, "broker", "-dir", t.TempDir())}
}

// StartObjects starts an object store with the empty bucket "leafcutter".
func StartObjects(t testing.TB) *Objects {
	t.Helper()
	o := &Objects{Region: "us-east-1", Bucket: "leafcutter", AccessKey: "leafcutter", SecretKey: rand.Text()}
	o.Server = start(t, "objects", "-dir", t.TempDir(), "-user", o.AccessKey, "-password", o.SecretKey, "-bucket", o.Bucket)
	o.URL = "http://" + o.Addr
	return o
}

// StartSQL starts a server with the empty database "leafcutter".
func StartSQL(t testing.TB) *SQL {
	t.Helper()
	s := &SQL{Database: "leafcutter", User: "leafcutter", Password: rand.Text()}
	library := os.Getenv("LEAFCUTTER_CHDB_LIB")
	if library == "" {
		name := "libchdb.so" // on darwin too: that is how its package names it
		library = filepath.Join(root(t), "build", "lib", name)
	}
	if _, err := os.Stat(library); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	s.Server = start(t, "sql", "-dir", t.TempDir(), "-user", s.User, "-password", s.Password, "-library", library)
	s.URL = "http://" + s.Addr
	return s
}

func start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, program: build(t), args: args, Addr: FreeAddr(t)}
	t.Cleanup(s.Stop)
	s.Restart()
	return s
}

// Restart starts the server again, on the same address and data; stop or kill it first.
func (s *Server) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		s.t.Fatalf("%s server: already running", s.args[0])
	}
	cmd := exec.Command(s.program, append([]string{s.args[0], "-addr", s.Addr}, s.args[1:]...)...)
	s.said = &tail{}
	cmd.Stderr = s.said
	stdin, err := cmd.StdinPipe() // its end tells the server to stop, also when this process is killed
	if err != nil {
		s.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd, s.stdin, s.done = cmd, stdin, make(chan struct{})
	addr := make(chan string, 1)
	go s.watch(cmd, stdout, addr, s.done)
	select {
	case s.Addr = <-addr:
	case <-s.done:
		s.t.Fatalf("%s server did not start:\n%s", s.args[0], s.said)
	case <-time.After(30 * time.Second):
		s.t.Fatalf("%s server is not ready after 30 s:\n%s", s.args[0], s.said)
	}
}

// watch reads what the server says until it ends.
func (s *Server) watch(cmd *exec.Cmd, stdout io.Reader, addr chan<- string, done chan<- struct{}) {
	defer close(done)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if at, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			addr <- at
		}
	}
	_ = cmd.Wait() // a killed server's status says nothing new
}

// Stop ends the server in order; stopping twice is legal.
func (s *Server) Stop() { s.end(func(*exec.Cmd) error { return nil }) }

// Kill ends the server as kill -9 does.
func (s *Server) Kill() { s.end(func(cmd *exec.Cmd) error { return cmd.Process.Kill() }) }

func (s *Server) end(first func(*exec.Cmd) error) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	if err := first(s.cmd); err != nil {
		s.t.Errorf("%s server: %v", s.args[0], err)
	}
	_ = s.stdin.Close()
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		s.t.Errorf("%s server did not stop within 20 s:\n%s", s.args[0], s.said)
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

// PID is the server's process, for reading its memory.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Log is the end of what the server wrote to standard error.
func (s *Server) Log() string { return s.said.String() }

// root is the folder of go.work, found from the test's folder.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.work above this folder")
	return ""
}

// built is whether this process has made sure that the program is up to date: that takes the go command half
// a second, and much longer on a busy machine.
var built struct {
	sync.Mutex
	done bool
}

// build makes the program and returns a name for it that is the test's own: another test's build may replace
// the file while this one restarts it.
func build(t testing.TB) string {
	t.Helper()
	top := root(t)
	dir := filepath.Join(top, "build", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	built.Lock()
	defer built.Unlock()
	program := filepath.Join(dir, "localserver")
	if !built.done {
		cmd := exec.Command("go", "build", "-trimpath", "-o", program, "./localtest/server")
		cmd.Dir = filepath.Join(top, "deploy", "local")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building the embedded servers: %v\n%s", err, out)
		}
		built.done = true
	}
	own := filepath.Join(dir, "localserver-"+rand.Text())
	if err := os.Link(program, own); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(own) })
	return own
}

// FreeAddr is an address on 127.0.0.1 that nobody listens on, for a server that a test means to start, with a port below those that the system gives to outgoing connections: a
// server that was killed must find its port free again, and clients that look for it may be given any of the others.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const first, count = 20000, 12000
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", first+mathrand.IntN(count))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free port")
	return ""
}

// tail keeps the last 16 KiB that are written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - 16<<10; extra > 0 {
		t.text = t.text[extra:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
