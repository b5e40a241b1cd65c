package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"leafcutter/schemas/api"
)

// patience is how long Wait goes on without an answer.
const patience = 2 * time.Minute

// Wait returns the document once all of its runs have ended, however they ended: look at its State. progress is told how
// far it is, at once and at every change; nil for nobody. Bound the wait with ctx.
//
// It listens to the server's events, and asks now and then where these break off, so a server that restarts within two
// minutes is outlived. With an error it returns the last that was known of the document, nil for nothing.
func (c *Client) Wait(ctx context.Context, documentID string, progress func(api.Progress)) (*api.Document, error) {
	var last api.Progress
	tell := func(p api.Progress) {
		if progress != nil && p != last {
			last = p
			progress(p)
		}
	}
	var d *api.Document
	atOnce := false // the end was told, and asked about without a pause
	heard := time.Now()
	for {
		now, err := c.Get(ctx, documentID)
		if err != nil && (ctx.Err() != nil || !mayHelp(err) || time.Since(heard) > patience) {
			return d, err
		}
		if err != nil {
			if err := c.pause(ctx); err != nil {
				return d, err
			}
			continue
		}
		d, heard = now, time.Now()
		tell(d.Progress())
		if ended(d) {
			return d, nil
		}
		if !d.State.Final() { // else another run than the newest still goes on, of which events say nothing
			// An error of the stream is no error of the wait: the next question tells whether there is one.
			if end, _ := c.listen(ctx, documentID, tell); end && !atOnce {
				atOnce = true // once: a server that contradicts itself is asked at its pace
				continue
			}
		}
		if err := c.pause(ctx); err != nil {
			return d, fmt.Errorf("wait for document %s, %d of %d pages done: %w", documentID, d.PagesDone, d.PagesSelected, err)
		}
	}
}

func (c *Client) pause(ctx context.Context) error {
	timer := time.NewTimer(c.patrol)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// ended reports whether nothing more will come of the document by itself.
func ended(d *api.Document) bool {
	for _, run := range d.Runs {
		if !run.State.Final() {
			return false
		}
	}
	return d.State.Final()
}

// listen tells the events of a document until the last one, and then gives true, or until the stream breaks off.
func (c *Client) listen(ctx context.Context, documentID string, tell func(api.Progress)) (end bool, err error) {
	r, err := c.request(ctx, http.MethodGet, "/v1/documents/"+url.PathEscape(documentID)+"/events", nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("Accept", "text/event-stream")
	response, err := c.http.Do(r)
	if err != nil {
		return false, fmt.Errorf("ask %s: %w", c.base.Host, err)
	}
	defer func() { _ = response.Body.Close() }() // read to its end, or given up
	if response.StatusCode != http.StatusOK {
		return false, plain(problemOf(response))
	}
	event := ""
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			event = name
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var p api.Progress
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return false, fmt.Errorf("read an event: %w", err)
		}
		tell(p)
		if event == "end" {
			return true, nil
		}
	}
	return false, lines.Err()
}
