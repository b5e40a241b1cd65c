package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"leafcutter/ingest-api/internal/submission"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// accept puts the marker of an accepted document into the bucket, of which no table knows anything yet.
func (s *served) accept(id string) {
	s.Helper()
	marker, err := json.Marshal(submission.Submission{Document: schemas.DocumentSubmitted{DocumentID: id, Title: "T", Source: "s3://bucket/x"}})
	if err != nil {
		s.Fatal(err)
	}
	if err := s.store.Put(context.Background(), schemas.SubmissionKey(id), marker, ""); err != nil {
		s.Fatal(err)
	}
}

// asks sends a request that asks something of a document, and gives status and answer.
func (s *served) asks(method, path string) (int, api.Controlled) {
	s.Helper()
	response, body := s.do(method, path, "")
	var done api.Controlled
	if err := json.Unmarshal([]byte(body), &done); err != nil {
		s.Fatalf("%s %s: %d %s", method, path, response.StatusCode, body)
	}
	return response.StatusCode, done
}

// produced is what went onto the topics since it was last asked for, a word each: topic/action of a control, else topic.
func (s *served) produced() string {
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	var all []string
	for _, out := range s.records.outs {
		word := out.Topic
		if c, err := schemas.Unmarshal[schemas.Control](out.Value); err == nil && out.Topic == schemas.TopicControls {
			word += "/" + c.Action
		}
		all = append(all, word)
	}
	s.records.outs = nil
	return strings.Join(all, " ")
}

const anID = "0198a000-0000-7000-8000-00000000000a"

// A document whose turn with the planner has not come can be cancelled, resumed and deleted; whatever is asked twice is
// done once.
func TestControlsOfAQueuedDocument(t *testing.T) {
	s := serve(t, nil)
	s.accept(anID)
	at := "/v1/documents/" + anID
	var before int64
	for _, c := range []struct {
		method, path string
		state        schemas.State // then, as the API says it
		produced     string
	}{
		{http.MethodPost, at + "/cancel", schemas.Cancelled, "controls/cancel"},
		{http.MethodPost, at + "/resume", schemas.Queued, "controls/resume documents"},
		{http.MethodPost, at + "/cancel", schemas.Cancelled, "controls/cancel"},
		{http.MethodDelete, at, "", "controls/delete"},
	} {
		status, done := s.asks(c.method, c.path)
		if status != http.StatusAccepted || done.DocumentID != anID || done.Sequence <= before || !strings.HasSuffix(c.path, done.Action) && done.Action != "delete" {
			t.Errorf("%s %s: %d %+v", c.method, c.path, status, done)
		}
		before = done.Sequence
		if got := s.produced(); got != c.produced {
			t.Errorf("%s %s: produced %q, want %q", c.method, c.path, got, c.produced)
		}
		if status, done := s.asks(c.method, c.path); status != http.StatusOK || done.Sequence != 0 {
			t.Errorf("%s %s again: %d %+v", c.method, c.path, status, done)
		}
		if got := s.produced(); got != "" {
			t.Errorf("%s %s again: produced %q", c.method, c.path, got)
		}
		if c.state == "" {
			continue
		}
		var d api.Document
		if _, body := s.do(http.MethodGet, at, ""); json.Unmarshal([]byte(body), &d) != nil || d.State != c.state {
			t.Errorf("after %s: %s", c.path, body)
		}
		if c.state != schemas.Cancelled {
			continue
		}
		if _, events := s.do(http.MethodGet, at+"/events", ""); !strings.Contains(events, "event: end") {
			t.Errorf("after %s the events go on: %s", c.path, events)
		}
	}
	for _, path := range []string{"", "/pages", "/pages/1", "/pages/1/image", "/pages/1/crops/1", "/detections", "/source", "/events"} {
		if code := s.code(s.do(http.MethodGet, at+path, "")); code != "document-deleted" {
			t.Errorf("GET %s of a deleted document: %s", path, code)
		}
	}
	for _, path := range []string{"/cancel", "/resume"} {
		if response, body := s.do(http.MethodPost, at+path, ""); response.StatusCode != http.StatusGone || s.code(response, body) != "document-deleted" {
			t.Errorf("POST %s of a deleted document: %d %s", path, response.StatusCode, body)
		}
	}
}

// Who follows a document that is deleted is told to stop, by the end of the stream.
func TestEventsOfADocumentThatIsDeleted(t *testing.T) {
	s := serve(t, nil)
	s.accept(anID)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v1/documents/"+anID+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	if !lines.Scan() || lines.Text() != "event: progress" {
		t.Fatalf("the first line is %q", lines.Text())
	}
	s.asked.Asked(schemas.Control{DocumentID: anID, Action: schemas.ActionDelete, Sequence: 1})
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "event: end") {
			t.Error("a deleted document has a final state")
		}
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
}

func TestControlsThatAreRefused(t *testing.T) {
	s := serve(t, nil)
	at := "/v1/documents/" + anID
	every := func(code string) {
		t.Helper()
		for _, c := range [][2]string{{http.MethodPost, at + "/cancel"}, {http.MethodPost, at + "/resume"}, {http.MethodDelete, at}} {
			if got := s.code(s.do(c[0], c[1], "")); got != code {
				t.Errorf("%s %s: %q, want %q", c[0], c[1], got, code)
			}
		}
		if got := s.produced(); got != "" {
			t.Errorf("%s, and produced %s", code, got)
		}
	}
	every("document-not-found")
	if got := s.code(s.do(http.MethodDelete, "/v1/documents/nothing", "")); got != "document-not-found" {
		t.Error(got)
	}
	s.rows.err = fault.AsUnavailable("clickhouse", context.DeadlineExceeded)
	every("clickhouse-unavailable")
	if got := s.code(s.do(http.MethodPost, at+"/cancel", "", "Sec-Fetch-Site", "cross-site")); got != "origin-not-allowed" {
		t.Errorf("from the page of another site: %q", got)
	}
}

// While Kafka is away nothing is asked for, and that is said: a control that is not durable does not hold.
func TestControlsWithoutKafka(t *testing.T) {
	s := serve(t, nil)
	s.accept(anID)
	s.records.err = fault.AsUnavailable("kafka", context.DeadlineExceeded)
	at := "/v1/documents/" + anID
	if got := s.code(s.do(http.MethodDelete, at, "")); got != "kafka-unavailable" {
		t.Error(got)
	}
	if response, body := s.do(http.MethodGet, at, ""); response.StatusCode != http.StatusOK {
		t.Errorf("after a delete that failed: %d %s", response.StatusCode, body)
	}
}

// Before it is known what was asked earlier, nothing is asked: the sequence might be too low to hold.
func TestControlsBeforeTheTopicIsRead(t *testing.T) {
	asked := controls.New(nil)
	s := serve(t, nil)
	s.accept(anID)
	s.control.Asked = asked
	if got := s.code(s.do(http.MethodPost, "/v1/documents/"+anID+"/cancel", "")); got != "kafka-unavailable" {
		t.Error(got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	asked.Follow(ctx, kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if asked.Ready() == nil {
		t.Error("a topic that nobody could read is read")
	}
}
