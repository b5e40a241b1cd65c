package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// where says which pipeline a client command talks to.
type where struct {
	data, api, sql string
}

// flags adds what chooses the pipeline. Each address is the flag, else the environment, else that of the pipeline
// which runs on the data directory, else the default port.
func (w *where) flags(c *cobra.Command) {
	c.Flags().StringVar(&w.data, "data-dir", "", "data directory of the pipeline that runs on this machine")
	c.Flags().StringVar(&w.api, "api", "", "URL of the API (LEAFCUTTER_API; http://127.0.0.1:8090)")
	c.Flags().StringVar(&w.sql, "clickhouse", "", "URL of ClickHouse (CLICKHOUSE_ADDR; http://127.0.0.1:8123)")
}

func (t *terminal) resolve(w where) where {
	s, running := t.running(w.data)
	pick := func(flag, variable, local, fallback string) string {
		switch {
		case flag != "":
			return withScheme(flag)
		case t.getenv(variable) != "":
			return withScheme(t.getenv(variable))
		case running:
			return local
		default:
			return fallback
		}
	}
	w.api = pick(w.api, "LEAFCUTTER_API", s.api, "http://127.0.0.1:8090")
	w.sql = pick(w.sql, "CLICKHOUSE_ADDR", s.sql, "http://127.0.0.1:8123")
	return w
}

func withScheme(addr string) string {
	if strings.Contains(addr, "://") {
		return strings.TrimRight(addr, "/")
	}
	return "http://" + addr
}
