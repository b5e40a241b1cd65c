package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// finding is one line of doctor.
type finding struct {
	what, got string
	err       error // what is wrong and what to do about it
}

// doctor looks for what keeps the pipeline from running here.
func (t *terminal) doctor() *cobra.Command {
	var w where
	c := &cobra.Command{
		Use: "doctor", Short: "look for what keeps the pipeline from running", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			findings := append(t.machine(w.data), t.reachable(c.Context(), w)...)
			bad := 0
			for _, f := range findings {
				mark, text := "ok ", f.got
				if f.err != nil {
					mark, text = "BAD", f.err.Error()
					bad++
				}
				if err := t.print("%s  %-14s %s\n", mark, f.what, text); err != nil {
					return err
				}
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d checks found something", bad, len(findings))
			}
			return nil
		},
	}
	w.flags(c)
	return c
}

// reachable asks the pipeline that the other commands would talk to. That none runs is no fault of the machine.
func (t *terminal) reachable(ctx context.Context, w where) []finding {
	ask := func(what, url string) finding {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return finding{what: what, err: err}
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return finding{what: what, got: "not running (leafcutter up starts it)"}
		}
		_ = res.Body.Close()
		if res.StatusCode >= http.StatusInternalServerError {
			return finding{what: what, err: fmt.Errorf("%s answers %s: look into its log", url, res.Status)}
		}
		return finding{what: what, got: "answers at " + url}
	}
	var findings []finding
	for _, one := range []struct {
		server
		path string
	}{{theAPI, "/v1/documents?limit=1"}, {theSQL, "/ping"}} {
		found, err := t.resolve(w, one.server)
		if err != nil {
			findings = append(findings, finding{what: one.name, got: err.Error()})
			continue
		}
		findings = append(findings, ask(one.name, *one.of(&found)+one.path))
	}
	return findings
}

// errorOr is a finding from an error.
func errorOr(what, got string, errs ...error) finding {
	return finding{what: what, got: got, err: errors.Join(errs...)}
}
