// Package reliability holds the pipeline to its promise under faults: whatever is killed, stopped, filled, repeated or
// poisoned, every document ends with exactly the rows and objects of a run that nobody disturbed.
//
// The tests run the real binaries (package pipeline) on a seeded corpus (corpus.go), work out from an undisturbed run what
// every copy of it must end with (oracle.go), disturb, and compare. Each fault is a row of the table in
// docs/reliability.md, which `go test -tags full ./reliability -record` writes. Without the tag a seeded twentieth of the
// same is run.
package reliability
