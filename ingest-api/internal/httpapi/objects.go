package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/query"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/filetype"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// linkLife is how long a signed link holds.
const linkLife = 15 * time.Minute

func (a *API) objectRoutes() {
	pages := "/v1/documents/:id/pages/:page"
	a.engine.GET("/v1/documents/:id/source", a.source)
	a.engine.GET(pages+"/image", a.pageObject(func(p *query.Page) string { return p.ImageKey }))
	a.engine.GET(pages+"/annotated", a.pageObject(func(p *query.Page) string { return p.AnnotatedKey }))
	a.engine.GET(pages+"/crops/:k", a.crop)
	a.documentObjects()
}

// source hands out the document as it was submitted: as a download, for it is somebody else's file under our name.
func (a *API) source(c *gin.Context) {
	id := c.Param("id")
	ctx := c.Request.Context()
	uri, name, err := a.Catalogue.Source(ctx, id)
	if err != nil {
		refuse(c, err)
		return
	}
	key := schemas.SourceKey(id)
	if uri == a.Desk.URI(key) {
		uri = "" // else it was referred to and still lies there
	}
	o := object{key: key, uri: uri, cache: "private, max-age=3600", name: cmp.Or(name, id)}
	if err := a.hand(c, o); err != nil {
		refuse(c, err)
	}
}

// pageObject hands out an image of a page.
func (a *API) pageObject(keyOf func(*query.Page) string) gin.HandlerFunc {
	return func(c *gin.Context) {
		page, _, err := a.page(c)
		if err == nil {
			err = a.hand(c, object{key: keyOf(page), contentType: "image/png", cache: cacheOf(c)})
		}
		if err != nil {
			refuse(c, err)
		}
	}
}

// crop hands out what box k cuts from its page. Where crops are lazy it is cut now, and kept.
func (a *API) crop(c *gin.Context) {
	page, run, err := a.page(c)
	if err != nil {
		refuse(c, err)
		return
	}
	k, err := strconv.Atoi(c.Param("k"))
	if err != nil || k < 1 || k > len(page.CropKeys) {
		refuse(c, problem.New(problem.CropNotFound, "Page %d has no box %.40q; it has %d", page.Page.Page, c.Param("k"), len(page.CropKeys)))
		return
	}
	key := page.CropKeys[k-1]
	if key == "" {
		refuse(c, problem.New(problem.CropNotFound, "Box %d of page %d has none", k, page.Page.Page))
		return
	}
	o := object{key: key, contentType: "image/png", cache: cacheOf(c)}
	o.make = func(ctx context.Context) ([]byte, error) { return a.cut(ctx, page, run, k) }
	if err := a.hand(c, o); err != nil {
		refuse(c, err)
	}
}

// page is the page that the request names, which must be done.
func (a *API) page(c *gin.Context) (*query.Page, *query.Run, error) {
	n, err := strconv.Atoi(c.Param("page"))
	if err != nil || n < 1 {
		return nil, nil, problem.New(problem.PageNotFound, "%.40q is not a page's number", c.Param("page"))
	}
	page, run, err := a.Catalogue.Page(c.Request.Context(), c.Param("id"), c.Query("run"), n)
	switch {
	case err != nil:
		return nil, nil, err
	case page.State == api.PageQueued:
		return nil, nil, problem.New(problem.PageNotReady, "Page %d of run %s is queued", n, run.RunID)
	case page.State != api.PageDone:
		return nil, nil, problem.New(problem.ObjectNotFound, "Page %d of run %s failed: %s", n, run.RunID, page.Code)
	}
	return page, run, nil
}

// cacheOf lets what a run is named for be kept: its objects never change. Without a run the newest one is meant, which
// does.
func cacheOf(c *gin.Context) string {
	if c.Query("run") != "" {
		return "private, max-age=86400, immutable"
	}
	return "private, max-age=10"
}

// object is one to be handed out.
type object struct {
	key         string
	uri         string // instead of key, where it lies in another bucket
	contentType string // that of the object where empty
	cache       string
	name        string // as a download under this name; shown in place where empty
	// make gives the object where it is not in the store yet.
	make func(ctx context.Context) ([]byte, error)
}

// hand streams an object, or redirects to a signed link. An error means that nothing was answered yet.
func (a *API) hand(c *gin.Context, o object) error {
	ctx := c.Request.Context()
	if o.key == "" {
		return problem.New(problem.ObjectNotFound, "There is no such object")
	}
	if a.cfg.ObjectLinks == "redirect" && o.uri == "" && o.make == nil {
		link, err := a.Objects.PresignGet(ctx, o.key, linkLife)
		if err != nil {
			return problem.From(err, "Signing a link")
		}
		c.Header("Cache-Control", "private, max-age=60")
		c.Redirect(http.StatusFound, link)
		return nil
	}
	body, info, err := a.open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was read to its end, or the client is gone
	if o.contentType == "" {
		o.contentType = safeType(info.ContentType)
	}
	h := c.Writer.Header()
	h.Set("Content-Type", o.contentType)
	h.Set("Cache-Control", o.cache)
	if info.ETag != "" {
		h.Set("ETag", info.ETag)
	}
	if o.name != "" {
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": o.name}))
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	}
	if matches(c.GetHeader("If-None-Match"), info.ETag) {
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
		return nil
	}
	h.Set("Content-Length", strconv.FormatInt(info.Size, 10))
	c.Status(http.StatusOK)
	a.copy(c, body)
	return nil
}

func (a *API) open(ctx context.Context, o object) (io.ReadCloser, objectstore.Info, error) {
	var r io.ReadCloser
	var info objectstore.Info
	var err error
	if o.uri != "" {
		r, info, err = a.Objects.OpenURI(ctx, o.uri)
	} else {
		r, info, err = a.Objects.Open(ctx, o.key)
	}
	switch fault.CodeOf(err) {
	case objectstore.CodeSource:
		return nil, info, problem.Because(err, problem.SourceNotAllowed, "The source %.300q cannot be read here", o.uri)
	case objectstore.CodeMissing:
		if o.make == nil {
			return nil, info, problem.Because(err, problem.ObjectNotFound, "There is nothing at %.300s", cmp.Or(o.uri, o.key))
		}
		made, err := o.make(ctx)
		if err != nil {
			return nil, info, problem.From(err, "Cutting the crop")
		}
		return io.NopCloser(bytes.NewReader(made)), objectstore.Info{Key: o.key, Size: int64(len(made))}, nil
	}
	if err != nil {
		return nil, info, problem.From(err, "Reading the object")
	}
	return r, info, nil
}

// copy sends the body by a buffer that is used again. A store that breaks off in the middle breaks the connection, so
// that half an image never passes for a whole one.
func (a *API) copy(c *gin.Context, body io.Reader) {
	buf := a.buffers.Get().(*[]byte)
	defer a.buffers.Put(buf)
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			if _, err := c.Writer.Write((*buf)[:n]); err != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// safeType is the type of a document that we took ourselves; anything else is only bytes.
func safeType(contentType string) string {
	if t, ok := filetype.Parse(contentType); ok {
		return string(t)
	}
	return "application/octet-stream"
}

// matches reports whether the header If-None-Match names the tag (RFC 9110, section 13.1.2: compared weakly).
func matches(header, tag string) bool {
	if header == "" || tag == "" {
		return false
	}
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}
