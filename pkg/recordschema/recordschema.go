// Package recordschema derives the JSON Schemas of the records from their Go types. The files in schemas/jsonschema are
// its output, for people and for producers in other languages; go generate rewrites them and a test compares.
package recordschema

//go:generate go run ./write ../../schemas/jsonschema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"leafcutter/schemas"
)

// Records are one of each record of every topic.
func Records() []schemas.Record {
	return []schemas.Record{
		schemas.DocumentSubmitted{}, schemas.PageRange{}, schemas.PageRendered{}, schemas.PageDetected{},
		schemas.DocumentAccepted{}, schemas.RunPlanned{}, schemas.PageDone{}, schemas.PageFailed{}, schemas.RunFailed{},
		schemas.RunCancelled{}, schemas.RunResumed{}, schemas.DocumentDeleted{}, schemas.RunEnded{}, schemas.Control{}, schemas.ModelAnnounced{},
	}
}

// Of is the JSON Schema (draft 2020-12) of a record: unknown fields are allowed, for changes are additive.
func Of(r schemas.Record) (*jsonschema.Schema, error) {
	s, err := jsonschema.ForType(reflect.TypeOf(r), &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[time.Time](): {Type: "string", Format: "date-time"},
	}})
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", r.Schema(), err)
	}
	name, _, _ := strings.Cut(r.Schema(), ".")
	open(s)
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = name
	if s.Properties == nil {
		s.Properties = map[string]*jsonschema.Schema{}
	}
	var constant any = name
	s.Properties["type"] = &jsonschema.Schema{Const: &constant}
	return s, nil
}

// open allows unknown fields everywhere.
func open(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if s.Type == "object" && s.Properties != nil {
		s.AdditionalProperties = nil
	}
	for _, p := range s.Properties {
		open(p)
	}
	open(s.Items)
}

// File is the name and content of a record's schema file.
func File(r schemas.Record) (name string, content []byte, err error) {
	s, err := Of(r)
	if err != nil {
		return "", nil, err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return "", nil, fmt.Errorf("schema of %s: %w", r.Schema(), err)
	}
	return r.Schema() + ".json", append(b, '\n'), nil
}
