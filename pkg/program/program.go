// Package program is what every main calls: it loads the configuration, answers -help, -version, -config.list,
// -config.verify and -health, starts telemetry and the admin server, runs the program's own function until a signal, and gives back the
// exit code. The only os.Exit of a binary is in its main:
//
//	func main() {
//		os.Exit(program.Main(program.Spec[detector.Config]{
//			Name: "detector", Purpose: "finds boxes on page images", AdminAddr: "127.0.0.1:8093", Run: run,
//		}))
//	}
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"text/tabwriter"
	"time"

	"go.opentelemetry.io/otel"

	"leafcutter/pkg/config"
	"leafcutter/pkg/telemetry"
)

// Exit codes of every binary. A second signal ends it with 128 + the signal's number, as a shell would report it.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// flushTimeout bounds how long the last spans and metrics may take to leave.
const flushTimeout = 5 * time.Second

// Spec is a program. C is its configuration: a struct as package config describes.
type Spec[C any] struct {
	Name    string // as in logs, traces and the usage line
	Purpose string // half a sentence for -help
	Version string // set by the linker; where empty, the revision that Go recorded

	// AdminAddr is the default of LEAFCUTTER_ADMIN_ADDR: host:port, each binary its own, so that all run on one machine.
	AdminAddr string

	// Defaults are what C holds before environment and flags; zero fields have the defaults of their tags.
	Defaults C

	// Run does the work until ctx ends, which is the first SIGTERM or SIGINT: then it stops intake, ends the work in
	// flight and returns. An error that is context.Canceled after that is a clean end.
	Run func(ctx context.Context, p *Program, cfg C) error
}

// Program is what a running program has at hand.
type Program struct {
	Name      string
	Version   string
	Logger    *slog.Logger
	Telemetry *telemetry.Telemetry
	Health    *Health
	AdminAddr string // where the admin server listens; "" if it is off
}

// settings is the whole configuration of a binary.
type settings[C any] struct {
	App       C
	Admin     adminConfig
	Telemetry telemetry.Config
	Memory    memoryConfig
}

// Variables lists every variable of a program for docs and tests, its own first, then those that all programs have.
func Variables[C any](spec Spec[C]) []config.Variable {
	return config.Variables(spec.settings())
}

func (spec Spec[C]) settings() *settings[C] {
	return &settings[C]{App: spec.Defaults, Admin: adminConfig{Addr: spec.AdminAddr}}
}

// Main runs the program and gives its exit code.
func Main[C any](spec Spec[C]) int {
	signals := make(chan os.Signal, 2) // two: the second must not be lost while the first is handled
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	return spec.run(surroundings{
		args: os.Args[1:], environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr, signals: signals,
	})
}

// surroundings is what a process is given; tests give another.
type surroundings struct {
	args    []string
	environ []string
	stdout  io.Writer
	stderr  *os.File
	signals <-chan os.Signal
}

func (spec Spec[C]) run(s surroundings) int {
	if spec.Version == "" {
		spec.Version = recordedVersion()
	}
	cfg := spec.settings()
	flags, err := config.Load(spec.Name, s.args, s.environ, cfg)
	switch {
	case flags.Help:
		err = config.Help(s.stdout, spec.Name, spec.Purpose, spec.settings())
		return complain(s.stderr, spec.Name, exitUsage, err)
	case flags.List:
		return complain(s.stderr, spec.Name, exitUsage, config.List(s.stdout, spec.settings()))
	case flags.Version:
		_, err = fmt.Fprintf(s.stdout, "%s %s\n", spec.Name, spec.Version)
		return complain(s.stderr, spec.Name, exitUsage, err)
	case err != nil:
		return complain(s.stderr, spec.Name, exitUsage, err)
	case flags.Verify:
		return complain(s.stderr, spec.Name, exitUsage, printSettings(s.stdout, cfg))
	case flags.Health:
		return complain(s.stderr, spec.Name, exitFailed, askReady(cfg.Admin, s.stdout))
	}
	return complain(s.stderr, spec.Name, exitFailed, spec.work(s, cfg))
}

// work runs the program proper: telemetry first, so that all else can report, and last to stop, for the same reason.
func (spec Spec[C]) work(s surroundings, cfg *settings[C]) (err error) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	t, err := telemetry.Start(ctx, spec.Name, spec.Version, cfg.Telemetry, s.stderr)
	if err != nil {
		return err
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		// A collector that is away is no reason to call the program's own work failed.
		if err := t.Shutdown(flush); err != nil {
			t.Logger.Warn("telemetry was not delivered", slog.Any("error", err))
		}
	}()
	// Libraries that are not handed providers ask OpenTelemetry's globals; here, and nowhere below, these are set.
	otel.SetTracerProvider(t.TracerProvider())
	otel.SetMeterProvider(t.MeterProvider())
	otel.SetTextMapPropagator(t.Propagator())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		t.Logger.Warn("telemetry failed", slog.Any("error", err))
	}))
	cfg.Memory.apply(s.environ, t.Logger)

	p := &Program{Name: spec.Name, Version: spec.Version, Logger: t.Logger, Telemetry: t, Health: NewHealth()}
	admin, err := startAdmin(cfg.Admin, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.stop()) }()
	p.AdminAddr = admin.addr
	p.Logger.Info("started", slog.String("version", p.Version), slog.String("admin", p.AdminAddr), slog.Int("pid", os.Getpid()))

	done := make(chan error, 1)
	go func() { done <- spec.Run(ctx, p, cfg.App) }()
	return await(p, s.signals, stop, done)
}

// await waits for the program's end. The first signal asks for it; at the second nothing is waited for any more.
func await(p *Program, signals <-chan os.Signal, stop context.CancelFunc, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case sig := <-signals:
		p.Logger.Info("stopping", slog.String("signal", sig.String()))
		p.Health.Stop()
		stop()
	}
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		p.Logger.Info("stopped")
		return nil
	case sig := <-signals:
		p.Logger.Warn("stopped at once by a second signal", slog.String("signal", sig.String()))
		return killed{sig}
	}
}

// killed is a second signal.
type killed struct{ signal os.Signal }

func (k killed) Error() string { return k.signal.String() }

// complain writes err, one fault a line, and gives the exit code.
func complain(w io.Writer, name string, code int, err error) int {
	var second killed
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &second):
		if number, ok := second.signal.(syscall.Signal); ok {
			return 128 + int(number)
		}
		return exitFailed
	}
	for _, fault := range faults(err) {
		// There is no one left to tell where standard error fails.
		_, _ = fmt.Fprintf(w, "%s: %v\n", name, fault)
	}
	return code
}

// faults takes a joined error apart.
func faults(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, faults(e)...)
	}
	return all
}

func printSettings(w io.Writer, cfg any) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, setting := range config.Settings(cfg) {
		if _, err := fmt.Fprintf(table, "%s\t%s\n", setting.Name, setting.Value); err != nil {
			return fmt.Errorf("print settings: %w", err)
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print settings: %w", err)
	}
	return nil
}

// recordedVersion is the revision that the binary was built from, as far as Go knows it.
func recordedVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version, dirty := "dev", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			version = "dev-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	return version + dirty
}
