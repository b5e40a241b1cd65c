package detector

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"leafcutter/pkg/fault"
)

// batches puts pages that wait at the same time, of whatever documents, into one
// inference, for a model whose manifest asks for it. All inputs of such a model
// are of one size.
//
// The first page that waits opens a batch, others join it. It goes as soon as it
// is full or nobody else is being read, after delay at the latest, and then when
// there is room for an inference: until then it can be joined. So a page waits for
// others only while there are some on their way, and one that is by itself does
// not wait. A record that may have ended a process is mostly such a one: package stage
// hands the first ones of a partition out while nothing else is in the handler. Those
// further on come in batches again, and alone in their turn should the process end again.
type batches struct {
	size  int
	delay time.Duration
	runs  chan struct{} // sending is the right to infer
	// run infers pages, and gives an error for each.
	run   func(ctx context.Context, pages []*page) []error
	sizes metric.Int64Histogram // nil where nobody counts
	log   *slog.Logger

	mu     sync.Mutex
	coming map[*page]bool // that are being read
	open   *batch         // that pages may join; nil for none
}

// batch is some pages on their way through one inference.
type batch struct {
	ctx    context.Context // ends when no page is wanted any more
	cancel context.CancelFunc
	goes   chan struct{} // closed: there is nobody to wait for
	done   chan struct{} // closed: each seat has its result

	// Guarded by batches.mu; seats are no others once the inference has begun.
	ready  bool // goes is closed
	wanted int  // seats whose page is still wanted
	seats  []*seat
	began  time.Time // the inference; zero before

	ended time.Time // read after done
}

// seat is that of one page. Its error is read after done.
type seat struct {
	page *page
	err  error
}

// expect says that a page is being read and will be here soon.
func (s *batches) expect(p *page) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coming[p] = true
}

// excuse says that a page will not come. Of one that came it says nothing.
func (s *batches) excuse(p *page) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived(p)
}

// arrived notes that a page is waited for no longer. s.mu is held.
func (s *batches) arrived(p *page) {
	delete(s.coming, p)
	if b := s.open; b != nil && len(s.coming) == 0 {
		b.release()
	}
}

// release lets the batch go as it is.
func (b *batch) release() {
	if !b.ready {
		b.ready = true
		close(b.goes)
	}
}

// infer puts a page into a batch and returns when that has been inferred. Where ctx
// ends the page leaves: at once before the inference, and with the others after it.
func (s *batches) infer(ctx context.Context, p *page, found *Page) error {
	joined := time.Now()
	b, own := s.join(p)
	select {
	case <-b.done:
	case <-ctx.Done():
		if s.leave(b, own) {
			return ctx.Err()
		}
		<-b.done
	}
	found.Together = len(b.seats)
	found.Infer = b.ended.Sub(b.began) / time.Duration(found.Together)
	found.Wait = b.ended.Sub(joined) - found.Infer
	return own.err
}

func (s *batches) join(p *page) (*batch, *seat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.open
	if b == nil {
		b = &batch{goes: make(chan struct{}), done: make(chan struct{})}
		b.ctx, b.cancel = context.WithCancel(context.Background())
		s.open = b
		go s.lead(b)
	}
	own := &seat{page: p}
	b.seats = append(b.seats, own)
	b.wanted++
	s.arrived(p)
	if len(b.seats) == s.size {
		s.open = nil
		b.release()
	}
	return b, own
}

// leave takes a page out of its batch, and says whether that could be done: not
// where the inference has begun. That one is broken off when all have left.
func (s *batches) leave(b *batch, own *seat) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.wanted--
	if b.wanted == 0 {
		b.cancel()
		if s.open == b {
			s.open = nil
		}
	}
	if !b.began.IsZero() {
		return false
	}
	b.seats = slices.DeleteFunc(b.seats, func(other *seat) bool { return other == own })
	return true
}

// lead takes a batch through its inference.
func (s *batches) lead(b *batch) {
	defer b.cancel()
	late := time.NewTimer(s.delay)
	defer late.Stop()
	select {
	case <-b.goes:
	case <-late.C:
	case <-b.ctx.Done():
		return
	}
	select {
	case s.runs <- struct{}{}:
	case <-b.ctx.Done():
		return
	}
	defer close(b.done)
	defer func() { <-s.runs }()
	pages := s.begin(b)
	if len(pages) == 0 {
		return
	}
	errs := s.survive(b.ctx, pages)
	for i, own := range b.seats {
		own.err = errs[i]
	}
	b.ended = time.Now()
	if s.sizes != nil {
		s.sizes.Record(b.ctx, int64(len(pages)))
	}
}

// survive is run with a panic turned into a fault of each page. Package stage does that
// for what it calls, which does not reach here: nobody called lead.
func (s *batches) survive(ctx context.Context, pages []*page) (errs []error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("an inference panicked", slog.Int("pages", len(pages)), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			errs = slices.Repeat([]error{fault.AsTransient(CodeInference, fmt.Errorf("panic: %v", p))}, len(pages))
		}
	}()
	return s.run(ctx, pages)
}

// begin closes a batch to further pages.
func (s *batches) begin(b *batch) []*page {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == b {
		s.open = nil
	}
	b.began = time.Now()
	pages := make([]*page, len(b.seats))
	for i, own := range b.seats {
		pages[i] = own.page
	}
	return pages
}
