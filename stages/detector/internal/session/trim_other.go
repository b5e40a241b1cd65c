//go:build !linux

package session

// FreeMemory gives memory that C code has freed back to the system, where the C
// library would keep it: with glibc.
func FreeMemory() {}
