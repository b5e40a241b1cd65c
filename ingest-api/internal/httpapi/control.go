package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas/api"
)

// controlAnswer is 202 where something was asked for, 200 where there was nothing to do.
type controlAnswer struct {
	Status int
	Body   api.Controlled
}

func (a *API) controlRoutes() {
	const again = " Asking again does no harm: where there is nothing to do, the answer is 200."
	a.control("cancel-document", http.MethodPost, "/v1/documents/{id}/cancel", "Cancel a document",
		"Pages that wait are let go of in every stage, and runs that have not ended are `cancelled` within moments; pages that are done stay. A document that has ended keeps its state, which the answer says."+again,
		a.Control.Cancel)
	a.control("resume-document", http.MethodPost, "/v1/documents/{id}/resume", "Resume a cancelled document",
		"The pages that are missing are asked for again; `pages` says how many. A document that was not cancelled is left as it is."+again,
		a.Control.Resume)
	a.control("delete-document", http.MethodDelete, "/v1/documents/{id}", "Delete a document for good",
		"Its objects, rows and events are gone soon after, and nothing that still comes of it is kept: from now on its id answers 410, `document-deleted`. A source that was referred to in another bucket stays there."+again,
		a.Control.Delete)
}

// control adds an operation that asks something of a document.
func (a *API) control(id, method, path, summary, description string, ask func(context.Context, string) (api.Controlled, error)) {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Description: description, DefaultStatus: http.StatusAccepted,
		Responses: map[string]*huma.Response{
			"202":     {Description: "It is asked for, and holds from now on"},
			"default": a.problemResponse(),
		},
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *documentInput) (*controlAnswer, error) {
		done, err := ask(ctx, in.ID)
		if err != nil {
			return nil, problem.From(err, summary)
		}
		if done.Sequence == 0 {
			return &controlAnswer{Status: http.StatusOK, Body: done}, nil
		}
		return &controlAnswer{Status: http.StatusAccepted, Body: done}, nil
	})
	// The same answer for both: the description says what tells them apart.
	responses := a.huma.OpenAPI().Paths[path]
	for _, known := range []*huma.Operation{responses.Post, responses.Delete} {
		if known != nil && known.OperationID == id {
			known.Responses["200"] = &huma.Response{Description: "There was nothing to do", Content: known.Responses["202"].Content}
		}
	}
}
