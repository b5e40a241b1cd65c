package sqlserver_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"leafcutter/deploy/local/localtest"
)

// ask is one request in the way of curl.
type ask struct {
	method  string // POST unless given
	user    string // of basic authentication
	pass    string
	query   url.Values
	body    string
	headers map[string]string
}

type reply struct {
	status int
	header http.Header
	body   string
	err    error // reading the body
}

func (a ask) send(t testing.TB, addr string) reply {
	t.Helper()
	method := a.method
	if method == "" {
		method = http.MethodPost
	}
	target := url.URL{Scheme: "http", Host: addr, Path: "/", RawQuery: a.query.Encode()}
	req, err := http.NewRequestWithContext(context.Background(), method, target.String(), strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if a.user != "" {
		req.SetBasicAuth(a.user, a.pass)
	}
	for name, value := range a.headers {
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, readErr := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body), readErr}
}

func write(sql string) ask { return ask{user: "leafcutter", pass: password, body: sql} }
func read(sql string) ask  { return ask{body: sql} }

// must runs statements as the writer.
func must(t testing.TB, addr string, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if r := write(sql).send(t, addr); r.status != http.StatusOK {
			t.Fatalf("%s\nanswers %d: %s", sql, r.status, r.body)
		}
	}
}

// want runs one statement as the reader and compares its answer.
func want(t testing.TB, addr, sql, answer string) {
	t.Helper()
	if r := read(sql).send(t, addr); r.status != http.StatusOK || r.body != answer {
		t.Errorf("%s\nanswers %d %q, want %q", sql, r.status, r.body, answer)
	}
}

func TestRequestsAsCurlSendsThem(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr, "CREATE TABLE leafcutter.t (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
	for _, c := range []struct {
		name   string
		ask    ask
		status int
		body   string // exact, or a part where status is not 200
		header map[string]string
	}{
		{"ping by query string", ask{method: "GET", query: url.Values{"query": {"SELECT 1"}}}, 200, "1\n",
			map[string]string{"Content-Type": "text/tab-separated-values; charset=UTF-8", "X-ClickHouse-Format": "TabSeparated"}},
		{"head", ask{method: "HEAD", query: url.Values{"query": {"SELECT 1"}}}, 200, "", nil},
		{"nothing asked", ask{method: "GET"}, 200, "Ok.\n", nil},
		{"empty", ask{body: "  "}, 400, "Code: 62. ", map[string]string{"X-ClickHouse-Exception-Code": "62"}},
		{"unknown table", read("SELECT * FROM nope"), 404, "Code: 60. DB::Exception: Unknown table expression identifier 'nope'",
			map[string]string{"X-ClickHouse-Exception-Code": "60", "Content-Type": "text/plain; charset=UTF-8"}},
		{"unknown table, writer", write("SELECT * FROM nope"), 404, "(UNKNOWN_TABLE) (version ", nil},
		{"syntax", read("SELEC 1"), 400, "Code: 62. DB::Exception: Syntax error", nil},
		{"unknown setting", ask{user: "leafcutter", pass: password, query: url.Values{"nope": {"1"}}, body: "SELECT 1"}, 404, "Code: 115. ", nil},
		{"unknown format", read("SELECT 1 FORMAT Nope"), 404, "Code: 73. DB::Exception: Unknown format Nope", nil},
		{"timeout", ask{query: url.Values{"max_execution_time": {"0.2"}}, body: "SELECT count() FROM numbers(1000000000000) WHERE number % 7 = 8"}, 408, "Code: 159. ", nil},
		{"wrong password", ask{user: "leafcutter", pass: "x", body: "SELECT 1"}, 403, "Code: 516. ", nil},
		{"password of nobody", ask{user: "default", pass: "x", body: "SELECT 1"}, 403, "Code: 516. ", nil},
		{"unknown user", ask{user: "root", body: "SELECT 1"}, 403, "Code: 516. ", nil},
		{"user in headers", ask{headers: map[string]string{"X-ClickHouse-User": "leafcutter", "X-ClickHouse-Key": password}, body: "INSERT INTO leafcutter.t VALUES (1, 'x')"}, 200, "", nil},
		{"user in the query string", ask{query: url.Values{"user": {"leafcutter"}, "password": {password}}, body: "INSERT INTO leafcutter.t VALUES (2, 'y')"}, 200, "", nil},
		{"get does not write", ask{method: "GET", user: "leafcutter", pass: password, query: url.Values{"query": {"DROP TABLE leafcutter.t"}}}, 403, "Code: 164. ", nil},
		{"name from the web", ask{method: "GET", headers: map[string]string{"Host": "rebind.example.com"}, query: url.Values{"query": {"SELECT 1"}}}, 403, "localhost", nil},
		{"database by parameter", ask{query: url.Values{"database": {"leafcutter"}}, body: "SELECT count() FROM t"}, 200, "2\n", nil},
		{"database by header", ask{headers: map[string]string{"X-ClickHouse-Database": "leafcutter"}, body: "SELECT count() FROM t"}, 200, "2\n", nil},
		{"unknown database", ask{query: url.Values{"database": {"nope"}}, body: "SELECT 1"}, 404, "Code: 81. ", nil},
		{"default format", ask{query: url.Values{"default_format": {"JSONEachRow"}}, body: "SELECT 1 AS a"}, 200, "{\"a\":1}\n",
			map[string]string{"Content-Type": "application/x-ndjson; charset=UTF-8", "X-ClickHouse-Format": "JSONEachRow"}},
		{"format by header", ask{headers: map[string]string{"X-ClickHouse-Format": "CSV"}, body: "SELECT 'a', 1"}, 200, "\"a\",1\n", nil},
		{"own format wins", ask{query: url.Values{"default_format": {"JSON"}}, body: "SELECT 1 FORMAT TSV"}, 200, "1\n", nil},
		{"parameters", ask{query: url.Values{"param_n": {"41"}, "param_s": {`it's \\ a\nline`}}, body: "SELECT {n:UInt8} + 1, {s:String} FORMAT TSVRaw"}, 200, "42\tit's \\ a\nline\n", nil},
		{"identifier parameter", ask{query: url.Values{"param_t": {"t"}, "database": {"leafcutter"}}, body: "SELECT count() FROM {t:Identifier}"}, 200, "2\n", nil},
		{"missing parameter", read("SELECT {n:UInt8}"), 400, "Code: 456. ", nil},
		{"query id", ask{query: url.Values{"query_id": {"mine"}}, body: "SELECT 1"}, 200, "1\n", map[string]string{"X-ClickHouse-Query-Id": "mine"}},
		{"query in url and body", ask{query: url.Values{"query": {"SELECT 1 +"}}, body: "2"}, 200, "3\n", nil},
		{"two statements", read("SELECT 1; SELECT 2"), 400, "Multi-statements are not allowed", nil},
		{"two statements, writer", write("SELECT 1; SELECT 2"), 400, "Multi-statements are not allowed", nil},
		{"semicolon at the end", write("SELECT 1;\n-- done\n"), 200, "1\n", nil},
		{"comments and heredoc", write("/* a /* nested; */ */ SELECT $x$;'$x$ -- ;\n, `a;b` FROM (SELECT 2 AS `a;b`) # ;"), 200, ";\\'\t2\n", nil},
		{"explain", read("EXPLAIN SELECT 1"), 200, "Expression ((Project names + (Projection + Change column names to column identifiers)))\n  ReadFromSystemNumbers\n", nil},
		{"no rows", read("SELECT a FROM leafcutter.t WHERE a > 100"), 200, "", nil},
		{"settings in the statement", read("SELECT toUInt64(1) AS a FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 1, max_threads = 1"), 200, "{\"a\":\"1\"}\n", nil},
		{"bad compression", ask{user: "leafcutter", pass: password, query: url.Values{"decompress": {"1"}}, body: strings.Repeat("no block", 20)}, 400, "Code: 271. ", nil},
		{"unknown encoding", ask{headers: map[string]string{"Content-Encoding": "rot13"}, body: "SELECT 1"}, 400, "Code: 271. ", nil},
		{"other path", ask{method: "DELETE", query: url.Values{"query": {"SELECT 1"}}}, 501, "Only GET", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := c.ask.send(t, addr)
			if r.status != c.status || r.body != c.body && (c.status == 200 || !strings.Contains(r.body, c.body)) {
				if c.name != "explain" || r.status != 200 || !strings.HasPrefix(r.body, "Expression") {
					t.Errorf("answers %d %q, want %d %q", r.status, r.body, c.status, c.body)
				}
			}
			for name, value := range c.header {
				if got := r.header.Get(name); got != value {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			}
		})
	}
}

func TestInsertsInEveryWayKeepEveryByte(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr, "CREATE TABLE leafcutter.t (way String, b String) ENGINE = MergeTree ORDER BY way")
	// Two line ends in a row end the data of a script; a server must not care.
	const text = "first\n\nsecond; INSERT\n\n\nthird"
	line, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	into := url.Values{"query": {"INSERT INTO leafcutter.t FORMAT JSONEachRow"}}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(`{"way":"gzip","b":` + string(line) + `}`)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	asks := map[string]ask{
		"values":           write("INSERT INTO leafcutter.t VALUES ('values', '" + text + "')"),
		"values, no blank": write("insert into leafcutter.t(way,b)values('values, no blank','" + text + "')"),
		"json in body":     write("INSERT INTO leafcutter.t FORMAT JSONEachRow {\"way\":\"json in body\",\"b\":" + string(line) + "}"),
		"json apart":       {query: into, body: `{"way":"json apart","b":` + string(line) + `}`},
		"csv":              write("INSERT INTO leafcutter.t (b, way) SETTINGS max_threads = 1 FORMAT CSV\n\"" + text + "\",\"csv\"\n"),
		"select":           write("INSERT INTO leafcutter.t SELECT 'select', $$" + text + "$$"),
		"gzip":             {query: into, body: zipped.String(), headers: map[string]string{"Content-Encoding": "gzip"}},
	}
	for name, a := range asks {
		a.user, a.pass = "leafcutter", password
		if r := a.send(t, addr); r.status != http.StatusOK || r.body != "" {
			t.Errorf("%s: answers %d %q", name, r.status, r.body)
		}
		r := ask{query: url.Values{"param_way": {name}}, body: "SELECT b FROM leafcutter.t WHERE way = {way:String} FORMAT RawBLOB"}.send(t, addr)
		if r.body != text {
			t.Errorf("%s: reads back as %q", name, r.body)
		}
	}
	for name, a := range map[string]ask{
		"broken row":    write("INSERT INTO leafcutter.t FORMAT JSONEachRow {\"way\":\"lost\",\"b\":\"x\"}\n{\"way\":"),
		"unknown field": write("INSERT INTO leafcutter.t (nope) VALUES (1)"),
		"from a file":   write("INSERT INTO leafcutter.t FROM INFILE '/etc/passwd' FORMAT LineAsString"),
	} {
		if r := a.send(t, addr); r.status == http.StatusOK || !strings.HasPrefix(r.body, "Code: ") {
			t.Errorf("%s: answers %d %q", name, r.status, r.body)
		}
	}
	want(t, addr, "SELECT count() FROM leafcutter.t", "7\n")
}

func TestFailureInTheMiddleOfAnAnswer(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	r := read("SELECT throwIf(number = 500000, 'in the middle') FROM numbers(1000000)").send(t, addr)
	tag := r.header.Get("X-ClickHouse-Exception-Tag")
	if r.status != http.StatusOK || r.err == nil {
		t.Errorf("status %d, end %v: want 200 and a connection cut short", r.status, r.err)
	}
	if tag == "" || !strings.Contains(r.body, "\r\n__exception__\r\n"+tag+"\r\nCode: 395. DB::Exception: in the middle") {
		t.Errorf("no exception frame with tag %q at the end of the answer", tag)
	}
}

func TestBodyIsBounded(t *testing.T) {
	addr, _ := startWith(t, t.TempDir(), func(c *config) { c.MaxBody = 1 << 20 })
	must(t, addr, "CREATE TABLE leafcutter.t (b String) ENGINE = MergeTree ORDER BY b")
	into := url.Values{"query": {"INSERT INTO leafcutter.t FORMAT LineAsString"}}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := io.Copy(z, io.LimitReader(zeros{}, 16<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]ask{
		"long":  {query: into, body: strings.Repeat("0123456789", 200_000)},
		"bomb":  {query: into, body: bomb.String(), headers: map[string]string{"Content-Encoding": "gzip"}},
		"query": {body: "SELECT '" + strings.Repeat("x", 5<<20) + "'"},
	} {
		a.user, a.pass = "leafcutter", password
		if r := a.send(t, addr); r.status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: answers %d %q, want 413", name, r.status, r.body)
		}
	}
	want(t, addr, "SELECT count() FROM leafcutter.t", "0\n")
}

// A body that the disk does not take is no fault of the statement: by the code, the client tries it again.
func TestBodyThatCannotBeKept(t *testing.T) {
	dir := t.TempDir()
	addr, _ := start(t, dir)
	must(t, addr, "CREATE TABLE leafcutter.t (b String) ENGINE = MergeTree ORDER BY b")
	folder := filepath.Join(dir, "spool")
	if err := os.Rename(folder, folder+"-away"); err != nil {
		t.Fatal(err)
	}
	insert := "INSERT INTO leafcutter.t FORMAT TSV\nx\n"
	if r := write(insert).send(t, addr); r.header.Get("X-ClickHouse-Exception-Code") != "75" {
		t.Errorf("answers %d %s: %s", r.status, r.header.Get("X-ClickHouse-Exception-Code"), r.body)
	}
	if err := os.Rename(folder+"-away", folder); err != nil {
		t.Fatal(err)
	}
	must(t, addr, insert)
	want(t, addr, "SELECT count() FROM leafcutter.t", "1\n")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestClientThatLeavesEndsItsStatement(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	for name, sql := range map[string]string{
		"no answer yet": "SELECT count() FROM numbers(100000000000000) WHERE number % 7 = 8 -- needle",
		"answering":     "SELECT number, 'needle' FROM numbers(100000000000000) FORMAT TSV",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/", strings.NewReader(sql))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if resp, err := http.DefaultClient.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}()
			running := func() string {
				return read("SELECT count() FROM system.processes WHERE query LIKE '%100000000000000%' AND query NOT LIKE '%processes%'").send(t, addr).body
			}
			waitUntil(t, "the statement runs", func() bool { return running() == "1\n" })
			cancel()
			<-done
			waitUntil(t, "the statement has ended", func() bool { return running() == "0\n" })
		})
	}
	http.DefaultClient.CloseIdleConnections()
}

func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s not so: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// insert sends one statement and reports only whether it was acknowledged.
func insert(sql *localtest.SQL, body string) error {
	req, err := http.NewRequest(http.MethodPost, sql.URL, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth(sql.User, sql.Password)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}
