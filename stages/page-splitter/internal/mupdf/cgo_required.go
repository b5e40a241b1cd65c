//go:build !cgo

package mupdf

// Without cgo the library would be looked for at run time and its absence end
// the process; the build ends instead, with a name that says what to do.
var _ = page_splitter_needs_a_C_compiler_and_CGO_ENABLED_1
