package deadletters

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// row is one of the table dead_letters.
type row struct {
	LetterID        string
	Replay          uint32
	DocumentID      string
	RunID           string
	Page            uint32
	Pages           []uint32
	EventID         string
	Stage           string
	Code            string
	Error           string
	Attempts        uint32
	Topic           string
	RecordPartition int32
	RecordOffset    int64
	Record          string
	Key             string
	Bytes           uint64
	ValueRef        string
	LetterPartition int32
	LetterOffset    int64
	TraceID         string
	FailedAt        time.Time
	Version         uint64
}

// none stands for an identity that a letter does not name.
const none = "00000000-0000-0000-0000-000000000000"

// Bounds of what is taken over from a letter, in bytes: anybody may write to the topic.
const (
	maxName = 128
	maxText = 4 << 10
)

// rowOf is the row of a letter. prefix is the deployment's, of names of topics.
func rowOf(in stage.In, prefix string) row {
	h := in.Headers
	at := in.Timestamp.UTC()
	if !schemas.StorableTime(at) {
		at = schemas.MinTime
	}
	r := row{
		LetterID: schemas.LetterID(h), Replay: number(h[schemas.HeaderReplay]),
		DocumentID: identity(h[schemas.HeaderDocumentID]), RunID: identity(h[schemas.HeaderRunID]), Page: number(h[schemas.HeaderPage]),
		Pages: []uint32{}, EventID: none,
		Stage: cut(h[schemas.HeaderStage], maxName), Code: cut(h[schemas.HeaderCode], maxName), Error: cut(h[schemas.HeaderError], maxText),
		Attempts: number(h[schemas.HeaderAttempts]),
		Topic:    cut(strings.TrimPrefix(h[schemas.HeaderTopic], prefix), maxName), Record: cut(h[schemas.HeaderSchema], maxName),
		Key: cut(in.Key, maxText), Bytes: uint64(len(in.Value)), ValueRef: cut(h[schemas.HeaderValueRef], maxText),
		LetterPartition: in.Partition, LetterOffset: in.Offset, TraceID: traceOf(h["traceparent"]),
		FailedAt: at, Version: schemas.RowVersion(at, in.Offset),
	}
	if n, err := strconv.ParseInt(h[schemas.HeaderPartition], 10, 32); err == nil {
		r.RecordPartition = int32(n)
	}
	if n, err := strconv.ParseInt(h[schemas.HeaderOffset], 10, 64); err == nil {
		r.RecordOffset = n
	}
	r.read(in.Value)
	return r
}

// read takes from the record itself which pages, or which event, a replay of it does again.
func (r *row) read(value []byte) {
	switch {
	case r.Page > 0:
		r.Pages = []uint32{r.Page}
	case strings.TrimSuffix(r.Topic, schemas.BulkSuffix) == schemas.TopicPageRanges:
		if of, err := schemas.Unmarshal[schemas.PageRange](value); err == nil {
			for _, page := range of.Pages {
				r.Pages = append(r.Pages, uint32(page))
			}
		}
	case r.Topic == schemas.TopicDocumentEvents:
		var event struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(value, &event) == nil {
			r.EventID = identity(event.ID)
		}
	}
}

// bare is the row without what a table might refuse: every text that is not a name of ours.
func (r row) bare() row {
	r.Error, r.Key, r.ValueRef, r.Record = "", "", "", ""
	return r
}

func identity(id string) string {
	if schemas.IsUUID(id) {
		return id
	}
	return none
}

// number is a count that a header gives; 0 where it gives none.
func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// traceOf is the trace that a traceparent of W3C names: 00-{32 hexadecimal digits}-…
func traceOf(parent string) string {
	parts := strings.Split(parent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 {
		return ""
	}
	return parts[1]
}

// cut shortens s to at most n bytes, between characters.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
