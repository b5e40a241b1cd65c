package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// where says which pipeline a client command talks to.
type where struct {
	data, api, sql string
}

// flags adds what chooses the pipeline. Each address is the flag, else the environment, else that of the pipeline
// which runs on the data directory, else, where no data directory was named, the default port.
func (w *where) flags(c *cobra.Command) {
	c.Flags().StringVar(&w.data, "data-dir", "", "data directory of the pipeline that runs on this machine")
	c.Flags().StringVar(&w.api, "api", "", "URL of the API (LEAFCUTTER_API; http://127.0.0.1:8090)")
	c.Flags().StringVar(&w.sql, "clickhouse", "", "URL of ClickHouse (CLICKHOUSE_ADDR; http://127.0.0.1:8123)")
}

// server is one of those that a command talks to.
type server struct {
	name, flag, variable string
	of                   func(w *where) *string
	usual                string
}

var (
	theAPI = server{"API", "--api", "LEAFCUTTER_API", func(w *where) *string { return &w.api }, "http://127.0.0.1:8090"}
	theSQL = server{"ClickHouse", "--clickhouse", "CLICKHOUSE_ADDR", func(w *where) *string { return &w.sql }, "http://127.0.0.1:8123"}
)

// resolve finds the servers that a command needs. A data directory that the user names, by flag or by environment, means
// the pipeline there: where none runs, falling back to the usual ports would ask, or submit to, another one.
func (t *terminal) resolve(w where, needs ...server) (where, error) {
	s, running := t.running(w.data)
	var faults []error
	for _, need := range needs {
		at := need.of(&w)
		switch {
		case *at != "":
			*at = withScheme(*at)
		case t.getenv(need.variable) != "":
			*at = withScheme(t.getenv(need.variable))
		case running:
			*at = *need.of(&s)
		case w.data != "" || t.getenv("LEAFCUTTER_DATA_DIR") != "":
			data := w.data
			if data == "" {
				data = t.getenv("LEAFCUTTER_DATA_DIR")
			}
			faults = append(faults, fmt.Errorf("no pipeline runs on %s: start it with leafcutter up, or say where %s is with %s or %s", data, need.name, need.flag, need.variable))
		default:
			*at = need.usual
		}
	}
	return w, errors.Join(faults...)
}

func withScheme(addr string) string {
	if strings.Contains(addr, "://") {
		return strings.TrimRight(addr, "/")
	}
	return "http://" + addr
}
