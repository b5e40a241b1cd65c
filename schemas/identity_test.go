package schemas_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"leafcutter/schemas"
)

// Identities are names of data that exist: a change of any of these loses every document that was ever processed.
func TestIdentitiesNeverChange(t *testing.T) {
	for _, tc := range []struct{ name, got, want string }{
		{"idempotency key", schemas.DocumentIDForKey("api", "key"), "f77f4d85-fc83-5f80-a152-f8f2c043f733"},
		{"record", schemas.DocumentIDForRecord("documents", 3, 42, at, []byte("%PDF-")), "ce618d9c-5b06-5c4d-b60e-9f420e5b881b"},
		{"run", schemas.RunID(doc, run.Options), "f9c32749-b018-543f-aa6d-4079cb8a8dab"},
		{"event", schemas.RunEnded{RunID: run.RunID, State: schemas.Completed, PagesDone: 3}.EventID(), "63734b16-d6a6-505c-9cd7-513433e5f822"},
		{"lc-id", schemas.LCID(schemas.PageRendered{RenderedPage: page}), "6d644625-d2ee-5b57-ab79-383a190210d9"},
		{"letter", schemas.LetterID(map[string]string{"lc-stage": "splitter", "lc-topic": "page-ranges", "lc-partition": "3", "lc-offset": "42", "lc-page": "7"}), "36e5860d-fa9f-5c6c-b4f2-d4df393bf8ee"},
		{"letter that was replayed", schemas.LetterID(map[string]string{"lc-stage": "splitter", "lc-letter": doc}), doc},
		{"letter of a part", schemas.PartLetterID(doc, run.RunID, 7), "30111ea4-c7fa-50e6-abaf-5938219ba277"},
		{"source", schemas.SourceKey(doc), "documents/" + doc + "/source"},
		{"large record", schemas.RecordKey(doc), "documents/" + doc + "/record"},
		{"page image", page.ImageKey, "documents/" + doc + "/pages/108-mupdf1/00018.png"},
		{"crop", schemas.CropKey("d", "r", 7, "k", [4]int{1, 2, 3, 4}, 4), "documents/d/runs/r/crops/00007-ff419033527a.png"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, tc.got, tc.want)
		}
	}
}

func TestIdentitiesDiffer(t *testing.T) {
	other := run.Options
	other.Thresholds = map[string]float64{"*": 0.41, "title": 0.5}
	if schemas.RunID(doc, other) == schemas.RunID(doc, run.Options) {
		t.Error("another threshold is the same run")
	}
	if schemas.DocumentIDForKey("ab", "c") == schemas.DocumentIDForKey("a", "bc") {
		t.Error("parts run together")
	}
	if schemas.CropKey("d", "r", 1, "k", [4]int{1, 2, 3, 4}, 4) == schemas.CropKey("d", "r", 1, "k", [4]int{1, 2, 3, 5}, 4) {
		t.Error("another rectangle is the same crop")
	}
	split := schemas.PageRange{Run: run, Pages: []int{1, 2}}
	if schemas.LCID(split) == schemas.LCID(split.One(0)) {
		t.Error("a part of a range is the same record as the whole")
	}
}

func TestNewDocumentIDSortsByTime(t *testing.T) {
	var ids []string
	for i := range 50 {
		id := schemas.NewDocumentID(at.Add(time.Duration(i) * time.Millisecond))
		if !schemas.IsUUID(id) || id[14] != '7' {
			t.Fatalf("%s is no version 7 UUID", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Errorf("not in order of time: %v", ids)
	}
}

func TestRowVersionFollowsTimeThenOffset(t *testing.T) {
	if schemas.RowVersion(at, 5) >= schemas.RowVersion(at, 6) || schemas.RowVersion(at, 1<<19) >= schemas.RowVersion(at.Add(time.Millisecond), 0) {
		t.Error("out of order")
	}
}

func TestValidateReportsEveryFault(t *testing.T) {
	padding := 999
	err := schemas.DocumentSubmitted{DocumentID: "x", Source: "http://example.org/a.pdf", Title: strings.Repeat("t", 201), DPI: 10, Pages: "0",
		Models: []string{"No Such"}, Thresholds: map[string]float64{"title": math.NaN()}, CropPadding: &padding, WebhookURL: "ftp://x", Bytes: -1}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"document_id", "source", "title", "dpi", "pages", "model", "thresholds", "crop_padding", "webhook_url", "bytes"} {
		if !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s is not named in:\n%v", field, err)
		}
	}
	if err := (schemas.DocumentSubmitted{Source: "s3://b/k"}).Validate(); err != nil {
		t.Errorf("the smallest submission: %v", err)
	}
}

// TestSubmissionsAreBounded: each field at its bound is taken and one beyond it refused, in a few words.
func TestSubmissionsAreBounded(t *testing.T) {
	classes := func(n, length int) map[string]float64 {
		all := map[string]float64{}
		for i := range n {
			all[fmt.Sprintf("%0*d", length, i)] = 0.5
		}
		return all
	}
	models := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("model-%d", i))
		}
		return all
	}
	for _, tc := range []struct {
		field string
		set   func(d *schemas.DocumentSubmitted, beyond int)
	}{
		{"title", func(d *schemas.DocumentSubmitted, beyond int) {
			d.Title = strings.Repeat("é", schemas.MaxTitle+beyond)
		}},
		{"file_name", func(d *schemas.DocumentSubmitted, beyond int) { d.FileName = strings.Repeat("é", 255+beyond) }},
		{"source", func(d *schemas.DocumentSubmitted, beyond int) {
			d.Source = "s3://b/" + strings.Repeat("é", 2041+beyond)
		}},
		{"content_type", func(d *schemas.DocumentSubmitted, beyond int) { d.ContentType = strings.Repeat("x", 128+beyond) }},
		{"sha256", func(d *schemas.DocumentSubmitted, beyond int) { d.SHA256 = strings.Repeat("aB", 32+beyond) }},
		{"webhook_url", func(d *schemas.DocumentSubmitted, beyond int) {
			d.WebhookURL = "https://h/" + strings.Repeat("x", 2038+beyond)
		}},
		{"models", func(d *schemas.DocumentSubmitted, beyond int) { d.Models = models(8 + 100_000*beyond) }},
		{"thresholds", func(d *schemas.DocumentSubmitted, beyond int) { d.Thresholds = classes(256+100_000*beyond, 64) }},
		{"thresholds", func(d *schemas.DocumentSubmitted, beyond int) { d.Thresholds = classes(1, 64+beyond) }},
		{"thresholds", func(d *schemas.DocumentSubmitted, beyond int) {
			d.Thresholds = map[string]float64{strings.Repeat("x", 1-beyond): 0.5}
		}},
	} {
		d := schemas.DocumentSubmitted{Source: "s3://b/k"}
		tc.set(&d, 0)
		if err := d.Validate(); err != nil {
			t.Errorf("%s at its bound: %v", tc.field, err)
		}
		tc.set(&d, 1)
		if err := d.Validate(); err == nil || !strings.HasPrefix(err.Error(), tc.field+": ") || len(err.Error()) > 300 {
			t.Errorf("%s beyond its bound: %.500v", tc.field, err)
		}
	}
	for _, digest := range []string{"x", strings.Repeat("g", 64), strings.Repeat("a", 63)} {
		if (schemas.DocumentSubmitted{Source: "s3://b/k", SHA256: digest}).Validate() == nil {
			t.Errorf("the digest %q is accepted", digest)
		}
	}
}

func TestModelNamesJoinsBothFields(t *testing.T) {
	got := schemas.DocumentSubmitted{Model: "a", Models: []string{"b", "a"}}.ModelNames()
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
}

func FuzzParseDocumentSubmitted(f *testing.F) {
	f.Add([]byte(`{"source":"s3://b/k","pages":"1-3","thresholds":{"*":0.5}}`))
	f.Add([]byte(`{"source":"s3://b/k","crop_padding":3,"models":["a"]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := schemas.ParseDocumentSubmitted(b)
		if err == nil && (d.Source == "" || d.Validate() != nil) {
			t.Fatalf("accepted %+v", d)
		}
	})
}
