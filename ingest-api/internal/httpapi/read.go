package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/query"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// answer is an operation's answer with a body.
type answer[T any] struct {
	Body T
}

type documentInput struct {
	ID string `path:"id" doc:"id of the document, a UUID"`
}

type listInput struct {
	State  string `query:"state" enum:"queued,running,waiting-for-model,completed,completed_with_failures,failed,cancelled" doc:"only documents in this state"`
	Title  string `query:"title" maxLength:"200" doc:"only documents whose title has this in it, in any case"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"documents at most"`
	Cursor string `query:"cursor" doc:"next of the previous answer"`
}

type pagesInput struct {
	ID     string `path:"id" doc:"id of the document, a UUID"`
	Run    string `query:"run" doc:"id of the run; the newest where it is absent"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"pages at most"`
	Cursor string `query:"cursor" doc:"next of the previous answer"`
}

type pageInput struct {
	ID   string `path:"id" doc:"id of the document, a UUID"`
	Page int    `path:"page" minimum:"1" doc:"number of the page, from 1"`
	Run  string `query:"run" doc:"id of the run; the newest where it is absent"`
}

type detectionsInput struct {
	ID       string  `path:"id" doc:"id of the document, a UUID"`
	Run      string  `query:"run" doc:"id of the run; the newest where it is absent"`
	Class    string  `query:"class" maxLength:"64" doc:"only boxes of this class"`
	MinScore float64 `query:"min_score" minimum:"0" maximum:"1" doc:"only boxes of this score and more: a threshold is a query"`
	Page     int     `query:"page" minimum:"1" doc:"only boxes of this page"`
	Limit    int     `query:"limit" minimum:"1" maximum:"5000" default:"500" doc:"boxes at most"`
	Cursor   string  `query:"cursor" doc:"next of the previous answer"`
}

func (a *API) readRoutes() {
	get(a, "list-documents", "/v1/documents", "List documents, newest first",
		"A document is listed once the pipeline has opened it. `next` leads on; new arrivals never shift a page of the list.",
		func(ctx context.Context, in *listInput) (api.DocumentList, error) {
			return a.Catalogue.List(ctx, schemas.State(in.State), in.Title, in.Cursor, in.Limit)
		})
	get(a, "get-document", "/v1/documents/{id}", "State of a document",
		"An accepted id is known at once: until its rows have landed it is `queued`.",
		func(ctx context.Context, in *documentInput) (*api.Document, error) {
			return a.Catalogue.Document(ctx, in.ID)
		})
	get(a, "list-pages", "/v1/documents/{id}/pages", "Pages of a run that are done or failed, with their boxes", "",
		func(ctx context.Context, in *pagesInput) (api.PageList, error) {
			return a.Catalogue.Pages(ctx, in.ID, in.Run, in.Cursor, in.Limit)
		})
	get(a, "get-page", "/v1/documents/{id}/pages/{page}", "One page with its boxes",
		"A page that the run is still to do is `queued`.",
		func(ctx context.Context, in *pageInput) (api.Page, error) {
			page, _, err := a.Catalogue.Page(ctx, in.ID, in.Run, in.Page)
			if err != nil {
				return api.Page{}, err
			}
			return page.Page, nil
		})
	get(a, "list-detections", "/v1/documents/{id}/detections", "Boxes of a run, by page and number",
		"Boxes are kept from the model's score floor on; ask for the scores you trust by `min_score`.",
		func(ctx context.Context, in *detectionsInput) (api.DetectionList, error) {
			return a.Catalogue.Detections(ctx, in.ID, in.Run, in.Cursor,
				query.Boxes{Class: in.Class, MinScore: in.MinScore, Page: in.Page, Limit: in.Limit})
		})
	get(a, "list-models", "/v1/models", "Models that a submission may name", "",
		func(context.Context, *struct{}) (api.ModelList, error) {
			return api.ModelList{Models: a.Models.List()}, nil
		})
}

// get adds an operation to router and document.
func get[I, O any](a *API, id, path, summary, description string, handle func(context.Context, *I) (O, error)) {
	op := huma.Operation{
		OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Description: description,
		Responses: map[string]*huma.Response{"200": {Description: "The answer"}, "default": a.problemResponse()},
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*answer[O], error) {
		body, err := handle(ctx, in)
		if err != nil {
			return nil, problem.From(err, summary)
		}
		return &answer[O]{Body: body}, nil
	})
}
