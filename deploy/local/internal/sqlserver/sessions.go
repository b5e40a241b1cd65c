package sqlserver

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"

	"leafcutter/deploy/local/internal/chdb"
)

// session is a connection that has been set up for an identity, a database and a list of settings.
type session struct {
	conn  *chdb.Conn
	key   string
	token string // its log_comment: finds what it runs in the engine's list; nobody can choose another's
}

// sessions keeps a few idle ones, because making one costs more than most statements. What a statement may
// leave behind in a session decides whether it is kept: see keepsSession.
type sessions struct {
	engine *chdb.Engine
	max    int

	mu   sync.Mutex
	idle []session // the longest idle first
}

// setup is how a session is made: in this order, least rights last.
type setup struct {
	role     string // empty keeps every role
	settings []setting
	database string // empty keeps the default one
	readonly string // value of that setting, empty for none
}

// fleeting are settings whose value hardly two requests of a client share: the token of an insert, and what is left of a
// deadline. A session is shared by all requests that name them, and is told their values each time.
var fleeting = map[string]bool{"insert_deduplication_token": true, "max_execution_time": true}

// split tells the fleeting settings apart; kept has their names alone, of a session that can still be told others.
func (u setup) split() (kept setup, values []setting) {
	kept = u
	if u.readonly == "1" {
		return kept, nil
	}
	kept.settings = nil
	for _, s := range u.settings {
		if fleeting[s.name] {
			values = append(values, s)
			s.value = ""
		}
		kept.settings = append(kept.settings, s)
	}
	return kept, values
}

func (u setup) statements(token string) []string {
	var out []string
	if u.role != "" {
		out = append(out, "SET ROLE "+u.role)
	}
	out = append(out, set(append(slices.Clone(u.settings), setting{"log_comment", token})))
	if u.database != "" {
		out = append(out, "USE "+quoteIdentifier(u.database))
	}
	if u.readonly != "" {
		out = append(out, "SET readonly = "+u.readonly)
	}
	return out
}

// get returns an idle session of that setup, or a new one.
func (p *sessions) get(u setup) (session, error) {
	kept, values := u.split()
	key := strings.Join(kept.statements(""), "\x00")
	if s, ok := p.take(key); ok {
		if len(values) == 0 {
			return s, nil
		}
		if _, _, err := s.conn.Query([]byte(set(values)), "Null"); err != nil {
			return session{}, errors.Join(err, s.conn.Close())
		}
		return s, nil
	}
	conn, err := p.engine.Connect()
	if err != nil {
		return session{}, err
	}
	s := session{conn: conn, key: key, token: rand.Text()}
	for _, sql := range u.statements(s.token) {
		if _, _, err := conn.Query([]byte(sql), "Null"); err != nil {
			return session{}, errors.Join(err, conn.Close())
		}
	}
	return s, nil
}

// take gives an idle session of that key.
func (p *sessions) take(key string) (session, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		if s := p.idle[i]; s.key == key {
			p.idle = slices.Delete(p.idle, i, i+1)
			return s, true
		}
	}
	return session{}, false
}

// put takes a session back, to keep or to close.
func (p *sessions) put(s session, keep bool) error {
	if !keep {
		return s.conn.Close()
	}
	p.mu.Lock()
	p.idle = append(p.idle, s)
	var oldest *chdb.Conn
	if len(p.idle) > p.max {
		oldest = p.idle[0].conn
		p.idle = slices.Delete(p.idle, 0, 1)
	}
	p.mu.Unlock()
	if oldest == nil {
		return nil
	}
	return oldest.Close()
}

func (p *sessions) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, s := range p.idle {
		errs = append(errs, s.conn.Close())
	}
	p.idle = nil
	return errors.Join(errs...)
}
