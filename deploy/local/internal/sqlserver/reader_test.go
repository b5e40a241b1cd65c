package sqlserver_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReaderCannotEscape tries what a reader could do to write, to read files, to reach the network or to lift
// its bounds. Each attempt must be refused, and the data be as before.
func TestReaderCannotEscape(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr, "CREATE TABLE leafcutter.t (a UInt32, b String) ENGINE = MergeTree ORDER BY a", "INSERT INTO leafcutter.t VALUES (1, 'x')")
	dir := t.TempDir()
	secret, target := filepath.Join(dir, "secret.csv"), filepath.Join(dir, "written")
	if err := os.WriteFile(secret, []byte("topsecret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		// writing
		"INSERT INTO leafcutter.t VALUES (2, 'y')", "insert into leafcutter.t values (2, 'y')", "/* SELECT */ INSERT INTO leafcutter.t SELECT 2, 'y'",
		"-- SELECT\nINSERT INTO leafcutter.t SELECT 2, 'y'", "WITH 1 AS x INSERT INTO leafcutter.t SELECT x, 'y'", "INSERT INTO leafcutter.t SETTINGS readonly = 0 VALUES (2, 'y')",
		"(INSERT INTO leafcutter.t SELECT 2, 'y')", "FROM leafcutter.t INSERT INTO leafcutter.t SELECT *", "EXPLAIN PIPELINE INSERT INTO leafcutter.t SELECT 2, 'y'; INSERT INTO leafcutter.t SELECT 2, 'y'",
		"SELECT 1; INSERT INTO leafcutter.t VALUES (2, 'y')", "SELECT 1;\nDROP TABLE leafcutter.t", "SELECT ';' /* ' */; DROP TABLE leafcutter.t -- '", "SELECT $$ ; $$; DROP TABLE leafcutter.t",
		"SELECT 1 PARALLEL WITH DROP TABLE leafcutter.t", "DROP TABLE leafcutter.t PARALLEL WITH SELECT 1",
		"DROP TABLE leafcutter.t", "TRUNCATE TABLE leafcutter.t", "ALTER TABLE leafcutter.t DELETE WHERE 1", "DELETE FROM leafcutter.t WHERE 1", "UPDATE leafcutter.t SET b = 'z' WHERE 1",
		"OPTIMIZE TABLE leafcutter.t FINAL", "RENAME TABLE leafcutter.t TO leafcutter.u", "EXCHANGE TABLES leafcutter.t AND leafcutter.t", "DETACH TABLE leafcutter.t", "CREATE TABLE leafcutter.u (a UInt8) ENGINE = Memory",
		"CREATE TEMPORARY TABLE u (a UInt8)", "CREATE VIEW leafcutter.v AS SELECT 1", "CREATE DATABASE d", "CREATE FUNCTION f AS x -> x", "CREATE USER u", "CREATE ROLE r", "GRANT ALL ON *.* TO default",
		"ATTACH TABLE leafcutter.u (a UInt8) ENGINE = File(CSV)", "BACKUP TABLE leafcutter.t TO File('" + target + "')", "RESTORE TABLE leafcutter.t FROM File('x')", "UNDROP TABLE leafcutter.t", "CHECK GRANT INSERT ON *.*",
		// rights and sessions
		"SET readonly = 0", "SET ROLE writer", "SET ROLE ALL", "SET DEFAULT ROLE writer TO default", "SET profile = 'default'", "USE system", "EXECUTE AS default SELECT 1", "KILL QUERY WHERE 1", "SYSTEM SHUTDOWN", "SYSTEM FLUSH LOGS",
		"BEGIN TRANSACTION", "EXIT", "quit", "\\q", "/", "help",
		// bounds
		"SELECT 1 SETTINGS max_memory_usage = 100000000000", "SELECT 1 SETTINGS max_result_rows = 100000000", "SELECT 1 SETTINGS profile = 'default'",
		"SELECT 1 SETTINGS allow_introspection_functions = 1", "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)", "SELECT 1 SETTINGS max_execution_time = 0 UNION ALL SELECT 2", "SELECT number FROM numbers(10000000)",
		// files
		"SELECT file('" + secret + "')", "SELECT `file`('" + secret + "')", "SELECT \"file\"('" + secret + "')", "SELECT FILE('" + secret + "')", "SELECT file /* */ ('" + secret + "')", "SELECT arrayMap(x -> file(x), ['" + secret + "'])",
		"SELECT '" + secret + "' AS x, * APPLY(file) FROM (SELECT '" + secret + "')", "SELECT * APPLY file FROM (SELECT '" + secret + "')", "SELECT COLUMNS('x') APPLY(x -> file(x)) FROM (SELECT '" + secret + "' AS x)",
		"WITH (x -> file(x)) AS f SELECT f('" + secret + "')", "SELECT * FROM file('" + secret + "')", "SELECT * FROM file('" + secret + "', 'LineAsString')", "DESCRIBE file('" + secret + "')", "DESCRIBE TABLE file('" + secret + "', 'CSV')",
		"SELECT * FROM `" + secret + "`", "SELECT * FROM default.`" + secret + "`", "SELECT * FROM '" + secret + "'", "SHOW CREATE TABLE default.`" + secret + "`", "DESCRIBE default.`" + secret + "`",
		"SELECT * FROM merge('default', '" + secret + "')", "SELECT * FROM fileCluster('c', '" + secret + "')", "SELECT * FROM sqlite('" + secret + "', 't')", "SELECT * FROM icebergLocal('" + dir + "')", "SELECT * FROM deltaLakeLocal('" + dir + "')",
		"SELECT * FROM loop(file('" + secret + "'))", "SELECT * FROM view(SELECT * FROM file('" + secret + "'))", "SELECT 1 IN file('" + secret + "')", "SELECT a IN (SELECT * FROM file('" + secret + "', 'LineAsString')) FROM leafcutter.t",
		"SELECT 1 INTO OUTFILE '" + target + "'", "select 1 into/**/outfile '" + target + "' truncate", "SHOW TABLES INTO OUTFILE '" + target + "'", "(SELECT 1) INTO OUTFILE '" + target + "'", "SELECT 1 INTO\nOUTFILE '" + target + "' AND STDOUT FORMAT CSV",
		"EXPLAIN SELECT 1 INTO OUTFILE '" + target + "'", "INSERT INTO FUNCTION file('" + target + "', 'CSV', 'a UInt8') VALUES (1)", "INSERT INTO FUNCTION null('a String') FROM INFILE '" + secret + "' FORMAT LineAsString",
		"SELECT 1 SETTINGS format_template_row = '" + secret + "' FORMAT Template", "SELECT 1 FORMAT Template SETTINGS format_template_resultset = '" + secret + "'", "SELECT 1 AS a FORMAT Protobuf SETTINGS output_format_schema = '" + target + "'",
		"SELECT 1 AS a FORMAT CapnProto SETTINGS format_schema = '" + secret + ":M'",
		// the network and other programs
		"SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM urlCluster('c', 'http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM s3('http://127.0.0.1:1/x')", "SELECT * FROM remote('127.0.0.1', 'leafcutter.t')", "SELECT * FROM remoteSecure('127.0.0.1', 'leafcutter.t')",
		"SELECT * FROM cluster('default', 'leafcutter.t')", "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')", "SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')", "SELECT * FROM mongodb('127.0.0.1:1', 'd', 't', 'u', 'p', 'a Int8')",
		"SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')", "SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', 'CSV', 'a Int8')", "SELECT * FROM jdbc('x', 'y')", "SELECT * FROM odbc('x', 'y')", "SELECT * FROM azureBlobStorage('x', 'y', 'z')", "SELECT * FROM gcs('http://127.0.0.1:1/x')",
		"SELECT * FROM executable('cat', 'LineAsString', 'a String')", "SELECT * FROM arrowFlight('127.0.0.1:1', 'x')", "SELECT * FROM python('x')", "SELECT * FROM arrowstream('1')", "SELECT * FROM iceberg('http://127.0.0.1:1/x')", "SELECT * FROM deltaLake('http://127.0.0.1:1/x')",
		"SELECT * FROM filesystem('" + dir + "')", "SELECT content FROM filesystem('" + dir + "')", "SELECT * FROM paimonLocal('" + dir + "')", "SELECT * FROM oss('http://127.0.0.1:1/x')", "SELECT * FROM cosn('http://127.0.0.1:1/x')", "SELECT * FROM dictionary('d')", "SELECT aiGenerate('c', 'x')",
		"SELECT * FROM (SELECT * FROM file('" + secret + "') SETTINGS readonly = 0)", "SELECT * FROM input('a UInt8')", "SELECT hasColumnInTable('127.0.0.1:1', 'system', 'one', 'dummy')", "SELECT addressToLine(1)", "SELECT demangle('x')",
	} {
		if r := read(sql).send(t, addr); r.status == http.StatusOK && r.err == nil {
			t.Errorf("%s\nis answered: %.200q", sql, r.body)
		} else if strings.Contains(r.body, "topsecret") {
			t.Errorf("%s\nis refused with the secret: %q", sql, r.body)
		}
	}
	for name, values := range map[string]url.Values{
		"writer's role":      {"role": {"writer"}, "query": {"INSERT INTO leafcutter.t SELECT 2, 'y'"}},
		"readonly":           {"readonly": {"0"}, "query": {"INSERT INTO leafcutter.t SELECT 2, 'y'"}},
		"profile":            {"profile": {"default"}, "query": {"SELECT 1"}},
		"setting in a name":  {"max_threads = 1, readonly": {"0"}, "query": {"SELECT 1"}},
		"quote in a name":    {"output_format_x` = 1, `readonly": {"0"}, "query": {"SELECT 1"}},
		"quote in a value":   {"max_threads": {"1', readonly = '0"}, "query": {"INSERT INTO leafcutter.t SELECT 2, 'y'"}},
		"quote in database":  {"database": {"leafcutter`; SET ROLE writer; USE `leafcutter"}, "query": {"SELECT 1"}},
		"quote in query id":  {"query_id": {"x', readonly = '0"}, "query": {"INSERT INTO leafcutter.t SELECT 2, 'y'"}},
		"file by parameter":  {"param_f": {secret}, "query": {"SELECT file({f:String})"}},
		"table by parameter": {"param_f": {secret}, "query": {"SELECT * FROM {f:Identifier}"}},
		"schema written":     {"output_format_schema": {target}, "query": {"SELECT 1 AS a FORMAT Protobuf"}},
		"template":           {"format_template_row": {secret}, "query": {"SELECT 1 FORMAT Template"}},
		"dialect":            {"dialect": {"prql"}, "query": {"SELECT 1"}},
		"memory":             {"max_memory_usage": {"1e15"}, "query": {"SELECT 1"}},
		"negative time":      {"max_execution_time": {"-1"}, "query": {"SELECT 1"}},
		"no number":          {"max_memory_usage": {"NaN"}, "query": {"SELECT 1"}},
	} {
		if r := (ask{query: values}).send(t, addr); r.status == http.StatusOK {
			t.Errorf("%s: is answered: %.200q", name, r.body)
		}
	}
	// A name cannot become a function by a parameter: the text is an alias of the literal.
	if r := (ask{query: url.Values{"param_f": {"file"}, "query": {"SELECT {f:Identifier}('" + secret + "')"}}}).send(t, addr); strings.Contains(r.body, "topsecret") {
		t.Errorf("a function named by a parameter answers %q", r.body)
	}
	if _, err := os.Stat(target); err == nil {
		t.Errorf("a statement of the reader wrote %s", target)
	}
	want(t, addr, "SELECT * FROM leafcutter.t", "1\tx\n")
	want(t, addr, "SELECT countIf(name NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema', 'default', 'leafcutter')) FROM system.databases", "0\n")
}

func TestReaderReads(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr, "CREATE TABLE leafcutter.t (a UInt32, b String) ENGINE = MergeTree ORDER BY a", "INSERT INTO leafcutter.t VALUES (1, 'into outfile; file(x)')",
		"CREATE VIEW leafcutter.v AS SELECT count() AS n FROM leafcutter.t")
	for sql, answer := range map[string]string{
		"SELECT b FROM leafcutter.t":                                                        "into outfile; file(x)\n",
		"SELECT 'into outfile ''x''; file(''y'')' AS `file`":                                "into outfile \\'x\\'; file(\\'y\\')\n",
		"SELECT * FROM ((SELECT 1) UNION ALL (SELECT 2)) ORDER BY 1":                        "1\n2\n",
		"WITH x AS (SELECT 1 AS a) SELECT a FROM x":                                         "1\n",
		"FROM leafcutter.t SELECT a":                                                        "1\n",
		"SELECT n FROM leafcutter.v":                                                        "1\n",
		"SHOW TABLES FROM leafcutter":                                                       "t\nv\n",
		"EXISTS leafcutter.t":                                                               "1\n",
		"DESCRIBE leafcutter.t FORMAT TSV":                                                  "a\tUInt32\t\t\t\t\t\nb\tString\t\t\t\t\t\n",
		"SELECT name FROM system.tables WHERE database = 'leafcutter' ORDER BY 1":           "t\nv\n",
		"SELECT sum(number) FROM numbers(10)":                                               "45\n",
		"SELECT a FROM values('a UInt8', 7)":                                                "7\n",
		"SELECT name FROM system.settings WHERE name = 'readonly' SETTINGS max_threads = 1": "readonly\n",
		"SELECT getSetting('log_comment') = 'x' SETTINGS log_comment = 'x'":                 "0\n",
		"SELECT getSetting('readonly')":                                                     "1\n",
		"SELECT `file` FROM (SELECT 3 AS `file`)":                                           "3\n",
		"SELECT getSetting('max_execution_time') SETTINGS max_execution_time = 100000":      "60\n",
	} {
		want(t, addr, sql, answer)
	}
	if r := read("SELECT name FROM system.users").send(t, addr); strings.Contains(r.body, password) {
		t.Error("the writer's password shows")
	}
	for _, table := range []string{"processes", "settings", "server_settings", "users", "grants", "disks", "tables"} {
		if r := read("SELECT * FROM system."+table+" FORMAT JSONEachRow").send(t, addr); strings.Contains(r.body, password) {
			t.Errorf("the writer's password shows in system.%s", table)
		}
	}
}
