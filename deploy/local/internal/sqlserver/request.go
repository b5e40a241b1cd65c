package sqlserver

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"leafcutter/deploy/local/internal/chdb"
)

// request is an HTTP request understood: who asks, what, and how to answer.
type request struct {
	id       string // query_id, as the client may have chosen it
	query    url.Values
	writes   bool // the user of the stages
	readonly bool // GET: even that user only reads
	database string
	format   string    // default_format
	sql      []byte    // statement, with the beginning of an INSERT's data after it
	rest     io.Reader // of the body, nil where there was none
	params   []chdb.Param
	settings []setting // of the URL, then of the statement
}

func (s *Server) parse(w http.ResponseWriter, r *http.Request, writes bool) (*request, *exception) {
	q := r.URL.Query()
	first := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	req := &request{
		query:    q,
		writes:   writes,
		settings: requestSettings(q),
		id:       first(q.Get("query_id"), r.Header.Get("X-ClickHouse-Query-Id"), uuid.NewString()),
		database: first(q.Get("database"), r.Header.Get("X-ClickHouse-Database")),
		format:   first(q.Get("default_format"), r.Header.Get("X-ClickHouse-Format"), "TabSeparated"),
		readonly: r.Method != http.MethodPost,
	}
	for name, values := range q {
		if name, ok := strings.CutPrefix(name, "param_"); ok && len(values) > 0 {
			req.params = append(req.params, chdb.Param{Name: name, Value: values[0]})
		}
	}
	body, refusal := s.body(w, r, q)
	if refusal != nil {
		return nil, refusal
	}
	statement := q.Get("query")
	if statement != "" && body != nil {
		statement += "\n"
	}
	req.sql, refusal = s.readStatement(statement, body)
	if refusal != nil {
		return nil, refusal
	}
	req.rest = body
	if len(bytes.TrimSpace(req.sql)) == 0 {
		return nil, s.refuse(codeSyntaxError, "SYNTAX_ERROR", "Empty query")
	}
	return req, nil
}

// authenticate reports whether the request comes from the user that may write.
func (s *Server) authenticate(r *http.Request) (writes bool, refusal *exception) {
	user, password, ok := r.BasicAuth()
	if !ok {
		q := r.URL.Query()
		user, password = q.Get("user"), q.Get("password")
	}
	if h := r.Header.Get("X-ClickHouse-User"); h != "" {
		user, password = h, r.Header.Get("X-ClickHouse-Key")
	}
	failed := s.refuse(codeAuthenticationFailed, "AUTHENTICATION_FAILED",
		"%s: Authentication failed: password is incorrect, or there is no user with such name", user)
	switch user {
	case "", "default":
		if password != "" {
			return false, failed
		}
		return false, nil
	case s.cfg.User:
		got, want := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(s.cfg.Password))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return true, nil
		}
	}
	return false, failed
}

// body returns the body as the engine wants it, uncompressed and within bounds; nil where there is none.
func (s *Server) body(w http.ResponseWriter, r *http.Request, q url.Values) (io.Reader, *exception) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return nil, s.refuse(codeNotImplemented, "NOT_IMPLEMENTED", "External tables are not supported by this server")
	}
	body, err := decompressor(http.MaxBytesReader(w, r.Body, s.cfg.MaxBody), r.Header.Get("Content-Encoding"), q.Get("decompress") == "1")
	if err != nil {
		return nil, s.refuse(codeInvalidCompression, "CANNOT_DECOMPRESS", "%v", err)
	}
	return body, nil
}

// readStatement reads as much of the body as is kept in memory: all of a statement, the beginning of an
// INSERT's data.
func (s *Server) readStatement(statement string, body io.Reader) ([]byte, *exception) {
	if body == nil {
		return []byte(statement), nil
	}
	head, err := io.ReadAll(io.LimitReader(body, maxStatement))
	if err != nil {
		return nil, s.bodyError(err)
	}
	return append([]byte(statement), head...), nil
}

// maxStatement bounds the SQL text of a statement, in bytes.
const maxStatement = 4 << 20

func (s *Server) bodyError(err error) *exception {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) || errors.Is(err, errTooLarge) {
		return s.refuse(codeTooLarge, "REQUEST_TOO_LARGE", "The request's body is larger than %d bytes: send smaller batches", s.cfg.MaxBody)
	}
	if errors.Is(err, syscall.ENOSPC) {
		return s.keepError(err)
	}
	return s.refuse(codeInvalidCompression, "CANNOT_READ_BODY", "Cannot read the request's body: %v", err)
}

// keepError words that a body could not be kept. The disk is to blame and not the statement, which the client is told by
// the code, so that it tries again.
func (s *Server) keepError(err error) *exception {
	if errors.Is(err, syscall.ENOSPC) {
		return s.refuse(codeNotEnoughSpace, "NOT_ENOUGH_SPACE", "Cannot keep the request's body: %v", err)
	}
	return s.refuse(codeCannotWrite, "CANNOT_WRITE_TO_FILE_DESCRIPTOR", "Cannot keep the request's body: %v", err)
}
