package schemas

import (
	"strconv"
	"time"
)

// State of a document or run, as SQL and the API show it.
type State string

// The states. The last four are final.
const (
	Queued                State = "queued"
	Running               State = "running"
	WaitingForModel       State = "waiting-for-model"
	Completed             State = "completed"
	CompletedWithFailures State = "completed_with_failures"
	Failed                State = "failed"
	Cancelled             State = "cancelled"
)

// Final reports whether no more results are expected.
func (s State) Final() bool {
	return s == Completed || s == CompletedWithFailures || s == Failed || s == Cancelled
}

// RunEnded is a value of document-events: said once all of a run's rows can be read. State says how it ended.
type RunEnded struct {
	ID            string    `json:"id" jsonschema:"deterministic: the same end has the same id"`
	DocumentID    string    `json:"document_id"`
	RunID         string    `json:"run_id"`
	Title         string    `json:"title"`
	Model         string    `json:"model"`
	State         State     `json:"state"`
	Code          string    `json:"code,omitempty"`
	Control       int64     `json:"control,omitempty" jsonschema:"sequence of the control that cancelled it"`
	PagesSelected int       `json:"pages_selected"`
	PagesDone     int       `json:"pages_done"`
	PagesFailed   int       `json:"pages_failed"`
	Boxes         int       `json:"boxes"`
	SubmittedAt   time.Time `json:"submitted_at"`
	FinishedAt    time.Time `json:"finished_at"`
	WebhookURL    string    `json:"webhook_url,omitempty"`
}

// Schema names the type and version of the record.
func (e RunEnded) Schema() string { return "RunEnded.v1" }

// Identity is the event's own id.
func (e RunEnded) Identity() string { return e.EventID() }

// EventID is UUIDv5 of (run, state, done, failed): a run that ends again after a replay with other counts is another
// event; the same end said twice is one. A cancelled run's is of (run, state, control): pages that were in flight go on
// being counted after it, and are no other end.
func (e RunEnded) EventID() string {
	if e.State == Cancelled && e.Control != 0 {
		return nameUUID("event", e.RunID, string(e.State), strconv.FormatInt(e.Control, 10))
	}
	return nameUUID("event", e.RunID, string(e.State), strconv.Itoa(e.PagesDone), strconv.Itoa(e.PagesFailed))
}

// Control is a value of the compacted topic controls: what was asked of a document. Its key is Key.
type Control struct {
	DocumentID string    `json:"document_id"`
	Action     string    `json:"action" jsonschema:"cancel, resume or delete"`
	Sequence   int64     `json:"sequence" jsonschema:"grows with each control of a document; the highest holds"`
	At         time.Time `json:"at"`
}

// Actions of a Control.
const (
	ActionCancel = "cancel"
	ActionResume = "resume"
	ActionDelete = "delete"
)

// deleteKey ends the key of a delete, which has one of its own: compaction keeps the last record of a key, and nothing that
// is asked of a document later may take its delete away.
const deleteKey = "/" + ActionDelete

// Key is the record's key on the topic controls: the document, and its own for a delete.
func (c Control) Key() string {
	if c.Action == ActionDelete {
		return c.DocumentID + deleteKey
	}
	return c.DocumentID
}

// Schema names the type and version of the record.
func (Control) Schema() string { return "Control.v1" }

// Identity is the document and the sequence.
func (c Control) Identity() string { return c.DocumentID + "/" + strconv.FormatInt(c.Sequence, 10) }

// ModelAnnounced is a value of the compacted topic models, keyed by model: detectors say what they serve.
type ModelAnnounced struct {
	Model       string             `json:"model"`
	Version     string             `json:"version"`
	Digest      string             `json:"digest" jsonschema:"sha256 of the weights and of the manifest fields that change results"`
	Family      string             `json:"family"`
	Classes     []string           `json:"classes"`
	ScoreFloor  float64            `json:"score_floor" jsonschema:"boxes are kept from here on"`
	Thresholds  map[string]float64 `json:"thresholds" jsonschema:"score from which a class is cropped; * stands for every class"`
	AnnouncedAt time.Time          `json:"announced_at"`
}

// Schema names the type and version of the record.
func (ModelAnnounced) Schema() string { return "ModelAnnounced.v1" }

// Identity is the model and its digest.
func (m ModelAnnounced) Identity() string { return m.Model + "/" + m.Digest }
