//go:build !windows

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"leafcutter/deploy/local/internal/up"
	"leafcutter/pkg/config"
	"leafcutter/pkg/prune"
)

// up runs the whole pipeline on this machine until it is interrupted.
func (t *terminal) up() *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use: "up", Short: "run the whole pipeline on this machine", Args: cobra.NoArgs,
		Long: "Run the whole pipeline on this machine: Kafka, S3 and ClickHouse embedded, and the very binaries that are deployed,\n" +
			"each a process of its own. Data persist in the data directory; a second up on the same data carries on.",
		Example: "  leafcutter up\n  leafcutter up --ephemeral --any-port --submit report.pdf",
		RunE:    func(c *cobra.Command, _ []string) error { return t.runUp(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.data, "data-dir", "", "where data persist (LEAFCUTTER_DATA_DIR; ~/.local/share/leafcutter)")
	f.BoolVar(&o.ephemeral, "ephemeral", false, "keep data in a temporary folder and remove it at the end")
	f.BoolVar(&o.anyPort, "any-port", false, "take free ports where the usual ones are taken")
	f.StringVar(&o.model, "model", "", "default model (LEAFCUTTER_DEFAULT_MODEL; layout_cdla)")
	f.StringSliceVar(&o.submit, "submit", nil, "documents to put through once it runs")
	f.BoolVar(&o.exit, "exit", false, "stop once the submitted documents are done")
	f.Var(&o.keep, "keep", "remove documents and spans that are older, such as 720h or 30d; LEAFCUTTER_KEEP_* say it of each thing")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show everything that the stages log")
	ports := up.DefaultPorts()
	o.ports = ports
	f.IntVar(&o.ports.API, "api-port", ports.API, "port of the UI and the API")
	f.IntVar(&o.ports.Kafka, "kafka-port", ports.Kafka, "port of Kafka")
	f.IntVar(&o.ports.S3, "s3-port", ports.S3, "port of S3")
	f.IntVar(&o.ports.SQL, "clickhouse-port", ports.SQL, "port of ClickHouse's HTTP interface")
	return c
}

type upOptions struct {
	data, model                       string
	ephemeral, anyPort, exit, verbose bool
	submit                            []string
	keep                              prune.Age
	ports                             up.Ports
}

func (t *terminal) runUp(ctx context.Context, o upOptions) (err error) {
	for _, file := range o.submit {
		if _, err := os.Stat(file); err != nil {
			return usageError{fmt.Errorf("--submit: %w", err)}
		}
	}
	data, err := t.dataDir(o)
	if err != nil {
		return err
	}
	if o.ephemeral {
		defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	layout, err := up.FindLayout(executable, data, t.getenv)
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelDebug
	}
	p, err := up.Start(ctx, up.Options{
		Layout: layout, Executable: executable, Ports: o.ports, AnyPort: o.anyPort,
		Model:  cmp.Or(o.model, t.getenv("LEAFCUTTER_DEFAULT_MODEL")),
		Logger: t.logger(level), Environ: up.Tuning(t.environ),
		Progress: func(what string) { t.say("starting %s …\n", what) },
	})
	if err != nil {
		return err
	}
	defer p.Stop()
	stopPruning, err := t.keepPruned(ctx, p.State, o.keep)
	if err != nil {
		return err
	}
	defer stopPruning()
	if err := t.block(p.State); err != nil {
		return err
	}
	if len(o.submit) > 0 {
		w := where{api: p.State.API, sql: p.State.SQL}
		// Interrupted before the documents are done, up --exit has not done what it was asked for; a pipeline that was to
		// go on is stopped in order.
		own := *t
		own.environ = up.Tuning(t.environ) // the pipeline's servers know no user of another's
		if err := own.show(ctx, w, o.submit); err != nil {
			if o.exit {
				return err
			}
			if ctx.Err() == nil {
				t.say("%v\n", err)
			}
		}
		t.children(p)
		if o.exit {
			return nil
		}
		if err := t.block(p.State); err != nil {
			return err
		}
	}
	t.say("\nrunning; stop with Ctrl-C\n")
	<-ctx.Done()
	t.say("\nstopping …\n")
	return nil
}

// keepPruned prunes the pipeline as long as it runs, by what the environment and --keep say. stop returns once it has
// ended; it is to be called before the servers are stopped.
func (t *terminal) keepPruned(ctx context.Context, s up.State, keep prune.Age) (stop func(), err error) {
	var cfg pruneConfig
	if _, err := config.Load("leafcutter", nil, pipelineEnviron(t.environ, s), &cfg); err != nil {
		return nil, err
	}
	if keep > 0 {
		cfg.Keep.Documents, cfg.Keep.Traces = keep, keep
	}
	if cfg.Keep.Empty() {
		return func() {}, nil
	}
	log := t.logger(slog.LevelWarn)
	pruner, done, err := openPruner(ctx, cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { pruneEvery(ctx, pruner, cfg.Keep, log) })
	return func() {
		cancel()
		running.Wait()
		if err := done(); err != nil {
			log.Warn("closing ClickHouse failed", slog.Any("error", err))
		}
	}, nil
}

func (t *terminal) dataDir(o upOptions) (string, error) {
	if o.ephemeral {
		if o.data != "" {
			return "", usageError{errors.New("--ephemeral and --data-dir exclude each other")}
		}
		return os.MkdirTemp("", "leafcutter-")
	}
	data := o.data
	if data == "" {
		var err error
		if data, err = up.DefaultData(t.getenv); err != nil {
			return "", err
		}
	}
	return filepath.Abs(data)
}

// block prints where everything is, aligned.
func (t *terminal) block(s up.State) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { _, _ = fmt.Fprintf(w, "  %s\t%s\n", name, value) }
	_, _ = fmt.Fprintln(w)
	row("UI", s.API)
	row("API", s.API+"/docs")
	row("Kafka", s.Kafka)
	row("S3", fmt.Sprintf("%s  bucket %s  key %s  secret %s", s.S3, s.S3Bucket, s.S3Key, s.S3Secret))
	row("ClickHouse", s.SQL+"  reads without a password")
	row("model", s.Model+"  from "+s.ModelsFrom)
	row("data", s.Data)
	_, _ = fmt.Fprintln(w)
	_, _ = fmt.Fprintln(w, "  leafcutter submit --wait FILE.pdf")
	return w.Flush()
}

// children prints what each process holds.
func (t *terminal) children(p *up.Pipeline) {
	w := tabwriter.NewWriter(t.err, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "\nprocess\tMB now\tMB at most\tstarts\t")
	for _, c := range p.Children() {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t\n", c.Name, c.Resident>>20, c.Peak>>20, c.Starts)
	}
	_ = w.Flush()
}
