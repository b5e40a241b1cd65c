package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/pkg/fault"
	"leafcutter/schemas/api"
)

var update = flag.Bool("update", false, "rewrite the table in docs/errors.md")

// constants are the codes as the source declares them.
func constants(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "catalogue.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || fmt.Sprint(spec.Type) != "Code" {
			return true
		}
		for _, v := range spec.Values {
			code, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes[code] = true
		}
		return true
	})
	if len(codes) < 30 {
		t.Fatalf("only %d codes found in the source", len(codes))
	}
	return codes
}

func TestEveryCodeIsExplained(t *testing.T) {
	codes := constants(t)
	shape := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	for _, e := range problem.Catalogue() {
		if !codes[string(e.Code)] {
			t.Errorf("%s is explained twice, or is none", e.Code)
		}
		delete(codes, string(e.Code))
		if !shape.MatchString(string(e.Code)) || http.StatusText(e.Status) == "" || e.Title == "" || !strings.HasSuffix(e.Advice, ".") {
			t.Errorf("%+v", e)
		}
	}
	for code := range codes {
		t.Errorf("%s is not explained", code)
	}
}

func TestDocsErrors(t *testing.T) {
	const path = "../../../docs/errors.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), " -update` -->\n")
	_, after, closed := strings.Cut(rest, "<!-- api codes end -->")
	if !ok || !closed {
		t.Fatal("docs/errors.md has lost the marks around the API's codes")
	}
	want := before + " -update` -->\n\n" + problem.Markdown() + "\n<!-- api codes end -->" + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(text) {
		t.Error("docs/errors.md is not what the code says: go test ./ingest-api/internal/problem -update")
	}
}

func TestFrom(t *testing.T) {
	mine := problem.New(problem.UnknownModel, "There is no model %q", "x")
	for name, c := range map[string]struct {
		err    error
		code   string
		status int
		retry  bool
	}{
		"a problem":                 {fmt.Errorf("while testing: %w", mine), "unknown-model", 422, false},
		"S3 is away":                {fmt.Errorf("put: %w", fault.AsUnavailable("s3", errors.New("refused"))), "s3-unavailable", 503, true},
		"Kafka is away":             {fault.AsUnavailable("kafka", errors.New("refused")), "kafka-unavailable", 503, true},
		"ClickHouse is away":        {fault.AsUnavailable("clickhouse", errors.New("refused")), "clickhouse-unavailable", 503, true},
		"a statement is refused":    {fault.AsPermanent("statement-rejected", errors.New("syntax")), "dependency-error", 502, false},
		"the client or we are gone": {context.Canceled, "shutting-down", 503, true},
		"anything else":             {errors.New("a secret"), "internal", 500, false},
	} {
		p := problem.From(c.err, "The test")
		if p.Code != c.code || p.Status != c.status || (p.GetHeaders().Get("Retry-After") != "") != c.retry {
			t.Errorf("%s: %+v", name, p.Problem)
		}
		if strings.Contains(p.Detail, "refused") || strings.Contains(p.Detail, "secret") {
			t.Errorf("%s: the cause is told: %s", name, p.Detail)
		}
	}
}

func TestJSON(t *testing.T) {
	p := problem.Because(errors.New("cause"), problem.InvalidRequest, "It is wrong")
	p.RetryAfter = 1500 * time.Millisecond
	p.RequestID = "r1"
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"type", "title", "status", "code", "detail", "request_id"} {
		if fields[name] == nil {
			t.Errorf("%s is missing in %s", name, body)
		}
		delete(fields, name)
	}
	if len(fields) > 0 {
		t.Errorf("more than is said: %v", fields)
	}
	if got := p.GetHeaders().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After %s: rounded down, a client would come too early", got)
	}
	if p.ContentType("application/json") != "application/problem+json" {
		t.Error(p.ContentType("application/json"))
	}
	if many := problem.Invalid(api.ProblemFault{Message: "a"}, api.ProblemFault{Message: "b"}); len(many.Errors) != 2 || !strings.Contains(many.Detail, "2 faults") {
		t.Errorf("%+v", many.Problem)
	}
}
