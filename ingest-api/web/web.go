// Package web is the first, plain user interface: the list of documents with a form to add one, and a page for each
// document with its annotated pages, boxes and failures. Package ingestapi adds it to the API's router.
//
// Pages are rendered here from the same answers that the API gives; a little script uploads with a progress bar and
// keeps them fresh. Everything is embedded, nothing comes from elsewhere, and without the script it all still shows.
package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/catalogue"
	"leafcutter/ingest-api/internal/control"
	"leafcutter/ingest-api/internal/deadletters"
	"leafcutter/ingest-api/internal/models"
	"leafcutter/ingest-api/internal/problem"
)

//go:embed templates/*.html
var templates embed.FS

//go:embed assets
var assets embed.FS

// Parts are what the pages are made of.
type Parts struct {
	Catalogue  *catalogue.Catalogue
	Control    *control.Desk
	Letters    *deadletters.Office
	Models     *models.Registry
	KnowsKey   func(key string) bool                      // reports whether a browser may log in with key
	ShowAbsent func(show func(c *gin.Context, err error)) // is told how to say that there is nothing at an address
	CookieName string                                     // under which the browser then shows it
	MaxUpload  int64                                      // bytes
}

type pages struct {
	Parts
	templates map[string]*template.Template
}

// Add adds the pages to a router.
func Add(e *gin.Engine, parts Parts) error {
	p := &pages{Parts: parts, templates: map[string]*template.Template{}}
	for _, name := range []string{"index", "document", "letters", "login", "problem"} {
		t, err := template.New("layout.html").Funcs(functions).ParseFS(templates, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return fmt.Errorf("parse the page %s: %w", name, err)
		}
		p.templates[name] = t
	}
	files, err := fs.Sub(assets, "assets")
	if err != nil {
		return fmt.Errorf("find the pages' files: %w", err)
	}
	serve := http.StripPrefix("/assets/", http.FileServerFS(files))
	e.GET("/assets/*file", func(c *gin.Context) {
		c.Header("Cache-Control", "max-age=300")
		serve.ServeHTTP(c.Writer, c.Request)
	})
	e.GET("/favicon.ico", func(c *gin.Context) { c.Redirect(http.StatusMovedPermanently, "/assets/leaf.svg") })
	e.GET("/", p.index)
	e.GET("/documents/:id", p.document)
	p.controlRoutes(e)
	e.GET("/dead-letters", p.letters)
	e.POST("/dead-letters/replay", p.replay)
	e.GET("/login", p.login)
	e.POST("/login", p.enter)
	p.ShowAbsent(p.fail)
	return nil
}

// render shows a page, whole or not at all.
func (p *pages) render(c *gin.Context, status int, name string, data any) {
	var b bytes.Buffer
	if err := p.templates[name].Execute(&b, data); err != nil {
		// The envelope of the API logs it and answers with a problem.
		panic(fmt.Errorf("render the page %s: %w", name, err))
	}
	c.Header("Cache-Control", "no-store")
	c.Data(status, "text/html; charset=utf-8", b.Bytes())
}

// fail shows a problem as a page.
func (p *pages) fail(c *gin.Context, err error) {
	if errors.Is(err, context.Canceled) && c.Request.Context().Err() != nil {
		return // nobody is there to see it
	}
	found := problem.From(err, "Showing the page")
	for name, values := range found.GetHeaders() {
		c.Writer.Header()[name] = values
	}
	p.render(c, found.Status, "problem", map[string]any{"Title": found.Title, "Problem": found})
}

// login is the page that asks for an API key, where the server has any.
func (p *pages) login(c *gin.Context) {
	p.render(c, http.StatusOK, "login", map[string]any{"Title": "API key", "Wrong": false})
}

// enter takes the key into a cookie that no script can read and no other site can make the browser send.
func (p *pages) enter(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, 4<<10)
	key := strings.TrimSpace(c.PostForm("key"))
	if !p.KnowsKey(key) {
		p.render(c, http.StatusUnauthorized, "login", map[string]any{"Title": "API key", "Wrong": true})
		return
	}
	http.SetCookie(c.Writer, &http.Cookie{
		Name: p.CookieName, Value: key, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: c.Request.TLS != nil || c.GetHeader("X-Forwarded-Proto") == "https", MaxAge: 30 * 24 * 3600,
	})
	c.Redirect(http.StatusSeeOther, "/")
}
