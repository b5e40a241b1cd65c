package httpapi

import (
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

const problemType = "application/problem+json"

// document is the OpenAPI document before its operations.
func (a *API) document() huma.Config {
	version := a.Version
	if version == "" {
		version = "dev"
	}
	c := huma.DefaultConfig("Leafcutter", version)
	c.Info.Description = "Documents in, titles, tables and figures out: as crops, as boxes on annotated pages, and as rows that SQL finds while the document is still running. Every error is a problem (RFC 9457) with a stable `code`."
	c.Info.License = &huma.License{Name: "Apache-2.0 (this description)", Identifier: "Apache-2.0"}
	c.OpenAPIPath = ""  // the library renders it without a lock; ours is in docs.go
	c.DocsPath = ""     // the library's page loads scripts from elsewhere; ours is in docs.go
	c.SchemasPath = ""  // schemas are in the document
	c.CreateHooks = nil // no $schema in answers
	c.Transformers = []huma.Transformer{a.transform}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", Description: "one of LEAFCUTTER_API_KEYS, where the server has any"},
		"header": {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "the same by a header of its own"},
	}
	c.Security = []map[string][]string{{}, {"bearer": {}}, {"header": {}}}
	return c
}

// transform gives every answer that is an error the shape of a problem: the library's own come without a code, and ours
// without the request's id.
func (a *API) transform(ctx huma.Context, _ string, v any) (any, error) {
	switch e := v.(type) {
	case *problem.Problem:
		return finish(humagin.Unwrap(ctx), e), nil
	case *huma.ErrorModel:
		return finish(humagin.Unwrap(ctx), problemOf(e)), nil
	}
	return v, nil
}

// problemOf is one of the library's errors as a problem.
func problemOf(e *huma.ErrorModel) *problem.Problem {
	if e.Status >= http.StatusInternalServerError {
		return problem.Because(e, problem.Internal, "The request could not be handled")
	}
	var faults []api.ProblemFault
	for _, f := range e.Errors {
		faults = append(faults, api.ProblemFault{Message: f.Message, Location: f.Location})
	}
	if len(faults) == 0 {
		faults = []api.ProblemFault{{Message: e.Detail}}
	}
	p := problem.Invalid(faults...)
	p.Status = e.Status
	return p
}

func (a *API) schemaOf(t reflect.Type) *huma.Schema {
	return a.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

func (a *API) problemResponse() *huma.Response {
	return &huma.Response{
		Description: "A problem: see `code`, `detail` and docs/errors.md",
		Content:     map[string]*huma.MediaType{problemType: {Schema: a.schemaOf(reflect.TypeFor[api.Problem]())}},
	}
}

func (a *API) responses(status, description, contentType string, schema *huma.Schema) map[string]*huma.Response {
	return map[string]*huma.Response{
		status:    {Description: description, Content: map[string]*huma.MediaType{contentType: {Schema: schema}}},
		"default": a.problemResponse(),
	}
}

func text(description string) *huma.Schema {
	return &huma.Schema{Type: "string", Description: description}
}

func number(kind, description string, low, high float64) *huma.Schema {
	return &huma.Schema{Type: kind, Description: description, Minimum: &low, Maximum: &high}
}

func pathParam(name, description string, s *huma.Schema) *huma.Param {
	return &huma.Param{Name: name, In: "path", Required: true, Description: description, Schema: s}
}

var idParam = pathParam("id", "id of the document, a UUID", &huma.Schema{Type: "string"})

func (a *API) documentSubmit() {
	longest := schemas.MaxTitle
	title := text("shown in lists; the file name where it is absent")
	title.MaxLength = &longest
	form := &huma.Schema{
		Type: "object", Required: []string{"file"},
		Properties: map[string]*huma.Schema{
			"file":         {Type: "string", Format: "binary", Description: "PDF, PNG, JPEG or TIFF, told by its first bytes"},
			"title":        title,
			"model":        {Type: "array", Items: text(""), Description: "models to run, a run each; the server's default where it is absent"},
			"dpi":          number("integer", "resolution of the page images; 108 where it is absent", schemas.MinDPI, schemas.MaxDPI),
			"pages":        text("pages to run, from 1: 1-3,7,10- ; all where it is absent"),
			"thresholds":   text(`score from which boxes of a class are cropped: {"title":0.5,"*":0.4}, title=0.5,*=0.4, or one number for all`),
			"crop_padding": number("integer", "pixels added on each side of a crop; 4 where it is absent", 0, schemas.MaxPadding),
			"webhook_url":  text("http or https URL to which the end of each run is posted, signed; refused where the server sends no webhooks"),
		},
	}
	limit := 255
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "submit-document", Method: http.MethodPost, Path: "/v1/documents", Summary: "Submit a document",
		Description: "Send the file as a form, or name an object in a bucket that the server reads. The answer comes once the document is safe: stored, and its record acknowledged by every replica.",
		Parameters: []*huma.Param{{
			Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: "string", MaxLength: &limit},
			Description: "makes the submission repeatable: the same key with the same file, title and options names the same document for ever, with others it is refused",
		}},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"multipart/form-data": {Schema: form},
			"application/json":    {Schema: a.schemaOf(reflect.TypeFor[schemas.DocumentSubmitted]())},
		}},
		Responses: a.responses("202", "The document is safe and will be done; Location is its state", "application/json", a.schemaOf(reflect.TypeFor[api.Accepted]())),
	})
}

func (a *API) documentObjects() {
	run := &huma.Param{Name: "run", In: "query", Schema: &huma.Schema{Type: "string"}, Description: "id of the run; the newest where it is absent"}
	page := pathParam("page", "number of the page, from 1", number("integer", "", 1, 1<<31-1))
	binary := &huma.Schema{Type: "string", Format: "binary"}
	add := func(id, path, summary, description, contentType string, params ...*huma.Param) {
		responses := a.responses("200", "The object, with an ETag", contentType, binary)
		responses["302"] = &huma.Response{Description: "A signed link of 15 minutes, where the server is set to LEAFCUTTER_OBJECT_LINKS=redirect"}
		responses["304"] = &huma.Response{Description: "Unchanged since the ETag in If-None-Match"}
		a.huma.OpenAPI().AddOperation(&huma.Operation{
			OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Description: description,
			Parameters: append([]*huma.Param{idParam}, params...), Responses: responses,
		})
	}
	pages := "/v1/documents/{id}/pages/{page}"
	add("get-source", "/v1/documents/{id}/source", "The document as it was submitted", "", "application/octet-stream")
	add("get-page-image", pages+"/image", "The page as it was rendered", "PNG, 8 bits a channel, RGB, or grey where the page has no colour; boxes are in its pixels.", "image/png", page, run)
	add("get-page-annotated", pages+"/annotated", "The page with its boxes drawn", "", "image/png", page, run)
	add("get-crop", pages+"/crops/{k}", "What box k cuts from the page", "With the run's padding around the box.", "image/png",
		page, pathParam("k", "number of the box, from 1", number("integer", "", 1, 1<<31-1)), run)
}

func (a *API) documentEvents() {
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "watch-document", Method: http.MethodGet, Path: "/v1/documents/{id}/events", Summary: "Progress as server-sent events",
		Description: "`progress` at once and at every change, at most twice a second; `end` with the final state, after which the stream ends. The data of both is a Progress.",
		Parameters:  []*huma.Param{idParam},
		Responses:   a.responses("200", "The stream", "text/event-stream", a.schemaOf(reflect.TypeFor[api.Progress]())),
	})
}

func (a *API) documentCreate() {
	made := a.schemaOf(reflect.TypeFor[created]())
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "create", Method: http.MethodPost, Path: "/api/create/", Summary: "Submit a document, the tutorial's way",
		Description: "As `POST /v1/documents` with a form of `title` and `file`; other fields are ignored.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {Schema: &huma.Schema{
			Type: "object", Required: []string{"file"},
			Properties: map[string]*huma.Schema{"title": text(""), "file": {Type: "string", Format: "binary"}},
		}}}},
		Responses: a.responses("201", "The document is safe and will be done", "application/json", made),
	})
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "list-created", Method: http.MethodGet, Path: "/api/create/", Summary: "List documents, the tutorial's way",
		Description: "The newest 100; the header Link leads on.",
		Parameters:  []*huma.Param{{Name: "cursor", In: "query", Schema: &huma.Schema{Type: "string"}}},
		Responses:   a.responses("200", "The documents", "application/json", &huma.Schema{Type: "array", Items: made}),
	})
}
