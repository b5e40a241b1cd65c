//go:build !linux

package session

// Forgo lets go of pages of program files that running does not need, where the
// system says which those are.
func Forgo() {}

func (mapping) letGo() {}

func unwritten(func(_, _ string) bool) []mapping { return nil }
