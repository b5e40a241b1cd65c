package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/config"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/prune"
)

// pruneConfig is what prune reads.
type pruneConfig struct {
	Objects    objectstore.Config
	ClickHouse clickhouse.Config
	Keep       prune.Keep
}

type pruneOptions struct {
	data   string
	older  prune.Age
	what   []string
	dry    bool
	output string
}

func (t *terminal) prune() *cobra.Command {
	var o pruneOptions
	c := &cobra.Command{
		Use: "prune", Short: "remove what is old from S3 and ClickHouse", Args: cobra.NoArgs,
		Long: "Remove what belongs to documents whose last run ended longer ago than --older-than; a document with a run that has not\n" +
			"ended is never touched. Without --older-than the variables LEAFCUTTER_KEEP_IMAGES, _ANNOTATED, _CROPS, _SOURCES, _ROWS,\n" +
			"_DOCUMENTS and _TRACES say how long each is kept, so that cron can run it.\n\n" +
			"It works on S3 and ClickHouse themselves, by the environment of the stages (AWS_ENDPOINT_URL, S3_BUCKET, CLICKHOUSE_ADDR,\n" +
			"…), else on the pipeline that runs on this machine. It may run at any time, and be repeated after it was cut off.",
		Example: "  leafcutter prune --older-than 30d --dry-run\n  leafcutter prune --older-than 168h --what images,annotated\n" +
			"  LEAFCUTTER_KEEP_IMAGES=7d LEAFCUTTER_KEEP_DOCUMENTS=90d leafcutter prune -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			if o.output != "text" && o.output != "json" {
				return usageError{fmt.Errorf("-o %s: text or json", o.output)}
			}
			if c.Flags().Changed("older-than") && o.older == 0 {
				return usageError{errors.New("--older-than: must be above zero")}
			}
			if c.Flags().Changed("what") && o.older == 0 {
				return usageError{errors.New("--what needs --older-than")}
			}
			return t.pruneOnce(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.data, "data-dir", "", "data directory of the pipeline that runs on this machine")
	f.Var(&o.older, "older-than", "age from which to remove, such as 720h or 30d")
	f.StringSliceVar(&o.what, "what", []string{prune.Documents, prune.Traces}, "what to remove: "+strings.Join(prune.All(), ", "))
	f.BoolVar(&o.dry, "dry-run", false, "say what would be removed, and remove nothing")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	return c
}

func (t *terminal) pruneOnce(ctx context.Context, o pruneOptions) (err error) {
	environ, err := t.clusterEnviron(o.data, sqlVariable, s3Variable)
	if err != nil {
		return err
	}
	var cfg pruneConfig
	if _, err := config.Load("leafcutter", nil, environ, &cfg); err != nil {
		return err
	}
	keep := cfg.Keep
	if o.older > 0 {
		if keep, err = prune.Only(o.older, o.what...); err != nil {
			return usageError{fmt.Errorf("--what: %w", err)}
		}
	}
	if keep.Empty() {
		return usageError{errors.New("nothing is to be removed: give --older-than, or set LEAFCUTTER_KEEP_DOCUMENTS or one of its like")}
	}
	pruner, done, err := openPruner(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	report, err := pruner.Run(ctx, keep, o.dry)
	if o.output == "json" {
		return errors.Join(err, t.printJSON(report))
	}
	return errors.Join(err, t.pruned(report))
}

// patience is how long a statement of pruning may take that says nothing meanwhile: one that rewrites a month.
const patience = 30 * time.Minute

func openPruner(ctx context.Context, cfg pruneConfig) (*prune.Pruner, func() error, error) {
	cfg.ClickHouse.Timeout = max(cfg.ClickHouse.Timeout, patience)
	store, err := objectstore.Open(ctx, cfg.Objects)
	if err != nil {
		return nil, nil, err
	}
	db, err := clickhouse.Open(ctx, cfg.ClickHouse)
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	done := func() error {
		store.Close()
		return db.Close()
	}
	return &prune.Pruner{Store: store, DB: db, Now: time.Now}, done, nil
}

// pruned prints a report, aligned.
func (t *terminal) pruned(r *prune.Report) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	verb := "removed"
	if r.DryRun {
		verb = "would be removed"
	}
	_, _ = fmt.Fprintf(w, "%s\tolder than\tdocuments\tobjects\tMB\trows\n", verb)
	for _, c := range r.What {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.1f\t%d\n", c.What, c.Before.UTC().Format("2006-01-02 15:04:05"), c.Documents, c.Objects, float64(c.Bytes)/1e6, c.Rows)
	}
	if r.Swept.Objects > 0 {
		_, _ = fmt.Fprintf(w, "of deleted documents\t\t%d\t%d\t%.1f\t\n", r.Swept.Documents, r.Swept.Objects, float64(r.Swept.Bytes)/1e6)
	}
	for _, partition := range r.Dropped {
		_, _ = fmt.Fprintf(w, "partition dropped\t%s\t\t\t\t\n", partition)
	}
	return w.Flush()
}
