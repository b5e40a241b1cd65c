package stage

import (
	"encoding/json"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"leafcutter/schemas"
)

// AboutPage reads what a record of a run is about, as far as it can be read: records that are condemned may be broken.
// It is the Config.About of stages whose records name a page, or a range of one.
func AboutPage(in In) About {
	var r struct {
		DocumentID string `json:"document_id"`
		RunID      string `json:"run_id"`
		Page       int    `json:"page"`
		Pages      []int  `json:"pages"`
		Control    int64  `json:"control"`
	}
	if json.Unmarshal(in.Value, &r) != nil {
		return About{}
	}
	if len(r.Pages) == 1 {
		r.Page = r.Pages[0]
	}
	return About{DocumentID: r.DocumentID, RunID: r.RunID, Page: r.Page, Control: r.Control}
}

// PageFailed tells the rest of the pipeline that stage could not do a page of a run, for the reason given; in is the
// record that it came with, whose trace says more.
func PageFailed(in In, run schemas.Run, page int, stage, code string, cause error) (Out, error) {
	failed := schemas.PageFailed{Run: run, Page: page, Stage: stage, Code: code, Error: ErrorText(cause), FailedAt: time.Now().UTC()}
	if span := trace.SpanContextFromContext(extract(in)); span.HasTraceID() {
		failed.TraceID = span.TraceID().String()
	}
	return Emit(schemas.TopicResults, run.DocumentID, failed)
}

// ErrorText is err as results and dead letters tell it: UTF-8, of bounded length, "" for nil.
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	return strings.ToValidUTF8(cut(err.Error(), maxErrorText), "")
}
