// Package cli is the command line. Commands that run servers (up, service) exist where the servers do; the rest (submit,
// query, status, dlq, models, init, topics, migrate, doctor) builds and runs anywhere, without cgo.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
)

// terminal is what the commands talk to.
type terminal struct {
	version  string
	in       io.Reader
	out, err io.Writer
	environ  []string
	begun    bool // a command was found and its arguments fit: what fails from here on is no wrong use
}

// Exit codes. What was interrupted ends as the shell says it of a program that Ctrl-C killed: a script that goes on after
// 0 must not take half an init or half an upload for a whole one.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// Main runs the command line and gives the exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted. What runs until
// it is interrupted, up and service, is then done.
func Main(version string, args []string, in io.Reader, out, errs io.Writer) int {
	t := &terminal{version: orBuildVersion(version), in: in, out: out, err: errs, environ: os.Environ()}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The second signal ends the process at once, as the shell expects.
	context.AfterFunc(ctx, stop)
	return t.run(ctx, args)
}

// run runs one command until it is done or ctx, the user's patience, ends.
func (t *terminal) run(ctx context.Context, args []string) int {
	root := t.root()
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	interrupted := ctx.Err() != nil
	if interrupted && onlyCancelled(err) {
		t.say("leafcutter: interrupted\n")
		return exitInterrupted
	}
	t.say("leafcutter: %v\n", err)
	var used usageError
	switch {
	case errors.As(err, &used), !t.begun:
		return exitUsage
	case interrupted:
		return exitInterrupted
	default:
		return exitFailed
	}
}

// onlyCancelled reports whether err says no more than that a context was cancelled, however often.
func onlyCancelled(err error) bool {
	switch e := err.(type) { //nolint:errorlint // it takes the tree of errors apart, a wrapper at a time
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !onlyCancelled(err) })
	case interface{ Unwrap() error }:
		return onlyCancelled(e.Unwrap())
	default:
		return errors.Is(err, context.Canceled)
	}
}

// usageError is a command used wrongly.
type usageError struct{ error }

func (t *terminal) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "leafcutter",
		Short: "finds objects in documents",
		Long: "Leafcutter cuts what matters out of documents: every title, table and figure as an image, as a box on\n" +
			"its page and as a row in ClickHouse. Start it all on this machine with leafcutter up.",
		SilenceUsage: true, SilenceErrors: true, Version: t.version,
		PersistentPreRun: func(*cobra.Command, []string) { t.begun = true },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(t.submit(), t.query(), t.status(), t.dlq(), t.reconcile(), t.prune(), t.models(), t.doctor(), t.init(), t.topics(), t.migrate(), t.versionCommand())
	root.AddCommand(t.controls()...)
	root.AddCommand(t.serverCommands()...)
	return root
}

func (t *terminal) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "say which build this is", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return t.print("leafcutter %s\n", t.version)
	}}
}

// print writes to standard output; a closed pipe is the error of the command.
func (t *terminal) print(format string, args ...any) error {
	_, err := fmt.Fprintf(t.out, format, args...)
	return err
}

// say writes to standard error, where progress goes.
func (t *terminal) say(format string, args ...any) { _, _ = fmt.Fprintf(t.err, format, args...) }

func (t *terminal) getenv(name string) string {
	for i := len(t.environ) - 1; i >= 0; i-- {
		if v := t.environ[i]; len(v) > len(name) && v[len(name)] == '=' && v[:len(name)] == name {
			return v[len(name)+1:]
		}
	}
	return ""
}

// logger logs to standard error for people.
func (t *terminal) logger(level slog.Level) *slog.Logger {
	return slog.New(tint.NewTextHandler(t.err, &tint.Options{Level: level, TimeFormat: "15:04:05", NoColor: !isTerminal(t.err)}))
}

// isTerminal reports whether w is a terminal, where colours and moving bars make sense.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func orBuildVersion(version string) string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "devel"
}
