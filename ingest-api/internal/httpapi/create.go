package httpapi

import (
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/catalogue"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// created is a document as the tutorial's API showed its model: id, title and a link to the file.
type created struct {
	ID    string        `json:"id"`
	Title string        `json:"title"`
	File  string        `json:"file"`
	State schemas.State `json:"state"`
	URL   string        `json:"url"`
}

// createRoutes are the tutorial's own address, as Django REST framework's ModelViewSet behaves: POST makes one and
// answers 201, GET lists.
func (a *API) createRoutes() {
	a.engine.POST("/api/create/", a.create)
	a.engine.GET("/api/create/", a.created)
	a.documentCreate()
}

func (a *API) create(c *gin.Context) {
	d, err := a.receive(c, func(f *upload.Form) (schemas.DocumentSubmitted, error) {
		// Forms of that framework have fields of their own, a CSRF token before all; only these two were ever read.
		titled := upload.Form{FileName: f.FileName, Fields: map[string][]string{"title": f.Fields["title"]}}
		return titled.Options()
	})
	a.count(c, d, err)
	if err != nil {
		refuse(c, err)
		return
	}
	made := describe(c, d.DocumentID, catalogue.Title(d), schemas.Queued)
	c.Header("Location", made.URL)
	c.JSON(http.StatusCreated, made)
}

// createdAtOnce is how many documents one answer lists; the header Link leads on.
const createdAtOnce = 100

func (a *API) created(c *gin.Context) {
	list, err := a.Catalogue.List(c.Request.Context(), "", "", c.Query("cursor"), createdAtOnce)
	if err != nil {
		refuse(c, err)
		return
	}
	all := make([]created, 0, len(list.Documents))
	for _, d := range list.Documents {
		all = append(all, describe(c, d.DocumentID, d.Title, d.State))
	}
	if list.Next != "" {
		c.Header("Link", "<"+origin(c)+"/api/create/?cursor="+url.QueryEscape(list.Next)+`>; rel="next"`)
	}
	c.JSON(http.StatusOK, all)
}

func describe(c *gin.Context, id, title string, state schemas.State) created {
	links := api.LinksOf(id)
	return created{ID: id, Title: title, File: origin(c) + links.Source, State: state, URL: origin(c) + links.Self}
}

// origin is the address by which the client reached the API: that framework's links are absolute.
func origin(c *gin.Context) string {
	scheme := "http"
	if c.Request.TLS != nil || c.GetHeader("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	return scheme + "://" + c.Request.Host
}
