// Package tools pins the versions of the programs that check this repository
// (golangci-lint). It is a module of its own and not part of go.work, so that
// what a linter needs never decides which version of a library is built into
// a binary. `make lint` builds them into build/tools.
package tools
