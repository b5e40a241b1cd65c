package schemas

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Run is what every record after the planner carries: enough for any stage to do its part and name its objects without
// asking anybody.
type Run struct {
	DocumentID    string     `json:"document_id"`
	RunID         string     `json:"run_id"`
	SubmittedAt   time.Time  `json:"submitted_at"`
	Source        string     `json:"source" jsonschema:"s3://bucket/key of the document"`
	SHA256        string     `json:"sha256,omitempty" jsonschema:"hexadecimal digest of the document as it was planned: pages of any other content are none of this run"`
	ContentType   string     `json:"content_type" jsonschema:"media type told by the magic bytes"`
	PagesSelected int        `json:"pages_selected"`
	Options       RunOptions `json:"options"`
	Control       int64      `json:"control,omitempty" jsonschema:"sequence of the control that asked for this work again: a cancellation with a lower one does not concern it"`
}

// Validate reports what makes the run unusable.
func (r Run) Validate() error {
	var faults []error
	if !IsUUID(r.DocumentID) {
		faults = append(faults, fmt.Errorf("document_id: %.80q is not a lower-case UUID", r.DocumentID))
	}
	if !IsUUID(r.RunID) {
		faults = append(faults, fmt.Errorf("run_id: %.80q is not a lower-case UUID", r.RunID))
	}
	if !IsModelName(r.Options.Model) {
		faults = append(faults, fmt.Errorf("options.model: %.80q is not a model name", r.Options.Model))
	}
	if r.Options.DPI < MinDPI || r.Options.DPI > MaxDPI {
		faults = append(faults, fmt.Errorf("options.dpi: %d is outside %d to %d", r.Options.DPI, MinDPI, MaxDPI))
	}
	return errors.Join(faults...)
}

// PageRange is up to FirstPages consecutive selected pages of a run: a value of page-ranges.
type PageRange struct {
	Run
	Pages    []int `json:"pages" jsonschema:"page numbers from 1, ascending"`
	Position int   `json:"position" jsonschema:"how many selected pages of the run come before the first of these"`
}

// Schema names the type and version of the record.
func (PageRange) Schema() string { return "PageRange.v1" }

// Identity is the run, the first page and how many there are: a split range is another record.
func (p PageRange) Identity() string {
	return p.Key() + "+" + strconv.Itoa(len(p.Pages))
}

// Key is the record's key: run/first.
func (p PageRange) Key() string {
	if len(p.Pages) == 0 {
		return p.RunID + "/0"
	}
	return pageKey(p.RunID, p.Pages[0])
}

// Validate reports what makes the range unusable.
func (p PageRange) Validate() error {
	if err := p.Run.Validate(); err != nil {
		return err
	}
	if len(p.Pages) == 0 || len(p.Pages) > FirstPages {
		return fmt.Errorf("pages: %d, must be 1 to %d", len(p.Pages), FirstPages)
	}
	for i, n := range p.Pages {
		if n < 1 || i > 0 && n <= p.Pages[i-1] {
			return fmt.Errorf("pages: must ascend from 1, found %d", n)
		}
	}
	return nil
}

// Bulk reports whether the range goes by the bulk topic: a shadow's do all, for nobody waits for them.
func (p PageRange) Bulk() bool { return p.Position >= FirstPages || p.Options.Shadow }

// One is the range of its i-th page alone: the smallest record that replays it.
func (p PageRange) One(i int) PageRange {
	q := p
	q.Pages, q.Position = []int{p.Pages[i]}, p.Position+i
	return q
}

// pageKey is the record key of a page of a run.
func pageKey(runID string, page int) string { return runID + "/" + strconv.Itoa(page) }
