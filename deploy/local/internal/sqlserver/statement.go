package sqlserver

import (
	"slices"
	"strings"
)

// statement is what the server has to know about a piece of SQL before it runs.
type statement struct {
	verb     string // first keyword in capitals; "SELECT" for a parenthesised one
	format   string // its own FORMAT, empty where it names none
	multiple bool   // another statement follows a semicolon
	file     string // OUTFILE or INFILE: the client's files, which are this server's here
	outside  string // a function that reads files or reaches the network with no right of its own to ask for
	settings bool   // has a SETTINGS clause
	totals   bool   // WITH TOTALS, ROLLUP or CUBE
	data     int    // offset of the data of an INSERT, -1 where none can follow
	infile   int    // where FROM INFILE goes in an INSERT with data
	tail     int    // end of what precedes FORMAT or VALUES in an INSERT with data
}

// inspect reads the tokens of sql; data after an INSERT's FORMAT or VALUES are not looked at.
func inspect(sql string) statement {
	st := statement{data: -1}
	lex := lexer{sql: sql}
	var before [2]token // the two tokens before the current one
	depth, ended, settings, selects := 0, false, -1, false
	for {
		t, ok := lex.next()
		if !ok {
			return st
		}
		if ended {
			st.multiple = true
			return st
		}
		if st.verb == "" {
			switch {
			case t.kind == word:
				st.verb = strings.ToUpper(t.text)
			case t.text != "(":
				st.verb = t.text
			}
		}
		switch {
		case t.text == "(":
			depth++
			if outside(before[1]) {
				st.outside = before[1].text
			}
		case t.text == ")":
			depth--
		case t.text == ";":
			ended = true
		case t.is("OUTFILE") && before[1].is("INTO"):
			st.file = "OUTFILE"
		case t.is("INFILE") && before[1].is("FROM"):
			st.file = "INFILE"
		case outside(t) && (before[1].is("APPLY") || before[0].is("APPLY")):
			st.outside = t.text
		case t.text == "=" && before[0].is("SETTINGS") && before[1].kind != literal:
			st.settings = true
		case t.is("TOTALS") && before[1].is("WITH"), t.is("ROLLUP"), t.is("CUBE"):
			st.totals = true
		case before[1].is("FORMAT") && depth == 0 && t.kind == word:
			st.format = t.text
			if st.verb == "INSERT" && !selects {
				st.setData(t.end, before[1].start, settings)
				return st
			}
		case st.verb == "INSERT" && depth == 0 && t.is("SETTINGS"):
			settings = t.start
		case st.verb == "INSERT" && depth == 0 && (t.is("SELECT") || t.is("WITH")):
			selects = true
		case st.verb == "INSERT" && depth == 0 && t.is("VALUES") && !selects:
			st.format = "Values"
			st.setData(t.end, t.start, settings)
			return st
		}
		before[0], before[1] = before[1], t
	}
}

func (st *statement) setData(data, format, settings int) {
	st.data, st.tail, st.infile = data, format, format
	if settings >= 0 {
		st.infile = settings
	}
}

// fromFile rewrites an INSERT with data so that it reads them from a file of the server.
func (st statement) fromFile(sql, file string) string {
	return sql[:st.infile] + " FROM INFILE " + quoteString(file) + " COMPRESSION 'none' " + sql[st.infile:st.tail] + " FORMAT " + st.format
}

// outsideCalls are functions that leave the database without any of the rights that the reader's role lacks:
// ClickHouse checks none for them.
var outsideCalls = map[string]bool{
	"file": true, "filesystem": true, "hascolumnintable": true, "catboostevaluate": true, "arrowstream": true,
	"aigenerate": true, "aiclassify": true, "aiextract": true, "aitranslate": true, "aiembed": true,
}

func outside(t token) bool {
	return (t.kind == word || t.kind == quoted) && outsideCalls[strings.ToLower(strings.Trim(t.text, "`\""))]
}

var readingVerbs = []string{"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"}

// reads reports whether the statement can do nothing but read tables and metadata.
func (st statement) reads() bool { return slices.Contains(readingVerbs, st.verb) }

// keepsSession reports whether the session is after the statement what it was before: it sets nothing, uses no
// other database and makes no temporary table.
func (st statement) keepsSession() bool { return st.reads() || st.verb == "INSERT" }

// answers reports whether the statement has a result set.
func (st statement) answers() bool {
	return st.reads() || st.verb == "CHECK" || st.verb == "OPTIMIZE" || st.verb == "KILL" || st.verb == "VALUES"
}
