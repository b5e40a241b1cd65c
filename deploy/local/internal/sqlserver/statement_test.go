package sqlserver

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestFullDiskIsSaidAsClickHouseSaysIt(t *testing.T) {
	s := &Server{}
	if e := s.keepError(&os.PathError{Op: "write", Path: "insert", Err: syscall.ENOSPC}); e.code != codeNotEnoughSpace || !strings.Contains(e.text, "NOT_ENOUGH_SPACE") {
		t.Errorf("%d %s", e.code, e.text)
	}
}

func TestInspect(t *testing.T) {
	for sql, want := range map[string]statement{
		"select 1":                         {verb: "SELECT"},
		" -- c\n /* x */ ((select 1))":     {verb: "SELECT"},
		"SELECT 1 FORMAT JSON":             {verb: "SELECT", format: "JSON"},
		"SELECT format FROM t FORMAT CSV;": {verb: "SELECT", format: "CSV"},
		"SELECT (SELECT 1 FORMAT x)":       {verb: "SELECT"},
		"SELECT 1; SELECT 2":               {verb: "SELECT", multiple: true},
		"SELECT ';' ; -- ;":                {verb: "SELECT"},
		"SELECT 'a\\';b''c' ;":             {verb: "SELECT"},
		"SELECT 1 INTO OUTFILE 'x'":        {verb: "SELECT", file: "OUTFILE"},
		"SELECT file ('x')":                {verb: "SELECT", outside: "file"},
		"SELECT * APPLY file":              {verb: "SELECT", outside: "file"},
		"SELECT settings FROM t":           {verb: "SELECT"},
		"SELECT 1 SETTINGS a = 1":          {verb: "SELECT", settings: true},
		"SELECT a GROUP BY a WITH TOTALS":  {verb: "SELECT", totals: true},
		"INSERT INTO t SELECT 1 FORMAT x":  {verb: "INSERT", format: "x"},
		"INSERT INTO t FROM INFILE 'x'":    {verb: "INSERT", file: "INFILE"},
		"unfinished 'literal":              {verb: "UNFINISHED"},
		"unfinished /* comment":            {verb: "UNFINISHED"},
		"":                                 {},
	} {
		want.data = -1
		if got := inspect(sql); got != want {
			t.Errorf("%s\nreads as %+v, want %+v", sql, got, want)
		}
	}
}

func TestInsertIsRewritten(t *testing.T) {
	for sql, want := range map[string][2]string{
		"INSERT INTO t FORMAT CSV\n1,2":                           {"INSERT INTO t  FROM INFILE '/f' COMPRESSION 'none'  FORMAT CSV", "1,2"},
		"INSERT INTO t (a, b) VALUES (1, 2)":                      {"INSERT INTO t (a, b)  FROM INFILE '/f' COMPRESSION 'none'  FORMAT Values", "(1, 2)"},
		"insert into t settings x = 1 values(1)":                  {"insert into t  FROM INFILE '/f' COMPRESSION 'none' settings x = 1  FORMAT Values", "(1)"},
		"INSERT INTO t FORMAT TSV \t\r\n\n1":                      {"INSERT INTO t  FROM INFILE '/f' COMPRESSION 'none'  FORMAT TSV", "\n1"},
		"INSERT INTO `values` (`format`) FORMAT Native\n\x00\n\n": {"INSERT INTO `values` (`format`)  FROM INFILE '/f' COMPRESSION 'none'  FORMAT Native", "\x00\n\n"},
	} {
		st := inspect(sql)
		if st.data < 0 {
			t.Errorf("%q: no data found", sql)
			continue
		}
		head, data := st.fromFile(sql, "/f"), sql[dataStart([]byte(sql), st.data):]
		if head != want[0] || data != want[1] {
			t.Errorf("%q\nbecomes %q with %q,\nwant    %q with %q", sql, head, data, want[0], want[1])
		}
	}
}

func FuzzInspect(f *testing.F) {
	for _, seed := range []string{
		"SELECT 1", "INSERT INTO t (a) SETTINGS x = 1 FORMAT Native\n\x01\x01", "/* /* */ */ SELECT $a$ ; $a$; -- x", "SELECT 'it''s \\' ' FORMAT JSON SETTINGS a = 'b'",
		"`a``b` \"c\"\"d\"", "SELECT * APPLY(file)", "$$", "$a$", "'", "\\", "#!", "/*", "\x00\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		end := 0
		for lex := (lexer{sql: sql}); ; {
			tok, ok := lex.next()
			if !ok {
				break
			}
			if tok.start < end || tok.end <= tok.start || tok.end > len(sql) || sql[tok.start:tok.end] != tok.text {
				t.Fatalf("token %+v after byte %d of %q", tok, end, sql)
			}
			end = tok.end
		}
		st := inspect(sql)
		if st.data >= 0 {
			if st.infile > st.tail || st.tail > st.data || dataStart([]byte(sql), st.data) < st.data {
				t.Fatalf("%q has its data at %+v", sql, st)
			}
			if got := st.fromFile(sql, "f"); !strings.Contains(got, "FROM INFILE") {
				t.Fatalf("%q becomes %q", sql, got)
			}
		}
		rest, settings := cutSettings(sql)
		if len(settings) == 0 && rest != sql {
			t.Fatalf("%q loses %q", sql, rest)
		}
	})
}
