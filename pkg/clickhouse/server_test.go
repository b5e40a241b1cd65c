package clickhouse_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"leafcutter/pkg/clickhouse"
)

// server answers HTTP as ClickHouse does: the driver's greeting by itself, anything else as the test says. It knows no
// SQL: what a real server makes of our statements is tested in e2e/.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	answers  map[string]answer // by the beginning of the statement; the longest wins
	greeting answer            // where set, instead of the greeting
	seen     []request
	methods  []string // of them
}

type answer struct {
	code    int // ClickHouse's error code; 0 for none
	status  int // HTTP status; 200 or 500 where 0
	message string
	columns []string // name and type, such as "page UInt32"
	rows    [][]any
	broken  bool // break off in the middle
}

type request struct {
	statement, database, user, password string
	body                                int
}

func newServer(t *testing.T) *server {
	s := &server{answers: map[string]answer{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) open(t *testing.T, options ...clickhouse.Option) *clickhouse.DB {
	t.Helper()
	db, err := clickhouse.Open(t.Context(), s.config(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func (s *server) config() clickhouse.Config {
	return clickhouse.Config{Addr: []string{s.URL}, Database: "leafcutter", User: "tester", Password: "hunter2", Timeout: 5 * time.Second}
}

func (s *server) answer(statement string, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[statement] = a
}

func (s *server) statements() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, r := range s.seen {
		all = append(all, r.statement)
	}
	return all
}

const greeting = "SELECT displayName(), version(), revision(), timezone()"

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client broke off
	}
	statement := r.URL.Query().Get("query")
	size := len(body)
	if statement == "" {
		statement, size = string(body), 0
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		user, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	}
	s.mu.Lock()
	a := answer{columns: []string{"displayName() String", "version() String", "revision() UInt32", "timezone() String"},
		rows: [][]any{{"test", "26.5.3", uint32(chgo.ClientTCPProtocolVersion), "UTC"}}}
	if statement == greeting {
		if s.greeting.code != 0 || s.greeting.status != 0 {
			a = s.greeting
		}
	} else {
		s.seen = append(s.seen, request{statement, r.URL.Query().Get("database"), user, password, size})
		s.methods = append(s.methods, r.Method)
		a = answer{}
		longest := -1
		for prefix, given := range s.answers {
			if strings.HasPrefix(statement, prefix) && len(prefix) > longest {
				a, longest = given, len(prefix)
			}
		}
	}
	s.mu.Unlock()
	a.write(w)
}

func (a answer) write(w http.ResponseWriter) {
	if a.code != 0 || a.status != 0 {
		status := a.status
		if status == 0 {
			status = http.StatusInternalServerError
		}
		text := a.message
		if a.code != 0 {
			w.Header().Set("X-ClickHouse-Exception-Code", fmt.Sprint(a.code))
			text = fmt.Sprintf("Code: %d. DB::Exception: %s. (NAME) (version 26.5.3)", a.code, a.message)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return
	}
	if len(a.columns) == 0 {
		return
	}
	block := proto.NewBlock()
	block.ServerContext = &column.ServerContext{Timezone: time.UTC}
	for _, c := range a.columns {
		name, kind, _ := strings.Cut(c, " ")
		if err := block.AddColumn(name, column.Type(kind)); err != nil {
			panic(err)
		}
	}
	for _, row := range a.rows {
		if err := block.Append(row...); err != nil {
			panic(err)
		}
	}
	var buffer chproto.Buffer
	if err := block.Encode(&buffer, chgo.ClientTCPProtocolVersion); err != nil {
		panic(err)
	}
	if a.broken {
		w.Header().Set("Content-Length", fmt.Sprint(len(buffer.Buf)+100))
		_, _ = w.Write(buffer.Buf[:len(buffer.Buf)-1])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(buffer.Buf)
}
