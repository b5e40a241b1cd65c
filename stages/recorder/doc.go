// Package recorder lands the topic results in ClickHouse. It is the only writer of documents, runs and page_results and
// the only one who says that a run has ended, on the topic document-events. cmd/recorder runs it.
//
// # One record's way
//
// Handle takes a batch and, holding the lock of the Recorder:
//
//	decode    batch.go    the records; one that cannot be read is condemned alone
//	load      cache.go    what is known of their documents and runs: from memory, else from the tables
//	apply     run.go      each record to its run, in memory
//	insert    tables.go   documents, then page_results, then runs: a counter never runs ahead of what it counts
//	say       say.go      RunEnded, as an output of the record that ended the run, or made its document known
//
// The stage runtime commits a record's offset after that, so nothing is lost. Nothing is doubled either, because a row
// is named by what it is about and its version by the record it came from: the same record makes the same row however
// often and in whichever order it comes (see schemas/clickhouse). If anything fails on the way, the memory of the runs
// that the batch touched is dropped and read again: the tables are the truth, memory is only quicker.
//
// A batch that ClickHouse refuses is halved until the record that it refuses stands alone.
//
// # When a run has ended
//
// A run is a set of facts, and its state is a function of the set (run.settle): done when every selected page is done or
// failed, otherwise as the planner's or the canceller's last word has it. A page that is done outranks its failure. The
// event's identity is made of run, state and counts, so the same end said twice, after a crash or a replay, is one.
//
// An end is said once its document's row is known; a run that ended before is looked up when it becomes so (say.go).
package recorder
