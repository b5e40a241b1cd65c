package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/config"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/reconcile"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

type reconcileOptions struct {
	data      string
	documents []string
	older     time.Duration
	dry       bool
	output    string
}

func (t *terminal) reconcile() *cobra.Command {
	o := reconcileOptions{older: time.Hour}
	c := &cobra.Command{
		Use: "reconcile [DOCUMENT...]", Short: "ask again for what unfinished documents still miss",
		Long: "Ask again for the pages of unfinished runs that have no row, and submit again what was accepted and never planned: records\n" +
			"fall out of Kafka's retention when a stage is away for longer, and a partition whose records have is stopped with an\n" +
			"alarm. Run it once the stages are back. What is asked for twice is done twice and lands once, so it changes no answer.\n\n" +
			"Only what has been silent for --older-than is looked at, unless documents are named. Cancelled runs stay cancelled:\n" +
			"see leafcutter resume. It works on Kafka, ClickHouse and S3 themselves, by the environment of the stages (KAFKA_BROKERS,\n" +
			"CLICKHOUSE_ADDR, AWS_ENDPOINT_URL, …), else on the pipeline that runs on this machine.",
		Example: "  leafcutter reconcile --dry-run\n  leafcutter reconcile --older-than 6h -o json",
		RunE: func(c *cobra.Command, ids []string) error {
			if o.output != "text" && o.output != "json" {
				return usageError{fmt.Errorf("-o %s: text or json", o.output)}
			}
			for _, id := range ids {
				if !schemas.IsUUID(id) {
					return usageError{fmt.Errorf("%.80q is not the id of a document", id)}
				}
			}
			o.documents = ids
			if len(ids) > 0 && !c.Flags().Changed("older-than") {
				o.older = 0
			}
			return t.reconcileAll(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.data, "data-dir", "", "data directory of the pipeline that runs on this machine")
	f.DurationVar(&o.older, "older-than", o.older, "leave out of what something was heard since; 0 for nothing, where documents are named")
	f.BoolVar(&o.dry, "dry-run", false, "say what would be asked for, and ask for nothing")
	f.StringVarP(&o.output, "output", "o", "text", "text, or json: a line for each run")
	return c
}

// reconciled is a line about one run, or about a document without one.
type reconciled struct {
	DocumentID string        `json:"document_id"`
	RunID      string        `json:"run_id,omitempty"`
	State      schemas.State `json:"state"`
	Selected   int           `json:"pages_selected"`
	Missing    int           `json:"pages_missing"`
	Records    int           `json:"records"` // asked for, or that would be
	Why        string        `json:"error,omitempty"`
}

const acknowledged = 30 * time.Second // within this Kafka has taken what one run misses

func (t *terminal) reconcileAll(ctx context.Context, o reconcileOptions) (err error) {
	environ, err := t.clusterEnviron(o.data, kafkaVariable, sqlVariable, s3Variable)
	if err != nil {
		return err
	}
	var cfg servers
	if _, err := config.Load("leafcutter", nil, environ, &cfg); err != nil {
		return err
	}
	db, err := clickhouse.Open(ctx, cfg.ClickHouse)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	store, err := objectstore.Open(ctx, cfg.Objects)
	if err != nil {
		return err
	}
	defer store.Close()
	producer, err := stage.NewProducer(cfg.Kafka, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer producer.Close()
	filter := reconcile.Filter{Documents: o.documents}
	if o.older > 0 {
		filter.Quiet = time.Now().Add(-o.older)
	}
	runs, missing, stuck := 0, 0, 0
	give := func(line reconciled, outs []stage.Out) error {
		if !o.dry {
			bounded, cancel := context.WithTimeout(ctx, acknowledged)
			defer cancel()
			if err := producer.Produce(bounded, outs...); err != nil {
				return fmt.Errorf("ask for what document %s misses: %w", line.DocumentID, err)
			}
		}
		line.Records = len(outs)
		runs, missing = runs+1, missing+line.Missing
		if line.Why != "" {
			stuck++
		}
		return t.tellReconciled(line, o.output)
	}
	err = reconcile.Runs(ctx, db, filter, func(run reconcile.Run) error {
		line := reconciled{DocumentID: run.DocumentID, RunID: run.RunID, State: run.State, Selected: run.PagesSelected, Missing: run.Missing()}
		if run.Why != nil {
			line.Why = run.Why.Error()
		}
		outs, err := reconcile.Records(run.Ranges, 0)
		if err != nil {
			return err
		}
		return give(line, outs)
	})
	if err != nil {
		return err
	}
	err = reconcile.Unplanned(ctx, db, store, filter, func(d schemas.DocumentSubmitted) error {
		out, err := reconcile.Resubmission(d)
		if err != nil {
			return err
		}
		return give(reconciled{DocumentID: d.DocumentID, State: schemas.Queued}, []stage.Out{out})
	})
	if err != nil {
		return err
	}
	asked := "asked for again"
	if o.dry {
		asked = "to be asked for again"
	}
	t.say("%d unfinished, %d pages %s\n", runs, missing, asked)
	if stuck > 0 {
		return fmt.Errorf("%d of %d runs cannot be asked for again: see the reason of each", stuck, runs)
	}
	return nil
}

func (t *terminal) tellReconciled(line reconciled, output string) error {
	if output == "json" {
		b, err := json.Marshal(line)
		if err != nil {
			return err
		}
		return t.print("%s\n", b)
	}
	switch {
	case line.RunID == "":
		return t.print("%s  never planned: its submission\n", line.DocumentID)
	case line.Why != "":
		return t.print("%s  run %s  %s: %s\n", line.DocumentID, line.RunID, line.State, line.Why)
	}
	return t.print("%s  run %s  %s, %d of %d pages missing, %d ranges\n", line.DocumentID, line.RunID, line.State, line.Missing, line.Selected, line.Records)
}
