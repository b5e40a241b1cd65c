package e2e

import (
	"strings"
	"testing"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// One trace leads a page from the upload through every stage to the recorder, whose span is in it or, where records were
// landed in one batch, is linked to it.
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
	of := pages[0].TraceID
	const want = "annotator/annotator detector/detector ingest-api/ page-splitter/planner page-splitter/splitter recorder/recorder"
	found := ""
	eventually(ctx, t, "the trace joins all stages", func() (bool, error) {
		var spans []struct {
			Who string `ch:"who"`
		}
		err := p.Select(ctx, &spans, `SELECT DISTINCT concat(ServiceName, '/', if(endsWith(SpanName, ' process'), splitByChar(' ', SpanName)[1], '')) AS who
			FROM otel_traces WHERE (TraceId = ? OR has(Links.TraceId, ?)) AND (endsWith(SpanName, ' process') OR ServiceName = 'ingest-api') ORDER BY who`, of, of)
		names := make([]string, len(spans))
		for i, s := range spans {
			names[i] = s.Who
		}
		if now := strings.Join(names, " "); now != found {
			found = now
			t.Logf("spans of %s", found)
		}
		return found == want, err
	})
	// Every span but the first has its parent in the trace.
	eventually(ctx, t, "every span has its parent", func() (bool, error) {
		var orphans []struct {
			Service string `ch:"ServiceName"`
			Name    string `ch:"SpanName"`
		}
		err := p.Select(ctx, &orphans, `SELECT ServiceName, SpanName FROM otel_traces WHERE TraceId = ? AND ParentSpanId != ''
			AND ParentSpanId NOT IN (SELECT SpanId FROM otel_traces WHERE TraceId = ?)`, of, of)
		return len(orphans) == 0, err
	})
}
