package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Store is what is used of the object store; *objectstore.Store is one.
type Store interface {
	Folders(ctx context.Context, prefix string, visit func(name string) error) error
	Get(ctx context.Context, key string, limit int64) ([]byte, error)
}

// Unplanned calls visit for each document that the API accepted and of which no table knows a run: its record was lost
// before the planner had read it, or still waits. Without named documents every document in the store is looked at, by
// its folder. The filter's states mean nothing here, and Quiet is the time of submission.
func Unplanned(ctx context.Context, db DB, store Store, f Filter, visit func(schemas.DocumentSubmitted) error) error {
	look := func(ids []string) error {
		planned, err := withRuns(ctx, db, ids)
		if err != nil {
			return fmt.Errorf("look for runs of documents: %w", err)
		}
		for _, id := range ids {
			if planned[id] {
				continue
			}
			d, err := accepted(ctx, store, id, len(f.Documents) > 0)
			if err != nil {
				return fmt.Errorf("read what was accepted as document %s: %w", id, err)
			}
			if d == nil || !f.Quiet.IsZero() && d.SubmittedAt.After(f.Quiet) {
				continue
			}
			if err := visit(*d); err != nil {
				return err
			}
		}
		return nil
	}
	if len(f.Documents) > 0 {
		for ids := range slices.Chunk(f.Documents, atOnce) {
			if err := look(ids); err != nil {
				return err
			}
		}
		return nil
	}
	batch := make([]string, 0, atOnce)
	err := store.Folders(ctx, schemas.DocumentsPrefix, func(name string) error {
		if !schemas.IsUUID(name) {
			return nil
		}
		if batch = append(batch, name); len(batch) < atOnce {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return look(batch)
	})
	if err != nil || len(batch) == 0 {
		return err
	}
	return look(batch)
}

func withRuns(ctx context.Context, db DB, ids []string) (map[string]bool, error) {
	var rows []struct {
		DocumentID string `ch:"document"`
	}
	err := db.Select(ctx, &rows, "SELECT DISTINCT toString(document_id) AS document FROM runs WHERE document_id IN (?)", ids)
	found := make(map[string]bool, len(rows))
	for _, row := range rows {
		found[row.DocumentID] = true
	}
	return found, err
}

const maxSubmission = 64 << 10 // bytes of what the API keeps of a submission

// accepted is what the API accepted under an id; nil where it keeps nothing, or, unless the document was named, where the
// client was told of a fault and is to repeat the submission itself.
func accepted(ctx context.Context, store Store, id string, named bool) (*schemas.DocumentSubmitted, error) {
	value, err := store.Get(ctx, schemas.SubmissionKey(id), maxSubmission)
	if fault.CodeOf(err) == objectstore.CodeMissing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var kept struct {
		Fingerprint string                    `json:"fingerprint"`
		Produced    bool                      `json:"produced"`
		Document    schemas.DocumentSubmitted `json:"document"`
	}
	if err := json.Unmarshal(value, &kept); err != nil {
		return nil, err
	}
	if kept.Fingerprint != "" && !kept.Produced && !named {
		return nil, nil
	}
	return &kept.Document, nil
}

// Resubmission is the record that submits a document again under its identity.
func Resubmission(d schemas.DocumentSubmitted) (stage.Out, error) {
	return stage.Emit(schemas.TopicDocuments, d.DocumentID, d)
}
