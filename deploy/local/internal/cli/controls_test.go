package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// The commands ask what they say, tell what came of it, and go on where one document is not there.
func TestControlCommands(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		var done api.Controlled
		status := http.StatusAccepted
		switch id := strings.Split(r.URL.Path, "/")[3]; id {
		case "a":
			done = api.Controlled{DocumentID: "a", Sequence: 7, Pages: 3}
		case "b":
			done, status = api.Controlled{DocumentID: "b", State: schemas.Completed}, http.StatusOK
		default:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(api.Problem{Code: "document-not-found", Status: http.StatusNotFound, Detail: "There is no document c"})
			return
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(done)
	}))
	defer server.Close()
	for _, c := range []struct{ command, method, path, done, nothing string }{
		{"cancel", "POST", "/cancel", "a  cancelled\n", "b  nothing to cancel: it is completed\n"},
		{"resume", "POST", "/resume", "a  resumed, 3 pages asked for again\n", "b  nothing to resume: it is completed\n"},
		{"delete", "DELETE", "", "a  deleted\n", "b  deleted already\n"},
	} {
		asked = nil
		out := newHeard()
		err := run(t, out, newHeard(), nil, c.command, "--api", server.URL, "a", "c", "b")
		if err == nil || !strings.Contains(err.Error(), "c: ") || out.String() != c.done+c.nothing {
			t.Errorf("%s: %v\n%s", c.command, err, out)
		}
		at := c.method + " /v1/documents/"
		if got, want := strings.Join(asked, ", "), at+"a"+c.path+", "+at+"c"+c.path+", "+at+"b"+c.path; got != want {
			t.Errorf("%s asks %s, want %s", c.command, got, want)
		}
		out = newHeard()
		var line api.Controlled
		if err := run(t, out, newHeard(), nil, c.command, "-o", "json", "--api", server.URL, "a"); err != nil || json.Unmarshal([]byte(out.String()), &line) != nil || line.Sequence != 7 {
			t.Errorf("%s: %v\n%s", c.command, err, out)
		}
	}
}
