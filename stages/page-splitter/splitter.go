package pagesplitter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/pngenc"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/render"
	"leafcutter/stages/page-splitter/internal/sourcecache"
)

// SplitterName is the splitter's name and consumer group.
const SplitterName = "splitter"

// Splitter is the handler of the topic page-ranges and its bulk twin. It is for
// concurrent use.
type Splitter struct {
	cfg      Config
	store    Store
	sources  *sourcecache.Cache
	renderer render.Renderer
	attempts int
	asked    *controls.Set

	// uploading bounds the images that wait for the object store by their bytes
	// and not by their number: one page of noise weighs as much as a book.
	uploading *semaphore.Weighted
}

// uploadBytes is how much of images may wait for the object store at once, over
// all ranges, besides the one that each range is about to add.
const uploadBytes = 64 << 20

// NewSplitter makes a splitter. In the last of a range's attempts it gives up the
// pages that fail, where it would have the whole range tried again before. It
// heeds what is asked of documents.
func NewSplitter(cfg Config, store Store, sources *sourcecache.Cache, renderer render.Renderer, attempts int, asked *controls.Set) *Splitter {
	return &Splitter{cfg: cfg, store: store, sources: sources, renderer: renderer, attempts: attempts, asked: asked,
		uploading: semaphore.NewWeighted(uploadBytes)}
}

// Stage is the stage around the splitter. Limits, telemetry and further probes
// are the caller's.
func (s *Splitter) Stage() stage.Config {
	c := stage.Config{
		Name:      SplitterName,
		Group:     SplitterName,
		Topics:    []string{schemas.TopicPageRanges},
		Bulk:      true,
		Cost:      pagesOf,
		Handler:   stage.Each(s.Handle),
		Condemned: condemnedRange,
		About:     stage.AboutPage,
		Probes:    map[string]func(context.Context) error{sourcecache.Dependency: s.sources.Probe},
	}
	s.asked.Heed(&c)
	return c
}

// pagesOf is how much work a range is: a book's are of sixteen pages, a letter's of
// one or two.
func pagesOf(in stage.In) int {
	r, err := schemas.Unmarshal[schemas.PageRange](in.Value)
	if err != nil {
		return 1 // it is given up at once
	}
	return len(r.Pages)
}

// Handle does one range. Each page becomes a PageRendered, or a PageFailed and a
// failure that replays it alone.
func (s *Splitter) Handle(ctx context.Context, in stage.In) stage.Result {
	r, err := schemas.Unmarshal[schemas.PageRange](in.Value)
	if err != nil {
		return stage.Fail(fault.AsPermanent(CodeRecord, err))
	}
	done, err := s.split(ctx, r, in.Attempt >= s.attempts)
	// Deleted while its pages were being stored: these may have come after all else
	// of the document was deleted.
	if _, deleted := s.asked.Deleted(r.DocumentID); deleted {
		return s.withdraw(ctx, r)
	}
	if err != nil {
		return stage.Fail(err)
	}
	var (
		result stage.Result
		batch  = &emitter{out: &result.Out}
	)
	for i, page := range done {
		one := r.One(i)
		if page.err == nil {
			rendered := schemas.PageRendered{RenderedPage: page.rendered}
			batch.emit(schemas.Lane(schemas.PagesTopic(r.Options.Model), rendered.Bulk()), rendered.Key(), rendered).OwnTrace = rendered.Bulk()
			continue
		}
		replay, err := stage.Emit(schemas.Lane(schemas.TopicPageRanges, one.Bulk()), one.Key(), one)
		if err != nil {
			return stage.Fail(err)
		}
		batch.add(stage.PageFailed(in, r.Run, r.Pages[i], SplitterName, fault.CodeOf(page.err), page.err))
		result.Failures = append(result.Failures, stage.Failure{
			Replay: replay, About: stage.About{DocumentID: r.DocumentID, RunID: r.RunID, Page: r.Pages[i]}, Err: page.err,
		})
	}
	if batch.err != nil {
		return stage.Fail(batch.err)
	}
	return result
}

// withdraw deletes what split may have stored.
func (s *Splitter) withdraw(ctx context.Context, r schemas.PageRange) stage.Result {
	var keys []string
	for i := range r.Pages {
		keys = append(keys, describe(r, i).ImageKey, textKey(r, i))
	}
	return controls.Withdraw(ctx, s.store, keys...)
}

// outcome is what became of one page.
type outcome struct {
	rendered schemas.RenderedPage
	err      error // the page's own fault
}

// split does the pages of a range, in order. Images and texts are uploaded while
// the next page is rendered. An error concerns the range as a whole.
func (s *Splitter) split(ctx context.Context, r schemas.PageRange, last bool) ([]outcome, error) {
	done := make([]outcome, len(r.Pages))
	source := &lazySource{splitter: s, run: r.Run}
	defer source.close()
	uploads, uploading := errgroup.WithContext(ctx)
	uploads.SetLimit(s.cfg.Uploads)
	var rangeErr error
	for i, number := range r.Pages {
		if uploading.Err() != nil {
			rangeErr = context.Cause(ctx) // nil where an upload has failed, which is told below
			break
		}
		rendered, there, err := s.existing(ctx, r, i)
		if err != nil {
			rangeErr = err
			break
		}
		if there {
			done[i].rendered = rendered
			continue
		}
		doc, err := source.open(ctx)
		if err != nil {
			rangeErr = err
			break
		}
		page, err := doc.Page(ctx, number, r.Options.DPI)
		if err != nil {
			if fault.ClassOf(err) != fault.Permanent && (!last || fault.ClassOf(err) != fault.Transient) {
				rangeErr = err
				break
			}
			done[i].err = err
			continue
		}
		weight := min(int64(len(page.PNG)), uploadBytes)
		if s.uploading.Acquire(uploading, weight) != nil {
			rangeErr = context.Cause(ctx) // nil where an upload has failed, which is told below
			break
		}
		uploads.Go(func() error {
			defer s.uploading.Release(weight)
			rendered, err := s.upload(uploading, r, i, page)
			done[i].rendered = rendered
			return err
		})
	}
	if err := uploads.Wait(); err != nil {
		// An upload that failed has cancelled the others, and what they say of
		// that is not the reason.
		return nil, err
	}
	return done, rangeErr
}

// upload stores a page's text and image. The image goes last: where it is, all of
// the page is.
func (s *Splitter) upload(ctx context.Context, r schemas.PageRange, i int, page *render.Page) (schemas.RenderedPage, error) {
	rendered := describe(r, i)
	rendered.Width, rendered.Height, rendered.DPI = page.Width, page.Height, page.DPI
	rendered.RenderMS = float64(page.Elapsed) / float64(time.Millisecond)
	if len(page.Lines) > 0 {
		text, err := json.Marshal(schemas.PageText{Lines: page.Lines})
		if err != nil {
			return rendered, fmt.Errorf("writing the text of page %d: %w", rendered.Page, err)
		}
		if err := s.store.Put(ctx, textKey(r, i), text, "application/json"); err != nil {
			return rendered, fmt.Errorf("storing the text of page %d: %w", rendered.Page, err)
		}
		rendered.TextKey = textKey(r, i)
	}
	if err := s.store.Put(ctx, rendered.ImageKey, page.PNG, "image/png"); err != nil {
		return rendered, fmt.Errorf("storing page %d: %w", rendered.Page, err)
	}
	rendered.RenderedAt = time.Now().UTC()
	return rendered, nil
}

// existing describes a page whose image is in the object store already: another
// run of the document, or an earlier delivery of this range, has rendered it.
func (s *Splitter) existing(ctx context.Context, r schemas.PageRange, i int) (schemas.RenderedPage, bool, error) {
	rendered := describe(r, i)
	body, info, err := s.store.Open(ctx, rendered.ImageKey)
	if fault.CodeOf(err) == objectstore.CodeMissing {
		return rendered, false, nil
	}
	if err != nil {
		return rendered, false, fmt.Errorf("looking for page %d: %w", rendered.Page, err)
	}
	defer func() { _ = body.Close() }() // the rest is of no interest
	header, err := pngenc.ReadHeader(body)
	if errors.Is(err, pngenc.ErrHeader) {
		return rendered, false, nil // not an image of ours: it is put right
	}
	if err != nil {
		return rendered, false, fmt.Errorf("reading the size of page %d: %w", rendered.Page, err)
	}
	rendered.Width, rendered.Height, rendered.DPI = header.Width, header.Height, header.DPI
	hasText, err := s.store.Exists(ctx, textKey(r, i))
	if err != nil {
		return rendered, false, fmt.Errorf("looking for the text of page %d: %w", rendered.Page, err)
	}
	if hasText {
		rendered.TextKey = textKey(r, i)
	}
	rendered.RenderedAt = info.Modified.UTC()
	return rendered, true, nil
}

// describe is what the range alone says of its i-th page.
func describe(r schemas.PageRange, i int) schemas.RenderedPage {
	return schemas.RenderedPage{
		Run: r.Run, Page: r.Pages[i], Position: r.Position + i,
		ImageKey: schemas.PageImageKey(r.DocumentID, r.Options.DPI, r.Options.Renderer, r.Pages[i]),
	}
}

func textKey(r schemas.PageRange, i int) string {
	return schemas.PageTextKey(r.DocumentID, r.Options.DPI, r.Options.Renderer, r.Pages[i])
}

// lazySource is a range's document, fetched and opened when the first page needs
// it.
type lazySource struct {
	splitter *Splitter
	run      schemas.Run
	file     *sourcecache.File
	doc      render.Document
}

func (l *lazySource) open(ctx context.Context) (render.Document, error) {
	if l.doc != nil {
		return l.doc, nil
	}
	file, err := l.splitter.sources.Get(ctx, sourcecache.Document{ID: l.run.DocumentID, URI: l.run.Source, SHA256: l.run.SHA256})
	if err != nil {
		return nil, fmt.Errorf("fetching the document: %w", err)
	}
	l.file = file
	if l.doc, err = l.splitter.renderer.Open(ctx, file.Path); err != nil {
		return nil, err
	}
	return l.doc, nil
}

func (l *lazySource) close() {
	if l.doc != nil {
		l.doc.Close()
	}
	if l.file != nil {
		l.file.Release()
	}
}

// condemnedRange tells that none of a range's pages will come. What is wrong with
// the document as a whole comes out as the same failure of each page, so that the
// run ends, and a replay of the range can still make it good.
func condemnedRange(in stage.In, code string, cause error) []stage.Out {
	r, err := schemas.Unmarshal[schemas.PageRange](in.Value)
	if err != nil {
		return nil
	}
	var (
		out   []stage.Out
		batch = &emitter{out: &out}
	)
	for _, page := range r.Pages {
		batch.add(stage.PageFailed(in, r.Run, page, SplitterName, code, cause))
	}
	return out
}
