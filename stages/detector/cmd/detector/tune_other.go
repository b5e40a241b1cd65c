//go:build !linux

package main

// tune does nothing where there is no glibc.
func tune() {}
