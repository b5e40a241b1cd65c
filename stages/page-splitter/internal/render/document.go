package render

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"leafcutter/pkg/filetype"
)

// attempts is how many children a document may take down before it is the one to
// blame. A child dies for other reasons as well: an operator, the kernel short of
// memory.
const attempts = 3

// document is a document that is open in a child of its pool. When that child
// dies, the next call opens it again in another one.
type document struct {
	pool  *Pool
	file  *os.File
	size  int64
	kind  filetype.Type
	count int

	child *process // nil between children
}

// Open implements [Renderer].
func (p *Pool) Open(ctx context.Context, path string) (Document, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the document: %w", err)
	}
	d := &document{pool: p, file: file}
	if err := d.identify(); err != nil {
		d.Close()
		return nil, err
	}
	if err := d.try(ctx, "opening the document", func() error { return d.attach(ctx) }); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *document) identify() error {
	info, err := d.file.Stat()
	if err != nil {
		return fmt.Errorf("reading the document's size: %w", err)
	}
	if d.size = info.Size(); d.size == 0 {
		return permanent(CodeEmpty, "the document is empty")
	}
	head := make([]byte, filetype.HeadSize)
	n, err := d.file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the document: %w", err)
	}
	kind, ok := filetype.Detect(head[:n])
	if !ok {
		return permanent(CodeUnsupported, "the document is neither PDF, PNG, JPEG nor TIFF")
	}
	d.kind = kind
	return nil
}

func (d *document) ContentType() string { return string(d.kind) }
func (d *document) PageCount() int      { return d.count }

// Page implements [Document].
func (d *document) Page(ctx context.Context, number, dpi int) (*Page, error) {
	if number < 1 || number > d.count {
		return nil, permanent(CodeUnreadablePage, "page %d: the document has %d", number, d.count)
	}
	began := time.Now()
	var ans answer
	err := d.try(ctx, fmt.Sprintf("rendering page %d", number), func() error {
		if err := d.attach(ctx); err != nil {
			return err
		}
		d.child.pages++
		var err error
		ans, err = d.call(ctx, request{Op: "page", Page: number, DPI: dpi}, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Page{
		PNG:     ans.png,
		Width:   ans.Width,
		Height:  ans.Height,
		DPI:     ans.DPI,
		Lines:   ans.Lines,
		Elapsed: time.Since(began),
	}, nil
}

// try repeats what a child's death interrupted.
func (d *document) try(ctx context.Context, doing string, call func() error) error {
	var err error
	for range attempts {
		if err = call(); err == nil {
			return nil
		}
		// A page that got no processor is not tried again at once: the stage
		// comes back to it when the machine may have recovered.
		if !errors.Is(err, errCrashed) || ctx.Err() != nil {
			break
		}
	}
	return classed(err, doing)
}

// attach opens the document in a child, unless it is open in one.
func (d *document) attach(ctx context.Context) error {
	if d.child != nil {
		return nil
	}
	child, err := d.pool.acquire(ctx)
	if err != nil {
		return err
	}
	d.child = child
	ans, err := d.call(ctx, request{Op: "open", Type: d.kind, Size: d.size}, d.file)
	if err != nil {
		if d.child != nil { // it refused, and holds nothing
			d.detach()
		}
		return err
	}
	d.count = ans.PageCount
	return nil
}

// call asks the child. A child that died in it is given up.
func (d *document) call(ctx context.Context, req request, file *os.File) (answer, error) {
	ans, err := d.child.call(ctx, d.pool.cfg.PageTimeout, req, file)
	if err != nil {
		d.detach()
		return answer{}, err
	}
	if ans.Code != "" {
		return answer{}, permanent(ans.Code, "%.500s", ans.Error)
	}
	return ans, nil
}

func (d *document) detach() {
	d.pool.release(d.child)
	d.child = nil
}

// Close closes the document in its child and gives the child back.
func (d *document) Close() {
	if d.child != nil {
		// Not tied to anybody's context: it takes no time, and a child that
		// does not answer is killed.
		_, _ = d.child.call(context.Background(), d.pool.cfg.PageTimeout, request{Op: "close"}, nil)
		d.detach()
	}
	_ = d.file.Close() // read only
}
