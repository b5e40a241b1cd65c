package controls

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
)

// Store is where objects of a document lie; *objectstore.Store is one.
type Store interface {
	// Delete deletes objects; one that is not there is no fault.
	Delete(ctx context.Context, keys ...string) error
}

// Withdraw deletes what a stage has just stored of a document that, as it sees now, was deleted meanwhile: whoever
// deletes a document's objects cannot know of those that are still on their way. It gives the result of the record, which
// says nothing.
//
// A store that is away is waited for here and not by the runtime: when the record came again it would be dropped as
// unwanted, and what it had stored would stay.
func Withdraw(ctx context.Context, store Store, keys ...string) stage.Result {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := store.Delete(ctx, keys...)
		if fault.ClassOf(err) == fault.Permanent {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return stage.Fail(fmt.Errorf("delete what was stored of a deleted document: %w", err))
	}
	return stage.Result{}
}
