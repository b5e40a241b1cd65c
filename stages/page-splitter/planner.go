package pagesplitter

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/schemas/pages"
	"leafcutter/stages/page-splitter/internal/render"
	"leafcutter/stages/page-splitter/internal/sourcecache"
)

// PlannerName is the planner's name and consumer group.
const PlannerName = "planner"

// Store is what the stages need of the object store; *objectstore.Store is one.
type Store interface {
	URI(key string) string
	Open(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error)
	Exists(ctx context.Context, key string) (bool, error)
	Put(ctx context.Context, key string, body []byte, contentType string) error
	controls.Store
}

// Planner is the handler of the topic documents. It is for concurrent use.
type Planner struct {
	cfg      Config
	store    Store
	sources  *sourcecache.Cache
	renderer render.Renderer
	models   *Models
	asked    *controls.Set
}

// NewPlanner makes a planner that heeds what is asked of documents.
func NewPlanner(cfg Config, store Store, sources *sourcecache.Cache, renderer render.Renderer, models *Models, asked *controls.Set) *Planner {
	return &Planner{cfg: cfg, store: store, sources: sources, renderer: renderer, models: models, asked: asked}
}

// Stage is the stage around the planner. Limits, telemetry and further probes are
// the caller's.
func (p *Planner) Stage() stage.Config {
	return stage.Config{
		Name:       PlannerName,
		Group:      PlannerName,
		Topics:     []string{schemas.TopicDocuments},
		Handler:    stage.Each(p.Handle),
		Condemned:  p.condemned,
		About:      aboutSubmission,
		Cancelled:  p.deleted,
		StoreLarge: p.storeLarge,
		Probes: map[string]func(context.Context) error{
			modelDependency:        p.models.Probe,
			sourcecache.Dependency: p.sources.Probe,
		},
	}
}

// Handle plans one submission: DocumentAccepted, and a RunPlanned with its ranges
// for every model. What is wrong with the document is wrong with every run; a
// model that nobody knows fails its own run alone.
func (p *Planner) Handle(ctx context.Context, in stage.In) stage.Result {
	s, err := readSubmission(in)
	if err != nil {
		return stage.Fail(err)
	}
	var (
		runs    []schemas.ModelAnnounced
		unknown []unknownModel
	)
	// Asked before anything is fetched: a model may be waited for for long, and
	// each look at it should cost nothing.
	for _, name := range s.models(p.cfg.DefaultModel) {
		m, err := p.models.want(name)
		switch {
		case err == nil:
			runs = append(runs, m)
		case fault.ClassOf(err) == fault.Permanent:
			unknown = append(unknown, unknownModel{name, err})
		default:
			return stage.Fail(err)
		}
	}
	if len(runs) == 0 {
		return stage.Fail(unknown[0].err)
	}
	pageCount, err := p.inspect(ctx, &s)
	// Deleted while it was being stored: what was stored may have come after all
	// else of the document was deleted.
	if p.deleted(stage.About{DocumentID: s.DocumentID}) {
		if s.raw == nil {
			return stage.Result{}
		}
		return controls.Withdraw(ctx, p.store, schemas.SourceKey(s.DocumentID))
	}
	if err != nil {
		return stage.Fail(err)
	}
	result, err := p.plan(s, pageCount, runs, unknown)
	if err != nil {
		return stage.Fail(err)
	}
	return result
}

// unknownModel is a model that was asked for and that nobody knows.
type unknownModel struct {
	name string
	err  error
}

// inspect stores the document where it came by the record itself, opens it, and
// completes the submission with what only the document can tell.
func (p *Planner) inspect(ctx context.Context, s *submission) (pageCount int, err error) {
	if s.raw != nil {
		key := schemas.SourceKey(s.DocumentID)
		if err := p.store.Put(ctx, key, s.raw, s.ContentType); err != nil {
			return 0, fmt.Errorf("storing the document: %w", err)
		}
		s.Source = p.store.URI(key)
	}
	file, err := p.sources.Get(ctx, sourcecache.Document{ID: s.DocumentID, URI: s.Source, SHA256: s.SHA256})
	if err != nil {
		return 0, fmt.Errorf("fetching the document: %w", err)
	}
	defer file.Release()
	s.SHA256, s.Bytes = file.SHA256, file.Size
	doc, err := p.renderer.Open(ctx, file.Path)
	if err != nil {
		return 0, err
	}
	defer doc.Close()
	s.ContentType = doc.ContentType()
	return doc.PageCount(), nil
}

// deleted tells whether a document is to be dropped. One that is cancelled is
// planned: it is to be seen, and nothing but its pages can be resumed.
func (p *Planner) deleted(about stage.About) bool {
	_, yes := p.asked.Deleted(about.DocumentID)
	return yes
}

func (p *Planner) plan(s submission, pageCount int, models []schemas.ModelAnnounced, unknown []unknownModel) (stage.Result, error) {
	selection, err := pages.Parse(s.Pages)
	if err != nil {
		return stage.Result{}, fault.AsPermanent(CodeRecord, err)
	}
	selected := selection.Of(pageCount)
	if len(selected) == 0 {
		return stage.Result{}, fault.Permanentf(CodeNoSelection, "the document has %d pages, and none of them is in %q", pageCount, selection)
	}
	var (
		result stage.Result
		batch  = &emitter{out: &result.Out}
	)
	batch.emit(schemas.TopicResults, s.DocumentID, s.accepted(pageCount))
	for _, m := range models {
		p.planRun(batch, s.run(s.resolve(m, selection, p.renderer.Build()), len(selected)), selected)
	}
	if m, ok := p.shadow(s.DocumentID, models); ok {
		o := s.resolve(m, selection, p.renderer.Build())
		o.Shadow = true
		p.planRun(batch, s.run(o, len(selected)), selected)
	}
	for _, u := range unknown {
		failed := s.failed(u.name, fault.CodeOf(u.err), u.err)
		batch.emit(schemas.TopicResults, s.DocumentID, failed)
		replay, err := s.reference(u.name)
		if err != nil {
			return stage.Result{}, err
		}
		result.Failures = append(result.Failures, stage.Failure{
			Replay: replay, About: stage.About{DocumentID: s.DocumentID, RunID: failed.RunID}, Err: u.err,
		})
	}
	return result, batch.err
}

// planRun opens a run and asks for its pages, as far as these are wanted.
func (p *Planner) planRun(batch *emitter, run schemas.Run, selected []int) {
	batch.emit(schemas.TopicResults, run.DocumentID, schemas.RunPlanned{Run: run, Pages: spans(selected), PlannedAt: time.Now().UTC()})
	switch last, _ := p.asked.Last(run.DocumentID); last.Action {
	case schemas.ActionCancel:
		batch.add(controls.Cancellation(run, last.Sequence))
		return
	case schemas.ActionResume:
		// Who resumed it may not have known of this run, if that was planned
		// and cancelled a moment before.
		batch.emit(schemas.TopicResults, run.DocumentID, schemas.RunResumed{
			DocumentID: run.DocumentID, RunID: run.RunID, SubmittedAt: run.SubmittedAt, Sequence: last.Sequence, ResumedAt: last.At,
		})
		run.Control = last.Sequence
	}
	position := 0
	for chunk := range slices.Chunk(selected, schemas.FirstPages) {
		r := schemas.PageRange{Run: run, Pages: chunk, Position: position}
		// The first pages go on with the submission's trace; a book's
		// others would make it too long to be read.
		batch.emit(schemas.Lane(schemas.TopicPageRanges, r.Bulk()), r.Key(), r).OwnTrace = r.Bulk()
		position += len(chunk)
	}
}

// shadow is the model that is tried on a document beside the default one. A
// document that is not run by that one has nothing to be compared with, and one
// that was submitted for the shadow itself has that run already.
func (p *Planner) shadow(documentID string, models []schemas.ModelAnnounced) (schemas.ModelAnnounced, bool) {
	has := func(name string) bool {
		return slices.ContainsFunc(models, func(m schemas.ModelAnnounced) bool { return m.Model == name })
	}
	if p.cfg.ShadowModel == "" || !schemas.Sampled(documentID, p.cfg.ShadowShare) || !has(p.cfg.DefaultModel) || has(p.cfg.ShadowModel) {
		return schemas.ModelAnnounced{}, false
	}
	return p.models.Shadow(p.cfg.ShadowModel)
}

// spans says ascending pages as runs of consecutive ones.
func spans(selected []int) []schemas.PageSpan {
	var out []schemas.PageSpan
	for _, page := range selected {
		if n := len(out); n > 0 && out[n-1].Last+1 == page {
			out[n-1].Last = page
			continue
		}
		out = append(out, schemas.PageSpan{First: page, Last: page})
	}
	return out
}

// condemned tells the rest of the pipeline that a submission was given up: the
// document as far as it is known, and the end of each run that was asked for.
func (p *Planner) condemned(in stage.In, code string, cause error) []stage.Out {
	if len(in.Value) == 0 {
		return nil // there is no document to show
	}
	s, err := readSubmission(in)
	if err == nil && s.raw != nil && foundInStore(code) {
		s.Source = p.store.URI(schemas.SourceKey(s.DocumentID))
	}
	var (
		out   []stage.Out
		batch = &emitter{out: &out}
	)
	batch.emit(schemas.TopicResults, s.DocumentID, s.accepted(0))
	for _, name := range s.models(p.cfg.DefaultModel) {
		batch.emit(schemas.TopicResults, s.DocumentID, s.failed(name, code, cause))
	}
	return out
}

// foundInStore reports whether what is wrong was found in the document as it was
// stored. Of any other fault, an unknown one of a server included, it is not known
// that there is anything at the source.
func foundInStore(code string) bool {
	switch code {
	case CodeNoSelection, sourcecache.CodeChanged, sourcecache.CodeTooLarge, render.CodeUnsupported, render.CodeEncrypted, render.CodeUnreadable,
		render.CodeTooManyPages, render.CodeOutOfMemory, render.CodeTimeout, render.CodeCrashed:
		return true
	}
	return false
}

// storeLarge keeps a submission that is too large for a dead letter beside its
// document: what lies at the source may be another record's, or none's.
func (p *Planner) storeLarge(ctx context.Context, in stage.In) (string, error) {
	s, _ := readSubmission(in) // a faulty one has an identity too
	key := schemas.RecordKey(s.DocumentID)
	if err := p.store.Put(ctx, key, in.Value, in.Headers[schemas.HeaderContentType]); err != nil {
		return "", fmt.Errorf("storing a submission: %w", err)
	}
	return p.store.URI(key), nil
}

func aboutSubmission(in stage.In) stage.About {
	s, _ := readSubmission(in) // a faulty one has an identity too
	return stage.About{DocumentID: s.DocumentID}
}

// emitter collects records and the first error of making one.
type emitter struct {
	out *[]stage.Out
	err error
}

// emit returns the record for its maker to complete.
func (e *emitter) emit(topic, key string, record schemas.Record) *stage.Out {
	return e.add(stage.Emit(topic, key, record))
}

// add collects a record that was made elsewhere.
func (e *emitter) add(out stage.Out, err error) *stage.Out {
	if err != nil {
		if e.err == nil {
			e.err = err
		}
		return &out
	}
	*e.out = append(*e.out, out)
	return &(*e.out)[len(*e.out)-1]
}
