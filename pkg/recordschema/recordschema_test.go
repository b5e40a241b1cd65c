package recordschema_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"leafcutter/pkg/recordschema"
	"leafcutter/schemas"
)

func TestFilesAreUpToDate(t *testing.T) {
	for _, r := range recordschema.Records() {
		name, want, err := recordschema.File(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("../../schemas/jsonschema", name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: run make generate:\n%s", name, diff)
		}
	}
}

// The golden records of version 1 must satisfy the schemas, and a record that Go refuses for its form must not.
func TestGoldenRecordsSatisfyTheirSchemas(t *testing.T) {
	for _, r := range recordschema.Records() {
		t.Run(r.Schema(), func(t *testing.T) {
			s, err := recordschema.Of(r)
			if err != nil {
				t.Fatal(err)
			}
			resolved, err := s.Resolve(nil)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join("../../schemas/testdata", r.Schema()+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var v map[string]any
			if err := json.Unmarshal(b, &v); err != nil {
				t.Fatal(err)
			}
			if err := resolved.Validate(v); err != nil {
				t.Errorf("the golden record: %v", err)
			}
			v["from_a_newer_version"] = true
			if err := resolved.Validate(v); err != nil {
				t.Errorf("an unknown field: %v", err)
			}
			v["type"] = "SomethingElse"
			if resolved.Validate(v) == nil {
				t.Error("another type is accepted")
			}
		})
	}
}

func TestEveryRecordOfTheResultsTopicIsListed(t *testing.T) {
	listed := map[string]bool{}
	for _, r := range recordschema.Records() {
		listed[r.Schema()] = true
	}
	for _, r := range []schemas.Record{schemas.DocumentAccepted{}, schemas.PageDone{}, schemas.PageFailed{}, schemas.RunFailed{}, schemas.RunCancelled{}, schemas.RunPlanned{}} {
		if !listed[r.Schema()] {
			t.Errorf("%s is missing", r.Schema())
		}
	}
}
