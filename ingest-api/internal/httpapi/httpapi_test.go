package httpapi_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"leafcutter/ingest-api/internal/httpapi"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/pkg/fault"
	"leafcutter/schemas"
)

var update = flag.Bool("update", false, "rewrite schemas/openapi.json")

func TestOpenAPI(t *testing.T) {
	const path = "../../../schemas/openapi.json"
	s := serve(t, func(_ *httpapi.Config, p *httpapi.Parts) { p.Version = "1" })
	_, body := s.do(http.MethodGet, "/openapi.json", "")
	var got bytes.Buffer
	if err := json.Indent(&got, []byte(body), "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got.Bytes()) {
		t.Error("schemas/openapi.json is not what the API says: go test ./ingest-api/internal/httpapi -update")
	}

	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Responses   map[string]struct{ Content map[string]json.RawMessage }
		}
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal(got.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) < 12 {
		t.Errorf("version %q, %d paths", doc.OpenAPI, len(doc.Paths))
	}
	seen := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.OperationID == "" || seen[op.OperationID] || op.Summary == "" {
				t.Errorf("%s %s: id %q, summary %q", method, path, op.OperationID, op.Summary)
			}
			seen[op.OperationID] = true
			if _, ok := op.Responses["default"].Content["application/problem+json"]; !ok {
				t.Errorf("%s %s does not say how it fails", method, path)
			}
		}
	}
	if _, ok := doc.Components.Schemas["ErrorModel"]; ok {
		t.Error("the library's own shape of errors is in the document")
	}
	for _, ref := range strings.Split(body, `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(ref, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("there is no schema %s", name)
		}
	}
}

func TestDocsPage(t *testing.T) {
	s := serve(t, nil)
	response, page := s.do(http.MethodGet, "/docs", "")
	if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
		t.Fatalf("%d %v", response.StatusCode, response.Header)
	}
	for _, e := range problem.Catalogue() {
		if !strings.Contains(page, `id="`+string(e.Code)+`"`) {
			t.Errorf("%s cannot be linked to", e.Code)
		}
	}
	_, document := s.do(http.MethodGet, "/openapi.json", "")
	for _, operation := range strings.Split(document, `"operationId":"`)[1:] {
		if id, _, _ := strings.Cut(operation, `"`); !strings.Contains(page, `id="`+id+`"`) {
			t.Errorf("operation %s is missing", id)
		}
	}
	for _, want := range []string{"/v1/documents/{id}/pages/{page}/crops/{k}", "/api/create/", "min_score", "Idempotency-Key", "thresholds"} {
		if !strings.Contains(page, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(page, "https://") || strings.Contains(page, "<script") {
		t.Error("the page needs something from elsewhere")
	}
}

func TestWhatIsNotServed(t *testing.T) {
	s := serve(t, nil)
	for _, c := range []struct{ method, path, code string }{
		{http.MethodGet, "/nothing", "not-found"},
		{http.MethodDelete, "/v1/documents", "method-not-allowed"},
		{http.MethodGet, "/v1/documents?limit=many", "invalid-request"},
		{http.MethodGet, "/v1/documents?limit=501", "invalid-request"},
		{http.MethodGet, "/v1/documents/x/pages/x", "invalid-request"},
		{http.MethodGet, "/v1/documents/x", "document-not-found"},
		{http.MethodGet, "/v1/documents/x/events", "document-not-found"},
		{http.MethodGet, "/v1/documents?cursor=%00", "invalid-cursor"},
		{http.MethodGet, "/v1/documents/" + schemas.NewDocumentID(time.Now()) + "/source", "object-not-found"},
	} {
		response, body := s.do(c.method, c.path, "")
		if got := s.code(response, body); got != c.code {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, got, c.code)
		}
	}
	if response, _ := s.do(http.MethodDelete, "/v1/documents", ""); response.Header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
}

func TestFaultsBehind(t *testing.T) {
	s := serve(t, nil)
	s.rows.err = fault.AsUnavailable("clickhouse", fmt.Errorf("dial 10.0.0.1: refused"))
	response, body := s.do(http.MethodGet, "/v1/documents", "")
	if s.code(response, body) != "clickhouse-unavailable" || response.Header.Get("Retry-After") == "" || strings.Contains(body, "10.0.0.1") {
		t.Errorf("%d %v %s", response.StatusCode, response.Header, body)
	}
	if !strings.Contains(s.logs.String(), "10.0.0.1") {
		t.Error("the cause is not in the log")
	}
	s.rows.explode = true
	response, body = s.do(http.MethodGet, "/v1/documents", "")
	if s.code(response, body) != "internal" || strings.Contains(body, "exploded") || !strings.Contains(s.logs.String(), "exploded") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// form is a multipart body with one file.
func form(content string) (body string, headers []string) {
	return "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.pdf\"\r\n\r\n" + content + "\r\n--b--\r\n",
		[]string{"Content-Type", "multipart/form-data; boundary=b"}
}

func TestSubmission(t *testing.T) {
	s := serve(t, nil)
	body, headers := form("%PDF-1.7 hello")
	response, answer := s.do(http.MethodPost, "/v1/documents", body, headers...)
	if response.StatusCode != http.StatusAccepted || response.Header.Get("Location") == "" || len(s.records.outs) != 1 {
		t.Fatalf("%d %s", response.StatusCode, answer)
	}
	response, answer = s.do(http.MethodGet, response.Header.Get("Location"), "")
	if response.StatusCode != http.StatusOK || !strings.Contains(answer, `"state":"queued"`) {
		t.Errorf("%d %s", response.StatusCode, answer)
	}
	s.records.err = fault.AsUnavailable("kafka", io.ErrUnexpectedEOF)
	response, answer = s.do(http.MethodPost, "/v1/documents", body, headers...)
	if s.code(response, answer) != "kafka-unavailable" || response.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", response.StatusCode, answer)
	}
}

func TestRedirects(t *testing.T) {
	s := serve(t, func(c *httpapi.Config, _ *httpapi.Parts) { c.ObjectLinks = "redirect" })
	body, headers := form("%PDF-1.7 hello")
	response, _ := s.do(http.MethodPost, "/v1/documents", body, headers...)
	response, _ = s.do(http.MethodGet, response.Header.Get("Location")+"/source", "")
	if to := response.Header.Get("Location"); response.StatusCode != http.StatusFound || !strings.HasPrefix(to, "https://s3.example.org/documents/") || !strings.HasSuffix(to, "ttl=15m0s") {
		t.Errorf("%d to %q", response.StatusCode, to)
	}
}

// A source is somebody else's file under our name: it must not run as a page of ours, whatever its type claims.
func TestSourceIsADownload(t *testing.T) {
	s := serve(t, nil)
	body, headers := form("%PDF-1.7 <script>alert(1)</script>")
	response, _ := s.do(http.MethodPost, "/v1/documents", body, headers...)
	response, answer := s.do(http.MethodGet, response.Header.Get("Location")+"/source", "")
	if response.StatusCode != http.StatusOK || !strings.Contains(answer, "<script>") {
		t.Fatalf("%d %s", response.StatusCode, answer)
	}
	h := response.Header
	if h.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") ||
		!strings.HasPrefix(h.Get("Content-Security-Policy"), "sandbox") || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", h)
	}
}

// Many clients send everything before they read anything. A connection closed on unread bytes would take the refusal
// with it.
func TestRefusalIsReadByAClientThatSendsFirst(t *testing.T) {
	s := serve(t, nil)
	content := "%PDF-1.7" + strings.Repeat("x", 16<<20)
	body, _ := form(content)
	for name, head := range map[string]string{
		"by its length":  fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)),
		"while it comes": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", len(body)),
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, "POST /v1/documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"+head+body+"\r\n0\r\n\r\n")
		if err != nil {
			t.Errorf("%s: sending: %v", name, err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _ = response.Body.Close(); response.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %s", name, response.Status)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A client that asks for leave before it sends gets the refusal instead, and never sends.
func TestRefusalBeforeTheBody(t *testing.T) {
	s := serve(t, nil)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	began := time.Now()
	if _, err := io.WriteString(conn, "POST /v1/documents HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 999999999\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _ = response.Body.Close(); response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(response.Status)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %s: the server waited for a body that never comes", took)
	}
}

func TestSlowUpload(t *testing.T) {
	s := serve(t, func(c *httpapi.Config, _ *httpapi.Parts) { c.StallTimeout = 200 * time.Millisecond })
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	body, _ := form("%PDF-1.7 and then nothing more")
	if _, err := io.WriteString(conn, "POST /v1/documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n"+body[:90]); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _ = response.Body.Close(); response.StatusCode != http.StatusRequestTimeout {
		t.Error(response.Status)
	}
}

func TestWatchersAreBounded(t *testing.T) {
	s := serve(t, nil)
	body, headers := form("%PDF-1.7 hello")
	response, _ := s.do(http.MethodPost, "/v1/documents", body, headers...)
	events := response.Header.Get("Location") + "/events"
	first, err := s.Client().Get(s.URL + events)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Body.Close() }()
	line, err := bufio.NewReader(first.Body).ReadString('\n')
	if err != nil || line != "event: progress\n" {
		t.Fatalf("%q %v", line, err)
	}
	response, answer := s.do(http.MethodGet, events, "")
	if got := s.code(response, answer); got != "too-many-watchers" {
		t.Errorf("a second one: %q", got)
	}
}
