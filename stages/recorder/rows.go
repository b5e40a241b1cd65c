package recorder

import (
	"cmp"
	"time"
	"unique"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// The rows of the tables, as schemas/clickhouse/00001_results.sql has them. Times are Unix milliseconds, which is what
// the tables hold, so that rows can be compared; 0 stands for NULL where the column has it.

type documentRow struct {
	DocumentID  string
	Title       string
	SourceURI   string
	ContentType string
	SHA256      string
	Bytes       uint64
	PageCount   uint32
	SubmittedAt int64
	WebhookURL  string
	Version     uint64
}

type runRow struct {
	RunID         string
	DocumentID    string
	Model         string
	ModelDigest   string
	Options       string
	DPI           uint16
	PagesSelected uint32
	PagesDone     uint32
	PagesFailed   uint32
	Boxes         uint64
	State         schemas.State
	Code          string
	PlannedAt     int64
	FirstResultAt int64
	FinishedAt    int64
	SubmittedAt   int64
	Stage         string
	Error         string
	Decision      uint64
	Control       int64
	Shadow        bool
	Version       uint64
}

// known tells whether the table has the row, or has it once the batch that made it has landed.
func (d documentRow) known() bool { return d.Version != 0 }

// deletionRow is a row of deletions.
type deletionRow struct {
	DocumentID  string
	RequestedAt int64
	Sequence    int64
	DeletedAt   int64
	Objects     uint64
	Version     uint64
}

func newDeletionRow(r schemas.DocumentDeleted, e entry) deletionRow {
	return deletionRow{DocumentID: r.DocumentID, RequestedAt: orTimestamp(r.RequestedAt, e.in), Sequence: r.Sequence,
		DeletedAt: orTimestamp(r.DeletedAt, e.in), Objects: uint64(max(0, r.Objects)), Version: e.version}
}

// end is what tells one end of a run from another: what the identity of its event is made of. Pages that were in flight
// when a run was cancelled go on being counted, and are no other end.
func (r runRow) end() end {
	if r.State == schemas.Cancelled {
		return end{state: r.State, control: r.Control}
	}
	return end{state: r.State, done: r.PagesDone, failed: r.PagesFailed}
}

type end struct {
	state        schemas.State
	done, failed uint32
	control      int64
}

type pageRow struct {
	DocumentID   string
	RunID        string
	Page         uint32
	State        string
	Code         string
	Error        string
	DPI          uint16
	Width        uint32
	Height       uint32
	ImageKey     string
	AnnotatedKey string
	Boxes        []schemas.CutBox
	RenderMS     float64
	QueueMS      float64
	InferMS      float64
	AnnotateMS   float64
	TraceID      string
	DetectedAt   int64
	SubmittedAt  int64
	Stage        string
	Version      uint64
}

// The states of a page's row.
const (
	pageDone   = "done"
	pageFailed = "failed"
)

// pageSeen is the part of a page's row from which the page bitmap is rebuilt.
type pageSeen struct {
	DocumentID  string
	RunID       string
	Page        uint32
	Boxes       uint32
	Code        string
	SubmittedAt int64
	Version     uint64
}

func (p pageSeen) page() page {
	return page{version: p.Version, boxes: p.Boxes, code: unique.Make(p.Code)}
}

// runKey names a run among those of its document.
type runKey struct{ document, run string }

// orTimestamp is t in the tables' form, or the time of the record where t is missing or cannot be held.
func orTimestamp(t time.Time, in stage.In) int64 {
	if !schemas.StorableTime(t) {
		t = in.Timestamp
	}
	return t.UnixMilli()
}

// millis is the tables' form as a time.
func millis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func newDocumentRow(r schemas.DocumentAccepted, submittedAt int64, version uint64) documentRow {
	return documentRow{
		DocumentID: r.DocumentID, Title: r.Title, SourceURI: r.Source, ContentType: r.ContentType, SHA256: r.SHA256,
		Bytes: uint64(max(0, r.Bytes)), PageCount: uint32(max(0, r.PageCount)), SubmittedAt: submittedAt,
		WebhookURL: r.WebhookURL, Version: version,
	}
}

func newPageDoneRow(r schemas.PageDone, submittedAt int64, e *entry) pageRow {
	return pageRow{
		DocumentID: r.DocumentID, RunID: r.RunID, Page: uint32(r.Page), State: pageDone, DPI: uint16(r.DPI),
		Width: uint32(r.Width), Height: uint32(r.Height), ImageKey: r.ImageKey, AnnotatedKey: r.AnnotatedKey,
		Boxes: r.Boxes, RenderMS: r.RenderMS, QueueMS: r.QueueMS, InferMS: r.InferMS, AnnotateMS: r.AnnotateMS,
		TraceID: r.TraceID, DetectedAt: orTimestamp(r.DetectedAt, e.in), SubmittedAt: submittedAt,
		Version: e.version | outranks,
	}
}

func newPageFailedRow(r schemas.PageFailed, submittedAt int64, e *entry) pageRow {
	return pageRow{
		DocumentID: r.DocumentID, RunID: r.RunID, Page: uint32(r.Page), State: pageFailed,
		Code: cmp.Or(r.Code, unknownCode), Error: r.Error, DPI: uint16(r.Options.DPI), TraceID: r.TraceID,
		DetectedAt: orTimestamp(r.FailedAt, e.in), SubmittedAt: submittedAt, Stage: cmp.Or(r.Stage, unknownStage),
		Version: e.version,
	}
}

// What stands for a code or stage that a failure does not name: no failure is to look like none.
const (
	unknownCode  = "internal"
	unknownStage = "unknown"
)
