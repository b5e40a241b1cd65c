// Package controls knows what was asked of documents: to cancel, resume or delete them. It reads the compacted topic
// controls to its end and follows it from there. Every stage holds a [Set] and heeds it; the API asks it before it asks
// for more.
//
// The control of a document with the highest sequence holds, whatever the order in which they come. A delete holds for
// ever: nothing on the topic takes it back.
//
// What is asked for again after a resume may overtake the resume itself, on its way to a stage: another topic, another
// connection. So records that are emitted because of a control carry its sequence (schemas.Run.Control), and only a
// cancel with a higher one stops them.
package controls

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// Set is what was asked of documents. It is safe for concurrent use; nil is a Set of which nothing was asked.
type Set struct {
	log *slog.Logger

	mu       sync.RWMutex
	asked    table // the one that holds of each document
	why      error // the topic cannot be read now; nil where it is being followed
	caughtUp chan struct{}
	once     sync.Once
}

// New makes a Set of which nothing was asked yet.
func New(log *slog.Logger) *Set {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Set{log: log, asked: newTable(), why: errors.New("the topic of controls is still to be read"), caughtUp: make(chan struct{})}
}

// Follow reads the topic until ctx ends. A broker that is away, or a topic that is still to be made, is waited for.
func (s *Set) Follow(ctx context.Context, k kafka.Config) {
	kafka.Follow(ctx, k, schemas.TopicControls, s.Apply, s.CaughtUp, func(err error, pause time.Duration) {
		s.mu.Lock()
		s.why = fmt.Errorf("the topic of controls cannot be read: %w", err)
		s.mu.Unlock()
		s.log.Warn("controls cannot be read yet", slog.Any("error", err), slog.Duration("pause", pause))
	})
}

// While follows the topic for as long as do runs, which begins once the topic was read to its end: a stage that took a
// record before might do what was cancelled. A ctx that ends while that is waited for is a clean end, without do.
func (s *Set) While(ctx context.Context, k kafka.Config, do func(ctx context.Context) error) error {
	following, stop := context.WithCancel(context.WithoutCancel(ctx)) // do may ask until its last record is done
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		s.Follow(following, k)
	}()
	defer func() { stop(); <-followed }()
	if s.Await(ctx) != nil {
		return nil
	}
	return do(ctx)
}

// Await returns nil once the topic has been read to its end for the first time, else the reason for which ctx ended.
func (s *Set) Await(ctx context.Context) error {
	select {
	case <-s.caughtUp:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ready tells why the Set may not know all that was asked: a condition of being ready.
func (s *Set) Ready() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.why
}

// CaughtUp says that every control of before now has been applied. Follow calls it; so does a test without a broker.
func (s *Set) CaughtUp() {
	s.mu.Lock()
	s.why = nil
	s.mu.Unlock()
	s.once.Do(func() { close(s.caughtUp) })
}

// Apply takes one record of the topic. A nil value takes back what was asked, but for a delete. A record that cannot be
// read, or is not its key's, is passed over: compaction keeps a control by its key alone. A delete is taken under the
// document's plain key as well.
func (s *Set) Apply(name string, value []byte) {
	if value == nil {
		k, ok := keyOf(name)
		s.mu.Lock()
		defer s.mu.Unlock()
		if old, asked := s.asked.get(k); ok && asked && old.action() != schemas.ActionDelete {
			s.asked.remove(k)
		}
		return
	}
	c, err := schemas.Unmarshal[schemas.Control](value)
	switch {
	case err != nil:
	case name != c.DocumentID && name != c.Key() || !schemas.IsUUID(c.DocumentID):
		err = fmt.Errorf("it is of the document %.80q", c.DocumentID)
	default:
		if _, known := heldOf(c); !known {
			err = fmt.Errorf("the action %.80q is not known", c.Action)
		}
	}
	if err != nil {
		s.log.Warn("a control cannot be read", slog.String("key", fmt.Sprintf("%.80s", name)), slog.Any("error", err))
		return
	}
	s.Asked(c)
}

// Asked takes a control that the topic has acknowledged, so that who asked need not wait to read it.
func (s *Set) Asked(c schemas.Control) {
	k, of := keyOf(c.DocumentID)
	now, known := heldOf(c)
	if !of || !known {
		return // nobody's, or nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.asked.get(k); !ok || outranks(now, old) {
		s.asked.put(k, now)
	}
}

// outranks tells which of two controls holds: a delete before all others, the higher sequence among equals. Of one
// sequence, which two askers may have made at once, the cancel holds: it is taken back more easily than it is missed.
func outranks(a, b held) bool {
	if deletes, deleted := a.action() == schemas.ActionDelete, b.action() == schemas.ActionDelete; deletes != deleted {
		return deletes
	}
	return a.sequence > b.sequence || a.sequence == b.sequence && a.action() == schemas.ActionCancel
}

// Last is what was last asked of a document, its time to the millisecond.
func (s *Set) Last(documentID string) (schemas.Control, bool) {
	if s == nil {
		return schemas.Control{}, false
	}
	k, ok := keyOf(documentID)
	if !ok {
		return schemas.Control{}, false
	}
	s.mu.RLock()
	h, ok := s.asked.get(k)
	s.mu.RUnlock()
	if !ok {
		return schemas.Control{}, false
	}
	return h.of(documentID), true
}

// Cancelled tells whether a document is cancelled, and by which control.
func (s *Set) Cancelled(documentID string) (sequence int64, yes bool) {
	c, ok := s.Last(documentID)
	return c.Sequence, ok && c.Action == schemas.ActionCancel
}

// Deleted tells whether a document was deleted, and by which control.
func (s *Set) Deleted(documentID string) (schemas.Control, bool) {
	c, ok := s.Last(documentID)
	return c, ok && c.Action == schemas.ActionDelete
}

// Next is the control that asks for action now: its sequence is now in Unix milliseconds, and in any case above that of
// what was asked before.
func (s *Set) Next(documentID, action string, now time.Time) schemas.Control {
	last, _ := s.Last(documentID)
	return schemas.Control{DocumentID: documentID, Action: action, Sequence: max(now.UnixMilli(), last.Sequence+1), At: now.UTC()}
}
