package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"leafcutter/schemas/pages"
)

// Bounds of what a submitter may ask for.
const (
	MaxTitle       = 200     // characters
	MinDPI         = 36      // dots per inch
	MaxDPI         = 600     // dots per inch
	MaxPadding     = 200     // pixels
	MaxModels      = 8       // runs of one submission
	MaxThresholds  = 256     // classes with a threshold of their own
	MaxClassName   = 64      // characters
	MaxURL         = 2048    // characters of source and webhook_url, each
	MaxContentType = 128     // characters
	MaxFileName    = 255     // characters
	MaxRawDocument = 8 << 20 // bytes of a document sent as the record itself
	FirstPages     = 16      // pages of a run that go by the plain topic, and pages of a range at most
	AllClasses     = "*"     // the key in thresholds that stands for every class not named
	DefaultDPI     = 108     // dots per inch: zoom 1.5 of a PDF's 72
	DefaultPadding = 4       // pixels: boxes cut 1 to 3 pixels off descenders
)

// DocumentSubmitted is the JSON form of a record on the documents topic. Only Source is required.
type DocumentSubmitted struct {
	DocumentID  string             `json:"document_id,omitempty" jsonschema:"UUID that names the document; derived from the record's position where it is absent"`
	Title       string             `json:"title,omitempty" jsonschema:"up to 200 characters; the file name where it is absent"`
	FileName    string             `json:"file_name,omitempty" jsonschema:"name under which the client knew the file; shown, never used as a path; up to 255 characters"`
	Source      string             `json:"source" jsonschema:"s3://bucket/key of the PDF or image, in a bucket that the deployment allows; up to 2,048 characters"`
	ContentType string             `json:"content_type,omitempty" jsonschema:"media type as submitted; the magic bytes decide; up to 128 characters"`
	SHA256      string             `json:"sha256,omitempty" jsonschema:"digest of the source, 64 hexadecimal digits; where it is given and the source has another, nothing is run"`
	Bytes       int64              `json:"bytes,omitempty" jsonschema:"size of the source"`
	SubmittedAt time.Time          `json:"submitted_at,omitzero" jsonschema:"the record's timestamp where it is absent or outside the years 1971 to 2249"`
	Model       string             `json:"model,omitempty" jsonschema:"the model to run; the deployment's default where neither model nor models is given"`
	Models      []string           `json:"models,omitempty" jsonschema:"several models: a run each"`
	DPI         int                `json:"dpi,omitempty" jsonschema:"resolution of the page images, 36 to 600; 108 where it is absent"`
	Pages       string             `json:"pages,omitempty" jsonschema:"pages to run, from 1: 1-3,7,10- ; all where it is absent"`
	Thresholds  map[string]float64 `json:"thresholds,omitempty" jsonschema:"score from which boxes of a class are cropped, 0 to 1; * stands for every class; up to 256 names of up to 64 characters"`
	CropPadding *int               `json:"crop_padding,omitempty" jsonschema:"pixels added on each side of a crop, 0 to 200; 4 where it is absent"`
	WebhookURL  string             `json:"webhook_url,omitempty" jsonschema:"http or https URL told when a run ends; up to 2,048 characters"`
}

// Schema names the type and version of the record.
func (DocumentSubmitted) Schema() string { return "DocumentSubmitted.v1" }

// Identity is what lc-id is derived from.
func (d DocumentSubmitted) Identity() string { return d.DocumentID }

// ModelNames is the union of Model and Models in the order given, without repeats; empty for the default.
func (d DocumentSubmitted) ModelNames() []string {
	var names []string
	seen := map[string]bool{}
	for _, m := range append([]string{d.Model}, d.Models...) {
		if m != "" && !seen[m] {
			seen[m] = true
			names = append(names, m)
		}
	}
	return names
}

// Validate reports every fault of a submission at once, nil where there is none. It looks at form only: whether the
// source exists and the model is known is for the planner. Nothing is left unbounded: what a submission says is copied
// into every record of its runs.
func (d DocumentSubmitted) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if d.DocumentID != "" && !IsUUID(d.DocumentID) {
		fault("document_id: not a lower-case UUID")
	}
	switch u, err := url.Parse(d.Source); {
	case d.Source == "":
		fault("source: missing; give s3://bucket/key")
	case tooLong(d.Source, MaxURL):
		fault("source: more than %d characters", MaxURL)
	case err != nil || u.Scheme != "s3" || u.Host == "" || strings.Trim(u.Path, "/") == "":
		fault("source: %.200q is not s3://bucket/key", d.Source)
	}
	if tooLong(d.FileName, MaxFileName) {
		fault("file_name: more than %d characters", MaxFileName)
	}
	if tooLong(d.ContentType, MaxContentType) {
		fault("content_type: more than %d characters", MaxContentType)
	}
	if d.SHA256 != "" && !IsDigest(d.SHA256) {
		fault("sha256: not 64 hexadecimal digits")
	}
	faults = append(faults, ValidateOptions(d.Title, d.ModelNames(), d.DPI, d.Pages, d.Thresholds, d.CropPadding)...)
	if tooLong(d.WebhookURL, MaxURL) {
		fault("webhook_url: more than %d characters", MaxURL)
	} else if d.WebhookURL != "" {
		if u, err := url.Parse(d.WebhookURL); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
			fault("webhook_url: not an http or https URL")
		}
	}
	if d.Bytes < 0 {
		fault("bytes: negative")
	}
	return errors.Join(faults...)
}

// ValidateOptions checks what a submitter may choose, whichever way it came. Zero values mean the default.
func ValidateOptions(title string, models []string, dpi int, selection string, thresholds map[string]float64, padding *int) []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if n := utf8.RuneCountInString(title); n > MaxTitle {
		fault("title: %d characters, at most %d", n, MaxTitle)
	} else if !utf8.ValidString(title) {
		fault("title: not UTF-8")
	}
	if len(models) > MaxModels {
		fault("models: %d, at most %d", len(models), MaxModels)
		models = nil // the faults are bounded too
	}
	for _, m := range models {
		if !IsModelName(m) {
			fault("model: %.80q is not a model name (a-z, 0-9, _ and -, up to 64)", m)
		}
	}
	if dpi != 0 && (dpi < MinDPI || dpi > MaxDPI) {
		fault("dpi: %d is outside %d to %d", dpi, MinDPI, MaxDPI)
	}
	if _, err := pages.Parse(selection); err != nil {
		faults = append(faults, fmt.Errorf("pages: %w", err))
	}
	if len(thresholds) > MaxThresholds {
		fault("thresholds: %d classes, at most %d", len(thresholds), MaxThresholds)
		thresholds = nil
	}
	for class, t := range thresholds {
		if class == "" || tooLong(class, MaxClassName) {
			fault("thresholds: %.80q is not the name of a class (1 to %d characters)", class, MaxClassName)
		} else if !(t >= 0 && t <= 1) { // also refuses NaN
			fault("thresholds: %.80q is outside 0 to 1", class)
		}
	}
	if padding != nil && (*padding < 0 || *padding > MaxPadding) {
		fault("crop_padding: %d is outside 0 to %d", *padding, MaxPadding)
	}
	return faults
}

func tooLong(s string, characters int) bool { return utf8.RuneCountInString(s) > characters }

// IsDigest reports whether s is a SHA-256 digest: 64 hexadecimal digits of either case.
func IsDigest(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 2*sha256.Size
}

// IsModelName reports whether s may name a model: it becomes part of a topic's and a consumer group's name.
func IsModelName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-') {
			return false
		}
	}
	return true
}

// RunOptions is what a run was resolved to: the defaults of deployment and model filled in. It fixes the run's identity.
type RunOptions struct {
	Model       string             `json:"model"`
	ModelDigest string             `json:"model_digest"`
	DPI         int                `json:"dpi"`
	Pages       string             `json:"pages"`
	Thresholds  map[string]float64 `json:"thresholds"`
	CropPadding int                `json:"crop_padding"`
	Renderer    string             `json:"renderer"`
	Shadow      bool               `json:"shadow,omitempty" jsonschema:"the run only tries the model beside another: no state, end or webhook of the document is of it"`
}

// Threshold is the score from which boxes of class are cropped.
func (o RunOptions) Threshold(class string) float64 {
	if t, ok := o.Thresholds[class]; ok {
		return t
	}
	return o.Thresholds[AllClasses]
}

// ParseDocumentSubmitted reads and validates the JSON form of a documents record. Unknown fields are ignored.
func ParseDocumentSubmitted(value []byte) (DocumentSubmitted, error) {
	var d DocumentSubmitted
	if err := json.Unmarshal(value, &d); err != nil {
		return d, fmt.Errorf("not a DocumentSubmitted: %w", err)
	}
	return d, d.Validate()
}
