package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type testConfig struct {
	Word string `env:"WORD" envDefault:"hello" desc:"what is said"`
	Key  string `env:"KEY" secret:"true" desc:"how it is opened"`
}

func (c testConfig) Validate() error {
	if c.Word == "" {
		return errors.New("WORD: must not be empty")
	}
	return nil
}

// instance is one program under test.
type instance struct {
	spec    Spec[testConfig]
	dir     string
	signals chan os.Signal
	exit    chan int
	started chan *Program
	stdout  bytes.Buffer // to be read after the end
	stderr  *os.File
}

func newInstance(t *testing.T, run func(ctx context.Context, p *Program, cfg testConfig) error) *instance {
	t.Helper()
	i := &instance{dir: t.TempDir(), signals: make(chan os.Signal, 2), exit: make(chan int, 1), started: make(chan *Program, 1)}
	var err error
	if i.stderr, err = os.Create(filepath.Join(i.dir, "stderr")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.stderr.Close() })
	i.spec = Spec[testConfig]{Name: "prog", Purpose: "is tested", Version: "v9", AdminAddr: "127.0.0.1:0",
		Run: func(ctx context.Context, p *Program, cfg testConfig) error {
			i.started <- p
			return run(ctx, p, cfg)
		}}
	return i
}

func (i *instance) run(environ []string, args ...string) int {
	return i.spec.run(surroundings{args: args, environ: environ, stdout: &i.stdout, stderr: i.stderr, signals: i.signals})
}

func (i *instance) start(t *testing.T, environ []string, args ...string) *Program {
	t.Helper()
	go func() { i.exit <- i.run(environ, args...) }()
	select {
	case p := <-i.started:
		return p
	case code := <-i.exit:
		t.Fatalf("ended with %d:\n%s", code, i.log(t))
	case <-time.After(10 * time.Second):
		t.Fatal("did not start")
	}
	return nil
}

func (i *instance) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-i.exit:
		return code
	case <-time.After(10 * time.Second):
		t.Fatal("did not end")
		return -1
	}
}

func (i *instance) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(i.stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func untilDone(ctx context.Context, _ *Program, _ testConfig) error {
	<-ctx.Done()
	return ctx.Err()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestFirstSignalStopsSoftly(t *testing.T) {
	finished := make(chan struct{})
	i := newInstance(t, func(ctx context.Context, p *Program, _ testConfig) error {
		p.Health.Register("s3", func() error { return nil })
		<-ctx.Done()
		if _, ready := p.Health.Ready(); ready {
			t.Error("still ready while it stops")
		}
		close(finished)
		return fmt.Errorf("handle: %w", ctx.Err())
	})
	i.start(t, nil)
	i.signals <- syscall.SIGTERM
	if code := i.wait(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, i.log(t))
	}
	select {
	case <-finished:
	default:
		t.Error("the work was not waited for")
	}
	if !strings.Contains(i.log(t), `"stopped"`) {
		t.Errorf("log:\n%s", i.log(t))
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	release, left := make(chan struct{}), make(chan struct{})
	i := newInstance(t, func(context.Context, *Program, testConfig) error {
		defer close(left)
		<-release // deaf
		return nil
	})
	i.start(t, nil)
	i.signals <- syscall.SIGINT
	i.signals <- syscall.SIGTERM
	if code := i.wait(t); code != 128+15 {
		t.Errorf("exit code %d", code)
	}
	close(release)
	<-left
}

func TestFailureIsToldAndCoded(t *testing.T) {
	i := newInstance(t, func(context.Context, *Program, testConfig) error {
		return errors.Join(errors.New("no model"), errors.New("no broker"))
	})
	i.start(t, nil)
	if code := i.wait(t); code != 1 || !strings.Contains(i.log(t), "prog: no model\nprog: no broker\n") {
		t.Errorf("exit code %d:\n%s", code, i.log(t))
	}
}

func TestFailureWhileStoppingIsAFailure(t *testing.T) {
	i := newInstance(t, func(ctx context.Context, _ *Program, _ testConfig) error {
		<-ctx.Done()
		return errors.New("could not commit")
	})
	i.start(t, nil)
	i.signals <- syscall.SIGTERM
	if code := i.wait(t); code != 1 || !strings.Contains(i.log(t), "could not commit") {
		t.Errorf("exit code %d:\n%s", code, i.log(t))
	}
}

func TestEndWithoutSignal(t *testing.T) {
	i := newInstance(t, func(context.Context, *Program, testConfig) error { return nil })
	i.start(t, nil)
	if code := i.wait(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, i.log(t))
	}
}

func TestAdminServer(t *testing.T) {
	i := newInstance(t, untilDone)
	file := filepath.Join(i.dir, "admin")
	p := i.start(t, []string{"LEAFCUTTER_ADMIN_FILE=" + file})
	written, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(written)) != p.AdminAddr {
		t.Errorf("the file says %q, %v; the server listens on %s", written, err, p.AdminAddr)
	}
	base := "http://" + p.AdminAddr

	for path, part := range map[string]string{
		"/livez": `"alive"`, "/healthz": `"alive"`, "/metrics": "go_goroutine_count", "/": "prog v9",
		"/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/cmdline": "program",
	} {
		if status, body := get(t, base+path); status != http.StatusOK || !strings.Contains(body, part) {
			t.Errorf("%s answers %d:\n%s", path, status, body)
		}
	}
	ready := func() (int, Report) {
		status, body := get(t, base+"/readyz")
		var report Report
		if err := json.Unmarshal([]byte(body), &report); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		return status, report
	}
	if status, report := ready(); status != http.StatusServiceUnavailable || report.Status != "not-ready" || report.Checks[0].Reason != "starting" {
		t.Errorf("before any check: %d %+v", status, report)
	}
	var warm atomic.Bool
	p.Health.Register("model", func() error {
		if !warm.Load() {
			return errors.New("model: digest differs")
		}
		return nil
	})
	p.Health.Register("kafka", func() error { return nil })
	status, report := ready()
	if status != http.StatusServiceUnavailable || len(report.Checks) != 2 || !report.Checks[0].OK || report.Checks[1] != (Check{Name: "model", Reason: "model: digest differs"}) {
		t.Errorf("one check fails: %d %+v", status, report)
	}
	// -health of a second process asks the first one.
	health := newInstance(t, untilDone)
	if code := health.run([]string{"LEAFCUTTER_ADMIN_FILE=" + file}, "-health"); code != 1 || !strings.Contains(health.log(t), "prog: model: model: digest differs") {
		t.Errorf("-health gives %d:\n%s", code, health.log(t))
	}
	warm.Store(true)
	if status, report := ready(); status != http.StatusOK || report.Status != "ready" {
		t.Errorf("all pass: %d %+v", status, report)
	}
	if code := health.run([]string{"LEAFCUTTER_ADMIN_ADDR=" + p.AdminAddr}, "-health"); code != 0 || health.stdout.String() != "ready\n" {
		t.Errorf("-health gives %d: %q", code, health.stdout.String())
	}
	p.Health.RegisterLive("watchdog", func() error { return errors.New("page 17 takes 10 minutes") })
	if status, body := get(t, base+"/livez"); status != http.StatusServiceUnavailable || !strings.Contains(body, "page 17") {
		t.Errorf("/livez answers %d: %s", status, body)
	}
	i.signals <- syscall.SIGTERM
	if code := i.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left behind: %v", err)
	}
	if code := health.run([]string{"LEAFCUTTER_ADMIN_ADDR=" + p.AdminAddr}, "-health"); code != 1 || !strings.Contains(health.log(t), "not running") {
		t.Errorf("-health of nobody gives %d:\n%s", code, health.log(t))
	}
}

func TestAdminServerOffAndTaken(t *testing.T) {
	i := newInstance(t, untilDone)
	if p := i.start(t, nil, "-admin-addr=off"); p.AdminAddr != "" {
		t.Errorf("listens on %s", p.AdminAddr)
	}
	i.signals <- syscall.SIGTERM
	if code := i.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if code := newInstance(t, untilDone).run(nil, "-admin-addr=off", "-health"); code != 1 {
		t.Errorf("-health of nobody gives %d", code)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	i = newInstance(t, untilDone)
	if code := i.run(nil, "-admin-addr", taken.Addr().String()); code != 1 || !strings.Contains(i.log(t), "LEAFCUTTER_ADMIN_ADDR chooses another") {
		t.Errorf("a taken address gives %d:\n%s", code, i.log(t))
	}
}

func TestSwitches(t *testing.T) {
	for _, c := range []struct {
		args   []string
		env    []string
		code   int
		stdout []string
		stderr []string
	}{
		{args: []string{"-version"}, stdout: []string{"prog v9\n"}},
		{args: []string{"-config.list"}, env: []string{"KEY=hunter2"}, stdout: []string{`"name": "WORD"`, `"default": "hello"`, `"LEAFCUTTER_ADMIN_ADDR"`, `"127.0.0.1:0"`}},
		{args: []string{"-help"}, stdout: []string{"prog: is tested", "WORD", "hello", "LEAFCUTTER_ADMIN_ADDR", "127.0.0.1:0", "LEAFCUTTER_LOG_LEVEL", "LEAFCUTTER_MEMORY_LIMIT"}},
		{args: []string{"-config.verify"}, env: []string{"KEY=hunter2"}, stdout: []string{"WORD", "hello", "KEY", "(set)"}},
		{args: []string{"-config.verify", "-word="}, env: []string{"LEAFCUTTER_LOG_LEVEL=loud", "LEAFCUTTER_MEMORY_LIMIT=1", "LEAFCUTTER_ADMIN_ADDR=here"}, code: 2,
			stderr: []string{"prog: WORD: must not be empty\n", "prog: LEAFCUTTER_LOG_LEVEL", "prog: LEAFCUTTER_MEMORY_LIMIT", "prog: LEAFCUTTER_ADMIN_ADDR"}},
		{args: []string{"-colour"}, code: 2, stderr: []string{"prog: flag provided but not defined: -colour (see prog -help)\n"}},
		{args: []string{"-health", "-admin-addr=127.0.0.1:0"}, code: 1, stderr: []string{"LEAFCUTTER_ADMIN_FILE"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			i := newInstance(t, func(context.Context, *Program, testConfig) error { t.Error("was run"); return nil })
			if code := i.run(c.env, c.args...); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, part := range c.stdout {
				if !strings.Contains(i.stdout.String(), part) {
					t.Errorf("%q is not in:\n%s", part, i.stdout.String())
				}
			}
			for _, part := range c.stderr {
				if !strings.Contains(i.log(t), part) {
					t.Errorf("%q is not in:\n%s", part, i.log(t))
				}
			}
			if strings.Contains(i.stdout.String()+i.log(t), "hunter2") {
				t.Error("the secret is printed")
			}
		})
	}
}

func TestVariablesAreAllDescribed(t *testing.T) {
	for _, v := range Variables(Spec[testConfig]{AdminAddr: "127.0.0.1:8093"}) {
		if v.Description == "" {
			t.Errorf("%s has no description", v.Name)
		}
		if v.Name == "LEAFCUTTER_ADMIN_ADDR" && v.Default != "127.0.0.1:8093" {
			t.Errorf("the admin address defaults to %q", v.Default)
		}
	}
}

func TestAddressesThatAreAsked(t *testing.T) {
	for given, want := range map[string]string{
		"0.0.0.0:8093": "localhost:8093", ":8093": "localhost:8093", "[::]:8093": "localhost:8093", "127.0.0.1:8093": "127.0.0.1:8093", "host:80": "host:80",
	} {
		if got, err := (adminConfig{Addr: given}).reachable(); got != want || err != nil {
			t.Errorf("%s is asked at %s, %v", given, got, err)
		}
	}
}

func TestContainerLimit(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		want       int64
	}{
		"version 2":           {"memory.max", "536870912\n", 512 << 20},
		"version 2, none":     {"memory.max", "max\n", 0},
		"version 1":           {"memory/memory.limit_in_bytes", "1073741824\n", 1 << 30},
		"version 1, none":     {"memory/memory.limit_in_bytes", "9223372036854771712\n", 0},
		"not a control group": {"other", "1\n", 0},
	} {
		root := t.TempDir()
		file := filepath.Join(root, c.file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(c.text), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := containerLimit(root); int64(got) != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}
