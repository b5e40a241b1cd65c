package sqlserver

import "strings"

// tokenKind says what a token is; comments and white space are no tokens.
type tokenKind int

const (
	word    tokenKind = iota // keyword, bare identifier or number
	quoted                   // `identifier` or "identifier"
	literal                  // 'text' or $tag$text$tag$
	punct                    // one character
)

type token struct {
	kind       tokenKind
	text       string
	start, end int // bytes of the statement
}

func (t token) is(keyword string) bool { return t.kind == word && strings.EqualFold(t.text, keyword) }

// lexer cuts SQL into tokens by ClickHouse's rules: ” and backslash escapes, nested block comments, --, # and
// // comments, heredocs. An unfinished literal or comment ends at the end of the text.
type lexer struct {
	sql string
	pos int
}

func (l *lexer) next() (token, bool) {
	l.skipBlank()
	if l.pos >= len(l.sql) {
		return token{}, false
	}
	start := l.pos
	kind := punct
	switch c := l.sql[l.pos]; {
	case c == '\'':
		kind = literal
		l.skipQuoted(c)
	case c == '`' || c == '"':
		kind = quoted
		l.skipQuoted(c)
	case isWord(c):
		kind = word
		for l.pos < len(l.sql) && isWord(l.sql[l.pos]) {
			l.pos++
		}
	case c == '$' && l.skipHeredoc():
		kind = literal
	default:
		l.pos++
	}
	return token{kind: kind, text: l.sql[start:l.pos], start: start, end: l.pos}, true
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func (l *lexer) skipBlank() {
	for l.pos < len(l.sql) {
		rest := l.sql[l.pos:]
		switch {
		case strings.ContainsRune(" \t\r\n\f\v\x00", rune(rest[0])):
			l.pos++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "//"), strings.HasPrefix(rest, "# "), strings.HasPrefix(rest, "#!"):
			if end := strings.IndexByte(rest, '\n'); end >= 0 {
				l.pos += end
			} else {
				l.pos = len(l.sql)
			}
		case strings.HasPrefix(rest, "/*"):
			l.skipBlockComment()
		default:
			return
		}
	}
}

func (l *lexer) skipBlockComment() {
	for depth := 0; l.pos < len(l.sql); {
		switch rest := l.sql[l.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			l.pos += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			l.pos += 2
			if depth == 0 {
				return
			}
		default:
			l.pos++
		}
	}
}

func (l *lexer) skipQuoted(quote byte) {
	for l.pos++; l.pos < len(l.sql); l.pos++ {
		switch l.sql[l.pos] {
		case '\\':
			l.pos++
		case quote:
			if l.pos+1 < len(l.sql) && l.sql[l.pos+1] == quote {
				l.pos++
				continue
			}
			l.pos++
			return
		}
	}
	l.pos = len(l.sql)
}

// skipHeredoc skips $tag$ … $tag$ and reports whether there was one.
func (l *lexer) skipHeredoc() bool {
	rest := l.sql[l.pos:]
	n := strings.IndexByte(rest[1:], '$') + 2
	if n < 2 || strings.ContainsFunc(rest[1:n-1], func(r rune) bool { return r >= 0x80 || !isWord(byte(r)) }) {
		return false
	}
	end := strings.Index(rest[n:], rest[:n])
	if end < 0 {
		return false
	}
	l.pos += n + end + n
	return true
}
