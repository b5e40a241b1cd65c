package deadletters

import (
	"context"
	"strings"
	"time"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// row is one of the view dead_letter_status.
type row struct {
	LetterID        string     `ch:"id"`
	State           string     `ch:"state"`
	Stage           string     `ch:"stage"`
	Code            string     `ch:"code"`
	Error           string     `ch:"error"`
	Attempts        uint32     `ch:"attempts"`
	DocumentID      string     `ch:"document"`
	Title           string     `ch:"title"`
	RunID           string     `ch:"run"`
	Page            uint32     `ch:"page"`
	Pages           []uint32   `ch:"pages"`
	Topic           string     `ch:"topic"`
	Record          string     `ch:"record"`
	Bytes           uint64     `ch:"bytes"`
	ValueRef        string     `ch:"value_ref"`
	TraceID         string     `ch:"trace_id"`
	Failures        uint64     `ch:"failures"`
	Replays         uint32     `ch:"replays"`
	FirstFailedAt   time.Time  `ch:"first_failed_at"`
	FailedAt        time.Time  `ch:"failed_at"`
	ReplayedAt      *time.Time `ch:"replayed_at"`
	LetterPartition int32      `ch:"letter_partition"`
	LetterOffset    int64      `ch:"letter_offset"`
}

const columns = `SELECT toString(letter_id) AS id, state, stage, code, error, attempts, toString(document_id) AS document, title,
	toString(run_id) AS run, page, pages, topic, record, bytes, value_ref, trace_id, failures, replays, first_failed_at, failed_at,
	replayed_at, letter_partition, letter_offset FROM dead_letter_status WHERE `

// rows are those that fit the filter, up to one more than its limit.
func (o *Office) rows(ctx context.Context, f Filter) ([]row, error) {
	where, args := []string{"1"}, []any{}
	and := func(condition string, values ...any) {
		where = append(where, condition)
		args = append(args, values...)
	}
	for _, same := range []struct{ column, value string }{{"state", f.State}, {"code", f.Code}, {"stage", f.Stage}} {
		if same.value != "" {
			and(same.column+" = ?", same.value)
		}
	}
	if f.DocumentID != "" {
		and("document_id = toUUID(?)", f.DocumentID)
	}
	if f.After.LetterID != "" {
		and("(failed_at, id) < (fromUnixTimestamp64Milli(?, 'UTC'), ?)", f.After.FailedAt, f.After.LetterID)
	}
	ctx, cancel := context.WithTimeout(ctx, o.QueryTimeout)
	defer cancel()
	var rows []row
	err := o.DB.Select(ctx, &rows, columns+strings.Join(where, " AND ")+" ORDER BY failed_at DESC, id DESC LIMIT ?", append(args, f.Limit+1)...)
	if err != nil {
		return nil, o.broken(err, "Listing dead letters")
	}
	return rows, nil
}

// named are the rows of the letters given, which are UUIDs.
func (o *Office) named(ctx context.Context, ids []string) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, o.QueryTimeout)
	defer cancel()
	var rows []row
	if err := o.DB.Select(ctx, &rows, columns+"letter_id IN (?)", ids); err != nil {
		return nil, o.broken(err, "Reading dead letters")
	}
	return rows, nil
}

// note says in the table which letters were replayed at a time.
func (o *Office) note(ctx context.Context, replayed []row, at time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.QueryTimeout) // it has happened, whoever is still there to hear of it
	defer cancel()
	batch, err := o.DB.PrepareBatch(ctx, "INSERT INTO dead_letter_replays (letter_id, replay, document_id, replayed_at)")
	if err != nil {
		return err
	}
	for _, r := range replayed {
		if err := batch.Append(r.LetterID, r.Replays+1, r.DocumentID, at); err != nil {
			_ = batch.Abort() // nothing was sent
			return err
		}
	}
	return batch.Send()
}

// none stands in the tables for an identity that a letter does not name.
const none = "00000000-0000-0000-0000-000000000000"

func known(id string) string {
	if id == none || !schemas.IsUUID(id) {
		return ""
	}
	return id
}

func (r row) letter() api.Letter {
	l := api.Letter{
		LetterID: r.LetterID, State: r.State, Stage: r.Stage, Code: r.Code, Error: r.Error, Attempts: int(r.Attempts),
		DocumentID: known(r.DocumentID), Title: r.Title, RunID: known(r.RunID), Page: int(r.Page), Topic: r.Topic, Record: r.Record,
		Bytes: int64(r.Bytes), ValueRef: r.ValueRef, TraceID: r.TraceID, Failures: int(r.Failures), Replays: int(r.Replays),
		FirstFailedAt: r.FirstFailedAt.UTC(), FailedAt: r.FailedAt.UTC(), Links: api.LetterLinks{Self: api.LetterLink(r.LetterID)},
	}
	for _, page := range r.Pages {
		l.Pages = append(l.Pages, int(page))
	}
	if r.ReplayedAt != nil {
		at := r.ReplayedAt.UTC()
		l.ReplayedAt = &at
	}
	if l.DocumentID != "" {
		l.Links.Document = api.LinksOf(l.DocumentID).Self
	}
	return l
}
