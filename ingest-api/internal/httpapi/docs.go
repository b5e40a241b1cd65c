package httpapi

import (
	"bytes"
	"cmp"
	_ "embed" // for the page
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/problem"
)

//go:embed docs.html
var docsPage string

// docsRoutes must come last: what they say is fixed once every operation is there.
func (a *API) docsRoutes() error {
	for _, own := range []string{"ErrorModel", "ErrorDetail"} { // the library registers its own shape of errors
		delete(a.huma.OpenAPI().Components.Schemas.Map(), own)
	}
	document, err := json.Marshal(a.huma.OpenAPI())
	if err != nil {
		return fmt.Errorf("describe the API: %w", err)
	}
	var page bytes.Buffer
	t, err := template.New("docs").Funcs(template.FuncMap{"inline": inline}).Parse(docsPage)
	if err == nil {
		err = t.Execute(&page, a.describe())
	}
	if err != nil {
		return fmt.Errorf("describe the API: %w", err)
	}
	serve := func(contentType string, body []byte) gin.HandlerFunc {
		return func(c *gin.Context) {
			c.Header("Cache-Control", "max-age=300")
			c.Data(http.StatusOK, contentType, body)
		}
	}
	a.engine.GET("/openapi.json", serve("application/openapi+json", document))
	a.engine.GET("/docs", serve("text/html; charset=utf-8", page.Bytes()))
	return nil
}

// inline is text in which `this` is code.
func inline(text string) template.HTML {
	parts := strings.Split(text, "`")
	var b strings.Builder
	for i, part := range parts {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 && i < len(parts)-1 {
			part = "<code>" + part + "</code>"
		}
		b.WriteString(part)
	}
	return template.HTML(b.String()) //nolint:gosec // every part was escaped
}

type docsData struct {
	Title, Version, Description string
	Operations                  []docsOperation
	Schemas                     []docsSchema
	Problems                    []docsProblem
}

type docsOperation struct {
	ID, Method, Path, Summary, Description string
	Parameters                             []docsParameter
	Bodies                                 []docsBody
	Answers                                []docsAnswer
}

type docsParameter struct {
	Name, In, Type, Description string
	Required                    bool
}

type docsBody struct {
	ContentType string
	Ref         string // name of the schema, where it has one
	Fields      []docsParameter
}

type docsAnswer struct {
	Status, Description, Ref string
}

type docsSchema struct {
	Name   string
	Fields []docsParameter
}

type docsProblem struct {
	problem.Entry
	StatusText string
}

func (a *API) describe() docsData {
	doc := a.huma.OpenAPI()
	data := docsData{Title: doc.Info.Title, Version: doc.Info.Version, Description: doc.Info.Description}
	for path, item := range doc.Paths {
		for method, op := range map[string]*huma.Operation{http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodDelete: item.Delete} {
			if op != nil {
				data.Operations = append(data.Operations, describeOperation(method, path, op))
			}
		}
	}
	slices.SortFunc(data.Operations, func(a, b docsOperation) int {
		return cmp.Or(cmp.Compare(b.Path[:3], a.Path[:3]), cmp.Compare(a.Path, b.Path), cmp.Compare(b.Method, a.Method)) // /v1 first
	})
	for name, s := range doc.Components.Schemas.Map() {
		data.Schemas = append(data.Schemas, docsSchema{Name: name, Fields: fieldsOf(s)})
	}
	slices.SortFunc(data.Schemas, func(a, b docsSchema) int { return cmp.Compare(a.Name, b.Name) })
	for _, e := range problem.Catalogue() {
		data.Problems = append(data.Problems, docsProblem{Entry: e, StatusText: http.StatusText(e.Status)})
	}
	return data
}

func describeOperation(method, path string, op *huma.Operation) docsOperation {
	d := docsOperation{ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, Description: op.Description}
	for _, p := range op.Parameters {
		description := p.Description
		if p.Schema != nil && description == "" {
			description = p.Schema.Description
		}
		d.Parameters = append(d.Parameters, docsParameter{Name: p.Name, In: p.In, Type: typeOf(p.Schema), Description: description, Required: p.Required})
	}
	if op.RequestBody != nil {
		for contentType, media := range op.RequestBody.Content {
			b := docsBody{ContentType: contentType, Ref: refOf(media.Schema)}
			if b.Ref == "" {
				b.Fields = fieldsOf(media.Schema)
			}
			d.Bodies = append(d.Bodies, b)
		}
		slices.SortFunc(d.Bodies, func(a, b docsBody) int { return cmp.Compare(b.ContentType, a.ContentType) })
	}
	for status, r := range op.Responses {
		answer := docsAnswer{Status: status, Description: r.Description}
		for _, media := range r.Content {
			answer.Ref = refOf(media.Schema)
		}
		d.Answers = append(d.Answers, answer)
	}
	slices.SortFunc(d.Answers, func(a, b docsAnswer) int { return cmp.Compare(a.Status, b.Status) })
	return d
}

func fieldsOf(s *huma.Schema) []docsParameter {
	var fields []docsParameter
	for name, p := range s.Properties {
		fields = append(fields, docsParameter{Name: name, Type: typeOf(p), Description: p.Description, Required: slices.Contains(s.Required, name)})
	}
	slices.SortFunc(fields, func(a, b docsParameter) int { return cmp.Compare(a.Name, b.Name) })
	return fields
}

func refOf(s *huma.Schema) string {
	if s == nil {
		return ""
	}
	if s.Items != nil {
		s = s.Items
	}
	return s.Ref[strings.LastIndex(s.Ref, "/")+1:]
}

// typeOf is a schema's type in a few words.
func typeOf(s *huma.Schema) string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		return refOf(s)
	case s.Items != nil:
		return "list of " + typeOf(s.Items)
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	}
	return s.Type
}
