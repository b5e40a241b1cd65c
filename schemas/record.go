package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Record is a value of a topic. Schema names its type and version, as the header lc-schema carries it ("PageDone.v1").
// Identity is a function of what the record is about, never of time: a record produced twice has one Identity, from
// which the header lc-id is derived.
type Record interface {
	Schema() string
	Identity() string
}

// Headers that every record carries, besides the W3C traceparent.
const (
	HeaderContentType = "content-type"
	HeaderSchema      = "lc-schema"
	HeaderID          = "lc-id"
	HeaderTitle       = "title" // documents topic, raw documents only
)

// Headers of a dead letter, besides those of the original record.
const (
	HeaderStage      = "lc-stage"
	HeaderCode       = "lc-code"
	HeaderError      = "lc-error"
	HeaderAttempts   = "lc-attempts"
	HeaderTopic      = "lc-topic"
	HeaderPartition  = "lc-partition"
	HeaderOffset     = "lc-offset"
	HeaderDocumentID = "lc-document-id"
	HeaderRunID      = "lc-run-id"
	HeaderPage       = "lc-page"
	HeaderValueRef   = "lc-value-ref" // object that holds the original value where it is above MaxDeadLetterValue
	HeaderLetter     = "lc-letter"    // which letter it is (LetterID); a replayed record carries it, so that a second failure is the same letter
	HeaderReplay     = "lc-replay"    // of a replayed record and of its next letter: which replay of the letter it is, from 1
)

// MaxDeadLetterValue is the size in bytes up to which a dead letter holds the original value itself.
const MaxDeadLetterValue = 256 << 10

// LCID is the value of the header lc-id: deterministic, for consumers that deduplicate.
func LCID(r Record) string { return nameUUID("record", r.Schema(), r.Identity()) }

// Marshal is the JSON of r with its type in front: {"type":"PageDone",…}.
func Marshal(r Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("marshal %s: %w", r.Schema(), err)
	}
	name, _, _ := strings.Cut(r.Schema(), ".")
	var b bytes.Buffer
	b.Grow(len(body) + len(name) + 12)
	fmt.Fprintf(&b, `{"type":%q`, name)
	if len(body) > 2 { // not {}
		b.WriteByte(',')
	}
	b.Write(body[1:])
	return b.Bytes(), nil
}

// Unmarshal reads a record of the type T, whose "type" must be T's or absent. Unknown fields are ignored.
func Unmarshal[T Record](value []byte) (T, error) {
	var r T
	var t typed
	name, _, _ := strings.Cut(r.Schema(), ".")
	if err := json.Unmarshal(value, &t); err != nil {
		return r, fmt.Errorf("not a %s: %w", name, err)
	}
	if t.Type != "" && t.Type != name {
		return r, fmt.Errorf("not a %s: its type is %.80q", name, t.Type)
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("not a %s: %w", name, err)
	}
	if v, ok := any(r).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return r, fmt.Errorf("bad %s: %w", name, err)
		}
	}
	return r, nil
}

type typed struct {
	Type string `json:"type"`
}
