package e2e

import (
	"slices"
	"testing"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// One trace leads a page from the upload through every stage to its row.
func TestTraceJoinsTheStages(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	id := submit(ctx, t, p, sample(t), client.Options{})
	await(ctx, t, p, id, schemas.Completed)
	var pages []struct {
		TraceID string `ch:"trace_id"`
	}
	ok(t, p.Select(ctx, &pages, "SELECT trace_id FROM page_results FINAL WHERE document_id = ? ORDER BY page", id))
	if len(pages) == 0 || pages[0].TraceID == "" {
		t.Fatalf("the pages have traces %+v", pages)
	}
	want := []string{"annotator", "detector", "ingest-api", "page-splitter", "recorder"}
	var services []struct {
		Name string `ch:"ServiceName"`
	}
	eventually(ctx, t, "the trace joins all stages", func() (bool, error) {
		services = services[:0]
		err := p.Select(ctx, &services, "SELECT DISTINCT ServiceName FROM otel_traces WHERE TraceId = ? ORDER BY ServiceName", pages[0].TraceID)
		var names []string
		for _, s := range services {
			names = append(names, s.Name)
		}
		return slices.Equal(names, want), err
	})
	// Every span but the first has its parent in the trace.
	var orphans []struct {
		Service string `ch:"ServiceName"`
		Name    string `ch:"SpanName"`
	}
	eventually(ctx, t, "every span has its parent", func() (bool, error) {
		orphans = orphans[:0]
		err := p.Select(ctx, &orphans, `SELECT ServiceName, SpanName FROM otel_traces WHERE TraceId = ? AND ParentSpanId != ''
			AND ParentSpanId NOT IN (SELECT SpanId FROM otel_traces WHERE TraceId = ?)`, pages[0].TraceID, pages[0].TraceID)
		return len(orphans) == 0, err
	})
}
