package chdb

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"unsafe"
)

// Conn is one session. Its methods may be called from any goroutine; they run one after the other.
type Conn struct {
	engine *Engine

	mu     sync.Mutex
	handle uintptr // chdb_connection*: a pointer to the pointer that the calls take
}

// Param is the value of a {name:Type} placeholder, in ClickHouse's escaped text form (as in a TSV field).
type Param struct{ Name, Value string }

// Stats are the engine's counters for a statement.
type Stats struct {
	Seconds                   float64
	ReadRows, ReadBytes       uint64 // from storage
	WrittenRows, WrittenBytes uint64
	ResultRows, ResultBytes   uint64
}

// Error is a statement that ClickHouse refused; Text is its own message, "Code: 60. DB::Exception: …".
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

var errClosed = errors.New("chDB connection is closed")

// Query runs one statement (or several, separated by semicolons: the caller decides what it lets through) and
// returns the whole answer in the given format. Data of an INSERT follows the statement in sql.
func (c *Conn) Query(sql []byte, format string, params ...Param) ([]byte, Stats, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == 0 {
		return nil, Stats{}, errClosed
	}
	result := c.call(c.engine.lib.query, sql, format, params)
	return c.take(result)
}

// take copies a result into Go memory and frees it.
func (c *Conn) take(result uintptr) ([]byte, Stats, error) {
	lib := c.engine.lib
	if result == 0 {
		return nil, Stats{}, errors.New("chDB gave no result")
	}
	defer lib.destroy(result)
	if text := lib.errorText(result); text != "" {
		return nil, Stats{}, &Error{Text: text}
	}
	stats := Stats{
		Seconds:  lib.elapsed(result),
		ReadRows: lib.storageRowsRead(result), ReadBytes: lib.storageBytesRead(result),
		WrittenRows: lib.rowsWritten(result), WrittenBytes: lib.bytesWritten(result),
		ResultRows: lib.rowsRead(result), ResultBytes: lib.bytesRead(result),
	}
	n := lib.length(result)
	if n == 0 {
		return nil, stats, nil
	}
	data := make([]byte, n)
	copy(data, unsafe.Slice((*byte)(lib.buffer(result)), n))
	return data, stats, nil
}

type statement func(conn uintptr, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) uintptr

// call passes Go memory to C for the time of one call; libchdb copies what it keeps.
func (c *Conn) call(fn statement, sql []byte, format string, params []Param) uintptr {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pin := func(text []byte) *byte {
		if len(text) == 0 {
			text = []byte{0}
		}
		p := unsafe.SliceData(text)
		pinner.Pin(p)
		return p
	}
	n := len(params)
	names, values := make([]*byte, n+1), make([]*byte, n+1)
	nameLens, valueLens := make([]uintptr, n+1), make([]uintptr, n+1)
	for i, p := range params {
		names[i], nameLens[i] = pin([]byte(p.Name)), uintptr(len(p.Name))
		values[i], valueLens[i] = pin([]byte(p.Value)), uintptr(len(p.Value))
	}
	conn := *(*uintptr)(cPointer(c.handle))
	return fn(conn, unsafe.Pointer(pin(sql)), uintptr(len(sql)), unsafe.Pointer(pin([]byte(format))), uintptr(len(format)),
		unsafe.Pointer(&names[0]), unsafe.Pointer(&nameLens[0]), unsafe.Pointer(&values[0]), unsafe.Pointer(&valueLens[0]), uintptr(n))
}

// cPointer turns an address in C memory into a pointer, without vet taking it for Go memory.
func cPointer(address uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&address)) }

// Stream is an answer that is read piece by piece; its connection runs nothing else until it is closed.
type Stream struct {
	conn   *Conn
	handle uintptr
	done   bool
}

// Stream starts a SELECT and returns its answer as pieces, each one a document of its own in the given format
// that holds some of the rows. What is wrong with the statement may show only in the first Next.
func (c *Conn) Stream(sql []byte, format string, params ...Param) (*Stream, error) {
	c.mu.Lock()
	if c.handle == 0 {
		c.mu.Unlock()
		return nil, errClosed
	}
	lib := c.engine.lib
	handle := c.call(lib.stream, sql, format, params)
	if handle == 0 {
		c.mu.Unlock()
		return nil, errors.New("chDB gave no result")
	}
	if text := lib.errorText(handle); text != "" {
		lib.destroy(handle)
		c.mu.Unlock()
		return nil, &Error{Text: text}
	}
	return &Stream{conn: c, handle: handle}, nil
}

// Next returns the next piece, and io.EOF after the last one.
func (s *Stream) Next() ([]byte, Stats, error) {
	if s.done {
		return nil, Stats{}, io.EOF
	}
	data, stats, err := s.conn.take(s.conn.engine.lib.fetch(*(*uintptr)(cPointer(s.conn.handle)), s.handle))
	var refused *Error
	if err == nil && len(data) == 0 || errors.As(err, &refused) && refused.Text == "No active streaming query" {
		err = io.EOF // the latter where the statement had ended with its first, empty piece
	}
	s.done = err != nil
	return data, stats, err
}

// Close ends the statement, also in the middle, and frees the connection for the next one.
func (s *Stream) Close() {
	if s.handle == 0 {
		return
	}
	lib := s.conn.engine.lib
	if !s.done {
		lib.cancel(*(*uintptr)(cPointer(s.conn.handle)), s.handle)
	}
	lib.destroy(s.handle)
	s.handle = 0
	s.conn.mu.Unlock()
}

// Close ends the session. It waits for a statement in flight and for an open Stream's Close.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == 0 {
		return nil
	}
	c.engine.lib.closeConn(c.handle)
	c.handle = 0
	c.engine.mu.Lock()
	c.engine.conns--
	c.engine.mu.Unlock()
	return nil
}

// Exec runs a statement that answers nothing of interest.
func (c *Conn) Exec(sql string) error {
	if _, _, err := c.Query([]byte(sql), "Null"); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}
