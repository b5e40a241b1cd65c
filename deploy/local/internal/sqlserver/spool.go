package sqlserver

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
)

var errTooLarge = errors.New("body too large")

func spoolDir(cfg Config) string { return filepath.Join(cfg.Dir, "spool") }

// statementText is what the engine is given to run, and what to do when it has run.
//
// An INSERT's data go by a file that the statement names. Data behind the statement itself would be cut at the
// first empty line: libchdb reads its input as clickhouse-local reads a script, in which two newlines end the
// data of an INSERT, and binary data have two bytes 0x0A in a row sooner or later. The file also keeps a large
// batch out of memory.
func (s *Server) statementText(req *request, st statement) ([]byte, func(), error) {
	if st.data < 0 {
		if len(req.sql) > maxStatement {
			return nil, nil, s.refuse(codeTooLarge, "QUERY_IS_TOO_LARGE", "The statement is longer than %d bytes", maxStatement)
		}
		return req.sql, func() {}, nil
	}
	file, err := s.spool(req.sql[dataStart(req.sql, st.data):], req.rest)
	if err != nil {
		return nil, nil, err
	}
	release := func() {
		if err := os.Remove(file); err != nil {
			s.cfg.Logger.Warn("could not remove an insert's file", slog.String("file", file), slog.String("error", err.Error()))
		}
	}
	return []byte(st.fromFile(string(req.sql[:st.data]), file)), release, nil
}

// dataStart skips what may stand between the format's name and the data: blanks, then one line end.
func dataStart(sql []byte, at int) int {
	for at < len(sql) && (sql[at] == ' ' || sql[at] == '\t' || sql[at] == '\f') {
		at++
	}
	if at < len(sql) && sql[at] == '\r' {
		at++
	}
	if at < len(sql) && sql[at] == '\n' {
		at++
	}
	return at
}

// spool writes head and rest to a file. Nothing is inserted from a body that broke off.
func (s *Server) spool(head []byte, rest io.Reader) (name string, err error) {
	file, err := os.CreateTemp(spoolDir(s.cfg), "insert-*")
	if err != nil {
		return "", s.keepError(err)
	}
	defer func() {
		if closeErr := file.Close(); err == nil && closeErr != nil {
			err = s.keepError(closeErr)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if _, err := file.Write(head); err != nil {
		return "", s.keepError(err)
	}
	if rest == nil {
		return file.Name(), nil
	}
	n, err := io.Copy(file, io.LimitReader(rest, s.cfg.MaxBody+1))
	if err == nil && n > s.cfg.MaxBody {
		err = errTooLarge
	}
	if err != nil {
		return "", s.bodyError(err)
	}
	return file.Name(), nil
}
