// Package client speaks to Leafcutter's HTTP API: it submits documents, waits for them and reads what was found. The
// command line and the end-to-end tests use it, and so may any program: it needs the standard library alone, and its
// licence is Apache-2.0.
//
//	c, err := client.New("http://127.0.0.1:8090")
//	accepted, err := c.SubmitFile(ctx, "report.pdf", client.Options{Title: "Report"})
//	document, err := c.Wait(ctx, accepted.DocumentID, nil)
//	for box, err := range c.Detections(ctx, document.DocumentID, client.Boxes{MinScore: 0.5}) { … }
//
// An answer that is an error is an *api.Problem: match on its Code. A server that cannot be reached is any other error.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"leafcutter/schemas/api"
)

// Client is a client of one API. It is safe for any number of goroutines.
type Client struct {
	base   *url.URL
	key    string
	http   *http.Client
	agent  string
	again  int
	patrol time.Duration
}

// Option changes how a client works.
type Option func(*Client)

// WithAPIKey shows key at every request, for servers that ask for one.
func WithAPIKey(key string) Option { return func(c *Client) { c.key = key } }

// WithHTTPClient sends requests by h. It must have no Timeout, which would cut off uploads and waiting: bound requests
// by their context.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

// WithUserAgent names the program in the server's log.
func WithUserAgent(agent string) Option { return func(c *Client) { c.agent = agent } }

// WithRetries sets how often a request is repeated that was told to come back later (429, 503) or found nobody; 3 where
// it is not given. Only what may be repeated is: reading, controls, and submitting under an Idempotency-Key from a source that can
// be read again.
func WithRetries(n int) Option { return func(c *Client) { c.again = n } }

// WithPolling sets how often Wait asks where the server's events cannot be had; a second where it is not given.
func WithPolling(every time.Duration) Option { return func(c *Client) { c.patrol = every } }

// New makes a client of the API at baseURL, such as http://127.0.0.1:8090. It does not connect.
func New(baseURL string, options ...Option) (*Client, error) {
	u, err := url.Parse(strings.TrimRight(baseURL, "/"))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the address of an API, such as http://127.0.0.1:8090", baseURL)
	}
	c := &Client{base: u, http: http.DefaultClient, agent: "leafcutter-client", again: 3, patrol: time.Second}
	for _, option := range options {
		option(c)
	}
	return c, nil
}

// URL is the whole address of a link that the API gave, such as api.Links.Page.
func (c *Client) URL(link string) string { return c.base.String() + link }

// maxAnswer bounds the bodies that are read into memory, in bytes.
const maxAnswer = 64 << 20

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.URL(path), body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", c.agent)
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	return r, nil
}

// get reads path into T, and repeats it where that may help.
func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var into T
	err := c.repeat(ctx, func() error {
		r, err := c.request(ctx, http.MethodGet, path, nil)
		if err != nil {
			return err
		}
		return c.do(r, &into)
	})
	return into, err
}

// do sends r and reads its answer into into.
func (c *Client) do(r *http.Request, into any) error {
	response, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.base.Host, err)
	}
	defer func() { _ = response.Body.Close() }() // read as far as it is wanted
	if response.StatusCode >= 400 {
		return problemOf(response)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.base.Host, err)
	}
	return nil
}

// unwell is a problem with the time after which the server wants to be asked again.
type unwell struct {
	*api.Problem
	after time.Duration
}

// Unwrap gives the problem, for errors.As.
func (u unwell) Unwrap() error { return u.Problem }

// problemOf is the problem that an answer holds. Something between us and the API may have answered in its place: then
// the problem is made of the status.
func problemOf(response *http.Response) error {
	p := &api.Problem{}
	contentType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil || contentType != "application/problem+json" || json.Unmarshal(body, p) != nil || p.Code == "" {
		p = &api.Problem{Code: "http-" + strconv.Itoa(response.StatusCode), Title: http.StatusText(response.StatusCode),
			Detail: fmt.Sprintf("%s answered %s, which is not the API's own answer", response.Request.URL.Host, response.Status)}
	}
	p.Status = response.StatusCode
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return p
	}
	return unwell{Problem: p, after: time.Duration(seconds) * time.Second}
}

// maxPause bounds how long is waited between two tries.
const maxPause = 30 * time.Second

// repeat tries as often as is allowed, where trying again may help: the server says when, or nobody answered.
func (c *Client) repeat(ctx context.Context, try func() error) error {
	pause := 250 * time.Millisecond
	for n := 0; ; n++ {
		err := try()
		if err == nil || n >= c.again || ctx.Err() != nil || !mayHelp(err) {
			return plain(err)
		}
		var u unwell
		if errors.As(err, &u) {
			pause = max(pause, u.after)
		}
		timer := time.NewTimer(min(pause, maxPause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return plain(err)
		case <-timer.C:
		}
		pause *= 2
	}
}

// mayHelp reports whether the same request may succeed a little later.
func mayHelp(err error) bool {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests
	}
	var u *url.Error
	return errors.As(err, &u)
}

// plain is err as callers get it: the problem itself where it is one.
func plain(err error) error {
	var u unwell
	if errors.As(err, &u) {
		return u.Problem
	}
	return err
}

// Code is the code of the problem that err is, "" where it is none.
func Code(err error) string {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}
