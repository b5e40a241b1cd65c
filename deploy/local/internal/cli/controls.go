package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas/api"
)

// controls are the commands that ask something of documents which were accepted.
func (t *terminal) controls() []*cobra.Command {
	return []*cobra.Command{
		t.control("cancel", "stop documents that are not done yet; pages that are done stay", (*client.Client).Cancel,
			func(d *api.Controlled) string {
				if d.Sequence == 0 {
					return fmt.Sprintf("nothing to cancel: it is %s", d.State)
				}
				return "cancelled"
			}),
		t.control("resume", "go on with documents that were cancelled", (*client.Client).Resume,
			func(d *api.Controlled) string {
				if d.Sequence == 0 {
					return fmt.Sprintf("nothing to resume: it is %s", d.State)
				}
				return fmt.Sprintf("resumed, %d pages asked for again", d.Pages)
			}),
		t.control("delete", "delete documents for good: objects, rows, and whatever still comes of them", (*client.Client).Delete,
			func(d *api.Controlled) string {
				if d.Sequence == 0 {
					return "deleted already"
				}
				return "deleted"
			}),
	}
}

// control is one of them. Documents are asked for one after the other; the fault of one does not keep the others back.
func (t *terminal) control(name, short string, ask func(*client.Client, context.Context, string) (*api.Controlled, error), tell func(*api.Controlled) string) *cobra.Command {
	var w where
	var output string
	c := &cobra.Command{
		Use: name + " DOCUMENT...", Short: short, Args: cobra.MinimumNArgs(1),
		Example: "  leafcutter " + name + " 0195d2c5-…",
		RunE: func(c *cobra.Command, ids []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("-o %s: text or json", output)}
			}
			w, err := t.resolve(w, theAPI)
			if err != nil {
				return err
			}
			a, err := client.New(w.api, client.WithAPIKey(t.getenv("LEAFCUTTER_API_KEY")), client.WithUserAgent("leafcutter/"+t.version))
			if err != nil {
				return err
			}
			var faults []error
			for _, id := range ids {
				done, err := ask(a, c.Context(), id)
				if err != nil {
					faults = append(faults, fmt.Errorf("%s: %w", id, err))
					continue
				}
				if err := t.tellControl(done, output, tell); err != nil {
					return err
				}
			}
			return errors.Join(faults...)
		},
	}
	w.flags(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text, or json: a line for each document")
	return c
}

func (t *terminal) tellControl(done *api.Controlled, output string, tell func(*api.Controlled) string) error {
	if output == "text" {
		return t.print("%s  %s\n", done.DocumentID, tell(done))
	}
	line, err := json.Marshal(done)
	if err != nil {
		return err
	}
	return t.print("%s\n", line)
}
