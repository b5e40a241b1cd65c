package client

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// Get is everything about a document except its pages.
func (c *Client) Get(ctx context.Context, documentID string) (*api.Document, error) {
	d, err := get[api.Document](ctx, c, "/v1/documents/"+url.PathEscape(documentID))
	if err != nil {
		return nil, err
	}
	return &d, nil
}

// Filter narrows the list of documents. Zero fields narrow nothing.
type Filter struct {
	State schemas.State
	Title string // part of it, in any case
}

// List gives documents, newest first, asking for more as they are taken. It ends after the first error.
func (c *Client) List(ctx context.Context, f Filter) iter.Seq2[api.Summary, error] {
	query := url.Values{}
	add(query, "state", string(f.State))
	add(query, "title", f.Title)
	return parts(query, func(path string) ([]api.Summary, string, error) {
		list, err := get[api.DocumentList](ctx, c, "/v1/documents?"+path)
		return list.Documents, list.Next, err
	})
}

// Boxes narrows the boxes of a run. Zero fields narrow nothing; without a Run the newest one is meant.
type Boxes struct {
	Run      string
	Class    string
	MinScore float64
	Page     int
}

// Detections gives the boxes of a run by page and number, asking for more as they are taken. It ends after the first
// error.
func (c *Client) Detections(ctx context.Context, documentID string, b Boxes) iter.Seq2[api.Detection, error] {
	query := url.Values{}
	add(query, "run", b.Run)
	add(query, "class", b.Class)
	if b.MinScore > 0 {
		query.Set("min_score", strconv.FormatFloat(b.MinScore, 'g', -1, 64))
	}
	if b.Page > 0 {
		query.Set("page", strconv.Itoa(b.Page))
	}
	return parts(query, func(path string) ([]api.Detection, string, error) {
		list, err := get[api.DetectionList](ctx, c, "/v1/documents/"+url.PathEscape(documentID)+"/detections?"+path)
		return list.Detections, list.Next, err
	})
}

// Pages gives the pages of a run that are done or failed, by number; an empty runID means the newest run.
func (c *Client) Pages(ctx context.Context, documentID, runID string) iter.Seq2[api.Page, error] {
	query := url.Values{}
	add(query, "run", runID)
	return parts(query, func(path string) ([]api.Page, string, error) {
		list, err := get[api.PageList](ctx, c, "/v1/documents/"+url.PathEscape(documentID)+"/pages?"+path)
		return list.Pages, list.Next, err
	})
}

// Page is page n of a run, queued where it is not done yet; an empty runID means the newest run.
func (c *Client) Page(ctx context.Context, documentID, runID string, n int) (*api.Page, error) {
	query := url.Values{}
	add(query, "run", runID)
	p, err := get[api.Page](ctx, c, fmt.Sprintf("/v1/documents/%s/pages/%d?%s", url.PathEscape(documentID), n, query.Encode()))
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// Models are those that a submission may name.
func (c *Client) Models(ctx context.Context) ([]api.Model, error) {
	list, err := get[api.ModelList](ctx, c, "/v1/models")
	return list.Models, err
}

// Download opens an object by a link that the API gave: api.PageLinks.Image, api.Box.Crop, api.Links.Source. The caller
// closes it.
func (c *Client) Download(ctx context.Context, link string) (io.ReadCloser, error) {
	r, err := c.request(ctx, http.MethodGet, link, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "*/*")
	response, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.base.Host, err)
	}
	if response.StatusCode >= 400 {
		defer func() { _ = response.Body.Close() }() // the problem was read from it
		return nil, plain(problemOf(response))
	}
	return response.Body, nil
}

func add(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}

// parts gives the items of a list that comes in parts.
func parts[T any](query url.Values, ask func(query string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			items, next, err := ask(query.Encode())
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			query.Set("cursor", next)
		}
	}
}
