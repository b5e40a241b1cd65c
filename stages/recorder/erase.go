package recorder

import (
	"context"
	"maps"
	"slices"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// A deleted document has no rows and gets none. Three things hold that together:
//
//   - What was asked (Config.Deleted): from the moment that this process has read the delete, records of the document are
//     passed over.
//   - DocumentDeleted, which comes once the objects are gone: its row in deletions first, then the rows of the document
//     are deleted, so that a break in between is made good by the record coming again.
//   - deletions itself: a document without a row is looked for there before one is landed, so that a replay of results
//     lands nothing of it even if the topic of controls was lost.
//
// A recorder whose partition went to another one while it was inserting may land rows after that other one has deleted
// them. So each looks again after it has inserted, and takes away what is of a document that was deleted meanwhile.

// asked tells whether a document is to be passed over because its deletion was asked for.
func (r *Recorder) asked(document string) bool { return r.deleted != nil && r.deleted(document) }

// wanted divides entries into those that are to be landed and the deletions, leaving out what is of deleted documents.
func (r *Recorder) wanted(entries []entry) (landing, deletions []entry) {
	gone := map[string]bool{}
	for _, e := range entries {
		if _, ok := e.record.(schemas.DocumentDeleted); ok {
			gone[e.key.document] = true
			deletions = append(deletions, e)
		}
	}
	for _, e := range entries {
		if !gone[e.key.document] && !r.asked(e.key.document) {
			landing = append(landing, e)
		}
	}
	return landing, deletions
}

// erase does away with the documents of deletions. Where it fails, their records fail and come again.
func (r *Recorder) erase(ctx context.Context, deletions []entry) {
	if len(deletions) == 0 {
		return
	}
	rows := map[string]deletionRow{}
	for _, e := range deletions {
		// The first is the one that says what was deleted: one that was asked for again found nothing.
		if _, again := rows[e.key.document]; !again {
			rows[e.key.document] = newDeletionRow(e.record.(schemas.DocumentDeleted), e)
		}
	}
	ids := slices.Sorted(maps.Keys(rows))
	known, err := r.tables.readDeletions(ctx, ids)
	if err == nil {
		for _, row := range known {
			if row.DeletedAt != 0 {
				delete(rows, row.DocumentID)
			}
		}
		var fresh []deletionRow
		for _, id := range ids {
			if row, ok := rows[id]; ok {
				fresh = append(fresh, row)
			}
		}
		err = r.tables.delete(ctx, ids, fresh)
	}
	for _, e := range deletions {
		r.forgetDocument(e.key.document)
		if err != nil {
			*e.result = stage.Fail(err)
			continue
		}
		r.cache.documents.put(e.key.document, &document{deleted: true}, e.held)
	}
}

// forgetDocument drops all that memory has of a document.
func (r *Recorder) forgetDocument(id string) {
	r.cache.documents.drop(id)
	for key := range r.cache.runs.slots {
		if key.document == id {
			r.cache.runs.drop(key)
		}
	}
	r.watch.forget(id)
}

// recheck looks again at documents of which rows were just inserted, and takes away the rows of those whose deletion was
// asked for meanwhile. What cannot be taken away now is owed: the next call does it.
func (r *Recorder) recheck(ctx context.Context, inserted []string) error {
	for _, id := range inserted {
		if r.asked(id) {
			r.owed[id] = true
		}
	}
	if len(r.owed) == 0 {
		return nil
	}
	ids := slices.Sorted(maps.Keys(r.owed))
	if err := r.tables.delete(ctx, ids, nil); err != nil {
		return err
	}
	for _, id := range ids {
		r.forgetDocument(id)
	}
	clear(r.owed)
	return nil
}
