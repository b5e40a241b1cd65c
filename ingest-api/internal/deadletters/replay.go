package deadletters

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// Codes of letters that cannot be replayed. docs/errors.md explains them.
const (
	CodeGone          = "letter-gone"           // Kafka has dropped the record
	CodeValueGone     = "letter-value-gone"     // the object with its value is not there any more
	CodeWithoutValue  = "letter-without-value"  // the record was itself refused by Kafka: its value is lost
	CodeResolved      = "letter-resolved"       // nothing is left to be done
	CodeCancelled     = "letter-cancelled"      // its document is cancelled
	CodeNotReplayable = "letter-not-replayable" // it is none of ours
)

// defaultLimit is how many letters are replayed by one request that sets no limit.
const defaultLimit = 100

// Replay puts the records of letters back onto their topics, or says for each why not. What it says was replayed, Kafka
// has acknowledged. Its error means that nothing was replayed.
func (o *Office) Replay(ctx context.Context, request api.ReplayRequest) (api.ReplayAnswer, error) {
	answer := api.ReplayAnswer{DryRun: request.DryRun, Replayed: []api.ReplayedLetter{}, Refused: []api.RefusedLetter{}}
	rows, err := o.wanted(ctx, request, &answer)
	if err != nil || len(rows) == 0 {
		return answer, err
	}
	byPlace(rows)
	reading, cancel := context.WithTimeout(ctx, o.ProduceTimeout)
	records, err := newReader(reading, o.Kafka)
	cancel()
	if err != nil {
		return answer, problem.From(err, "Reading dead letters")
	}
	defer records.close()
	at := time.Now().UTC()
	var done []row
	for i, r := range rows {
		out, err := o.replay(ctx, records, r, request.DryRun)
		if err == nil {
			done = append(done, r)
			answer.Replayed = append(answer.Replayed, api.ReplayedLetter{LetterID: r.LetterID, DocumentID: known(r.DocumentID), Code: r.Code,
				Topic: out.Topic, Replay: int(r.Replays) + 1})
			continue
		}
		var own *fault.Error
		if errors.As(err, &own) && own.Class == fault.Permanent {
			answer.Refused = append(answer.Refused, api.RefusedLetter{LetterID: r.LetterID, Code: own.Code, Error: own.Err.Error()})
			continue
		}
		// A server is away: it would be so for the rest as well, a timeout each.
		away := problem.From(err, "Replaying dead letters")
		if len(answer.Replayed) == 0 {
			return answer, away
		}
		for _, r := range rows[i:] {
			answer.Refused = append(answer.Refused, api.RefusedLetter{LetterID: r.LetterID, Code: away.Code, Error: away.Detail})
		}
		break
	}
	if len(done) == 0 || request.DryRun {
		return answer, nil
	}
	if err := o.note(ctx, done, at); err != nil {
		answer.Unnoted = problem.From(err, "Noting replays").Code
		o.Logger.WarnContext(ctx, "replays could not be noted: the letters are shown as open", slog.Int("letters", len(done)), slog.Any("error", err))
	}
	return answer, nil
}

// wanted are the letters that a request is about. Those that it names in vain are refused in the answer.
func (o *Office) wanted(ctx context.Context, q api.ReplayRequest, answer *api.ReplayAnswer) ([]row, error) {
	filtered := q.Code != "" || q.Stage != "" || q.DocumentID != ""
	switch {
	case len(q.Letters) > 0 && (filtered || q.All), q.All && filtered:
		return nil, problem.Invalid(api.ProblemFault{Message: "name letters, or filters, or all: not more than one of these", Location: "body"})
	case len(q.Letters) == 0 && !filtered && !q.All:
		return nil, problem.Invalid(api.ProblemFault{Message: "name letters, a code, a stage or a document, or all", Location: "body"})
	case len(q.Letters) == 0:
		if q.Limit == 0 {
			q.Limit = defaultLimit
		}
		rows, next, err := o.find(ctx, Filter{State: api.LetterOpen, Code: q.Code, Stage: q.Stage, DocumentID: q.DocumentID, Limit: q.Limit}, q.Cursor)
		answer.Next = next
		return rows, err
	}
	named := make(map[string]*row, len(q.Letters))
	var ids []string
	for _, id := range q.Letters {
		if _, twice := named[id]; !twice {
			if named[id] = nil; schemas.IsUUID(id) {
				ids = append(ids, id)
			}
		}
	}
	if len(ids) > 0 {
		rows, err := o.named(ctx, ids)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			named[rows[i].LetterID] = &rows[i]
		}
	}
	var rows []row
	for _, id := range q.Letters {
		r, left := named[id]
		delete(named, id)
		switch {
		case !left: // named before
		case r == nil:
			answer.Refused = append(answer.Refused, api.RefusedLetter{LetterID: fmt.Sprintf("%.80s", id), Code: string(problem.LetterNotFound), Error: "there is no such letter"})
		case r.State == api.LetterResolved:
			answer.Refused = append(answer.Refused, api.RefusedLetter{LetterID: id, Code: CodeResolved, Error: "nothing of it is left to be done"})
		default:
			rows = append(rows, *r)
		}
	}
	return rows, nil
}

// replay puts the record of one letter back and gives it. An error that is permanent is the letter's own.
func (o *Office) replay(ctx context.Context, records *reader, r row, dry bool) (stage.Out, error) {
	ctx, cancel := context.WithTimeout(ctx, o.ProduceTimeout)
	defer cancel()
	if err := o.wantedStill(r); err != nil {
		return stage.Out{}, err
	}
	rec, err := records.at(ctx, r.LetterPartition, r.LetterOffset)
	if err != nil {
		return stage.Out{}, err
	}
	if rec == nil || schemas.LetterID(headersOf(rec)) != r.LetterID {
		return stage.Out{}, fault.Permanentf(CodeGone, "Kafka has dropped the record: it was kept from %s on", r.FailedAt.UTC().Format(time.RFC3339))
	}
	out, err := o.original(ctx, rec, dry)
	if err != nil {
		return out, err
	}
	out.Headers[schemas.HeaderLetter] = r.LetterID
	out.Headers[schemas.HeaderReplay] = strconv.Itoa(int(r.Replays) + 1)
	if dry {
		return out, nil
	}
	// The record goes on in the trace that it failed in, not in this request's.
	return out, o.Producer.Produce(trace.ContextWithSpanContext(ctx, trace.SpanContext{}), out)
}

// wantedStill refuses the work of a document that the stages would pass over. What is told of a document is still told, and
// a control that keeps a deletion from being finished is still done.
func (o *Office) wantedStill(r row) error {
	if r.Topic == schemas.TopicControls {
		return nil
	}
	if _, deleted := o.Asked.Deleted(r.DocumentID); deleted {
		return fault.Permanentf(string(problem.DocumentDeleted), "the document %s was deleted", r.DocumentID)
	}
	if _, cancelled := o.Asked.Cancelled(r.DocumentID); cancelled && r.Topic != schemas.TopicResults && r.Topic != schemas.TopicDocumentEvents {
		return fault.Permanentf(CodeCancelled, "the document %s is cancelled: resume it first", r.DocumentID)
	}
	return nil
}

// original is the record that a letter is about, as it came.
func (o *Office) original(ctx context.Context, letter *kgo.Record, dry bool) (stage.Out, error) {
	headers := headersOf(letter)
	topic := headers[schemas.HeaderTopic]
	out := stage.Out{Topic: strings.TrimPrefix(topic, o.Kafka.TopicPrefix), Key: string(letter.Key), Value: letter.Value, Headers: map[string]string{}}
	if !strings.HasPrefix(topic, o.Kafka.TopicPrefix) || !takesReplays(out.Topic) {
		return out, fault.Permanentf(CodeNotReplayable, "%.80q is no topic that records are replayed to", topic)
	}
	for name, value := range headers {
		if !added[name] {
			out.Headers[name] = value
		}
	}
	document := headers[schemas.HeaderDocumentID]
	if out.Topic == schemas.TopicDocuments && schemas.IsUUID(document) && !schemas.IsUUID(out.Key) {
		// A document that its producer did not name has its name from the place of its record, which is another now.
		out.Key = document
	}
	ref, kept := headers[schemas.HeaderValueRef]
	switch {
	case kept:
		// Anybody who may write to Kafka can write a letter: it names an object of its own document, or none.
		key, ours := strings.CutPrefix(ref, o.Objects.URI(""))
		if !ours || !schemas.IsUUID(document) || !strings.HasPrefix(key, schemas.DocumentPrefix(document)) {
			return out, fault.Permanentf(CodeNotReplayable, "%.200q is no object of the document in this deployment's bucket", ref)
		}
		if dry {
			return out, nil
		}
		value, err := o.Objects.Get(ctx, key, int64(schemas.MaxBytes(out.Topic)))
		if fault.CodeOf(err) == objectstore.CodeMissing {
			return out, fault.Permanentf(CodeValueGone, "%s is not there any more", ref)
		}
		if err != nil {
			return out, err
		}
		out.Value = value
	case len(out.Value) == 0:
		return out, fault.Permanentf(CodeWithoutValue, "the letter holds no value: the record was empty, or too large for Kafka itself")
	}
	return out, nil
}

// added are the headers that a record has from being a letter.
var added = map[string]bool{
	schemas.HeaderStage: true, schemas.HeaderCode: true, schemas.HeaderError: true, schemas.HeaderAttempts: true,
	schemas.HeaderTopic: true, schemas.HeaderPartition: true, schemas.HeaderOffset: true, schemas.HeaderDocumentID: true,
	schemas.HeaderRunID: true, schemas.HeaderPage: true, schemas.HeaderValueRef: true, schemas.HeaderLetter: true, schemas.HeaderReplay: true,
}

// takesReplays tells which topics hold work: a letter that says that it is of any other was not written by a stage.
func takesReplays(topic string) bool {
	plain := strings.TrimSuffix(topic, schemas.BulkSuffix)
	switch plain {
	case schemas.TopicDocuments, schemas.TopicDetections, schemas.TopicResults, schemas.TopicDocumentEvents, schemas.TopicControls:
		return plain == topic
	case schemas.TopicPageRanges:
		return true
	}
	model, pages := strings.CutPrefix(plain, schemas.PagesTopic(""))
	return pages && schemas.IsModelName(model)
}
