package api

import "time"

// Letter is a record that a stage gave up, and what has become of it. However often its record fails, it is one letter.
type Letter struct {
	LetterID      string      `json:"letter_id" format:"uuid"`
	State         string      `json:"state" enum:"open,replayed,resolved" doc:"open until it is replayed, and again once the replay has failed; resolved once nothing of it is left to be done"`
	Stage         string      `json:"stage" doc:"that gave the record up"`
	Code          string      `json:"code" doc:"why; stable, see docs/errors.md"`
	Error         string      `json:"error" doc:"the same for people"`
	Attempts      int         `json:"attempts" doc:"tries of that stage the last time"`
	DocumentID    string      `json:"document_id,omitempty" format:"uuid" doc:"absent where the record names none"`
	Title         string      `json:"title,omitempty" doc:"of the document"`
	RunID         string      `json:"run_id,omitempty" format:"uuid"`
	Page          int         `json:"page,omitempty" doc:"absent where the record is about more than one page, or none"`
	Pages         []int       `json:"pages,omitempty" doc:"pages that a replay does again"`
	Topic         string      `json:"topic" doc:"that the record came by, and is replayed to, without the deployment's prefix"`
	Record        string      `json:"record,omitempty" doc:"type and version of the record; absent for a document that is the record itself"`
	Bytes         int64       `json:"bytes" doc:"of the record's value"`
	ValueRef      string      `json:"value_ref,omitempty" doc:"object that holds the value where it is too large for a letter"`
	TraceID       string      `json:"trace_id,omitempty"`
	Failures      int         `json:"failures" doc:"times that the record was given up"`
	Replays       int         `json:"replays" doc:"times that it was replayed"`
	FirstFailedAt time.Time   `json:"first_failed_at"`
	FailedAt      time.Time   `json:"failed_at"`
	ReplayedAt    *time.Time  `json:"replayed_at,omitempty"`
	Links         LetterLinks `json:"links"`
}

// LetterLinks are paths on the API's own host.
type LetterLinks struct {
	Self     string `json:"self"`
	Document string `json:"document,omitempty" doc:"state of the document"`
}

// LetterLink is the path of a letter.
func LetterLink(letterID string) string { return "/v1/dead-letters/" + letterID }

// States of a Letter.
const (
	LetterOpen     = "open"
	LetterReplayed = "replayed"
	LetterResolved = "resolved"
)

// LetterList is a part of the list of letters, those that failed last first.
type LetterList struct {
	Letters []Letter `json:"letters"`
	Next    string   `json:"next,omitempty" doc:"cursor of the next part; absent at the end"`
}

// LetterContent is a letter with its record, as far as that can be shown.
type LetterContent struct {
	Letter
	Key       string            `json:"key,omitempty" doc:"of the record"`
	Headers   map[string]string `json:"headers,omitempty" doc:"of the letter: the record's own, and lc-… for what happened to it"`
	Value     any               `json:"value,omitempty" doc:"of the record, where it is JSON of up to 1 MiB"`
	ValueType string            `json:"value_type,omitempty" doc:"media type of the value, told by its first bytes"`
	Missing   string            `json:"missing,omitempty" doc:"code that says why there is no record to show: letter-gone where Kafka has dropped it"`
}

// ReplayRequest says which letters are to be replayed: those named, else those that are open and fit every filter that is
// set. All stands for no filter.
type ReplayRequest struct {
	Letters    []string `json:"letters,omitempty" maxItems:"200" doc:"ids of letters"`
	Code       string   `json:"code,omitempty" maxLength:"128"`
	Stage      string   `json:"stage,omitempty" maxLength:"128"`
	DocumentID string   `json:"document_id,omitempty" maxLength:"64"`
	All        bool     `json:"all,omitempty" doc:"every open letter"`
	DryRun     bool     `json:"dry_run,omitempty" doc:"say what would be replayed, and replay nothing"`
	Limit      int      `json:"limit,omitempty" minimum:"1" maximum:"200" doc:"letters at most; 100 where it is absent"`
	Cursor     string   `json:"cursor,omitempty" doc:"next of the previous answer, with the same filters"`
}

// ReplayAnswer says what was replayed, and what could not be. What was replayed is durable: Kafka has acknowledged it.
type ReplayAnswer struct {
	DryRun   bool             `json:"dry_run,omitempty" doc:"nothing was replayed: this is what would be"`
	Replayed []ReplayedLetter `json:"replayed"`
	Refused  []RefusedLetter  `json:"refused"`
	Unnoted  string           `json:"unnoted,omitempty" doc:"code that says why the replays could not be noted; they are under way all the same, and shown as open until they are done"`
	Next     string           `json:"next,omitempty" doc:"cursor of the next part; absent at the end"`
}

// ReplayedLetter is a letter whose record is on its topic again.
type ReplayedLetter struct {
	LetterID   string `json:"letter_id" format:"uuid"`
	DocumentID string `json:"document_id,omitempty" format:"uuid"`
	Code       string `json:"code" doc:"why it had failed"`
	Topic      string `json:"topic" doc:"that it was put onto, without the deployment's prefix"`
	Replay     int    `json:"replay" doc:"which replay of the letter it is, from 1"`
}

// RefusedLetter is a letter that was not replayed.
type RefusedLetter struct {
	LetterID string `json:"letter_id"`
	Code     string `json:"code" doc:"why; stable, see docs/errors.md"`
	Error    string `json:"error" doc:"the same for people"`
}
