package deadletters

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Name is the stage's, in spans and metrics, and of its consumer group.
const Name = "dead-letters"

// Database is what is used of ClickHouse; *clickhouse.DB is one.
type Database interface {
	PrepareBatch(ctx context.Context, query string, options ...driver.PrepareBatchOption) (driver.Batch, error)
	Probe(ctx context.Context) error
}

// Config is what a Lander is made of.
type Config struct {
	DB          Database
	TopicPrefix string // the deployment's
	// Deleted tells that a document was deleted for ever: none of its letters lands. Nil for none.
	Deleted func(documentID string) bool
	Logger  *slog.Logger // nil: none
}

// Lander lands letters. It is safe for concurrent use.
type Lander struct {
	cfg Config
	log *slog.Logger
}

// New makes a Lander.
func New(c Config) (*Lander, error) {
	if c.DB == nil {
		return nil, errors.New("deadletters: DB is required")
	}
	l := &Lander{cfg: c, log: c.Logger}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l, nil
}

// Stage is the lander as a stage with the recorder's limits; the caller adds a probe of Kafka, logger and providers. A
// letter is tried for as long as it takes: there is nowhere to put one that was given up.
func (l *Lander) Stage(limits stage.Limits) stage.Config {
	limits.Workers, limits.BatchSize, limits.BatchDelay = 1, batchSize, batchDelay
	limits.MaxInFlight, limits.MaxBytes, limits.MaxAttempts = 2*batchSize, maxBytes, math.MaxInt32
	return stage.Config{
		Name: Name, Group: Name, Topics: []string{schemas.TopicDeadLetters}, Handler: l, Limits: limits, About: about,
		Probes: map[string]func(context.Context) error{clickhouse.Dependency: l.cfg.DB.Probe},
	}
}

// Letters hold the records that failed, of up to megabytes each, of which nothing is wanted here but the headers.
const (
	batchSize  = 250
	batchDelay = 300 * time.Millisecond
	maxBytes   = 8 << 20
)

func about(in stage.In) stage.About {
	return stage.About{DocumentID: in.Headers[schemas.HeaderDocumentID], RunID: in.Headers[schemas.HeaderRunID],
		Page: int(number(in.Headers[schemas.HeaderPage]))}
}

// Handle lands a batch.
func (l *Lander) Handle(ctx context.Context, in []stage.In) []stage.Result {
	results := make([]stage.Result, len(in))
	rows, of := make([]row, 0, len(in)), make([]int, 0, len(in))
	for i := range in {
		r := rowOf(in[i], l.cfg.TopicPrefix)
		// What keeps a deletion from being finished is to be seen, though its document is as good as gone.
		if l.cfg.Deleted != nil && r.Topic != schemas.TopicControls && l.cfg.Deleted(r.DocumentID) {
			continue
		}
		rows, of = append(rows, r), append(of, i)
	}
	l.land(ctx, rows, func(i int, err error) { results[of[i]] = stage.Fail(err) })
	return results
}

// land inserts rows, or halves them where they are refused until the one at fault stands alone, which then goes without
// its texts. failed is told of those that did not land.
func (l *Lander) land(ctx context.Context, rows []row, failed func(i int, err error)) {
	if len(rows) == 0 {
		return
	}
	err := l.insert(ctx, rows)
	if fault.ClassOf(err) == fault.Permanent && len(rows) == 1 {
		l.log.Warn("the row of a dead letter is refused: it lands without its texts", "letter", rows[0].LetterID, "code", rows[0].Code, "error", err)
		err = l.insert(ctx, []row{rows[0].bare()})
	}
	if err == nil {
		return
	}
	if fault.ClassOf(err) == fault.Permanent && len(rows) > 1 {
		half := len(rows) / 2
		l.land(ctx, rows[:half], failed)
		l.land(ctx, rows[half:], func(i int, err error) { failed(half+i, err) })
		return
	}
	for i := range rows {
		failed(i, fmt.Errorf("land dead letters: %w", err))
	}
}

const insertSQL = `INSERT INTO dead_letters (letter_id, replay, document_id, run_id, page, pages, event_id, stage, code, error, attempts,
	topic, record_partition, record_offset, record, key, bytes, value_ref, letter_partition, letter_offset, trace_id, failed_at, version)`

// insert sends rows with a token made of what names them: ClickHouse drops a block that it has taken already when the
// answer was lost on the way.
func (l *Lander) insert(ctx context.Context, rows []row) error {
	token := sha256.New()
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(token, "%s/%d/%d/%d/%d\n", r.LetterID, r.Replay, r.LetterPartition, r.LetterOffset, len(r.Error))
	}
	ctx = chgo.Context(ctx, chgo.WithSettings(chgo.Settings{"insert_deduplication_token": "dead_letters/" + hex.EncodeToString(token.Sum(nil))}))
	b, err := l.cfg.DB.PrepareBatch(ctx, insertSQL)
	if err != nil {
		return err
	}
	for i := range rows {
		r := &rows[i]
		if err := b.Append(r.LetterID, r.Replay, r.DocumentID, r.RunID, r.Page, r.Pages, r.EventID, r.Stage, r.Code, r.Error, r.Attempts,
			r.Topic, r.RecordPartition, r.RecordOffset, r.Record, r.Key, r.Bytes, r.ValueRef, r.LetterPartition, r.LetterOffset,
			r.TraceID, r.FailedAt, r.Version); err != nil {
			_ = b.Abort() // nothing was sent; the error of the row is the one that matters
			return err
		}
	}
	return b.Send()
}
