package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"

	"leafcutter/pkg/clickhouse"
)

// States of a delivery, as webhook_deliveries.state has them.
const (
	Pending   = "pending"   // a try failed and another one is due
	Delivered = "delivered" // for ever: it is not posted again
	Failed    = "failed"    // given up: there is a dead letter, whose replay tries again
)

// Delivery is a row of webhook_deliveries: an event, a URL, and how far the one has come to the other.
type Delivery struct {
	EventID    string
	DocumentID string
	RunID      string
	URL        string
	State      string
	Attempts   uint32 // posts
	Status     int    // of the last answer; 0 where there was none
	Error      string
	EventAt    time.Time
	// Zero where there is none.
	AttemptedAt time.Time
	NextAt      time.Time
}

// version orders the rows of a delivery: by the time of the try, and what was delivered above all.
func (d Delivery) version() uint64 {
	v := uint64(d.AttemptedAt.UnixMilli())
	if d.State == Delivered {
		v |= 1 << 62
	}
	return v
}

// Ledger is the table webhook_deliveries. Rows that are to be written at one time are written as one insert: an insert
// costs the server as much as a thousand rows do.
type Ledger struct {
	db *clickhouse.DB

	mu      sync.Mutex
	waiting []*entry
	writing chan struct{} // held by whoever writes for all that wait
}

type entry struct {
	row  Delivery
	done chan error
}

// NewLedger is the table of a database.
func NewLedger(db *clickhouse.DB) *Ledger { return &Ledger{db: db, writing: make(chan struct{}, 1)} }

// Read is what is known of an event and a URL; the zero Delivery where that is nothing.
func (l *Ledger) Read(ctx context.Context, eventID, url string) (Delivery, error) {
	var rows []struct {
		State    string `ch:"state"`
		Attempts uint32 `ch:"attempts"`
		Error    string `ch:"error"`
	}
	err := l.db.Select(ctx, &rows, `SELECT state, attempts, error FROM webhook_deliveries FINAL
		WHERE event_id = toUUID(?) AND url = ? ORDER BY version DESC LIMIT 1`, eventID, url)
	if err != nil {
		return Delivery{}, fmt.Errorf("look whether the event was told: %w", err)
	}
	if len(rows) == 0 {
		return Delivery{}, nil
	}
	return Delivery{EventID: eventID, URL: url, State: rows[0].State, Attempts: rows[0].Attempts, Error: rows[0].Error}, nil
}

// Write returns once the row can be read.
func (l *Ledger) Write(ctx context.Context, row Delivery) error {
	mine := &entry{row: row, done: make(chan error, 1)}
	l.mu.Lock()
	l.waiting = append(l.waiting, mine)
	l.mu.Unlock()
	select {
	case err := <-mine.done: // another one has written it with its own
		return err
	case l.writing <- struct{}{}:
	}
	defer func() { <-l.writing }()
	l.mu.Lock()
	all := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	if len(all) > 0 { // none where another one wrote mine just before this turn came
		err := l.insert(ctx, all)
		for _, e := range all {
			e.done <- err
		}
	}
	return <-mine.done
}

func (l *Ledger) insert(ctx context.Context, all []*entry) error {
	batch, err := l.db.PrepareBatch(ctx, `INSERT INTO webhook_deliveries (event_id, document_id, run_id, url, state, attempts,
		status_code, error, event_at, attempted_at, next_at, delivered_at, version)`)
	if err != nil {
		return fmt.Errorf("write down %d deliveries: %w", len(all), err)
	}
	for _, e := range all {
		r := e.row
		var delivered time.Time
		if r.State == Delivered {
			delivered = r.AttemptedAt
		}
		if err := batch.Append(r.EventID, r.DocumentID, r.RunID, r.URL, r.State, r.Attempts, uint16(r.Status), r.Error,
			r.EventAt, orNull(r.AttemptedAt), orNull(r.NextAt), orNull(delivered), r.version()); err != nil {
			_ = batch.Abort() // nothing was sent; the error of the row is the one that matters
			return fmt.Errorf("write down a delivery: %w", err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("write down %d deliveries: %w", len(all), err)
	}
	return nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
