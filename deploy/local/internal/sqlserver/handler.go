package sqlserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"leafcutter/deploy/local/internal/chdb"
)

// ServeHTTP answers as a ClickHouse server does: / and /query run SQL, /ping and /replicas_status say that it
// lives.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !localHost(r.Host) {
		// A page on the web can make a browser ask for a name of its own that resolves to 127.0.0.1.
		http.Error(w, "This server answers to localhost and to addresses only.", http.StatusForbidden)
		return
	}
	switch {
	case r.URL.Path == "/ping" || r.URL.Path == "/replicas_status":
		writeText(w, "Ok.\n")
		return
	case r.URL.Path != "/" && r.URL.Path != "/query":
		http.Error(w, "There is no handle "+r.URL.Path+"\n\nUse / or /ping for health checks.", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "Only GET, HEAD and POST run queries.", http.StatusNotImplemented)
		return
	}
	if r.URL.RawQuery == "" && r.Method != http.MethodPost {
		writeText(w, "Ok.\n")
		return
	}
	s.running.Add(1)
	defer s.running.Done()
	writes, refusal := s.authenticate(r)
	if refusal != nil {
		s.fail(w, r, refusal)
		return
	}
	slots := s.readers
	if writes {
		slots = s.writers
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-r.Context().Done():
		return
	}
	if err := s.answer(w, r, writes); err != nil {
		s.fail(w, r, err)
	}
}

func localHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(strings.Trim(host, "[]")) != nil
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	_, _ = io.WriteString(w, text)
}

// errAborted says that the answer had begun when the statement failed, or that nobody is there to read it:
// only cutting it off is left.
var errAborted = errors.New("answer aborted")

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errAborted) {
		panic(http.ErrAbortHandler)
	}
	var ex *exception
	if !errors.As(err, &ex) {
		ex = s.exceptionOf(err.Error())
	}
	s.cfg.Logger.DebugContext(r.Context(), "statement failed", slog.Int("code", ex.code), slog.String("error", ex.text))
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(ex.code))
	h.Del("Content-Encoding")
	w.WriteHeader(httpStatus(ex.code))
	_, _ = io.WriteString(w, ex.text+"\n")
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, writes bool) error {
	req, refusal := s.parse(w, r, writes)
	if refusal != nil {
		return refusal
	}
	if version, ok := handshakeVersion(req); ok {
		return s.handshake(w, r, req, version)
	}
	st, err := s.admit(req)
	if err != nil {
		return err
	}
	u, refusal := s.sessionSetup(req)
	if refusal != nil {
		return refusal
	}
	session, err := s.sessions.get(u)
	if err != nil {
		return err
	}
	// The kill is over before the session is anybody else's.
	stop := s.killOnCancel(r.Context(), session.token)
	err = s.run(w, r, session.conn, req, st)
	stop()
	keep := err == nil && r.Context().Err() == nil && st.keepsSession()
	if putErr := s.sessions.put(session, keep); putErr != nil {
		s.cfg.Logger.WarnContext(r.Context(), "could not close a session", slog.String("error", putErr.Error()))
	}
	return err
}

// admit decides whether the statement may run at all, and for a reader replaces it by what ClickHouse's own
// parser makes of it. So the text that is judged here and the text that runs cannot be read in two ways, and
// there is exactly one statement in it.
func (s *Server) admit(req *request) (statement, error) {
	if !req.writes {
		canonical, err := s.canonical(string(req.sql))
		if err != nil {
			return statement{}, err
		}
		text, inline := cutSettings(canonical)
		req.sql, req.settings = []byte(text), append(req.settings, inline...)
	}
	st := inspect(string(req.sql))
	switch {
	case st.multiple:
		return st, s.refuse(codeSyntaxError, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
	case st.file != "":
		return st, s.refuse(codeNotImplemented, "NOT_IMPLEMENTED", "%s is not allowed over HTTP", st.file)
	case req.writes:
		return st, nil
	case st.outside != "":
		return st, s.refuse(codeAccessDenied, "ACCESS_DENIED", "default: Not enough privileges. %s reaches outside the database, which this user may not", st.outside)
	case st.settings:
		return st, s.refuse(codeReadonly, "READONLY", "Cannot modify settings in readonly mode other than by one SETTINGS clause at the end of the statement")
	case !st.reads():
		return st, s.refuse(codeReadonly, "READONLY", "default: Cannot execute query in readonly mode. This user only reads: send the user and password of the stages to write")
	}
	return st, nil
}

// canonical is one statement as ClickHouse's parser writes it: without comments, in one line.
func (s *Server) canonical(sql string) (string, error) {
	session, err := s.sessions.get(setup{role: "reader", readonly: "1"})
	if err != nil {
		return "", err
	}
	text, _, err := session.conn.Query([]byte("SELECT formatQuerySingleLine({q:String})"), "RawBLOB", chdb.Param{Name: "q", Value: escape(sql)})
	putErr := s.sessions.put(session, err == nil)
	if err != nil {
		return "", s.parseError(err)
	}
	return string(text), putErr
}

// parseError takes the formatting function's own context out of a syntax error.
func (s *Server) parseError(err error) error {
	ex := s.exceptionOf(err.Error())
	if at := strings.Index(ex.text, ": In scope SELECT formatQuery"); at >= 0 {
		ex.text = ex.text[:at] + ". (SYNTAX_ERROR) (version " + s.identity.version + ")"
	}
	return ex
}

// escape puts text into the form that parameters have.
func escape(text string) string {
	return strings.NewReplacer("\\", `\\`, "\n", `\n`, "\t", `\t`, "\r", `\r`, "\x00", `\0`, "\b", `\b`, "\f", `\f`).Replace(text)
}

// killOnCancel ends the statement with the given token when ctx does, from a connection of its own. stop waits
// for that to be over.
func (s *Server) killOnCancel(ctx context.Context, token string) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		conn, err := s.engine.Connect()
		if err == nil {
			err = conn.Exec("KILL QUERY WHERE Settings['log_comment'] = " + quoteString(token) + " ASYNC")
			err = errors.Join(err, conn.Close())
		}
		if err != nil {
			s.cfg.Logger.WarnContext(ctx, "could not cancel a statement", slog.String("error", err.Error()))
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

const handshakeSQL = "SELECT displayName(), version(), revision(), timezone()"

// handshakeVersion recognises the first query of clickhouse-go and the protocol version that it reads the
// answer with.
func handshakeVersion(req *request) (int, bool) {
	if string(req.sql) != handshakeSQL || req.format != "Native" {
		return 0, false
	}
	version, err := strconv.Atoi(req.query.Get("client_protocol_version"))
	return min(version, int(proto.FeatureServerQueryTimeInProgress)), err == nil
}

// handshake says revision 0, after which clickhouse-go reads blocks without the parts that later revisions of
// the protocol added: that is what the engine writes.
func (s *Server) handshake(w http.ResponseWriter, r *http.Request, req *request, version int) error {
	var name, engine, zone proto.ColStr
	name.Append(s.identity.displayName)
	engine.Append(s.identity.version)
	zone.Append(s.identity.timezone)
	revision := proto.ColUInt32{0}
	input := proto.Input{
		{Name: "displayName()", Data: &name}, {Name: "version()", Data: &engine},
		{Name: "revision()", Data: &revision}, {Name: "timezone()", Data: &zone},
	}
	var buf proto.Buffer
	if err := (proto.Block{Rows: 1, Columns: len(input)}).EncodeBlock(&buf, version, input); err != nil {
		return fmt.Errorf("encoding the handshake: %w", err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-ClickHouse-Format", "Native")
	return send(w, r, req, buf.Buf)
}

// ignoreGone drops the error of a client that left: there is nobody to tell.
func ignoreGone(error) error { return nil }

func trimNewline(data []byte) []byte { return []byte(strings.TrimRight(string(data), "\r\n")) }

// summary is the value of X-ClickHouse-Summary.
func summary(stats chdb.Stats, started time.Time) string {
	return fmt.Sprintf(`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0","result_rows":"%d","result_bytes":"%d","elapsed_ns":"%d"}`,
		stats.ReadRows, stats.ReadBytes, stats.WrittenRows, stats.WrittenBytes, stats.ResultRows, stats.ResultBytes, time.Since(started).Nanoseconds())
}
