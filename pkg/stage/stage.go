// Package stage runs one stage of the pipeline: it takes records from the plain topics and their bulk twins, hands them
// to a pure handler, produces what the handler gives back, and commits only what is done. Every stage binary calls it;
// a handler never sees a Kafka type.
//
// What the runtime guarantees:
//
//   - An input is marked done when every output that it caused has been acknowledged, and commits follow the lowest
//     contiguous finished offset of each partition. A late finish after a revoke commits nothing.
//   - What is in flight is bounded by count and by bytes; beyond it, partitions pause. Memory never follows the backlog.
//   - A permanent fault goes to dead-letters at once; a transient one is retried with jittered backoff and then goes
//     there; an unavailable dependency is waited for as long as its own probe fails too.
//   - A stop takes no new records, lets the work in flight end within a grace time, commits and leaves the group.
package stage

import (
	"context"
	"time"

	"leafcutter/schemas"
)

// Handler is a stage. Handle gets between one and Config.BatchSize records and returns one Result for each, in order.
// It may be called concurrently. It must give up when ctx ends, and may keep neither In.Value nor In itself.
type Handler interface {
	Handle(ctx context.Context, in []In) []Result
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, in []In) []Result

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, in []In) []Result { return f(ctx, in) }

// Each is a Handler for stages that take records one by one.
func Each(handle func(ctx context.Context, in In) Result) Handler { return each(handle) }

// each takes batches of one: a larger one would keep back what is done until the last is.
type each func(ctx context.Context, in In) Result

func (handle each) Handle(ctx context.Context, in []In) []Result {
	out := make([]Result, len(in))
	for i := range in {
		out[i] = handle(ctx, in[i])
	}
	return out
}

// In is one record to be handled.
type In struct {
	Topic     string // without the deployment's prefix
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       string
	Value     []byte
	Headers   map[string]string
	Attempt   int // from 1; the unavailability of a dependency does not count
}

// Out is one record to be produced. Make it with Emit.
type Out struct {
	Topic    string // without the deployment's prefix
	Key      string
	Value    []byte
	Headers  map[string]string
	OwnTrace bool // start a trace of its own, linked to this one, rather than continue it
}

// Emit is the record rec for topic, with the headers that every record carries.
func Emit(topic, key string, rec schemas.Record) (Out, error) {
	value, err := schemas.Marshal(rec)
	if err != nil {
		return Out{}, err
	}
	return Out{Topic: topic, Key: key, Value: value, Headers: map[string]string{
		schemas.HeaderContentType: "application/json",
		schemas.HeaderSchema:      rec.Schema(),
		schemas.HeaderID:          schemas.LCID(rec),
	}}, nil
}

// Failure is a part of an input that failed while the rest went on: page n of a range. It becomes a dead letter whose
// original record is Replay, the smallest record that does the part again.
type Failure struct {
	Replay Out
	About  About
	Err    error
}

// Result is what became of one input. With Err set, Out and Failures are ignored and the class of Err (package fault)
// decides: retry, wait, or dead letter.
type Result struct {
	Out      []Out
	Failures []Failure
	Err      error
}

// Fail is the Result of an input that failed as a whole.
func Fail(err error) Result { return Result{Err: err} }

// About names what a record is about, for dead letters, logs and spans. Zero fields are unknown.
type About struct {
	DocumentID string
	RunID      string
	Page       int
	Control    int64 // sequence of the control that asked for the record again; 0 where none did
}
