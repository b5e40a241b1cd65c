package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// submit sends documents to a running pipeline.
func (t *terminal) submit() *cobra.Command {
	var w where
	var o client.Options
	var wait, asJSON bool
	var padding int
	var thresholds map[string]string
	c := &cobra.Command{
		Use: "submit FILE|s3://BUCKET/KEY...", Short: "put documents through", Args: cobra.MinimumNArgs(1),
		Example: `  leafcutter submit --wait report.pdf
  leafcutter submit --json --pages 1-3 --threshold title=0.6 *.pdf | jq -r .document_id`,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("crop-padding") {
				o.CropPadding = &padding
			}
			var err error
			if o.Thresholds, err = parseThresholds(thresholds); err != nil {
				return usageError{err}
			}
			if w, err = t.resolve(w, theAPI); err != nil {
				return err
			}
			return t.putThrough(c.Context(), w, args, o, wait, asJSON)
		},
	}
	w.flags(c)
	f := c.Flags()
	f.BoolVar(&wait, "wait", false, "wait for the end and show how far each document is")
	f.BoolVar(&asJSON, "json", false, "print a line of JSON for each document")
	f.StringVar(&o.Title, "title", "", "title; the file name where none is given")
	f.StringSliceVar(&o.Models, "model", nil, "model, or several: a run each")
	f.IntVar(&o.DPI, "dpi", 0, "resolution of the page images")
	f.StringVar(&o.Pages, "pages", "", "pages, such as 1-3,7,10-")
	f.StringToStringVar(&thresholds, "threshold", nil, "score from which a class is cropped, class=score; * for every class")
	f.IntVar(&padding, "crop-padding", 0, "pixels added on each side of a crop")
	f.StringVar(&o.WebhookURL, "webhook", "", "URL to which the end of each run is posted; see docs/webhooks.md")
	f.StringVar(&o.IdempotencyKey, "idempotency-key", "", "names the document for ever: submitting it again is no second document")
	return c
}

func parseThresholds(given map[string]string) (map[string]float64, error) {
	if len(given) == 0 {
		return nil, nil
	}
	parsed := map[string]float64{}
	for class, text := range given {
		var score float64
		if _, err := fmt.Sscan(text, &score); err != nil {
			return nil, fmt.Errorf("--threshold %s=%s: not a number", class, text)
		}
		parsed[class] = score
	}
	return parsed, nil
}

// submitAtOnce bounds the uploads that run side by side.
const submitAtOnce = 4

// putThrough submits documents and, with wait, follows each to its end. It fails where a document did; the others go
// on.
func (t *terminal) putThrough(ctx context.Context, w where, files []string, o client.Options, wait, asJSON bool) error {
	if o.IdempotencyKey != "" && len(files) > 1 {
		return usageError{errors.New("--idempotency-key names one document; submit the files one by one")}
	}
	c, err := client.New(w.api, client.WithAPIKey(t.getenv("LEAFCUTTER_API_KEY")), client.WithUserAgent("leafcutter/"+t.version))
	if err != nil {
		return err
	}
	bars := newBars(t, wait)
	var mu sync.Mutex // of standard output and faults
	var faults []error
	var all sync.WaitGroup
	slots := make(chan struct{}, submitAtOnce)
	for _, file := range files {
		all.Go(func() {
			slots <- struct{}{}
			accepted, err := send(ctx, c, file, o)
			<-slots
			var document *api.Document
			if err == nil && wait {
				document, err = c.Wait(ctx, accepted.DocumentID, bars.follow(file))
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = t.report(accepted, document, asJSON)
			}
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", file, err))
			} else if document != nil && document.State == schemas.Failed {
				faults = append(faults, fmt.Errorf("%s: failed: %s", file, why(document)))
			}
		})
	}
	all.Wait()
	bars.end()
	return errors.Join(faults...)
}

func why(d *api.Document) string {
	if d.Error != "" {
		return d.Code + ": " + d.Error
	}
	return d.Code
}

func send(ctx context.Context, c *client.Client, file string, o client.Options) (*api.Accepted, error) {
	if strings.HasPrefix(file, "s3://") {
		return c.SubmitReference(ctx, file, o)
	}
	if o.IdempotencyKey == "" {
		o.IdempotencyKey = rand.Text() // so that a retry of ours is no second document
	}
	return c.SubmitFile(ctx, file, o)
}

// report prints a line about a document: with its end where that was waited for.
func (t *terminal) report(accepted *api.Accepted, document *api.Document, asJSON bool) error {
	if asJSON {
		var v any = accepted
		if document != nil {
			v = document
		}
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return t.print("%s\n", b)
	}
	if document == nil {
		return t.print("%s  %s  %s\n", accepted.DocumentID, accepted.State, accepted.Title)
	}
	return t.print("%s  %s  %d of %d pages, %d boxes  %s\n", document.DocumentID, document.State,
		document.PagesDone, document.PagesSelected, document.Boxes, document.Title)
}

// bars show how far documents are: moving on a terminal, a line at each change of state elsewhere.
type bars struct {
	t     *terminal
	on    bool
	group *mpb.Progress
}

func newBars(t *terminal, on bool) *bars {
	b := &bars{t: t, on: on}
	if on && isTerminal(t.err) {
		b.group = mpb.New(mpb.WithOutput(t.err), mpb.WithWidth(48))
	}
	return b
}

// follow is what Wait tells of one document's progress.
func (b *bars) follow(file string) func(api.Progress) {
	if !b.on {
		return nil
	}
	name := filepath.Base(file)
	if b.group == nil {
		var last schemas.State
		return func(p api.Progress) {
			if p.State != last {
				last = p.State
				b.t.say("%s: %s, %d of %d pages\n", name, p.State, p.PagesDone+p.PagesFailed, p.PagesSelected)
			}
		}
	}
	bar := b.group.New(0, mpb.BarStyle().Lbound("").Filler("█").Tip("").Padding("░").Rbound(""),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.CountersNoUnit("%d of %d pages", decor.WCSyncSpace), decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	return func(p api.Progress) {
		bar.SetTotal(int64(p.PagesSelected), false)
		bar.SetCurrent(int64(p.PagesDone + p.PagesFailed))
		if p.State.Final() {
			bar.SetTotal(-1, true)
		}
	}
}

// end waits until the bars stand still. Those of documents that were given up are dropped.
func (b *bars) end() {
	if b.group != nil {
		b.group.Shutdown()
	}
}

// show puts documents through and prints what was found, by SQL. A document that failed does not hide the others: its
// fault comes after their tables.
func (t *terminal) show(ctx context.Context, w where, files []string) error {
	started := &lines{}
	quiet := *t
	quiet.out = started
	failed := quiet.putThrough(ctx, w, files, client.Options{}, true, true)
	if err := ctx.Err(); err != nil {
		return err
	}
	var ids []string
	for _, line := range started.all() {
		var d api.Document
		if err := json.Unmarshal(line, &d); err != nil {
			return errors.Join(failed, fmt.Errorf("read the answer: %w", err))
		}
		ids = append(ids, "'"+d.DocumentID+"'")
	}
	if len(ids) == 0 {
		return failed
	}
	return errors.Join(t.found(ctx, w, ids), failed)
}

// found prints what SQL finds in documents, of which ids are the quoted identities.
func (t *terminal) found(ctx context.Context, w where, ids []string) error {
	const perClass = `SELECT class, count() AS boxes, countIf(crop_key != '') AS crops, round(avg(score), 2) AS mean_score
		FROM detections WHERE document_id IN (%s) AND score >= 0.4 GROUP BY class ORDER BY boxes DESC`
	const titles = `SELECT title AS document, page, round(score, 2) AS score, substring(replaceAll(text, '\n', ' '), 1, 60) AS text
		FROM detections WHERE document_id IN (%s) AND class = 'title' AND score >= 0.4 ORDER BY document, page, y0 LIMIT 20`
	for _, q := range []string{perClass, titles} {
		if err := t.print("\n"); err != nil {
			return err
		}
		if err := t.ask(ctx, w, fmt.Sprintf(q, strings.Join(ids, ", ")), "PrettyCompactMonoBlock", t.out); err != nil {
			return err
		}
	}
	if err := t.print("\n"); err != nil {
		return err
	}
	for _, id := range ids {
		if err := t.print("  pages and crops  %s/documents/%s\n", w.api, strings.Trim(id, "'")); err != nil {
			return err
		}
	}
	return nil
}

// lines keeps what is written, by line.
type lines struct{ text strings.Builder }

func (l *lines) Write(b []byte) (int, error) { return l.text.Write(b) }

func (l *lines) all() [][]byte {
	var all [][]byte
	for line := range strings.Lines(l.text.String()) {
		all = append(all, []byte(line))
	}
	return all
}
