package web

import (
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// onIndex is how many documents the list shows at once.
const onIndex = 25

var states = []schemas.State{schemas.Queued, schemas.Running, schemas.WaitingForModel, schemas.Completed,
	schemas.CompletedWithFailures, schemas.Failed, schemas.Cancelled}

type indexData struct {
	Title     string
	Documents []api.Summary
	Older     string // link to what comes next in the list
	Search    string
	State     string
	States    []schemas.State
	Models    []api.Model
	MaxUpload int64
	MinDPI    int
	MaxDPI    int
	Trouble   *problem.Problem // the list cannot be shown, uploads go on
}

func (p *pages) index(c *gin.Context) {
	data := indexData{Title: "Documents", Search: c.Query("title"), State: c.Query("state"), States: states,
		Models: p.Models.List(), MaxUpload: p.MaxUpload, MinDPI: schemas.MinDPI, MaxDPI: schemas.MaxDPI}
	list, err := p.Catalogue.List(c.Request.Context(), schemas.State(data.State), data.Search, c.Query("cursor"), onIndex)
	if err != nil {
		data.Trouble = problem.From(err, "Listing documents")
	}
	data.Documents = list.Documents
	if list.Next != "" {
		query := url.Values{"cursor": {list.Next}}
		if data.Search != "" {
			query.Set("title", data.Search)
		}
		if data.State != "" {
			query.Set("state", data.State)
		}
		data.Older = "/?" + query.Encode()
	}
	p.render(c, http.StatusOK, "index", data)
}
