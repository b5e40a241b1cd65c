package deadletters

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf8"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/pkg/filetype"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// maxShown is the size in bytes up to which a value is shown.
const maxShown = 1 << 20

// Show is a letter with its record.
func (o *Office) Show(ctx context.Context, letterID string) (*api.LetterContent, error) {
	r, err := o.one(ctx, letterID)
	if err != nil {
		return nil, err
	}
	shown := &api.LetterContent{Letter: r.letter()}
	ctx, cancel := context.WithTimeout(ctx, o.ProduceTimeout)
	defer cancel()
	records, err := newReader(ctx, o.Kafka)
	if err != nil {
		return nil, problem.From(err, "Reading the dead letter")
	}
	defer records.close()
	rec, err := records.at(ctx, r.LetterPartition, r.LetterOffset)
	if err != nil {
		return nil, problem.From(err, "Reading the dead letter")
	}
	if rec == nil || schemas.LetterID(headersOf(rec)) != r.LetterID {
		shown.Missing = CodeGone
		return shown, nil
	}
	shown.Key, shown.Headers = strings.ToValidUTF8(string(rec.Key), "\uFFFD"), headersOf(rec)
	for name, value := range shown.Headers {
		shown.Headers[name] = strings.ToValidUTF8(value, "\uFFFD")
	}
	shown.Value, shown.ValueType = content(rec.Value)
	return shown, nil
}

// content is a value as it can be shown, nil where it cannot, with its type; "" for no value.
func content(value []byte) (shown any, mediaType string) {
	if len(value) == 0 {
		return nil, ""
	}
	if kind, ok := filetype.Detect(value); ok {
		return nil, string(kind)
	}
	if json.Valid(value) {
		if len(value) > maxShown {
			return nil, "application/json"
		}
		return json.RawMessage(value), "application/json"
	}
	if utf8.Valid(value) {
		return nil, "text/plain; charset=utf-8"
	}
	return nil, http.DetectContentType(value)
}
