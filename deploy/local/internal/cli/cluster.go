package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/config"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// The variables that say where the servers are.
const (
	kafkaVariable = "KAFKA_BROKERS"
	sqlVariable   = "CLICKHOUSE_ADDR"
	s3Variable    = "AWS_ENDPOINT_URL"
)

// topics makes the topics of any Kafka, configured by environment as the stages are.
func (t *terminal) topics() *cobra.Command {
	group := &cobra.Command{Use: "topics", Short: "make or list the topics of a cluster"}
	var wanted pages
	apply := &cobra.Command{
		Use: "apply", Short: "make the missing topics and set the configuration of all", Args: cobra.NoArgs,
		Long: "Make the topics of the table in schemas that are missing, on the Kafka of KAFKA_BROKERS (KAFKA_TLS_*, KAFKA_SASL_*,\n" +
			"LEAFCUTTER_TOPIC_PREFIX), and set retention, cleanup and largest record of those that are there. Nothing is removed.",
		RunE: func(c *cobra.Command, _ []string) error {
			var cfg kafka.Config
			if err := t.load(&cfg); err != nil {
				return err
			}
			return t.makeTopics(c.Context(), cfg, wanted)
		},
	}
	list := &cobra.Command{
		Use: "list", Short: "print the table of topics", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			for _, topic := range schemas.Topics(wanted.models...) {
				keep := "compacted"
				if !topic.Compacted {
					keep = fmt.Sprintf("%d days", int(topic.Retention.Hours()/24))
				}
				if err := t.print("%-28s %3d partitions  %-10s %9d bytes  %s\n", topic.Name, topic.Partitions, keep, topic.MaxBytes, topic.Holds); err != nil {
					return err
				}
			}
			return nil
		},
	}
	wanted.flags(apply)
	wanted.flags(list)
	group.AddCommand(apply, list)
	return group
}

// migrate brings any ClickHouse up to date.
func (t *terminal) migrate() *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "make the tables of ClickHouse, or bring them up to date", Args: cobra.NoArgs,
		Long: "Make database and tables on the ClickHouse of CLICKHOUSE_ADDR, CLICKHOUSE_USER, CLICKHOUSE_PASSWORD, or bring them up to\n" +
			"date. Run it before the stages of a new version; running it again does nothing.",
		RunE: func(c *cobra.Command, _ []string) error {
			var cfg clickhouse.Config
			if err := t.load(&cfg); err != nil {
				return err
			}
			return t.makeTables(c.Context(), cfg)
		},
	}
}

// load fills cfg from the environment.
func (t *terminal) load(cfg any) error {
	_, err := config.Load("leafcutter", nil, t.environ, cfg)
	return err
}
