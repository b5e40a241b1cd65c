package ingestapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	ingestapi "leafcutter/ingest-api"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/config"
	"leafcutter/schemas"
)

const key = "0123456789abcdef"

func TestBrowsersLogIn(t *testing.T) {
	w := start(t, func(c *ingestapi.Config) { c.HTTP.APIKeys = []string{key} })
	if _, err := w.api.Models(t.Context()); client.Code(err) != "unauthorized" {
		t.Errorf("without a key: %v", err)
	}
	if response, _ := w.get("/", "Accept", "text/html"); response.StatusCode != http.StatusSeeOther || response.Header.Get("Location") != "/login" {
		t.Errorf("a browser is answered %d", response.StatusCode)
	}
	if response, page := w.get("/login"); response.StatusCode != http.StatusOK || !strings.Contains(string(page), `type="password"`) {
		t.Errorf("login: %d", response.StatusCode)
	}
	post := func(key string) (reply, string) {
		r, err := http.NewRequest(http.MethodPost, w.base+"/login", strings.NewReader(url.Values{"key": {key}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply{StatusCode: response.StatusCode, Header: response.Header}, string(body)
	}
	if response, page := post("wrong"); response.StatusCode != http.StatusUnauthorized || !strings.Contains(page, "none of them") || response.Header.Get("Set-Cookie") != "" {
		t.Errorf("a wrong key: %d %v", response.StatusCode, response.Header)
	}
	response, _ := post(key)
	cookie := response.Header.Get("Set-Cookie")
	if response.StatusCode != http.StatusSeeOther || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") {
		t.Fatalf("%d %q", response.StatusCode, cookie)
	}
	pair, _, _ := strings.Cut(cookie, ";")
	if response, page := w.get("/", "Cookie", pair); response.StatusCode != http.StatusOK || !strings.Contains(string(page), "Choose a document") {
		t.Errorf("with the cookie: %d", response.StatusCode)
	}
	for _, path := range []string{"/assets/style.css", "/assets/app.js", "/assets/leaf.svg"} {
		if response, body := w.get(path); response.StatusCode != http.StatusOK || len(body) == 0 {
			t.Errorf("%s: %d", path, response.StatusCode)
		}
	}

	// The same Idempotency-Key of two API keys names two documents: nobody guesses another's.
	with, err := client.New(w.base, client.WithAPIKey(key))
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	accepted, err := with.Submit(t.Context(), "x.pdf", strings.NewReader(letter), client.Options{IdempotencyKey: "k"})
	if err != nil || accepted.DocumentID != schemas.DocumentIDForKey(key, "k") || accepted.DocumentID == schemas.DocumentIDForKey("", "k") {
		t.Errorf("%+v, %v", accepted, err)
	}
}

// A stop ends intake, and what is on its way is finished: the client is told its id, and what lasts for ever ends.
func TestStopLetsAnUploadFinish(t *testing.T) {
	w := start(t, nil)
	accepted, err := w.api.Submit(t.Context(), "x.pdf", strings.NewReader(letter), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	watching, err := w.api.Download(t.Context(), accepted.Links.Events)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watching.Close() }()
	events := bufio.NewReader(watching)
	if line, err := events.ReadString('\n'); err != nil || line != "event: progress\n" {
		t.Fatalf("%q, %v", line, err)
	}

	conn, err := net.Dial("tcp", w.cfg.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	body := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.pdf\"\r\n\r\n%PDF-1.7" + strings.Repeat("x", 1<<20) + "\r\n--b--\r\n"
	half := len(body) / 2
	if _, err := fmt.Fprintf(conn, "POST /v1/documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:half]); err != nil {
		t.Fatal(err)
	}
	// Connections are accepted in turn: one that came later was answered, so this one is with the server.
	if w.status("/readyz") != http.StatusOK {
		t.Error("not ready")
	}
	w.stop()
	if rest, err := io.ReadAll(events); err != nil || strings.Contains(string(rest), "event: end") {
		t.Errorf("events after the stop: %q, %v", rest, err)
	}
	w.until("it takes no more connections", func() bool {
		c, err := net.DialTimeout("tcp", w.cfg.Addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(conn, body[half:]); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _ = response.Body.Close(); response.StatusCode != http.StatusAccepted {
		t.Error(response.Status)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	var cfg ingestapi.Config
	_, err := config.Load("ingest-api", nil, []string{
		"LEAFCUTTER_API_ADDR=8090", "LEAFCUTTER_MAX_UPLOADS=0", "LEAFCUTTER_SPOOL_BYTES=1", "LEAFCUTTER_DEFAULT_MODEL=../x", "LEAFCUTTER_API_KEYS=short",
		"LEAFCUTTER_MAX_CONNECTIONS=0", "LEAFCUTTER_QUERY_TIMEOUT=0s", "S3_BUCKET=X", "CLICKHOUSE_ADDR=x:9000",
	}, &cfg)
	for _, name := range []string{"LEAFCUTTER_API_ADDR", "LEAFCUTTER_MAX_UPLOADS", "LEAFCUTTER_SPOOL_BYTES", "LEAFCUTTER_DEFAULT_MODEL", "LEAFCUTTER_API_KEYS",
		"LEAFCUTTER_MAX_CONNECTIONS", "LEAFCUTTER_QUERY_TIMEOUT", "S3_BUCKET", "CLICKHOUSE_ADDR"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
	cfg = ingestapi.Config{}
	if _, err := config.Load("ingest-api", nil, nil, &cfg); err != nil {
		t.Errorf("without any variable: %v", err)
	}
	for _, v := range config.Variables(&ingestapi.Config{}) {
		if v.Description == "" {
			t.Errorf("%s is not described", v.Name)
		}
	}
}
