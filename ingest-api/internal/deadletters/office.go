// Package deadletters is the API's dead letter office: it lists what the stages gave up, shows a letter with its record,
// and puts records back where they came from. The handlers of package httpapi and the web pages call it.
//
// The list comes from ClickHouse (the view dead_letter_status), where the recorder lands every letter; the records come
// from the topic dead-letters itself. A replay is a record with the bytes, key and headers of the one that failed, on the
// same topic, so that it is about the same document, run and page, and does what the first one was to do. It carries the
// letter's id, by which a second failure is the same letter.
//
// A replay is acknowledged by Kafka first and noted in ClickHouse after: a letter that is shown as replayed was. Where the
// note is lost the letter shows as open until its work is done, and replaying it again does no harm.
package deadletters

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"leafcutter/ingest-api/internal/cursor"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// DB is what is used of ClickHouse.
type DB interface {
	Select(ctx context.Context, dest any, query string, args ...any) error
	PrepareBatch(ctx context.Context, query string, options ...driver.PrepareBatchOption) (driver.Batch, error)
}

// Objects is what is used of the object store.
type Objects interface {
	Get(ctx context.Context, key string, limit int64) ([]byte, error)
	URI(key string) string
}

// Producer is what is used of Kafka to put records back.
type Producer interface {
	Produce(ctx context.Context, outs ...stage.Out) error
}

// Office knows the letters. Its errors are problems. It is safe for any number of goroutines.
type Office struct {
	DB       DB
	Objects  Objects
	Producer Producer
	Kafka    kafka.Config
	Asked    *controls.Set // of documents: the letters of one that is being deleted are not replayed. Nil: of none

	QueryTimeout   time.Duration // of one question to ClickHouse
	ProduceTimeout time.Duration // of one record
	Logger         *slog.Logger
}

// Filter narrows the list of letters. Zero fields narrow nothing.
type Filter struct {
	State      string
	Code       string
	Stage      string
	DocumentID string
	After      Place // what was listed last
	Limit      int
}

// Place is a letter's place in the list: the last failure first.
type Place struct {
	FailedAt int64  `json:"f,omitempty"` // milliseconds since 1970
	LetterID string `json:"l,omitempty"`
}

// List is a part of the list of letters.
func (o *Office) List(ctx context.Context, f Filter, after string) (api.LetterList, error) {
	list := api.LetterList{Letters: []api.Letter{}}
	rows, next, err := o.find(ctx, f, after)
	if err != nil {
		return list, err
	}
	for _, r := range rows {
		list.Letters = append(list.Letters, r.letter())
	}
	list.Next = next
	return list, nil
}

// find is List by rows.
func (o *Office) find(ctx context.Context, f Filter, after string) (found []row, next string, err error) {
	if f.After, err = cursor.Decode[Place](cursorKind, after); err != nil {
		return nil, "", err
	}
	if f.DocumentID != "" && !schemas.IsUUID(f.DocumentID) {
		return nil, "", problem.New(problem.DocumentNotFound, "%.80q is not the id of a document", f.DocumentID)
	}
	rows, err := o.rows(ctx, f)
	if err != nil {
		return nil, "", err
	}
	if len(rows) > f.Limit {
		rows = rows[:f.Limit]
		last := rows[f.Limit-1]
		next = cursor.Encode(cursorKind, &Place{FailedAt: last.FailedAt.UnixMilli(), LetterID: last.LetterID})
	}
	return rows, next, nil
}

const cursorKind = "dead-letters"

// one is the row of one letter.
func (o *Office) one(ctx context.Context, letterID string) (row, error) {
	if schemas.IsUUID(letterID) {
		rows, err := o.named(ctx, []string{letterID})
		if err != nil {
			return row{}, err
		}
		if len(rows) > 0 {
			return rows[0], nil
		}
	}
	return row{}, problem.New(problem.LetterNotFound, "There is no dead letter %.80q", letterID)
}

// broken is the problem of a question that ClickHouse did not answer. Taking longer than QueryTimeout counts as being away.
func (o *Office) broken(err error, doing string) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return problem.Because(err, problem.DatabaseUnavailable, "%s took longer than %s", doing, o.QueryTimeout)
	}
	return problem.From(err, doing)
}
