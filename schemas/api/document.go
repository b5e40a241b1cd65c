package api

import (
	"time"

	"leafcutter/schemas"
)

// Accepted is the answer to a submission: object and record are durable.
type Accepted struct {
	DocumentID  string        `json:"document_id" format:"uuid" doc:"names the document for ever"`
	State       schemas.State `json:"state" doc:"queued"`
	Title       string        `json:"title" doc:"the file name where none was given"`
	Bytes       int64         `json:"bytes,omitempty" doc:"size of the source; absent where it was not uploaded here"`
	SHA256      string        `json:"sha256,omitempty" doc:"hexadecimal digest of the source; absent where it was not uploaded here"`
	SubmittedAt time.Time     `json:"submitted_at"`
	Links       Links         `json:"links"`
}

// Links are paths on the API's own host.
type Links struct {
	Self       string `json:"self" doc:"state of the document"`
	Detections string `json:"detections" doc:"every box that was found"`
	Pages      string `json:"pages" doc:"results page by page"`
	Events     string `json:"events" doc:"progress as server-sent events"`
	Source     string `json:"source" doc:"the document as it was submitted"`
	Page       string `json:"page" doc:"web page about the document"`
}

// LinksOf are the links of a document.
func LinksOf(documentID string) Links {
	self := "/v1/documents/" + documentID
	return Links{
		Self:       self,
		Detections: self + "/detections",
		Pages:      self + "/pages",
		Events:     self + "/events",
		Source:     self + "/source",
		Page:       "/documents/" + documentID,
	}
}

// Summary is one line of the list of documents: the state of a document's newest run.
type Summary struct {
	DocumentID    string        `json:"document_id" format:"uuid"`
	Title         string        `json:"title"`
	State         schemas.State `json:"state" doc:"queued, running, waiting-for-model, completed, completed_with_failures, failed or cancelled"`
	PagesSelected int           `json:"pages_selected" doc:"pages that the run is to do; 0 until it is planned"`
	PagesDone     int           `json:"pages_done"`
	PagesFailed   int           `json:"pages_failed"`
	Boxes         int           `json:"boxes" doc:"boxes found so far, from the model's score floor on"`
	SubmittedAt   time.Time     `json:"submitted_at"`
	FinishedAt    *time.Time    `json:"finished_at,omitempty" doc:"absent until the state is final"`
	Links         Links         `json:"links"`
}

// Document is all there is to say about a document except its pages.
type Document struct {
	Summary
	Code        string        `json:"code,omitempty" doc:"why the document failed; stable, see docs/errors.md"`
	Error       string        `json:"error,omitempty" doc:"the same for people"`
	ContentType string        `json:"content_type,omitempty" doc:"told by the first bytes"`
	SHA256      string        `json:"sha256,omitempty"`
	Bytes       int64         `json:"bytes,omitempty"`
	PageCount   int           `json:"page_count" doc:"pages of the document; 0 until it was opened"`
	Runs        []Run         `json:"runs" doc:"newest first"`
	Failures    []PageFailure `json:"failures" doc:"pages of all runs that no stage could do, the first 100"`

	Webhooks []WebhookDelivery `json:"webhooks,omitempty" doc:"how far the telling of the webhook_url is, newest first"`
}

// Run is one document by one model with one set of options.
type Run struct {
	RunID         string              `json:"run_id" format:"uuid"`
	Model         string              `json:"model"`
	ModelDigest   string              `json:"model_digest,omitempty"`
	State         schemas.State       `json:"state"`
	Stage         string              `json:"stage,omitempty" doc:"that failed the run as a whole"`
	Code          string              `json:"code,omitempty" doc:"why the run failed; stable, see docs/errors.md"`
	Error         string              `json:"error,omitempty" doc:"the same for people"`
	DPI           int                 `json:"dpi"`
	PagesSelected int                 `json:"pages_selected"`
	PagesDone     int                 `json:"pages_done"`
	PagesFailed   int                 `json:"pages_failed"`
	Boxes         int                 `json:"boxes"`
	Options       *schemas.RunOptions `json:"options,omitempty" doc:"what the run was resolved to"`
	PlannedAt     *time.Time          `json:"planned_at,omitempty"`
	FirstResultAt *time.Time          `json:"first_result_at,omitempty"`
	FinishedAt    *time.Time          `json:"finished_at,omitempty"`
}

// PageFailure is a page that no stage could do.
type PageFailure struct {
	RunID string `json:"run_id" format:"uuid"`
	Page  int    `json:"page"`
	Stage string `json:"stage"`
	Code  string `json:"code" doc:"stable, see docs/errors.md"`
	Error string `json:"error" doc:"the same for people"`
}

// DocumentList is a part of the list of documents, newest first.
type DocumentList struct {
	Documents []Summary `json:"documents"`
	Next      string    `json:"next,omitempty" doc:"cursor of the next part; absent at the end"`
}

// Progress is the data of a server-sent event: sent at once, at every change, and for the last time when the state is
// final.
type Progress struct {
	DocumentID    string        `json:"document_id" format:"uuid"`
	State         schemas.State `json:"state"`
	PagesSelected int           `json:"pages_selected"`
	PagesDone     int           `json:"pages_done"`
	PagesFailed   int           `json:"pages_failed"`
	Boxes         int           `json:"boxes"`
}

// Progress is how far the document is.
func (s Summary) Progress() Progress {
	return Progress{DocumentID: s.DocumentID, State: s.State, PagesSelected: s.PagesSelected,
		PagesDone: s.PagesDone, PagesFailed: s.PagesFailed, Boxes: s.Boxes}
}

// Model is what a submission may name.
type Model struct {
	Name        string             `json:"name"`
	Default     bool               `json:"default" doc:"used where a submission names none"`
	Announced   bool               `json:"announced" doc:"whether a detector has ever said that it serves the model"`
	Version     string             `json:"version,omitempty"`
	Digest      string             `json:"digest,omitempty"`
	Family      string             `json:"family,omitempty"`
	Classes     []string           `json:"classes,omitempty"`
	ScoreFloor  float64            `json:"score_floor,omitempty" doc:"boxes are kept from here on"`
	Thresholds  map[string]float64 `json:"thresholds,omitempty" doc:"score from which a class is cropped; * stands for every class"`
	AnnouncedAt *time.Time         `json:"announced_at,omitempty"`
}

// ModelList is every model known.
type ModelList struct {
	Models []Model `json:"models"`
}

// Controlled is the answer to a cancel, a resume or a delete.
type Controlled struct {
	DocumentID string        `json:"document_id" format:"uuid"`
	Action     string        `json:"action" doc:"cancel, resume or delete"`
	Sequence   int64         `json:"sequence,omitempty" doc:"of what was asked for: the highest of a document holds; absent where there was nothing to do"`
	State      schemas.State `json:"state,omitempty" doc:"of the document when it was asked for; absent for a document that is deleted"`
	Pages      int           `json:"pages" doc:"asked for again, by a resume"`
	NotResumed []string      `json:"not_resumed,omitempty" doc:"runs that a resume left cancelled, each with the reason: its pages cannot be asked for again"`
	Links      Links         `json:"links"`
}
