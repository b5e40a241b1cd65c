package recorder

import (
	"fmt"
	"reflect"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// newOf is a place to scan a column into.
func newOf(c driver.ColumnType) any { return reflect.New(c.ScanType()).Interface() }

// textOf is a scanned value as the tests write it: NULL, times in RFC 3339, all else as fmt prints it.
func textOf(v any) string {
	value := reflect.ValueOf(v).Elem()
	for value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return "NULL"
		}
		value = value.Elem()
	}
	if at, ok := value.Interface().(time.Time); ok {
		return at.UTC().Format(time.RFC3339Nano)
	}
	return fmt.Sprint(value.Interface())
}
