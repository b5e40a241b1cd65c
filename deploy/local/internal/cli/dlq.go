package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// dlq is the tool for dead letters: what the stages gave up, and how it is put back.
func (t *terminal) dlq() *cobra.Command {
	group := &cobra.Command{
		Use: "dlq", Short: "list, show and replay what the stages gave up",
		Long: "A record that a stage cannot handle becomes a dead letter: it is kept, with the reason, and can be replayed once the\n" +
			"reason is mended. docs/errors.md says what each code means and what to do.",
	}
	group.AddCommand(t.dlqList(), t.dlqShow(), t.dlqReplay())
	return group
}

// letters is the API as the flags of c choose it.
func (t *terminal) letters(w where) (*client.Client, error) {
	w, err := t.resolve(w, theAPI)
	if err != nil {
		return nil, err
	}
	return client.New(w.api, client.WithAPIKey(t.getenv("LEAFCUTTER_API_KEY")))
}

func letterFilter(c *cobra.Command, f *client.LetterFilter) {
	c.Flags().StringVar(&f.Code, "code", "", "only letters with this code")
	c.Flags().StringVar(&f.Stage, "stage", "", "only what this stage gave up")
	c.Flags().StringVar(&f.DocumentID, "document", "", "only letters of this document")
}

func (t *terminal) dlqList() *cobra.Command {
	var w where
	var f client.LetterFilter
	var output string
	c := &cobra.Command{
		Use: "list", Short: "list dead letters, what failed last first", Args: cobra.NoArgs,
		Example: "  leafcutter dlq list\n  leafcutter dlq list --state open --code page-too-large -o json | jq -r .letter_id",
		RunE: func(c *cobra.Command, _ []string) error {
			states := []string{"", api.LetterOpen, api.LetterReplayed, api.LetterResolved}
			if !slices.Contains(states, f.State) {
				return usageError{fmt.Errorf("--state %s: open, replayed or resolved", f.State)}
			}
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("-o %s: text or json", output)}
			}
			a, err := t.letters(w)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
			n := 0
			for l, err := range a.Letters(c.Context(), f) {
				if err != nil {
					return errors.Join(table.Flush(), err)
				}
				if output == "json" {
					if err := t.printLine(l); err != nil {
						return err
					}
					continue
				}
				if n == 0 {
					_, _ = fmt.Fprintln(table, "LETTER\tSTATE\tSTAGE\tCODE\tABOUT\tFAILED\tREPLAYS\tLAST FAILURE") // Flush has its error
				}
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", l.LetterID, l.State, l.Stage, l.Code, subject(l), l.Failures, l.Replays, local(l.FailedAt))
				if n++; n%100 == 0 {
					if err := table.Flush(); err != nil {
						return err
					}
				}
			}
			if n == 0 && output == "text" {
				t.say("no dead letters\n")
			}
			return table.Flush()
		},
	}
	w.flags(c)
	letterFilter(c, &f)
	c.Flags().StringVar(&f.State, "state", "", "only letters in this state: open, replayed or resolved")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json: an object a line")
	return c
}

// subject is what a letter is about, in a few words.
func subject(l api.Letter) string {
	what := l.Title
	if what == "" {
		what = l.DocumentID
	}
	if what == "" {
		what = l.Topic
	}
	if len([]rune(what)) > 40 {
		what = string([]rune(what)[:39]) + "…"
	}
	switch n := len(l.Pages); {
	case n == 1:
		return fmt.Sprintf("%s, page %d", what, l.Pages[0])
	case n > 1:
		return fmt.Sprintf("%s, pages %d to %d", what, l.Pages[0], l.Pages[n-1])
	}
	return what
}

func local(at time.Time) string { return at.Local().Format("2006-01-02 15:04:05") }

func (t *terminal) printLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return t.print("%s\n", b)
}

func (t *terminal) dlqShow() *cobra.Command {
	var w where
	var output string
	c := &cobra.Command{
		Use: "show LETTER", Short: "show a dead letter with its record", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("-o %s: text or json", output)}
			}
			if !schemas.IsUUID(args[0]) {
				return usageError{fmt.Errorf("%.80q is not the name of a letter: leafcutter dlq list shows them", args[0])}
			}
			a, err := t.letters(w)
			if err != nil {
				return err
			}
			l, err := a.Letter(c.Context(), args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				return t.printJSON(l)
			}
			return t.showLetter(l)
		},
	}
	w.flags(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func (t *terminal) showLetter(l *api.LetterContent) error {
	table := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	row := func(name string, value any) {
		if text := fmt.Sprint(value); text != "" {
			_, _ = fmt.Fprintf(table, "%s\t%s\n", name, strings.ReplaceAll(text, "\n", " ")) // Flush has its error
		}
	}
	row("letter", l.LetterID)
	row("state", l.State)
	row("about", subject(l.Letter))
	row("document", l.DocumentID)
	row("run", l.RunID)
	row("given up by", fmt.Sprintf("%s, tries: %d", l.Stage, l.Attempts))
	row("code", l.Code)
	row("error", l.Error)
	row("failed", fmt.Sprintf("%s, first %s, last %s", times(l.Failures), local(l.FirstFailedAt), local(l.FailedAt)))
	if l.ReplayedAt != nil {
		row("replayed", fmt.Sprintf("%s, last %s", times(l.Replays), local(*l.ReplayedAt)))
	}
	row("topic", l.Topic)
	row("key", l.Key)
	for _, name := range sortedKeys(l.Headers) {
		row("  "+name, l.Headers[name])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	switch {
	case l.Missing != "":
		return t.print("\n%s: Kafka has dropped the record, so it cannot be replayed\n", l.Missing)
	case l.ValueRef != "":
		return t.print("\nthe value is the object %s\n", l.ValueRef)
	case l.Value != nil:
		return t.printJSON(l.Value)
	case l.Bytes == 0:
		return t.print("\nno value\n")
	default:
		return t.print("\n%d bytes, %s\n", l.Bytes, l.ValueType)
	}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (t *terminal) dlqReplay() *cobra.Command {
	var w where
	var f client.LetterFilter
	var all, dry bool
	var output string
	c := &cobra.Command{
		Use: "replay {LETTER… | --code CODE | --stage STAGE | --document ID | --all}", Short: "put records back onto their topics",
		Long: "Put the records of dead letters back onto the topics that they came by, as they were. By code, stage, document or all, it\n" +
			"is the open ones that are replayed. It ends once Kafka has acknowledged them; leafcutter dlq list shows what becomes of\n" +
			"them. It fails if a letter could not be replayed.",
		RunE: func(c *cobra.Command, args []string) error {
			filtered := f != client.LetterFilter{}
			switch {
			case len(args) > 0 && (filtered || all), filtered && all:
				return usageError{errors.New("name letters, or filters, or --all: not more than one of these")}
			case len(args) == 0 && !filtered && !all:
				return usageError{errors.New("which letters? name them, or --code, --stage, --document, or --all")}
			case output != "text" && output != "json":
				return usageError{fmt.Errorf("-o %s: text or json", output)}
			}
			a, err := t.letters(w)
			if err != nil {
				return err
			}
			request := api.ReplayRequest{Letters: args, Code: f.Code, Stage: f.Stage, DocumentID: f.DocumentID, All: all, DryRun: dry}
			replayed, refused := 0, 0
			for answer, err := range a.Replay(c.Context(), request) {
				if err != nil {
					return fmt.Errorf("%d replayed before: %w", replayed, err)
				}
				replayed, refused = replayed+len(answer.Replayed), refused+len(answer.Refused)
				if err := t.tellReplay(answer, output); err != nil {
					return err
				}
			}
			verb := "replayed"
			if dry {
				verb = "would be replayed"
			}
			t.say("%d %s, %d could not be\n", replayed, verb, refused)
			if refused > 0 {
				return fmt.Errorf("%d of %d letters cannot be replayed", refused, replayed+refused)
			}
			return nil
		},
	}
	w.flags(c)
	letterFilter(c, &f)
	c.Flags().BoolVar(&all, "all", false, "every open letter")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be replayed, and replay nothing")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json: an answer of the API a line")
	return c
}

func (t *terminal) tellReplay(answer api.ReplayAnswer, output string) error {
	if output == "json" {
		return t.printLine(answer)
	}
	for _, l := range answer.Replayed {
		if err := t.print("%s  %s → %s\n", l.LetterID, l.Code, l.Topic); err != nil {
			return err
		}
	}
	for _, l := range answer.Refused {
		if err := t.print("%s  not replayed: %s: %s\n", l.LetterID, l.Code, l.Error); err != nil {
			return err
		}
	}
	if answer.Unnoted != "" {
		t.say("the replays could not be noted (%s): the letters show as open until their work is done\n", answer.Unnoted)
	}
	return nil
}
