//go:build !linux

package detector

import "syscall"

// childAttributes are none here: a child whose detector was killed prepares its model to the end.
func childAttributes() *syscall.SysProcAttr { return nil }
