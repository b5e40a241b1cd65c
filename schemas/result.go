package schemas

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Result is a record of the results topic, keyed by document: all that SQL knows comes through it, so one recorder owns
// a document. It is one of DocumentAccepted, RunPlanned, PageDone, PageFailed, RunFailed, RunCancelled, RunResumed and
// DocumentDeleted.
type Result interface {
	Record
	Document() string
}

// DocumentAccepted says what was submitted, once the planner has opened it or failed to.
type DocumentAccepted struct {
	DocumentID  string    `json:"document_id"`
	Title       string    `json:"title" jsonschema:"file name where none was given"`
	Source      string    `json:"source"`
	ContentType string    `json:"content_type"`
	SHA256      string    `json:"sha256"`
	Bytes       int64     `json:"bytes"`
	PageCount   int       `json:"page_count" jsonschema:"0 where the document could not be opened"`
	SubmittedAt time.Time `json:"submitted_at"`
	WebhookURL  string    `json:"webhook_url,omitempty"`
}

// RunPlanned opens a run: Run.PagesSelected results will follow.
type RunPlanned struct {
	Run
	Pages     []PageSpan `json:"pages" jsonschema:"the selected pages as spans"`
	PlannedAt time.Time  `json:"planned_at"`
}

// PageSpan is the pages First to Last, both included, from 1.
type PageSpan struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// CutBox is a Box with what the annotator made of it.
type CutBox struct {
	Box
	CropKey string `json:"crop_key,omitempty" jsonschema:"object key of the crop; absent below the class's threshold"`
	Text    string `json:"text,omitempty" jsonschema:"text of the lines inside the box"`
}

// PageDone is one page of a run with all its objects in place.
type PageDone struct {
	RenderedPage
	AnnotatedKey string    `json:"annotated_key"`
	Boxes        []CutBox  `json:"boxes"`
	QueueMS      float64   `json:"queue_ms"`
	InferMS      float64   `json:"infer_ms"`
	AnnotateMS   float64   `json:"annotate_ms"`
	TraceID      string    `json:"trace_id,omitempty"`
	DetectedAt   time.Time `json:"detected_at"`
}

// PageFailed is one page of a run that no stage could do. The dead letter of the same page says more and replays it.
type PageFailed struct {
	Run
	Page     int       `json:"page"`
	Stage    string    `json:"stage"`
	Code     string    `json:"code"`
	Error    string    `json:"error"`
	TraceID  string    `json:"trace_id,omitempty"`
	FailedAt time.Time `json:"failed_at"`
}

// RunFailed ends a run, or a document before it had one (RunID derived from the options asked for), without pages.
type RunFailed struct {
	Run
	Stage    string    `json:"stage"`
	Code     string    `json:"code"`
	Error    string    `json:"error"`
	FailedAt time.Time `json:"failed_at"`
}

// RunCancelled ends a run on request, unless it was resumed with a higher sequence. Pages that were done stay.
type RunCancelled struct {
	DocumentID  string    `json:"document_id"`
	RunID       string    `json:"run_id"`
	SubmittedAt time.Time `json:"submitted_at,omitzero" jsonschema:"of the document; where it is absent, a run of which nothing else is known cannot be shown"`
	Sequence    int64     `json:"sequence,omitempty" jsonschema:"of the control that asked for it"`
	Shadow      bool      `json:"shadow,omitempty" jsonschema:"the run is a shadow: no end of it is told, though nothing else is known of it yet"`
	CancelledAt time.Time `json:"cancelled_at"`
}

// RunResumed takes back the cancellations of a run that have a lower sequence. The pages that are missing are asked for
// again beside it.
type RunResumed struct {
	DocumentID  string    `json:"document_id"`
	RunID       string    `json:"run_id"`
	SubmittedAt time.Time `json:"submitted_at,omitzero" jsonschema:"of the document; as in RunCancelled"`
	Sequence    int64     `json:"sequence" jsonschema:"of the control that asked for it"`
	ResumedAt   time.Time `json:"resumed_at"`
}

// DocumentDeleted asks for the rows of a document to be deleted, once its objects are gone. Nothing of the document is
// landed after it.
type DocumentDeleted struct {
	DocumentID  string    `json:"document_id"`
	Sequence    int64     `json:"sequence" jsonschema:"of the control that asked for it"`
	RequestedAt time.Time `json:"requested_at"`
	DeletedAt   time.Time `json:"deleted_at" jsonschema:"when the objects were gone"`
	Objects     int64     `json:"objects" jsonschema:"deleted"`
}

// Schemas: the type and version of each record.

func (DocumentAccepted) Schema() string { return "DocumentAccepted.v1" }
func (RunPlanned) Schema() string       { return "RunPlanned.v1" }
func (PageDone) Schema() string         { return "PageDone.v1" }
func (PageFailed) Schema() string       { return "PageFailed.v1" }
func (RunFailed) Schema() string        { return "RunFailed.v1" }
func (RunCancelled) Schema() string     { return "RunCancelled.v1" }
func (RunResumed) Schema() string       { return "RunResumed.v1" }
func (DocumentDeleted) Schema() string  { return "DocumentDeleted.v1" }

// Identities: what each record is about.

func (r DocumentAccepted) Identity() string { return r.DocumentID }
func (r RunPlanned) Identity() string       { return r.RunID }
func (r PageDone) Identity() string         { return r.Key() }
func (r PageFailed) Identity() string       { return pageKey(r.RunID, r.Page) }
func (r RunFailed) Identity() string        { return r.RunID }
func (r RunCancelled) Identity() string     { return r.RunID + "/" + strconv.FormatInt(r.Sequence, 10) }
func (r RunResumed) Identity() string       { return r.RunID + "/" + strconv.FormatInt(r.Sequence, 10) }
func (r DocumentDeleted) Identity() string  { return r.DocumentID }

// Documents: the key of each record.

func (r DocumentAccepted) Document() string { return r.DocumentID }
func (r RunPlanned) Document() string       { return r.DocumentID }
func (r PageDone) Document() string         { return r.DocumentID }
func (r PageFailed) Document() string       { return r.DocumentID }
func (r RunFailed) Document() string        { return r.DocumentID }
func (r RunCancelled) Document() string     { return r.DocumentID }
func (r RunResumed) Document() string       { return r.DocumentID }
func (r DocumentDeleted) Document() string  { return r.DocumentID }

// UnmarshalResult reads a value of the results topic. A type that this build does not know gives (nil, nil): a newer
// producer may be at work, and its records are not faults.
func UnmarshalResult(value []byte) (Result, error) {
	var t typed
	if err := json.Unmarshal(value, &t); err != nil {
		return nil, fmt.Errorf("not a result: %w", err)
	}
	switch t.Type {
	case "DocumentAccepted":
		return asResult[DocumentAccepted](value)
	case "RunPlanned":
		return asResult[RunPlanned](value)
	case "PageDone":
		return asResult[PageDone](value)
	case "PageFailed":
		return asResult[PageFailed](value)
	case "RunFailed":
		return asResult[RunFailed](value)
	case "RunCancelled":
		return asResult[RunCancelled](value)
	case "RunResumed":
		return asResult[RunResumed](value)
	case "DocumentDeleted":
		return asResult[DocumentDeleted](value)
	case "":
		return nil, fmt.Errorf("not a result: it has no type")
	default:
		return nil, nil
	}
}

func asResult[T Result](value []byte) (Result, error) {
	r, err := Unmarshal[T](value)
	if err != nil {
		return nil, err
	}
	if !IsUUID(r.Document()) {
		return nil, fmt.Errorf("bad %s: document_id %.80q is not a lower-case UUID", r.Schema(), r.Document())
	}
	return r, nil
}
