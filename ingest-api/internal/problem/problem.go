// Package problem makes every error of the API a problem document (RFC 9457) with a stable code. Handlers return what
// New, Because and From make; the router writes them.
package problem

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/schemas/api"
)

// Problem is an error with the answer that it leads to. Err is for the log and never sent.
type Problem struct {
	api.Problem
	RetryAfter time.Duration `json:"-"` // sent as Retry-After, in whole seconds, where it is not 0
	Err        error         `json:"-"`
}

// New is a problem with a detail that says what happened; the advice of its code follows it.
func New(code Code, format string, args ...any) *Problem {
	e := entryOf(code)
	p := &Problem{Problem: api.Problem{
		Type:   "/docs#" + string(e.Code),
		Title:  e.Title,
		Status: e.Status,
		Code:   string(e.Code),
		Detail: fmt.Sprintf(format, args...) + ". " + e.Advice,
	}}
	if e.Status == http.StatusServiceUnavailable {
		p.RetryAfter = 5 * time.Second
	}
	return p
}

// Because is New with a cause, which goes to the log.
func Because(err error, code Code, format string, args ...any) *Problem {
	p := New(code, format, args...)
	p.Err = err
	return p
}

// Invalid is InvalidRequest with each fault named.
func Invalid(faults ...api.ProblemFault) *Problem {
	what := "The request has a fault"
	if len(faults) > 1 {
		what = fmt.Sprintf("The request has %d faults", len(faults))
	}
	if len(faults) == 1 {
		what = faults[0].Message
		if at := faults[0].Location; at != "" {
			what = at + ": " + what
		}
	}
	p := New(InvalidRequest, "%s", what)
	p.Errors = faults
	return p
}

// From is the problem that err amounts to: itself where it is one, that of a dependency where it is away, else
// internal. Doing names what was tried, for the reader.
func From(err error, doing string) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	if errors.Is(err, context.Canceled) {
		return Because(err, ShuttingDown, "%s was given up", doing)
	}
	if fault.ClassOf(err) == fault.Unavailable {
		switch Code(fault.CodeOf(err)) {
		case StoreUnavailable:
			return Because(err, StoreUnavailable, "%s needs the object store, which cannot be reached", doing)
		case KafkaUnavailable:
			return Because(err, KafkaUnavailable, "%s needs Kafka, which cannot be reached", doing)
		case DatabaseUnavailable:
			return Because(err, DatabaseUnavailable, "%s needs ClickHouse, which cannot be reached", doing)
		}
	}
	var classed *fault.Error
	if errors.As(err, &classed) {
		return Because(err, DependencyBroken, "%s failed", doing)
	}
	return Because(err, Internal, "%s failed", doing)
}

// Error says the code and what happened, with the cause.
func (p *Problem) Error() string {
	if p.Err == nil {
		return p.Problem.Error()
	}
	return p.Problem.Error() + ": " + p.Err.Error()
}

// Unwrap gives the cause.
func (p *Problem) Unwrap() error { return p.Err }

// GetHeaders are the headers of the answer besides its type.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="leafcutter"`)
	}
	return h
}
