package clickhouse

import (
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"
)

// prepared is a batch of one column.
type prepared struct {
	driver.Batch
	column column.Interface
}

func (p prepared) Columns() []column.Interface { return []column.Interface{p.column} }

// What is remembered lapses, so that a column that was made finer is written as fine as it is.
func TestRememberedColumnsLapse(t *testing.T) {
	at := time.Unix(1e9, 0)
	batch := func(kind column.Type) prepared {
		c, err := kind.Column("at", &column.ServerContext{Timezone: time.UTC})
		if err != nil {
			t.Fatal(err)
		}
		return prepared{column: c}
	}
	var c columns
	if got := c.of("INSERT", at); got != nil {
		t.Errorf("of nothing, %v is remembered", got)
	}
	for n, kind := range []column.Type{"DateTime64(3)", "DateTime64(6)"} {
		at = at.Add(time.Duration(n) * lapse)
		c.learn("INSERT", batch(kind), at)
		want := []chgo.ColumnNameAndType{{Name: "at", Type: string(kind)}}
		if diff := cmp.Diff(want, c.of("INSERT", at.Add(lapse-time.Second))); diff != "" {
			t.Error(diff)
		}
		if got := c.of("INSERT", at.Add(lapse)); got != nil {
			t.Errorf("%v is remembered for ever", got)
		}
		if got := c.of("INSERT another", at); got != nil {
			t.Errorf("%v is remembered of another table", got)
		}
	}
	c.forget("INSERT")
	if got := c.of("INSERT", at); got != nil {
		t.Errorf("%v was to be forgotten", got)
	}
}
