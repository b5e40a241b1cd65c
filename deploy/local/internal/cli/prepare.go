package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/config"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/prune"
	"leafcutter/schemas"
	migrations "leafcutter/schemas/clickhouse"
)

// servers is what init reads: the three servers of a deployment, by the variables that the stages read.
type servers struct {
	Kafka      kafka.Config
	Objects    objectstore.Config
	ClickHouse clickhouse.Config
}

// everyVariable is what the commands read that work on the servers themselves, init and prune among them: one list for
// docs/configuration.md.
type everyVariable struct {
	Servers servers
	Keep    prune.Keep
}

// pages says which topics of models are wanted, and how many partitions.
type pages struct {
	models     []string
	partitions int32
}

func (p *pages) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&p.models, "model", []string{"layout_cdla"}, "models whose page topics are wanted")
	c.Flags().Int32Var(&p.partitions, "partitions", 0, "partitions of each work topic; 0: as in the table")
}

// init makes a deployment's servers ready for its stages.
func (t *terminal) init() *cobra.Command {
	var wanted pages
	var wait time.Duration
	var list, verify bool
	c := &cobra.Command{
		Use: "init", Short: "make what the stages need: bucket, topics and tables", Args: cobra.NoArgs,
		Long: "Make the bucket of S3_BUCKET, the topics on KAFKA_BROKERS and the tables on CLICKHOUSE_ADDR, or bring them up to date.\n" +
			"Servers that are not there yet are waited for. Run it before the stages of a new version; running it again does nothing.",
		Example: "  KAFKA_BROKERS=kafka:9092 AWS_ENDPOINT_URL=http://s3:9000 CLICKHOUSE_ADDR=clickhouse:8123 leafcutter init",
		RunE: func(c *cobra.Command, _ []string) error {
			var s servers
			if list {
				return config.List(t.out, &everyVariable{})
			}
			if err := t.load(&s); err != nil {
				return err
			}
			if verify {
				for _, setting := range config.Settings(&s) {
					if err := t.print("%-24s %s\n", setting.Name, setting.Value); err != nil {
						return err
					}
				}
				return nil
			}
			return t.prepare(c.Context(), s, wanted, wait)
		},
	}
	wanted.flags(c)
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for servers that are not there yet")
	c.Flags().BoolVar(&list, "config.list", false, "list every variable that init, reconcile and prune read as JSON and exit")
	c.Flags().BoolVar(&verify, "config.verify", false, "validate the configuration, print it and exit")
	return c
}

// prepare makes bucket, topics and tables, in this order. What cannot be reached is tried again until wait is over.
func (t *terminal) prepare(ctx context.Context, s servers, wanted pages, wait time.Duration) error {
	store, err := objectstore.Open(ctx, s.Objects)
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for _, step := range []struct {
		server string
		do     func(ctx context.Context) error
	}{
		{"S3", func(ctx context.Context) error { return t.makeBucket(ctx, store) }},
		{"Kafka", func(ctx context.Context) error { return t.makeTopics(ctx, s.Kafka, wanted) }},
		{"ClickHouse", func(ctx context.Context) error { return t.makeTables(ctx, s.ClickHouse) }},
	} {
		if err := t.insist(ctx, step.server, step.do); err != nil {
			return err
		}
	}
	return nil
}

// Pauses and times of one try. A server that has just come up answers within seconds or not at all.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 5 * time.Second
	tryTime    = 30 * time.Second
)

// insist repeats step while its server is away, until ctx ends; the last fault is then the answer. Faults of another
// class, such as a statement that the server refuses, would be the same the next time and are told at once.
func (t *terminal) insist(ctx context.Context, server string, step func(ctx context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := try(ctx, step)
		if err == nil {
			return nil
		}
		if class := fault.ClassOf(err); class != fault.Unavailable && class != fault.Transient {
			return err
		}
		t.say("leafcutter: waiting for %s: %v\n", server, err)
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) { // interrupted: the server may well be on its way
				return ctx.Err()
			}
			return fmt.Errorf("%s is not there: %w", server, err)
		case <-time.After(pause):
		}
	}
}

func try(ctx context.Context, step func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	return step(ctx)
}

func (t *terminal) makeBucket(ctx context.Context, store *objectstore.Store) error {
	if err := store.EnsureBucket(ctx); err != nil {
		return err
	}
	return t.print("bucket %s is there\n", store.Bucket())
}

// makeTopics makes missing topics and sets the configuration of all.
func (t *terminal) makeTopics(ctx context.Context, cfg kafka.Config, wanted pages) error {
	topics := schemas.Topics(wanted.models...)
	made, err := kafka.Apply(ctx, cfg, topics, wanted.partitions)
	for _, name := range made {
		if err := t.print("made %s\n", name); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return t.print("%d topics are as they should be\n", len(topics))
}

// makeTables applies the migrations that the database has not seen.
func (t *terminal) makeTables(ctx context.Context, cfg clickhouse.Config) error {
	if err := clickhouse.Migrate(ctx, cfg, migrations.Migrations, t.logger(slog.LevelInfo)); err != nil {
		return err
	}
	return t.print("tables of database %s on %s are up to date\n", cfg.Database, strings.Join(cfg.Addr, ","))
}
