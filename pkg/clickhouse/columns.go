package clickhouse

import (
	"sync"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// columns remembers for a while what the server said of the columns that an INSERT names. clickhouse-go asks it before each
// batch, which costs a server a fifth of what a small insert does.
//
// Columns are altered under a program that runs. The server converts what it is sent by their former types, but those may not
// hold what the new ones do: a time is cut to their precision, and a value that an Enum has gained is refused. So they are
// asked for again after a row or an insert that failed, and otherwise after lapse.
type columns struct {
	mu    sync.Mutex
	known map[string]remembered // by INSERT
}

type remembered struct {
	columns []chgo.ColumnNameAndType
	until   time.Time
}

// lapse is how long columns are remembered, and so for how long times may be cut after a column was made finer.
const lapse = 2 * time.Minute

// of is what is remembered of an INSERT at a time; nil for nothing.
func (c *columns) of(query string, now time.Time) []chgo.ColumnNameAndType {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.known[query]; now.Before(r.until) {
		return r.columns
	}
	return nil
}

// learn remembers the columns of a batch for which the server was asked at a time.
func (c *columns) learn(query string, b driver.Batch, asked time.Time) {
	var all []chgo.ColumnNameAndType
	for _, column := range b.Columns() {
		all = append(all, chgo.ColumnNameAndType{Name: column.Name(), Type: string(column.Type())})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]remembered{}
	}
	c.known[query] = remembered{all, asked.Add(lapse)}
}

func (c *columns) forget(query string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, query)
}
