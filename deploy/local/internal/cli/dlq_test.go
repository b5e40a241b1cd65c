package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"leafcutter/schemas/api"
)

const letterID = "36e5860d-fa9f-5c6c-b4f2-d4df393bf8ee"

// letterAPI answers as the API does about letters; asked keeps the replays.
func letterAPI(t *testing.T, content api.LetterContent, answers ...api.ReplayAnswer) (url string, asked *[]api.ReplayRequest) {
	t.Helper()
	asked = &[]api.ReplayRequest{}
	tell := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/dead-letters", func(w http.ResponseWriter, r *http.Request) {
		list := api.LetterList{Letters: []api.Letter{}}
		if r.URL.Query().Get("code") != "none" {
			list.Letters = append(list.Letters, content.Letter)
			if r.URL.Query().Get("cursor") == "" {
				list.Next = "more"
			}
		}
		tell(w, list)
	})
	mux.HandleFunc("GET /v1/dead-letters/{id}", func(w http.ResponseWriter, _ *http.Request) { tell(w, content) })
	mux.HandleFunc("POST /v1/dead-letters/replay", func(w http.ResponseWriter, r *http.Request) {
		var request api.ReplayRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		*asked = append(*asked, request)
		tell(w, answers[len(*asked)-1])
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, asked
}

func command(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e strings.Builder
	code = (&terminal{version: "test", in: strings.NewReader(""), out: &o, err: &e}).run(t.Context(), args)
	return code, o.String(), e.String()
}

func TestDLQListAndShow(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := api.LetterContent{Letter: api.Letter{LetterID: letterID, State: "open", Stage: "splitter", Code: "page-too-large", Error: "two\nlines", Attempts: 1,
		Title: strings.Repeat("long ", 20), Pages: []int{17, 18, 32}, Topic: "page-ranges", Bytes: 3, Failures: 1, FirstFailedAt: at, FailedAt: at}}
	url, _ := letterAPI(t, l)
	if code, out, _ := command(t, "dlq", "list", "--api", url); code != exitDone || strings.Count(out, letterID) != 2 || !strings.HasPrefix(out, "LETTER") || !strings.Contains(out, "…, pages 17 to 32") {
		t.Errorf("%d\n%s", code, out)
	}
	if code, out, _ := command(t, "dlq", "list", "--api", url, "-o", "json"); code != exitDone || strings.Count(out, "\n") != 2 || strings.Contains(out, "LETTER") {
		t.Errorf("%d\n%s", code, out)
	}
	if code, out, errs := command(t, "dlq", "list", "--api", url, "--code", "none"); code != exitDone || out != "" || errs != "no dead letters\n" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	for name, c := range map[string]struct {
		change func(*api.LetterContent)
		want   string
	}{
		"JSON":   {func(l *api.LetterContent) { l.Value = map[string]any{"a": 1} }, "{\n  \"a\": 1\n}"},
		"binary": {func(l *api.LetterContent) { l.ValueType = "application/pdf" }, "3 bytes, application/pdf"},
		"gone":   {func(l *api.LetterContent) { l.Missing = "letter-gone" }, "letter-gone"},
		"ref":    {func(l *api.LetterContent) { l.ValueRef = "s3://b/k" }, "s3://b/k"},
		"none":   {func(l *api.LetterContent) { l.Bytes = 0 }, "no value"},
	} {
		one := l
		c.change(&one)
		url, _ := letterAPI(t, one)
		code, out, _ := command(t, "dlq", "show", letterID, "--api", url)
		if code != exitDone || !strings.Contains(out, c.want) || !strings.Contains(out, "two lines") || !strings.Contains(out, "once, first") {
			t.Errorf("%s: %d\n%s", name, code, out)
		}
	}
}

func TestDLQReplay(t *testing.T) {
	done := api.ReplayAnswer{Replayed: []api.ReplayedLetter{{LetterID: letterID, Code: "timeout", Topic: "page-ranges", Replay: 1}}}
	url, asked := letterAPI(t, api.LetterContent{}, api.ReplayAnswer{Replayed: done.Replayed, Next: "more"}, done)
	code, out, errs := command(t, "dlq", "replay", "--code", "timeout", "--api", url)
	if code != exitDone || strings.Count(out, letterID+"  timeout → page-ranges") != 2 || errs != "2 replayed, 0 could not be\n" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if len(*asked) != 2 || (*asked)[0].Code != "timeout" || (*asked)[1].Cursor != "more" {
		t.Errorf("%+v", *asked)
	}
	refused := api.ReplayAnswer{DryRun: true, Unnoted: "clickhouse-unavailable", Refused: []api.RefusedLetter{{LetterID: letterID, Code: "letter-gone", Error: "dropped"}}}
	url, asked = letterAPI(t, api.LetterContent{}, refused)
	code, out, errs = command(t, "dlq", "replay", letterID, "--dry-run", "--api", url)
	if code != exitFailed || !strings.Contains(out, "not replayed: letter-gone: dropped") || !strings.Contains(errs, "0 would be replayed, 1 could not be") || !strings.Contains(errs, "clickhouse-unavailable") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if len(*asked) != 1 || !(*asked)[0].DryRun || len((*asked)[0].Letters) != 1 {
		t.Errorf("%+v", *asked)
	}
	// Two hundred letters go by one request.
	url, asked = letterAPI(t, api.LetterContent{}, done, done, done)
	many := []string{"dlq", "replay", "--api", url}
	for range 401 {
		many = append(many, letterID)
	}
	if code, _, errs := command(t, many...); code != exitDone || len(*asked) != 3 || len((*asked)[2].Letters) != 1 {
		t.Errorf("%d, %d requests: %s", code, len(*asked), errs)
	}
	for _, args := range [][]string{{"replay"}, {"replay", letterID, "--all"}, {"replay", "--all", "--code", "x"}, {"replay", "--all", "-o", "yaml"},
		{"list", "--state", "shut"}, {"list", "-o", "yaml"}, {"show"}, {"show", ""}, {"show", letterID, "-o", "yaml"}} {
		if code, _, errs := command(t, append([]string{"dlq"}, args...)...); code != exitUsage {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
}
