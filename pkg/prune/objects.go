package prune

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
)

const (
	atOnce      = 8    // documents whose objects are removed side by side
	together    = 16   // documents that are asked about once more together
	deleteBatch = 1000 // objects of one request
)

// kindOf tells which part of its document an object is, by its key without the document's prefix: the layout is that of
// package schemas. "" is none of the parts, such as the marker of the submission, which stays as long as the document.
func kindOf(rest string) string {
	switch {
	case strings.HasPrefix(rest, "pages/"):
		return Images
	case rest == "source" || rest == "record":
		return Sources
	}
	// runs/{run_id}/crops/…
	if folders := strings.SplitN(rest, "/", 4); len(folders) == 4 && folders[0] == "runs" {
		switch folders[2] {
		case "crops":
			return Crops
		case "annotated":
			return Annotated
		}
	}
	return ""
}

// objects removes those of documents, and leaves in found those that it was right to begin with. With Documents everything of
// theirs goes. They are looked at again right before: a list of a thousand takes minutes, and whose run began meanwhile, or was
// resumed, needs its source. A few are looked at together, since that costs the server what one does.
func (j *job) objects(ctx context.Context, m month, found []document) ([]document, error) {
	var begun []document
	for next := range slices.Chunk(found, together) {
		still, err := j.still(ctx, m, next)
		if err != nil {
			return begun, err
		}
		begun = append(begun, still...)
		if err := j.each(ctx, len(still), func(ctx context.Context, i int) error { return j.removeOf(ctx, still[i]) }); err != nil {
			return begun, err
		}
	}
	return begun, nil
}

// removeOf removes the objects of a document that are due.
func (j *job) removeOf(ctx context.Context, d document) error {
	counts, err := j.remove(ctx, d.id, func(rest string) string {
		if slices.Contains(d.what, Documents) {
			return Documents
		}
		if kind := kindOf(rest); slices.Contains(d.what, kind) {
			return kind
		}
		return ""
	})
	j.count(func(r *Report) {
		for _, what := range d.what {
			c, of := counts[what], r.of(what)
			of.Documents++
			of.Objects += c.Objects
			of.Bytes += c.Bytes
		}
	})
	return err
}

// remove removes the objects of a document that choose gives a name, and counts them by it.
func (j *job) remove(ctx context.Context, documentID string, choose func(rest string) string) (map[string]Count, error) {
	counts := map[string]Count{}
	prefix := schemas.DocumentPrefix(documentID)
	var batch []string
	flush := func() error {
		if len(batch) == 0 || j.dry {
			batch = nil
			return nil
		}
		err := j.Store.Delete(ctx, batch...)
		batch = nil
		return err
	}
	err := j.Store.List(ctx, prefix, func(info objectstore.Info) error {
		name := choose(strings.TrimPrefix(info.Key, prefix))
		if name == "" {
			return nil
		}
		c := counts[name]
		c.Objects++
		c.Bytes += info.Size
		counts[name] = c
		if batch = append(batch, info.Key); len(batch) == deleteBatch {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return counts, fmt.Errorf("remove objects of document %s: %w", documentID, err)
	}
	return counts, nil
}

// sweep removes what lies below the prefixes of documents that were deleted for ever: a stage that was at work on one when
// it was deleted may have written after that.
func (j *job) sweep(ctx context.Context) error {
	for last := ""; ; {
		var rows []struct {
			ID string `ch:"id"`
		}
		after, args := "", []any{}
		if last != "" {
			after, args = "AND document_id > toUUID(?)", append(args, last)
		}
		// Not before the eraser has been there: what it counts is what was deleted.
		err := j.DB.Select(ctx, &rows, `SELECT toString(document_id) AS id FROM deletions FINAL WHERE deleted_at IS NOT NULL `+after+`
			ORDER BY document_id LIMIT `+fmt.Sprint(pageSize), args...)
		if err != nil {
			return fmt.Errorf("list deleted documents: %w", err)
		}
		err = j.each(ctx, len(rows), func(ctx context.Context, i int) error {
			counts, err := j.remove(ctx, rows[i].ID, func(string) string { return "deleted" })
			j.count(func(r *Report) {
				if c := counts["deleted"]; c.Objects > 0 {
					r.Swept.Documents++
					r.Swept.Objects += c.Objects
					r.Swept.Bytes += c.Bytes
				}
			})
			return err
		})
		if err != nil || len(rows) < pageSize {
			return err
		}
		last = rows[len(rows)-1].ID
	}
}

// count changes the report.
func (j *job) count(change func(r *Report)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(j.report)
}

// each calls do for 0 to n-1, a few at once. After an error no more are begun.
func (j *job) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	next := make(chan int)
	for range min(atOnce, n) {
		all.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					stop(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	all.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return ctx.Err()
}
