// Package cursor makes the opaque cursors of lists: where a list stopped, so that the next part begins there however
// many rows arrived meanwhile. The handlers of package httpapi call it.
package cursor

import (
	"encoding/base64"
	"encoding/json"

	"leafcutter/ingest-api/internal/problem"
)

// maxLength is the longest cursor that is read.
const maxLength = 512

// Encode is place as a cursor of the list called kind, "" for nil.
func Encode[T any](kind string, place *T) string {
	if place == nil {
		return ""
	}
	text, err := json.Marshal(envelope[T]{Kind: kind, Place: *place})
	if err != nil {
		panic("cursor: a place cannot fail to marshal: " + err.Error()) // numbers and strings alone
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// Decode is the place of a cursor; the zero place for "". One of another list, or none of ours, is a problem.
func Decode[T any](kind, cursor string) (T, error) {
	var e envelope[T]
	if cursor == "" {
		return e.Place, nil
	}
	if len(cursor) > maxLength {
		return e.Place, problem.New(problem.InvalidCursor, "The cursor has %d characters", len(cursor))
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err != nil || e.Kind != kind {
		var zero T
		return zero, problem.New(problem.InvalidCursor, "The cursor %.40q is not one of this list", cursor)
	}
	return e.Place, nil
}

type envelope[T any] struct {
	Kind  string `json:"k"`
	Place T      `json:"p"`
}
