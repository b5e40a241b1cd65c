// Package eraser deletes the objects of documents whose deletion was asked for, and then asks the recorder to delete
// their rows. Package ingestapi runs it as a stage on the topic controls, beside the API and in none of its requests: a
// book has more objects than anybody waits for.
//
// It is at it again where the process dies half-way, and finds less to do. Stages that were at work on the document when
// it was deleted look at controls once more after they have stored something, and delete that themselves. One that died
// before it had looked, or had not read of the deletion yet, leaves something behind: so a second pass comes later.
package eraser

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Names of the two passes, and of their consumer groups.
const (
	Name     = "eraser"
	LateName = "eraser-late"
)

// late is how long after a deletion the second pass comes: by then, what was in work when it was asked for is done, or
// named by the watchdogs.
const late = 5 * time.Minute

// Store is what is used of the object store; *objectstore.Store is one.
type Store interface {
	// DeletePrefix removes every object whose key begins with prefix, and tells how many.
	DeletePrefix(ctx context.Context, prefix string) (int, error)
}

// watchdog is how long a deletion may take before it is named in the log: a book of thousands of pages has minutes' worth
// of objects.
const watchdog = 15 * time.Minute

// Stages are the two passes of the eraser: the caller adds probes, logger and providers.
func Stages(store Store, grace time.Duration, log *slog.Logger) []stage.Config {
	again := pass(LateName, store, grace, log)
	again.Hold = func(in stage.In) time.Duration {
		if _, deletes := deletion(in); !deletes {
			return 0
		}
		return time.Until(in.Timestamp.Add(late))
	}
	return []stage.Config{pass(Name, store, grace, log), again}
}

func pass(name string, store Store, grace time.Duration, log *slog.Logger) stage.Config {
	return stage.Config{
		Name: name, Group: name, Topics: []string{schemas.TopicControls},
		Handler: stage.Each(func(ctx context.Context, in stage.In) stage.Result { return erase(ctx, in, store, log) }),
		About:   about,
		// Documents are deleted one by one, so that deleting a thousand leaves the store time for other work.
		Limits: stage.Limits{
			Workers: 1, BatchSize: 1, MaxInFlight: 64, MaxBytes: 1 << 20, MaxAttempts: 5, RetryBackoff: time.Second,
			CommitEvery: time.Second, Grace: grace, Watchdog: watchdog,
		},
	}
}

func about(in stage.In) stage.About {
	control, _ := schemas.Unmarshal[schemas.Control](in.Value)
	return stage.About{DocumentID: control.DocumentID}
}

// deletion reads a control that asks for a deletion. Other actions, and what compaction or a foreign hand left on the
// topic, are none.
func deletion(in stage.In) (control schemas.Control, deletes bool) {
	control, err := schemas.Unmarshal[schemas.Control](in.Value)
	deletes = err == nil && control.Action == schemas.ActionDelete && schemas.IsUUID(control.DocumentID) &&
		(in.Key == control.Key() || in.Key == control.DocumentID)
	return control, deletes
}

// erase handles one control.
func erase(ctx context.Context, in stage.In, store Store, log *slog.Logger) stage.Result {
	control, deletes := deletion(in)
	if !deletes {
		return stage.Result{}
	}
	began := time.Now()
	objects, err := store.DeletePrefix(ctx, schemas.DocumentPrefix(control.DocumentID))
	if err != nil {
		return stage.Fail(fmt.Errorf("delete the objects of document %s: %w", control.DocumentID, err))
	}
	deleted := schemas.DocumentDeleted{
		DocumentID: control.DocumentID, Sequence: control.Sequence, RequestedAt: control.At, DeletedAt: time.Now().UTC(), Objects: int64(objects),
	}
	out, err := stage.Emit(schemas.TopicResults, control.DocumentID, deleted)
	if err != nil {
		return stage.Fail(err)
	}
	log.InfoContext(ctx, "a document's objects are deleted",
		slog.String("document", control.DocumentID), slog.Int("objects", objects), slog.Duration("took", time.Since(began)))
	return stage.Result{Out: []stage.Out{out}}
}
