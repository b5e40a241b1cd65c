package sqlserver

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"leafcutter/deploy/local/internal/chdb"
)

// pieceable are the formats whose pieces, one a block of rows, make up the whole when put one after the other.
// Answers in other formats (with a header, a footer or separators) are made in memory before they are sent.
var pieceable = map[string]bool{
	"native": true, "rowbinary": true, "tabseparated": true, "tsv": true, "tabseparatedraw": true, "tsvraw": true, "raw": true,
	"csv": true, "jsoneachrow": true, "jsonlines": true, "ndjson": true, "jsoncompacteachrow": true, "jsonstringseachrow": true,
	"jsoncompactstringseachrow": true, "lineasstring": true, "msgpack": true, "tskv": true, "vertical": false,
}

func (s *Server) run(w http.ResponseWriter, r *http.Request, conn *chdb.Conn, req *request, st statement) error {
	started := time.Now()
	format := req.format
	if st.format != "" {
		format = st.format
	}
	if !st.answers() {
		format = "Null"
	}
	h := w.Header()
	h.Set("X-ClickHouse-Server-Display-Name", s.identity.displayName)
	h.Set("X-ClickHouse-Query-Id", req.id)
	h.Set("X-ClickHouse-Timezone", s.identity.timezone)
	if st.answers() {
		h.Set("Content-Type", contentType(format))
		h.Set("X-ClickHouse-Format", format)
	} else {
		h.Set("Content-Type", "text/plain; charset=UTF-8")
	}
	if streams(st, format, req) {
		return s.stream(w, r, conn, req)
	}
	sql, release, err := s.statementText(req, st)
	if err != nil {
		return err
	}
	defer release()
	data, stats, err := conn.Query(sql, req.format, req.params...)
	if err != nil {
		return err
	}
	h.Set("X-ClickHouse-Summary", summary(stats, started))
	return send(w, r, req, data)
}

// streams reports whether the answer can be sent while it is made.
func streams(st statement, format string, req *request) bool {
	return (st.verb == "SELECT" || st.verb == "WITH") && pieceable[strings.ToLower(format)] && !st.totals &&
		req.query.Get("extremes") != "1" && req.query.Get("wait_end_of_query") != "1" && !req.query.Has("output_format_json_array_of_rows")
}

func send(w http.ResponseWriter, r *http.Request, req *request, data []byte) error {
	out, encoding := compressor(w, r.Header.Get("Accept-Encoding"), req.query)
	if encoding != "" {
		w.Header().Set("Content-Encoding", encoding)
	}
	if len(data) == 0 {
		w.Header().Del("Content-Encoding")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := out.Write(data)
	return ignoreGone(errors.Join(err, out.Close()))
}

// stream sends the answer piece by piece. Headers go out with the first piece, so that a statement that fails
// before it has rows is answered by a status; one that fails later is answered by ClickHouse's exception frame
// and a connection cut short.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, conn *chdb.Conn, req *request) error {
	stream, err := conn.Stream(req.sql, req.format, req.params...)
	if err != nil {
		return err
	}
	defer stream.Close()
	piece, _, err := stream.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err != nil {
		return send(w, r, req, nil)
	}
	tag := strings.ToLower(rand.Text()[:16])
	w.Header().Set("X-ClickHouse-Exception-Tag", tag)
	out, encoding := compressor(w, r.Header.Get("Accept-Encoding"), req.query)
	if encoding != "" {
		w.Header().Set("Content-Encoding", encoding)
	}
	if r.Method == http.MethodHead {
		return nil
	}
	flush := http.NewResponseController(w).Flush
	for err == nil {
		if _, werr := out.Write(piece); werr != nil {
			return errAborted // the client left; closing the stream ends the statement
		}
		piece, _, err = stream.Next()
	}
	if errors.Is(err, io.EOF) {
		return ignoreGone(out.Close())
	}
	text := s.exceptionOf(err.Error()).text
	frame := fmt.Sprintf("\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", tag, text, len(text)+1, tag)
	_, werr := io.WriteString(out, frame)
	_ = errors.Join(werr, out.Close(), flush())
	return errAborted
}

func contentType(format string) string {
	switch f := strings.ToLower(format); {
	case strings.HasPrefix(f, "jsoneachrow"), strings.HasPrefix(f, "jsoncompacteachrow"), strings.HasPrefix(f, "jsonstringseachrow"),
		strings.HasPrefix(f, "jsoncompactstringseachrow"), f == "ndjson", f == "jsonlines":
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(f, "json"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(f, "tabseparated"), strings.HasPrefix(f, "tsv"), f == "raw":
		return "text/tab-separated-values; charset=UTF-8"
	case strings.HasPrefix(f, "csv"):
		return "text/csv; charset=UTF-8; header=absent"
	case f == "xml":
		return "application/xml; charset=UTF-8"
	case f == "markdown":
		return "text/markdown; charset=UTF-8"
	case strings.HasPrefix(f, "pretty"), f == "vertical", f == "values", f == "tskv", f == "null":
		return "text/plain; charset=UTF-8"
	}
	return "application/octet-stream"
}
