// Package fault gives every error of the pipeline one of four classes, once, at the edge where it is born: the object
// store, ClickHouse, Kafka, the renderer, the model. Everything above reads the class and never the message.
//
// The stage runtime acts on the class: a permanent fault condemns its record, a transient one is tried again, an
// unavailable dependency is waited for, and a shutdown is neither.
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Class says what may be done about an error.
type Class int

const (
	// Transient faults may go away by themselves: try again, a few times.
	Transient Class = iota
	// Permanent faults are the record's own: trying again gives the same answer.
	Permanent
	// Unavailable means that a dependency is away: wait, and condemn nothing.
	Unavailable
	// Shutdown means that the process is stopping: neither done nor failed.
	Shutdown
)

// String is the class as metrics and logs name it.
func (c Class) String() string {
	switch c {
	case Permanent:
		return "permanent"
	case Unavailable:
		return "unavailable"
	case Shutdown:
		return "shutdown"
	default:
		return "transient"
	}
}

// Error is a classed error. Code is stable and documented in docs/errors.md; users match on it.
type Error struct {
	Class      Class
	Code       string
	Dependency string // set for Unavailable: the name under which its probe is registered
	Err        error
}

// Error says the code and what happened.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Code
	}
	return e.Code + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// AsPermanent classes err as the record's own fault.
func AsPermanent(code string, err error) error {
	return &Error{Class: Permanent, Code: code, Err: err}
}

// Permanentf is AsPermanent with a message made here.
func Permanentf(code, format string, args ...any) error {
	return AsPermanent(code, fmt.Errorf(format, args...))
}

// AsTransient classes err as one that may go away by itself.
func AsTransient(code string, err error) error {
	return &Error{Class: Transient, Code: code, Err: err}
}

// AsUnavailable classes err as the absence of a dependency, named as its probe is.
func AsUnavailable(dependency string, err error) error {
	return &Error{Class: Unavailable, Code: dependency + "-unavailable", Dependency: dependency, Err: err}
}

// ClassOf is the class of the outermost classed error in err's chain. A cancelled context that nobody classed is a
// Shutdown; a deadline or anything unknown is Transient.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	if errors.Is(err, context.Canceled) {
		return Shutdown
	}
	return Transient
}

// CodeOf is the stable code of err: that of its outermost classed error, else "internal".
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Code != "" {
		return e.Code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	return "internal"
}

// DependencyOf names the dependency that is away, or "".
func DependencyOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Dependency
	}
	return ""
}
