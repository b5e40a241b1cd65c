// Package chdb runs ClickHouse inside this process: it loads libchdb at run time (no cgo), opens one data
// directory and hands out connections that run SQL. The SQL server of this module is its only caller.
//
// libchdb is one engine per process and per data directory; a second directory, or a second process on the
// same directory, is refused with an error that says who holds it. Connections are cheap (below a
// millisecond once the engine runs) and carry all session state (settings, role, current database), so a
// caller that wants isolation opens one per request.
package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library holds the C functions that are used, in the types of chdb.h.
//
// Handles are uintptr: they point into C memory, which the garbage collector must neither follow nor move.
type library struct {
	signals           *signals
	setSignalHandlers func(enabled int32)
	connect           func(argc int32, argv unsafe.Pointer) uintptr
	closeConn         func(conn uintptr)
	query             func(conn uintptr, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) uintptr
	stream            func(conn uintptr, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) uintptr
	fetch             func(conn, stream uintptr) uintptr
	cancel            func(conn, stream uintptr)
	destroy           func(result uintptr)
	buffer            func(result uintptr) unsafe.Pointer
	length            func(result uintptr) uintptr
	elapsed           func(result uintptr) float64
	rowsRead          func(result uintptr) uint64
	bytesRead         func(result uintptr) uint64
	storageRowsRead   func(result uintptr) uint64
	storageBytesRead  func(result uintptr) uint64
	rowsWritten       func(result uintptr) uint64
	bytesWritten      func(result uintptr) uint64
	errorText         func(result uintptr) string
}

// process is what exists once per process whatever Go would like: dlopen gives one library, and libchdb keeps
// one engine. The lock orders Open against Close, which tear that engine up and down.
var process struct {
	sync.Mutex
	lib  *library
	file string
	open string // data directory in use, empty when none is
}

// load maps libchdb into the process, once; process must be locked.
func load(file string) (*library, error) {
	if process.lib != nil {
		if process.file != file {
			return nil, fmt.Errorf("loading %s: this process already uses %s", file, process.file)
		}
		return process.lib, nil
	}
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return nil, fmt.Errorf("loading %s: libchdb exists for linux and darwin only", file)
	}
	kept, err := newSignals()
	if err != nil {
		return nil, err
	}
	lib := &library{signals: kept}
	var handle uintptr
	var openErr error
	err = kept.kept(func() { handle, openErr = purego.Dlopen(file, purego.RTLD_NOW|purego.RTLD_LOCAL) })
	if err := errors.Join(openErr, err); err != nil {
		return nil, fmt.Errorf("loading %s: %w", file, err)
	}
	var missing []error
	for name, fn := range map[string]any{
		"chdb_set_signal_handlers_enabled": &lib.setSignalHandlers,
		"chdb_connect":                     &lib.connect,
		"chdb_close_conn":                  &lib.closeConn,
		"chdb_query_with_params_n":         &lib.query,
		"chdb_stream_query_with_params_n":  &lib.stream,
		"chdb_stream_fetch_result":         &lib.fetch,
		"chdb_stream_cancel_query":         &lib.cancel,
		"chdb_destroy_query_result":        &lib.destroy,
		"chdb_result_buffer":               &lib.buffer,
		"chdb_result_length":               &lib.length,
		"chdb_result_elapsed":              &lib.elapsed,
		"chdb_result_rows_read":            &lib.rowsRead,
		"chdb_result_bytes_read":           &lib.bytesRead,
		"chdb_result_storage_rows_read":    &lib.storageRowsRead,
		"chdb_result_storage_bytes_read":   &lib.storageBytesRead,
		"chdb_result_rows_written":         &lib.rowsWritten,
		"chdb_result_bytes_written":        &lib.bytesWritten,
		"chdb_result_error":                &lib.errorText,
	} {
		address, err := purego.Dlsym(handle, name)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		purego.RegisterFunc(fn, address)
	}
	if err := errors.Join(missing...); err != nil {
		return nil, fmt.Errorf("loading %s: not the libchdb that this program was written for (26.5.3): %w", file, err)
	}
	if err := kept.kept(func() { lib.setSignalHandlers(0) }); err != nil {
		return nil, fmt.Errorf("loading %s: %w", file, err)
	}
	process.lib, process.file = lib, file
	return lib, nil
}
