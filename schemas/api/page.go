package api

import (
	"fmt"
	"net/url"
	"time"

	"leafcutter/schemas"
)

// Page is one page of a run.
type Page struct {
	RunID      string     `json:"run_id" format:"uuid"`
	Page       int        `json:"page" doc:"from 1"`
	State      string     `json:"state" enum:"queued,done,failed"`
	Stage      string     `json:"stage,omitempty" doc:"that failed the page"`
	Code       string     `json:"code,omitempty" doc:"why the page failed; stable, see docs/errors.md"`
	Error      string     `json:"error,omitempty"`
	DPI        int        `json:"dpi,omitempty" doc:"dots per inch of the page image"`
	Width      int        `json:"width,omitempty" doc:"pixels of the page image"`
	Height     int        `json:"height,omitempty" doc:"pixels of the page image"`
	Boxes      []Box      `json:"boxes" doc:"by falling score"`
	RenderMS   float64    `json:"render_ms,omitempty"`
	QueueMS    float64    `json:"queue_ms,omitempty"`
	InferMS    float64    `json:"infer_ms,omitempty"`
	AnnotateMS float64    `json:"annotate_ms,omitempty"`
	TraceID    string     `json:"trace_id,omitempty"`
	DetectedAt *time.Time `json:"detected_at,omitempty"`
	Links      PageLinks  `json:"links"`
}

// PageLinks are paths on the API's own host; empty where the page has no such object.
type PageLinks struct {
	Self      string `json:"self"`
	Image     string `json:"image,omitempty" doc:"the page as it was rendered, PNG"`
	Annotated string `json:"annotated,omitempty" doc:"the page with its boxes drawn, PNG"`
}

// Box is one thing found on a page.
type Box struct {
	K     int        `json:"k" doc:"number of the box on its page, from 1, by falling score"`
	Class string     `json:"class"`
	Score float64    `json:"score" doc:"0 to 1"`
	Rect  [4]float64 `json:"box" doc:"x0, y0, x1, y1 in pixels of the page image, origin top left"`
	Text  string     `json:"text,omitempty" doc:"text of the lines inside the box"`
	Crop  string     `json:"crop,omitempty" doc:"path of what the box cuts from the page, PNG; absent below the class's threshold"`
}

// PageList is a part of the pages of a run, by number.
type PageList struct {
	RunID string `json:"run_id,omitempty" format:"uuid" doc:"absent until there is a run"`
	Pages []Page `json:"pages"`
	Next  string `json:"next,omitempty" doc:"cursor of the next part; absent at the end"`
}

// Detection is one box with all that is needed to use it alone.
type Detection struct {
	DocumentID string `json:"document_id" format:"uuid"`
	RunID      string `json:"run_id" format:"uuid"`
	Model      string `json:"model"`
	Page       int    `json:"page"`
	Box
	DPI       int    `json:"dpi"`
	Width     int    `json:"width" doc:"pixels of the page image"`
	Height    int    `json:"height" doc:"pixels of the page image"`
	Image     string `json:"image" doc:"path of the page image"`
	Annotated string `json:"annotated" doc:"path of the annotated page"`
}

// DetectionList is a part of the boxes of a run, by page and number.
type DetectionList struct {
	RunID      string      `json:"run_id,omitempty" format:"uuid" doc:"absent until there is a run"`
	Detections []Detection `json:"detections"`
	Next       string      `json:"next,omitempty" doc:"cursor of the next part; absent at the end"`
}

// LinksOfPage are the links of page n of a run, with those of its images where it has them.
func LinksOfPage(documentID, runID string, n int, done bool) PageLinks {
	query := "?run=" + url.QueryEscape(runID)
	self := fmt.Sprintf("/v1/documents/%s/pages/%d", documentID, n)
	links := PageLinks{Self: self + query}
	if done {
		links.Image = self + "/image" + query
		links.Annotated = self + "/annotated" + query
	}
	return links
}

// CropLink is the path of what box k of page n of a run cuts from the page.
func CropLink(documentID, runID string, n, k int) string {
	return fmt.Sprintf("/v1/documents/%s/pages/%d/crops/%d?run=%s", documentID, n, k, url.QueryEscape(runID))
}

// PageDone and PageFailed are the states of a page that has a row; PageQueued is that of one which has none yet.
const (
	PageQueued = string(schemas.Queued)
	PageDone   = "done"
	PageFailed = "failed"
)
