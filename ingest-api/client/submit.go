package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// Options are what a submission may ask for. Zero fields leave it to the server.
type Options struct {
	Title       string
	Models      []string
	DPI         int
	Pages       string             // such as 1-3,7,10-
	Thresholds  map[string]float64 // by class; * for every class
	CropPadding *int               // pixels
	WebhookURL  string

	// IdempotencyKey makes the submission repeatable: the same key with the same file and options names the same document
	// for ever. Without one, a submission is sent once and not repeated.
	IdempotencyKey string
	// Progress is told how many bytes of the file have been sent; nil for nobody.
	Progress func(sent int64)
}

// SubmitFile submits the file at path, streaming it.
func (c *Client) SubmitFile(ctx context.Context, path string, o Options) (*api.Accepted, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the document: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	return c.Submit(ctx, filepath.Base(path), f, o)
}

// Submit submits what r gives under a file name, streaming it: nothing is held in memory. r is read to its end, from
// where it stands; where it can seek and o has an IdempotencyKey, it may be read again.
func (c *Client) Submit(ctx context.Context, fileName string, r io.Reader, o Options) (*api.Accepted, error) {
	head, tail, contentType, err := form(fileName, o)
	if err != nil {
		return nil, err
	}
	seeker, _ := r.(io.Seeker)
	start, size := int64(0), int64(-1)
	if seeker != nil {
		if start, err = seeker.Seek(0, io.SeekCurrent); err == nil {
			if size, err = seeker.Seek(0, io.SeekEnd); err == nil {
				size -= start
				_, err = seeker.Seek(start, io.SeekStart)
			}
		}
		if err != nil {
			seeker, size = nil, -1 // a pipe, for one, cannot
		}
	}
	accepted := &api.Accepted{}
	try := func() error {
		if seeker != nil {
			if _, err := seeker.Seek(start, io.SeekStart); err != nil {
				return fmt.Errorf("rewind the document: %w", err)
			}
		}
		file := r
		if o.Progress != nil {
			file = &counted{r: r, tell: o.Progress}
		}
		body := &lent{r: io.MultiReader(bytes.NewReader(head), file, bytes.NewReader(tail))}
		defer body.takeBack()
		request, err := c.request(ctx, http.MethodPost, "/v1/documents", body)
		if err != nil {
			return err
		}
		request.ContentLength = -1
		if size >= 0 {
			request.ContentLength = int64(len(head)) + size + int64(len(tail))
			// The server then refuses what is too large before the first byte of it is sent.
			request.Header.Set("Expect", "100-continue")
		}
		request.Header.Set("Content-Type", contentType)
		if o.IdempotencyKey != "" {
			request.Header.Set("Idempotency-Key", o.IdempotencyKey)
		}
		return c.do(request, accepted)
	}
	if seeker != nil && o.IdempotencyKey != "" {
		err = c.repeat(ctx, try)
	} else {
		err = plain(try())
	}
	if err != nil {
		return nil, err
	}
	return accepted, nil
}

// SubmitReference submits the object at source, s3://bucket/key, which the server must be allowed to read.
func (c *Client) SubmitReference(ctx context.Context, source string, o Options) (*api.Accepted, error) {
	body, err := json.Marshal(schemas.DocumentSubmitted{
		Source: source, Title: o.Title, Models: o.Models, DPI: o.DPI, Pages: o.Pages, Thresholds: o.Thresholds,
		CropPadding: o.CropPadding, WebhookURL: o.WebhookURL,
	})
	if err != nil {
		return nil, fmt.Errorf("make the submission: %w", err)
	}
	accepted := &api.Accepted{}
	try := func() error {
		request, err := c.request(ctx, http.MethodPost, "/v1/documents", bytes.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		if o.IdempotencyKey != "" {
			request.Header.Set("Idempotency-Key", o.IdempotencyKey)
		}
		return c.do(request, accepted)
	}
	if o.IdempotencyKey != "" {
		err = c.repeat(ctx, try)
	} else {
		err = plain(try())
	}
	if err != nil {
		return nil, err
	}
	return accepted, nil
}

// form is what comes before and after the file's bytes in a multipart form: fields go first, so that the server can
// refuse them before the file.
func form(fileName string, o Options) (head, tail []byte, contentType string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	field := func(name, value string) {
		if err == nil && value != "" {
			err = w.WriteField(name, value)
		}
	}
	field("title", o.Title)
	for _, model := range o.Models {
		field("model", model)
	}
	if o.DPI != 0 {
		field("dpi", strconv.Itoa(o.DPI))
	}
	field("pages", o.Pages)
	if len(o.Thresholds) > 0 {
		thresholds, marshalErr := json.Marshal(o.Thresholds)
		if marshalErr != nil {
			return nil, nil, "", fmt.Errorf("make the form: %w", marshalErr)
		}
		field("thresholds", string(thresholds))
	}
	if o.CropPadding != nil {
		field("crop_padding", strconv.Itoa(*o.CropPadding))
	}
	field("webhook_url", o.WebhookURL)
	if err == nil {
		_, err = w.CreateFormFile("file", fileName)
	}
	at := b.Len()
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, nil, "", fmt.Errorf("make the form: %w", err)
	}
	return b.Bytes()[:at], b.Bytes()[at:], w.FormDataContentType(), nil
}

// lent is a body that the transport may go on reading after it has answered, when the server refused it early. Once taken
// back it is read no more: the file is rewound for another try, or closed by the caller.
type lent struct {
	mu   sync.Mutex
	r    io.Reader
	back bool
}

func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.back {
		return 0, errors.New("the request is over")
	}
	return l.r.Read(p)
}

func (l *lent) takeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.back = true
}

// counted tells how much has been read.
type counted struct {
	r    io.Reader
	tell func(int64)
	n    int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.n += int64(n); n > 0 {
		c.tell(c.n)
	}
	return n, err
}
