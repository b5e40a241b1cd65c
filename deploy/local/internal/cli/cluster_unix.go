//go:build !windows

package cli

import (
	"fmt"
	"slices"

	"leafcutter/deploy/local/internal/up"
)

// clusterEnviron is the environment of a command that works on Kafka, S3 and ClickHouse themselves. A data directory that
// is named means the pipeline there; else the environment says where the servers are; where it does not, they are those
// of the pipeline that runs on this machine, if one does.
func (t *terminal) clusterEnviron(data string) ([]string, error) {
	named := data != ""
	if !named {
		for _, name := range []string{"KAFKA_BROKERS", "CLICKHOUSE_ADDR", "AWS_ENDPOINT_URL"} {
			if t.getenv(name) != "" {
				return t.environ, nil
			}
		}
		usual, err := up.DefaultData(t.getenv)
		if err == nil {
			data = usual
		} // else there is no home, and nothing runs below it
	}
	s, err := up.ReadState(data)
	switch {
	case err == nil:
		return append(slices.Clone(t.environ), s.Env()...), nil
	case named:
		return nil, fmt.Errorf("%s: %w", data, err)
	}
	return t.environ, nil
}
