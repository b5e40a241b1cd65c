package clickhouse

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"leafcutter/pkg/fault"
)

// Codes of the permanent faults of this package.
const (
	CodeRow       = "row-rejected"       // a row does not fit its table
	CodeStatement = "statement-rejected" // the server does not take the statement
)

// waiting are the server's error codes that no row is to blame for: the server is busy or out of something, its storage
// or its keeper is away, its tables are not there yet, or it does not know us. Names as in ErrorCodes.cpp.
var waiting = map[int32]bool{
	74:  true, // CANNOT_READ_FROM_FILE_DESCRIPTOR
	75:  true, // CANNOT_WRITE_TO_FILE_DESCRIPTOR
	76:  true, // CANNOT_OPEN_FILE
	16:  true, // NO_SUCH_COLUMN_IN_TABLE: migrations are behind
	60:  true, // UNKNOWN_TABLE: same
	81:  true, // UNKNOWN_DATABASE: same
	159: true, // TIMEOUT_EXCEEDED
	160: true, // TOO_SLOW
	164: true, // READONLY
	173: true, // CANNOT_ALLOCATE_MEMORY
	192: true, // UNKNOWN_USER
	193: true, // WRONG_PASSWORD
	194: true, // REQUIRED_PASSWORD
	201: true, // QUOTA_EXCEEDED
	202: true, // TOO_MANY_SIMULTANEOUS_QUERIES
	203: true, // NO_FREE_CONNECTION
	209: true, // SOCKET_TIMEOUT
	210: true, // NETWORK_ERROR
	225: true, // NO_ZOOKEEPER
	236: true, // ABORTED
	241: true, // MEMORY_LIMIT_EXCEEDED
	242: true, // TABLE_IS_READ_ONLY
	243: true, // NOT_ENOUGH_SPACE
	252: true, // TOO_MANY_PARTS, but see outOfPartitions
	279: true, // ALL_CONNECTION_TRIES_FAILED
	285: true, // TOO_FEW_LIVE_REPLICAS
	286: true, // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
	290: true, // LIMIT_EXCEEDED
	319: true, // UNKNOWN_STATUS_OF_INSERT
	394: true, // QUERY_WAS_CANCELLED
	425: true, // SYSTEM_ERROR
	439: true, // CANNOT_SCHEDULE_TASK
	473: true, // DEADLOCK_AVOIDED
	497: true, // ACCESS_DENIED
	516: true, // AUTHENTICATION_FAILED
	518: true, // same, from directories of users
	668: true, // INVALID_STATE
	700: true, // USER_SESSION_LIMIT_EXCEEDED
	999: true, // KEEPER_EXCEPTION
}

// rowFaults are the codes by which the server says that a value does not fit its column.
var rowFaults = map[int32]bool{
	6:   true, // CANNOT_PARSE_TEXT
	27:  true, // CANNOT_PARSE_INPUT_ASSERTION_FAILED
	33:  true, // CANNOT_READ_ALL_DATA
	38:  true, // CANNOT_PARSE_DATE
	41:  true, // CANNOT_PARSE_DATETIME
	53:  true, // TYPE_MISMATCH
	69:  true, // ARGUMENT_OUT_OF_BOUND
	70:  true, // CANNOT_CONVERT_TYPE
	72:  true, // CANNOT_PARSE_NUMBER
	117: true, // INCORRECT_DATA
	128: true, // TOO_LARGE_ARRAY_SIZE
	131: true, // TOO_LARGE_STRING_SIZE
	190: true, // SIZES_OF_ARRAYS_DONT_MATCH
	321: true, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
	349: true, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
	376: true, // CANNOT_PARSE_UUID
	469: true, // VIOLATED_CONSTRAINT
	691: true, // UNKNOWN_ELEMENT_OF_ENUM
}

// classed gives err its class and says what was being done; nil and sql.ErrNoRows stay what they are. ctx is the
// caller's: if that was cancelled, so was the request, whatever the driver made of it.
func classed(ctx context.Context, doing string, err error) error {
	if err == nil || errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("clickhouse: %s: %w", doing, context.Canceled)
	}
	err = fmt.Errorf("clickhouse: %s: %w", doing, err)
	var exception *chgo.Exception
	if errors.As(err, &exception) {
		switch {
		case outOfPartitions(exception), rowFaults[exception.Code]:
			return fault.AsPermanent(CodeRow, err)
		case waiting[exception.Code]:
			return fault.AsUnavailable(Dependency, err)
		default:
			return fault.AsPermanent(CodeStatement, err)
		}
	}
	// Not ClickHouse's own words: a proxy before it, or a server that is starting.
	var answer *chgo.HTTPError
	if errors.As(err, &answer) || fromNetwork(err) {
		return fault.AsUnavailable(Dependency, err)
	}
	var block *proto.BlockError
	var value *column.Error
	var conversion *column.ColumnConverterError
	if errors.As(err, &block) || errors.As(err, &value) || errors.As(err, &conversion) || errors.Is(err, chgo.ErrBatchInvalid) {
		return fault.AsPermanent(CodeRow, err)
	}
	return fault.AsTransient("clickhouse-error", err)
}

// outOfPartitions tells the two meanings of TOO_MANY_PARTS apart: a table that merges too slowly, or one block that
// falls into more partitions than the server allows, which it will do again.
func outOfPartitions(e *chgo.Exception) bool {
	return e.Code == 252 && strings.Contains(e.Message, "partitions for single INSERT block")
}

func fromNetwork(err error) bool {
	var network net.Error
	var request *url.Error
	if errors.As(err, &network) || errors.As(err, &request) {
		return true
	}
	for _, cause := range []error{
		io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded, net.ErrClosed, sqldriver.ErrBadConn,
		chgo.ErrAcquireConnTimeout, chgo.ErrAcquireConnNoAddress, chgo.ErrConnectionClosed,
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

// unreachable classes the error of a probe or a migration, where nothing is a row's fault.
func unreachable(ctx context.Context, doing string, err error) error {
	err = classed(ctx, doing, err)
	var f *fault.Error
	if errors.As(err, &f) && f.Class != fault.Unavailable {
		return fault.AsUnavailable(Dependency, f.Err)
	}
	return err
}
