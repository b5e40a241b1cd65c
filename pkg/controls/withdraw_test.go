package controls_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
)

// shelf is a store whose deletes end with errors, one after another, and then succeed.
type shelf struct {
	errors  []error
	deleted []string
	asked   func()
}

func (s *shelf) Delete(_ context.Context, keys ...string) error {
	if s.asked != nil {
		s.asked()
	}
	if len(s.errors) > 0 {
		err := s.errors[0]
		s.errors = s.errors[1:]
		return err
	}
	s.deleted = append(s.deleted, keys...)
	return nil
}

func TestWhatWasStoredIsDeletedOnceTheStoreIsThere(t *testing.T) {
	away := fault.AsUnavailable("s3", errors.New("connection refused"))
	s := &shelf{errors: []error{away, away}}
	if r := controls.Withdraw(t.Context(), s, "a", "b"); r.Err != nil || len(r.Out) != 0 || !slices.Equal(s.deleted, []string{"a", "b"}) {
		t.Errorf("%+v, deleted %v", r, s.deleted)
	}

	s = &shelf{errors: []error{fault.Permanentf("no-such-bucket", "none")}}
	if r := controls.Withdraw(t.Context(), s, "a"); fault.CodeOf(r.Err) != "no-such-bucket" {
		t.Errorf("%+v", r)
	}

	ctx, stop := context.WithCancel(t.Context())
	s = &shelf{errors: []error{away, away, away}, asked: stop}
	if r := controls.Withdraw(ctx, s, "a"); fault.ClassOf(r.Err) != fault.Shutdown || len(s.deleted) != 0 {
		t.Errorf("a stop: %v, deleted %v", r.Err, s.deleted)
	}
}
