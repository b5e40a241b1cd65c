package pagesplitter

import (
	"bytes"
	"context"
	"io"
	"testing"

	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

// TestStopWithinARange: a stop that comes between two pages gives no result for
// the range. What was not looked at is no page.
func TestStopWithinARange(t *testing.T) {
	b := newBench(t)
	d := schemas.DocumentSubmitted{DocumentID: "0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b", Source: b.put(t, "inbox/three.pdf", testpdf.Text(3))}
	outs, _ := handle(t, b.planner.Stage(), reference(t, d))
	ranges := on[schemas.PageRange](t, outs, schemas.TopicPageRanges)
	if len(ranges) != 1 {
		t.Fatalf("%d ranges", len(ranges))
	}
	out, err := stage.Emit(schemas.TopicPageRanges, ranges[0].Key(), ranges[0])
	if err != nil {
		t.Fatal(err)
	}
	in := stage.In{Topic: out.Topic, Key: out.Key, Value: out.Value, Headers: out.Headers, Attempt: 1}
	if outs, result := handle(t, b.splitter.Stage(), in); result.Err != nil || len(outs) != 3 {
		t.Fatalf("undisturbed: %d records, %v", len(outs), result.Err)
	}
	ctx, stop := context.WithCancel(t.Context())
	b.splitter.store = stopping{b.store, stop}
	if result := b.splitter.Handle(ctx, in); result.Err == nil || len(result.Out) != 0 {
		t.Errorf("stopped after its first page: %d records, %v", len(result.Out), result.Err)
	}
}

// stopping is a store that stops its caller once it has opened an object.
type stopping struct {
	Store
	stop func()
}

func (s stopping) Open(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	body, info, err := s.Store.Open(ctx, key)
	if err != nil {
		return nil, info, err
	}
	held, err := io.ReadAll(body)
	_ = body.Close()
	s.stop()
	return io.NopCloser(bytes.NewReader(held)), info, err
}

func (s stopping) Exists(context.Context, string) (bool, error) { return true, nil }
