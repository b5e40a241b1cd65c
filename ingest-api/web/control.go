package web

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// The buttons of a document's page are plain forms: they work without the script, and the guard of the API refuses a form
// that the page of another site has sent.
func (p *pages) controlRoutes(e *gin.Engine) {
	at := "/documents/:id/"
	e.POST(at+"cancel", p.ask(p.Control.Cancel, func(s schemas.State) bool { return s.Final() }))
	e.POST(at+"resume", p.ask(p.Control.Resume, func(s schemas.State) bool { return s != schemas.Cancelled }))
	e.POST(at+"delete", func(c *gin.Context) {
		if _, err := p.Control.Delete(c.Request.Context(), c.Param("id")); err != nil {
			p.fail(c, err)
			return
		}
		c.Redirect(http.StatusSeeOther, "/")
	})
}

// ask asks something of a document and shows its page again, once that shows what came of it.
func (p *pages) ask(ask func(context.Context, string) (api.Controlled, error), seen func(schemas.State) bool) gin.HandlerFunc {
	return func(c *gin.Context) {
		ctx, id := c.Request.Context(), c.Param("id")
		if _, err := ask(ctx, id); err != nil {
			p.fail(c, err)
			return
		}
		p.settle(ctx, id, seen)
		c.Redirect(http.StatusSeeOther, "/documents/"+id)
	}
}

// What was asked shows in SQL within moments; a page that came before would say the old state, and without the script go
// on saying it.
const (
	settleTime = 3 * time.Second
	settleStep = 100 * time.Millisecond
)

// settle waits until the state of a document is as it should be, or for as long as a person waits.
func (p *pages) settle(ctx context.Context, id string, seen func(schemas.State) bool) {
	bounded, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		s, err := p.Catalogue.Summary(bounded, id)
		if err != nil || seen(s.State) {
			return // the page itself says what is wrong
		}
		select {
		case <-bounded.Done():
			return
		case <-time.After(settleStep):
		}
	}
}
