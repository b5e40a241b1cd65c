//go:build !windows

package cli

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"leafcutter/deploy/local/internal/broker"
	"leafcutter/deploy/local/internal/objects"
	"leafcutter/deploy/local/internal/sqlserver"
)

func (t *terminal) serverCommands() []*cobra.Command { return []*cobra.Command{t.up(), t.service()} }

// service runs one embedded server in this process. leafcutter up starts each as a child.
func (t *terminal) service() *cobra.Command {
	group := &cobra.Command{Use: "service", Short: "run one embedded server: broker, objects or sql"}
	var addr, dir, bucket, library string
	server := func(use, short, port string, run func(ctx context.Context, log *slog.Logger) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			log := slog.New(slog.NewJSONHandler(t.err, nil))
			return run(c.Context(), log)
		}}
		c.Flags().StringVar(&addr, "addr", "127.0.0.1:"+port, "host:port to listen on")
		c.Flags().StringVar(&dir, "dir", "", "data directory")
		if err := c.MarkFlagRequired("dir"); err != nil {
			panic(err) // the flag is defined above
		}
		return c
	}
	b := server("broker", "Kafka, on a folder", "9092", func(ctx context.Context, log *slog.Logger) error {
		s, err := broker.New(broker.Config{Addr: addr, Dir: dir, Logger: log, MinGroupSession: 0})
		if err != nil {
			return err
		}
		return s.Run(ctx)
	})
	o := server("objects", "S3, on a folder; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say who may come in", "9000", func(ctx context.Context, log *slog.Logger) error {
		s, err := objects.New(objects.Config{Addr: addr, Dir: dir, Bucket: bucket, Logger: log,
			AccessKey: t.getenv("AWS_ACCESS_KEY_ID"), SecretKey: t.getenv("AWS_SECRET_ACCESS_KEY")})
		if err != nil {
			return err
		}
		return s.Run(ctx)
	})
	o.Flags().StringVar(&bucket, "bucket", "leafcutter", "bucket to make")
	q := server("sql", "ClickHouse, in this process; CLICKHOUSE_USER and CLICKHOUSE_PASSWORD say who may write", "8123", func(ctx context.Context, log *slog.Logger) error {
		s, err := sqlserver.New(sqlserver.Config{Addr: addr, Dir: dir, Library: library, Logger: log,
			User: t.getenv("CLICKHOUSE_USER"), Password: t.getenv("CLICKHOUSE_PASSWORD")})
		if err != nil {
			return err
		}
		return s.Run(ctx)
	})
	q.Flags().StringVar(&library, "library", t.getenv("LEAFCUTTER_CHDB_LIB"), "libchdb.so")
	group.AddCommand(b, o, q)
	group.RunE = func(*cobra.Command, []string) error {
		return usageError{fmt.Errorf("say which: broker, objects or sql")}
	}
	return group
}
