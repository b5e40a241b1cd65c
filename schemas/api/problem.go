package api

import "fmt"

// Problem is the body of every answer that is an error (RFC 9457, application/problem+json). It is an error too: the
// client returns it.
type Problem struct {
	Type   string         `json:"type" format:"uri-reference" doc:"where the code is explained"`
	Title  string         `json:"title" doc:"the code in a few words; the same for every occurrence"`
	Status int            `json:"status" doc:"the HTTP status"`
	Code   string         `json:"code" doc:"stable name of the fault, see docs/errors.md; match on it" example:"unknown-model"`
	Detail string         `json:"detail" doc:"what happened here and what to do"`
	Errors []ProblemFault `json:"errors,omitempty" doc:"each fault of the request, where there are several or it has a place"`

	RequestID string `json:"request_id,omitempty" doc:"as in the header X-Request-Id and in the server's log"`
}

// ProblemFault is one fault of a request.
type ProblemFault struct {
	Message  string `json:"message"`
	Location string `json:"location,omitempty" doc:"such as query.limit or form.dpi"`
}

// Error says the code and what to do.
func (p *Problem) Error() string {
	return fmt.Sprintf("%s (%s, HTTP %d)", p.Detail, p.Code, p.Status)
}

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType turns the negotiated type of an answer into that of a problem.
func (p *Problem) ContentType(string) string { return "application/problem+json" }
