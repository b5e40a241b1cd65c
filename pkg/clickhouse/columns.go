package clickhouse

import (
	"sync"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// columns remembers what the server said of the columns that an INSERT names. clickhouse-go asks it before each batch,
// which costs a server a fifth of what a small insert does.
//
// A column whose type is changed is no harm: the server converts what it is sent. After an insert that failed the columns
// are asked for again.
type columns struct {
	mu    sync.Mutex
	known map[string][]chgo.ColumnNameAndType // by INSERT
}

func (c *columns) of(query string) []chgo.ColumnNameAndType {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[query]
}

func (c *columns) learn(query string, b driver.Batch) {
	var all []chgo.ColumnNameAndType
	for _, column := range b.Columns() {
		all = append(all, chgo.ColumnNameAndType{Name: column.Name(), Type: string(column.Type())})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string][]chgo.ColumnNameAndType{}
	}
	c.known[query] = all
}

func (c *columns) forget(query string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, query)
}
