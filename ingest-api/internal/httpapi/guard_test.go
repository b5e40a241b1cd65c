package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"leafcutter/ingest-api/internal/httpapi"
)

const key = "0123456789abcdef"

func TestAPIKeys(t *testing.T) {
	s := serve(t, func(c *httpapi.Config, _ *httpapi.Parts) { c.APIKeys = []string{"another-key-of-ours", key} })
	for name, c := range map[string]struct {
		path    string
		headers []string
		code    string
	}{
		"none":              {"/v1/documents", nil, "unauthorized"},
		"wrong":             {"/v1/documents", []string{"X-API-Key", key + "0"}, "unauthorized"},
		"empty":             {"/v1/documents", []string{"Authorization", "Bearer "}, "unauthorized"},
		"basic":             {"/v1/documents", []string{"Authorization", "Basic " + key}, "unauthorized"},
		"bearer":            {"/v1/documents", []string{"Authorization", "Bearer " + key}, ""},
		"header":            {"/v1/documents", []string{"X-API-Key", key}, ""},
		"cookie":            {"/v1/documents", []string{"Cookie", httpapi.KeyCookie + "=" + key}, ""},
		"docs need none":    {"/docs", nil, ""},
		"OpenAPI neither":   {"/openapi.json", nil, ""},
		"nothing is hidden": {"/v2/nothing", nil, "unauthorized"},
	} {
		response, body := s.do(http.MethodGet, c.path, "", c.headers...)
		if got := s.code(response, body); got != c.code {
			t.Errorf("%s: %q, want %q", name, got, c.code)
		}
		if c.code == "unauthorized" && response.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
	}
	if response, _ := s.do(http.MethodGet, "/", "", "Accept", "text/html"); response.StatusCode != http.StatusSeeOther || response.Header.Get("Location") != "/login" {
		t.Errorf("a browser is answered %d", response.StatusCode)
	}
	if strings.Contains(s.logs.String(), key) {
		t.Error("a key is in the log")
	}
}

func TestOtherSites(t *testing.T) {
	s := serve(t, func(c *httpapi.Config, p *httpapi.Parts) {
		p.Loopback = true
		c.CORSOrigins = []string{"https://app.example.org"}
	})
	form := []string{"Content-Type", "application/json"}
	for name, c := range map[string]struct {
		method  string
		headers []string
		code    string
	}{
		"a name that points here": {http.MethodGet, []string{"Host", "evil.example.org"}, "host-not-allowed"},
		"localhost":               {http.MethodGet, []string{"Host", "LOCALHOST:8090"}, ""},
		"IPv6":                    {http.MethodGet, []string{"Host", "[::1]:8090"}, ""},
		"a form elsewhere":        {http.MethodPost, append(form, "Origin", "https://evil.example.org"), "origin-not-allowed"},
		"the same by metadata":    {http.MethodPost, append(form, "Sec-Fetch-Site", "cross-site"), "origin-not-allowed"},
		"reading elsewhere":       {http.MethodGet, []string{"Origin", "https://evil.example.org"}, ""},
		"our own page":            {http.MethodPost, append(form, "Sec-Fetch-Site", "same-origin"), "malformed-upload"},
		"a program":               {http.MethodPost, form, "malformed-upload"},
		"an allowed origin":       {http.MethodPost, append(form, "Origin", "https://app.example.org", "Sec-Fetch-Site", "cross-site"), "malformed-upload"},
	} {
		response, body := s.do(c.method, "/v1/documents", "", c.headers...)
		if got := s.code(response, body); got != c.code {
			t.Errorf("%s: %q, want %q", name, got, c.code)
		}
		allowed := response.Header.Get("Access-Control-Allow-Origin")
		if want := name == "an allowed origin"; (allowed == "https://app.example.org") != want || !want && allowed != "" {
			t.Errorf("%s: may be read by %q", name, allowed)
		}
	}
	ask := []string{"Access-Control-Request-Method", "POST", "Origin"}
	if response, _ := s.do(http.MethodOptions, "/v1/documents", "", append(ask, "https://app.example.org")...); response.StatusCode != http.StatusNoContent ||
		!strings.Contains(response.Header.Get("Access-Control-Allow-Headers"), "Idempotency-Key") {
		t.Errorf("preflight: %d %v", response.StatusCode, response.Header)
	}
	if response, _ := s.do(http.MethodOptions, "/v1/documents", "", append(ask, "https://evil.example.org")...); response.Header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("preflight from elsewhere: %v", response.Header)
	}
}

func TestRates(t *testing.T) {
	s := serve(t, func(c *httpapi.Config, _ *httpapi.Parts) {
		c.RateLimit, c.RateBurst = 0.001, 3
		c.APIKeys = []string{key, "another-key-of-ours"}
	})
	for i := range 4 {
		response, body := s.do(http.MethodGet, "/v1/models", "", "X-API-Key", key)
		if got := s.code(response, body); got != map[bool]string{true: "rate-limited"}[i == 3] {
			t.Errorf("request %d: %q", i, got)
		}
		if i == 3 && response.Header.Get("Retry-After") != "1000" {
			t.Errorf("Retry-After %q", response.Header.Get("Retry-After"))
		}
	}
	if response, _ := s.do(http.MethodGet, "/v1/models", "", "X-API-Key", "another-key-of-ours"); response.StatusCode != http.StatusOK {
		t.Errorf("another key shares the limit: %d", response.StatusCode)
	}
}

func TestHeaders(t *testing.T) {
	s := serve(t, nil)
	response, _ := s.do(http.MethodGet, "/v1/models", "", "X-Request-Id", "mine-1")
	for name, want := range map[string]string{
		"X-Request-Id": "mine-1", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cross-Origin-Opener-Policy": "same-origin",
	} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if csp := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") {
		t.Error(csp)
	}
	response, _ = s.do(http.MethodGet, "/v1/models", "", "X-Request-Id", "a\"b<script>")
	if id := response.Header.Get("X-Request-Id"); strings.ContainsAny(id, `"<`) || len(id) != 24 {
		t.Errorf("a client's odd id is taken: %q", id)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	err := httpapi.Config{APIKeys: []string{"short"}, CORSOrigins: []string{"example.org/x"}, RateLimit: -1, ObjectLinks: "x"}.Validate()
	for _, name := range []string{"API_KEYS", "CORS_ORIGINS", "RATE_LIMIT", "RATE_BURST", "MAX_UPLOAD_BYTES", "UPLOAD_TIMEOUT", "OBJECT_LINKS"} {
		if err == nil || !strings.Contains(err.Error(), "LEAFCUTTER_"+name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
	if strings.Contains(err.Error(), "short") {
		t.Error("a key is told")
	}
	if err := (httpapi.Config{RateBurst: 1, MaxUpload: 1, UploadTimeout: time.Second, StallTimeout: time.Second, ObjectLinks: "redirect"}).Validate(); err != nil {
		t.Error(err)
	}
}
