// Package catalogue is what the API and the web pages say about documents: the rows of ClickHouse, and for a document
// whose rows have not landed yet the marker that its submission left. So an accepted id is always known.
package catalogue

import (
	"context"
	"errors"
	"net/url"
	"path"
	"time"

	"leafcutter/ingest-api/internal/cursor"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/query"
	"leafcutter/ingest-api/internal/submission"
	"leafcutter/pkg/controls"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// Results are the answers of ClickHouse; *query.Reader gives them.
type Results interface {
	Documents(ctx context.Context, f query.Filter) ([]api.Summary, *query.Place, error)
	Summaries(ctx context.Context, documentIDs []string) (map[string]api.Summary, error)
	Document(ctx context.Context, documentID string) (*api.Document, error)
	Source(ctx context.Context, documentID string) (uri, title string, err error)
	Run(ctx context.Context, documentID, runID string) (*query.Run, error)
	Pages(ctx context.Context, run *query.Run, first, limit int) ([]query.Page, error)
	Detections(ctx context.Context, run *query.Run, f query.Boxes) ([]api.Detection, *query.Spot, error)
}

// Markers finds what was accepted under an id; *submission.Desk does.
type Markers interface {
	Find(ctx context.Context, documentID string) (*submission.Submission, error)
}

// Catalogue answers by both. Its errors are problems.
type Catalogue struct {
	Results Results
	Markers Markers
	Asked   *controls.Set // what was asked of documents; nil: nothing
	Timeout time.Duration // of one question to ClickHouse
}

// Known refuses what is no document's id, and the id of a document that was deleted: its rows and objects may be there
// for a moment yet, and are nobody's any more.
func (c *Catalogue) Known(documentID string) error {
	if !schemas.IsUUID(documentID) {
		return problem.New(problem.DocumentNotFound, "%.80q is not the id of a document", documentID)
	}
	if control, deleted := c.Asked.Deleted(documentID); deleted {
		return problem.New(problem.DocumentDeleted, "Document %s was deleted at %s", documentID, control.At.UTC().Format(time.RFC3339))
	}
	return nil
}

// List is a part of the list of documents, newest first. A document is in it once its row has landed.
func (c *Catalogue) List(ctx context.Context, state schemas.State, title, after string, limit int) (api.DocumentList, error) {
	list := api.DocumentList{Documents: []api.Summary{}}
	place, err := cursor.Decode[query.Place]("documents", after)
	if err != nil {
		return list, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	found, next, err := c.Results.Documents(ctx, query.Filter{State: state, Title: title, After: place, Limit: limit})
	if err != nil {
		return list, c.broken(err, "Listing documents")
	}
	for _, d := range found {
		if _, deleted := c.Asked.Deleted(d.DocumentID); !deleted {
			list.Documents = append(list.Documents, d)
		}
	}
	list.Next = cursor.Encode("documents", next)
	return list, nil
}

// Document is everything about a document except its pages.
func (c *Catalogue) Document(ctx context.Context, documentID string) (*api.Document, error) {
	if err := c.Known(documentID); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	d, err := c.Results.Document(bounded, documentID)
	if err != nil {
		return nil, c.broken(err, "Reading the document")
	}
	if d == nil || d.Title == "" {
		// No row at all, or only that of a run which failed before anything was said about the document.
		marker, err := c.marker(ctx, documentID, d == nil)
		if err != nil {
			return nil, err
		}
		if d == nil {
			d = queued(marker)
		}
		if marker != nil && d.Title == "" {
			d.Title = Title(marker.Document)
		}
	}
	if len(d.Runs) == 0 {
		d.State = c.unplanned(documentID)
	}
	return d, nil
}

// unplanned is the state of a document without a run: it waits for the planner, or was cancelled before its turn, which
// SQL says only when that comes.
func (c *Catalogue) unplanned(documentID string) schemas.State {
	if _, cancelled := c.Asked.Cancelled(documentID); cancelled {
		return schemas.Cancelled
	}
	return schemas.Queued
}

// marker is that of a document; without one the document is unknown, where it must be known.
func (c *Catalogue) marker(ctx context.Context, documentID string, must bool) (*submission.Submission, error) {
	marker, err := c.Markers.Find(ctx, documentID)
	if err != nil && !must {
		return nil, nil // the rows are there: a title is not worth an error
	}
	if err == nil && marker == nil && must {
		err = problem.New(problem.DocumentNotFound, "There is no document %s", documentID)
	}
	return marker, err
}

// Source is where a document lies, s3://bucket/key, and the name of its file: as its submission here said, else, for one
// that was put onto the topic by another producer, as its row says. Both are empty where neither is there.
func (c *Catalogue) Source(ctx context.Context, documentID string) (uri, name string, err error) {
	if err := c.Known(documentID); err != nil {
		return "", "", err
	}
	marker, err := c.Markers.Find(ctx, documentID)
	if err != nil {
		return "", "", err
	}
	if marker != nil {
		return marker.Document.Source, marker.Document.FileName, nil
	}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if uri, name, err = c.Results.Source(bounded, documentID); err != nil {
		return "", "", c.broken(err, "Reading the document")
	}
	return uri, name, nil
}

func queued(s *submission.Submission) *api.Document {
	d := &api.Document{ContentType: s.Document.ContentType, SHA256: s.Document.SHA256, Bytes: s.Document.Bytes,
		Runs: []api.Run{}, Failures: []api.PageFailure{}}
	d.DocumentID, d.Title, d.State = s.Document.DocumentID, Title(s.Document), schemas.Queued
	d.SubmittedAt, d.Links = s.Document.SubmittedAt, api.LinksOf(s.Document.DocumentID)
	return d
}

// Title is the title of a submission, else its file name, else the last part of its source.
func Title(d schemas.DocumentSubmitted) string {
	switch {
	case d.Title != "":
		return d.Title
	case d.FileName != "":
		return d.FileName
	}
	if u, err := url.Parse(d.Source); err == nil && d.Source != "" {
		return path.Base(u.Path)
	}
	return d.DocumentID
}

// Summary is one line about a document.
func (c *Catalogue) Summary(ctx context.Context, documentID string) (api.Summary, error) {
	if err := c.Known(documentID); err != nil {
		return api.Summary{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	found, err := c.Results.Summaries(bounded, []string{documentID})
	if err != nil {
		return api.Summary{}, c.broken(err, "Reading the document")
	}
	if s, ok := found[documentID]; ok {
		return s, nil
	}
	marker, err := c.marker(ctx, documentID, true)
	if err != nil {
		return api.Summary{}, err
	}
	s := queued(marker).Summary
	s.State = c.unplanned(documentID)
	return s, nil
}

// Run is the run named, or the newest; nil where the document has none yet.
func (c *Catalogue) Run(ctx context.Context, documentID, runID string) (*query.Run, error) {
	if err := c.Known(documentID); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	run, err := c.Results.Run(bounded, documentID, runID)
	if err != nil {
		return nil, c.broken(err, "Reading the document's runs")
	}
	if run != nil {
		return run, nil
	}
	if _, err := c.Document(ctx, documentID); err != nil {
		return nil, err
	}
	if runID != "" {
		return nil, problem.New(problem.RunNotFound, "Document %s has no run %.80q", documentID, runID)
	}
	return nil, nil
}

// Pages is a part of the pages of a run that are done or failed, by number.
func (c *Catalogue) Pages(ctx context.Context, documentID, runID, after string, limit int) (api.PageList, error) {
	list := api.PageList{Pages: []api.Page{}}
	last, err := cursor.Decode[query.Spot]("pages", after)
	if err != nil {
		return list, err
	}
	run, err := c.Run(ctx, documentID, runID)
	if err != nil || run == nil {
		return list, err
	}
	list.RunID = run.RunID
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	found, err := c.Results.Pages(ctx, run, last.Page+1, limit+1)
	if err != nil {
		return list, c.broken(err, "Reading pages")
	}
	for _, p := range found[:min(len(found), limit)] {
		list.Pages = append(list.Pages, p.Page)
	}
	if len(found) > limit {
		list.Next = cursor.Encode("pages", &query.Spot{Page: found[limit-1].Page.Page})
	}
	return list, nil
}

// Page is page n of a run; one that is still to be done is queued and has no keys.
func (c *Catalogue) Page(ctx context.Context, documentID, runID string, n int) (*query.Page, *query.Run, error) {
	run, err := c.Run(ctx, documentID, runID)
	if err != nil {
		return nil, nil, err
	}
	if run == nil {
		return nil, nil, problem.New(problem.PageNotReady, "Document %s is not planned yet", documentID)
	}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	found, err := c.Results.Pages(bounded, run, n, 1)
	if err != nil {
		return nil, nil, c.broken(err, "Reading the page")
	}
	if len(found) == 1 && found[0].Page.Page == n {
		return &found[0], run, nil
	}
	if run.Selects(n) && !run.Final() {
		return &query.Page{Page: run.QueuedPage(n)}, run, nil
	}
	return nil, nil, problem.New(problem.PageNotFound, "Run %s has no page %d", run.RunID, n)
}

// Detections is a part of the boxes of a run, by page and number.
func (c *Catalogue) Detections(ctx context.Context, documentID, runID, after string, f query.Boxes) (api.DetectionList, error) {
	list := api.DetectionList{Detections: []api.Detection{}}
	var err error
	if f.After, err = cursor.Decode[query.Spot]("detections", after); err != nil {
		return list, err
	}
	run, err := c.Run(ctx, documentID, runID)
	if err != nil || run == nil {
		return list, err
	}
	list.RunID = run.RunID
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	found, next, err := c.Results.Detections(ctx, run, f)
	if err != nil {
		return list, c.broken(err, "Reading detections")
	}
	list.Detections = append(list.Detections, found...)
	list.Next = cursor.Encode("detections", next)
	return list, nil
}

// broken is the problem of a question that ClickHouse did not answer. Taking longer than Timeout counts as being away.
func (c *Catalogue) broken(err error, doing string) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return problem.Because(err, problem.DatabaseUnavailable, "%s took longer than %s", doing, c.Timeout)
	}
	return problem.From(err, doing)
}
