package annotator

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// about reads what a record is about, as far as it can be read: records that are condemned may be broken.
func about(in stage.In) stage.About {
	var r struct {
		DocumentID string `json:"document_id"`
		RunID      string `json:"run_id"`
		Page       int    `json:"page"`
	}
	if json.Unmarshal(in.Value, &r) != nil {
		return stage.About{}
	}
	return stage.About{DocumentID: r.DocumentID, RunID: r.RunID, Page: r.Page}
}

// maxErrorText is the size in bytes of the longest error that a PageFailed tells.
const maxErrorText = 4 << 10

// condemned is the PageFailed of a record that was given up. A record that does not name its page fails no page: its
// dead letter is all there is to say.
func condemned(in stage.In, code string, cause error) []stage.Out {
	page, err := schemas.Unmarshal[schemas.PageDetected](in.Value)
	if err != nil {
		return nil
	}
	failed := schemas.PageFailed{
		Run: page.Run, Page: page.Page, Stage: Name, Code: code, FailedAt: time.Now().UTC(),
	}
	if cause != nil {
		text := cause.Error()
		failed.Error = strings.ToValidUTF8(text[:min(len(text), maxErrorText)], "")
	}
	// The handler went on with the trace that the record came with, so that is where to look.
	came := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(in.Headers))
	if span := trace.SpanContextFromContext(came); span.HasTraceID() {
		failed.TraceID = span.TraceID().String()
	}
	out, err := stage.Emit(schemas.TopicResults, page.DocumentID, failed)
	if err != nil {
		return nil // it was read from JSON, so it can be written as JSON
	}
	return []stage.Out{out}
}
