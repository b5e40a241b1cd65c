package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// query asks SQL through ClickHouse's HTTP interface, as the user that may only read.
func (t *terminal) query() *cobra.Command {
	var w where
	var format string
	c := &cobra.Command{
		Use: "query SQL", Short: "ask a question in SQL", Args: cobra.MaximumNArgs(1),
		Long: "Ask ClickHouse a question, from the argument or from standard input. docs/sql.md has some to begin with.",
		Example: `  leafcutter query "SELECT class, count() FROM detections GROUP BY class"
  leafcutter query --format JSONEachRow "SELECT * FROM document_status" | jq .state`,
		RunE: func(c *cobra.Command, args []string) error {
			question := strings.Join(args, "")
			if question == "" || question == "-" {
				b, err := io.ReadAll(io.LimitReader(t.in, 1<<20))
				if err != nil {
					return fmt.Errorf("read the question: %w", err)
				}
				question = string(b)
			}
			if strings.TrimSpace(question) == "" {
				return usageError{errors.New("no question: give SQL as the argument or on standard input")}
			}
			if format == "" {
				format = "PrettyCompactMonoBlock"
				if !isTerminal(t.out) {
					format = "TabSeparatedWithNames"
				}
			}
			w, err := t.resolve(w, theSQL)
			if err != nil {
				return err
			}
			return t.ask(c.Context(), w, question, format, t.out)
		},
	}
	w.flags(c)
	c.Flags().StringVarP(&format, "format", "f", "", "any format of ClickHouse; a table on a terminal, TabSeparatedWithNames elsewhere")
	return c
}

// ask writes the answer to a question in the format given.
func (t *terminal) ask(ctx context.Context, w where, question, format string, out io.Writer) error {
	at := w.sql + "/?" + url.Values{"database": {"leafcutter"}, "default_format": {format}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(question))
	if err != nil {
		return fmt.Errorf("ask %s: %w", w.sql, err)
	}
	if user := t.getenv("CLICKHOUSE_USER"); user != "" {
		req.Header.Set("X-ClickHouse-User", user)
		req.Header.Set("X-ClickHouse-Key", t.getenv("CLICKHOUSE_PASSWORD"))
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask ClickHouse: %w\nis a pipeline running? start one with leafcutter up, or give --clickhouse", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(res.Body, 16<<10))
		if err != nil {
			return fmt.Errorf("read ClickHouse's answer: %w", err)
		}
		return errors.New(strings.TrimSpace(string(b)))
	}
	if _, err := io.Copy(out, res.Body); err != nil {
		return fmt.Errorf("read ClickHouse's answer: %w", err)
	}
	return nil
}
