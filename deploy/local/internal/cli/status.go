package cli

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas/api"
)

// status says where the running pipeline is, or how far a document is.
func (t *terminal) status() *cobra.Command {
	var w where
	var output string
	c := &cobra.Command{
		Use: "status [DOCUMENT]", Short: "say where the pipeline listens, or how far a document is", Args: cobra.MaximumNArgs(1),
		Example: "  eval $(leafcutter status -o env)   # KAFKA_BROKERS, AWS_*, CLICKHOUSE_*, …\n  leafcutter status -o json 0195…",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return t.pipelineStatus(w, output)
			}
			w, err := t.resolve(w, theAPI)
			if err != nil {
				return err
			}
			a, err := client.New(w.api, client.WithAPIKey(t.getenv("LEAFCUTTER_API_KEY")))
			if err != nil {
				return err
			}
			d, err := a.Get(c.Context(), args[0])
			if err != nil {
				return err
			}
			return t.documentStatus(d, output)
		},
	}
	w.flags(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json; env for the pipeline's addresses")
	return c
}

func (t *terminal) documentStatus(d *api.Document, output string) error {
	switch output {
	case "json":
		return t.printJSON(d)
	case "text":
	default:
		return usageError{fmt.Errorf("-o %s: text or json", output)}
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("document", d.DocumentID)
	row("title", d.Title)
	row("state", d.State)
	if d.Code != "" {
		row("why", why(d))
	}
	row("pages", fmt.Sprintf("%d done, %d failed, of %d", d.PagesDone, d.PagesFailed, d.PagesSelected))
	row("boxes", d.Boxes)
	for _, f := range d.Failures {
		row(fmt.Sprintf("page %d failed", f.Page), f.Code+": "+f.Error)
	}
	return w.Flush()
}

func (t *terminal) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return t.print("%s\n", b)
}
