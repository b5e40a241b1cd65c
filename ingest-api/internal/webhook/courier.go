package webhook

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Poster posts one event once; *Sender does.
type Poster interface {
	Post(ctx context.Context, target, id string, body []byte) (Answer, error)
}

// Book knows what was told; *Ledger does.
type Book interface {
	Read(ctx context.Context, eventID, url string) (Delivery, error)
	Write(ctx context.Context, row Delivery) error
}

// Courier is the handler of the stage. Make it with NewCourier.
type Courier struct {
	poster Poster
	ledger Book
	cfg    Config
	now    func() time.Time
	turns  *turns

	mu      sync.Mutex
	pending map[deliveryKey]outcome // posts whose rows could not be written yet: they must not be posted again
}

type deliveryKey struct{ event, url string }

// outcome is a try that has been made.
type outcome struct {
	row   Delivery
	err   error
	again time.Duration
}

// NewCourier makes a courier.
func NewCourier(poster Poster, ledger Book, cfg Config, now func() time.Time) *Courier {
	return &Courier{poster: poster, ledger: ledger, cfg: cfg, now: now, turns: newTurns(now), pending: map[deliveryKey]outcome{}}
}

// Hold keeps a record until its turn: after the pause of its last try, and while its receiver has posts enough.
func (c *Courier) Hold(in stage.In) time.Duration {
	e, err := read(in)
	if err != nil || e.WebhookURL == "" {
		return 0
	}
	return c.turns.hold(placeOf(in), e.ID, receiverOf(e.WebhookURL))
}

// Handle tells one event.
func (c *Courier) Handle(ctx context.Context, in stage.In) stage.Result {
	e, err := read(in)
	if err != nil || e.WebhookURL == "" {
		return stage.Result{Err: err}
	}
	var again time.Duration
	defer func() { c.turns.leave(placeOf(in), e.ID, receiverOf(e.WebhookURL), again) }() // whatever becomes of the try
	again, err = c.deliver(ctx, in, e)
	return stage.Result{Err: err}
}

// deliver makes one try, and says after how long the next one is due.
func (c *Courier) deliver(ctx context.Context, in stage.In, e schemas.RunEnded) (time.Duration, error) {
	key := deliveryKey{e.ID, e.WebhookURL}
	made, open := c.take(key)
	if !open {
		before, err := c.ledger.Read(ctx, e.ID, e.WebhookURL)
		if err != nil {
			return 0, err
		}
		switch replayed := in.Headers[schemas.HeaderLetter] != ""; {
		case before.State == Delivered:
			return 0, nil
		case before.State == Failed && !replayed:
			// Read again from the topic, or the process died before its dead letter was safe: the same letter again, and
			// nothing is posted. Only a letter that somebody replays is a wish to have it posted.
			return 0, fault.AsPermanent(CodeUndelivered, errors.New(before.Error))
		}
		if made = c.try(ctx, in, e, before.Attempts); ctx.Err() != nil && made.err != nil {
			return 0, ctx.Err()
		}
	}
	if made.row.State != "" {
		if err := c.ledger.Write(ctx, made.row); err != nil {
			c.keep(key, made)
			return 0, err
		}
	}
	return made.again, made.err
}

// try posts, unless there is no use in it.
func (c *Courier) try(ctx context.Context, in stage.In, e schemas.RunEnded, attempts uint32) outcome {
	now := c.now()
	row := Delivery{EventID: e.ID, DocumentID: e.DocumentID, RunID: e.RunID, URL: e.WebhookURL, Attempts: attempts, EventAt: e.FinishedAt}
	if !schemas.StorableTime(row.EventAt) {
		row.EventAt = now
	}
	host := receiverOf(e.WebhookURL)
	var answer Answer
	var err error
	posted := false
	switch {
	case !c.cfg.Enabled():
		err = fault.Permanentf(CodeUndelivered, "LEAFCUTTER_WEBHOOK_SECRET is not set, so nothing is sent")
	case !c.turns.asks(host):
		err = fault.AsTransient(CodeUndelivered, errors.New("the receiver failed others a moment ago, so it was not asked"))
	default:
		answer, err = c.poster.Post(ctx, e.WebhookURL, e.ID, in.Value)
		posted = true
		row.Attempts++
		c.turns.answered(host, err == nil || fault.ClassOf(err) == fault.Permanent, answer.Wait)
	}
	cause := errors.Unwrap(err) // without the code, which is always the same
	row.AttemptedAt, row.Status, row.Error = c.now(), answer.Status, stage.ErrorText(cause)
	left := len(c.cfg.Retries) - (in.Attempt - 1)
	switch {
	case err == nil:
		row.State = Delivered
		return outcome{row: row}
	case fault.ClassOf(err) == fault.Permanent || left <= 0:
		row.State = Failed
		return outcome{row: row, err: fault.AsPermanent(CodeUndelivered, cause)}
	}
	again := max(c.cfg.Retries[in.Attempt-1], answer.Wait)
	again += rand.N(again/8 + 1) // so that events which failed together do not come back together
	if posted {
		row.State, row.NextAt = Pending, row.AttemptedAt.Add(again)
	}
	return outcome{row: row, err: err, again: again}
}

func (c *Courier) take(key deliveryKey) (outcome, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	made, open := c.pending[key]
	delete(c.pending, key)
	return made, open
}

// keep remembers a try until its row is written. A partition that goes to another instance leaves its own behind.
func (c *Courier) keep(key deliveryKey, made outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) >= 2*maxInHand {
		clear(c.pending)
	}
	c.pending[key] = made
}
