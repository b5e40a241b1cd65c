// Package upload receives documents: it walks a multipart form as it arrives, puts the file onto disk and the fields
// into a DocumentSubmitted, and refuses what is too large, empty or no document as early as that can be known. The
// handlers of package httpapi call it.
//
// Nothing here grows with the size of an upload: one buffer per upload, and bounds on every part of a form.
package upload

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/pkg/filetype"
)

// Bounds of a form besides its file.
const (
	maxParts    = 64
	maxField    = 16 << 10
	maxHeaders  = 16 << 10 // of one part, with the boundary before it
	maxFileName = 255
)

// Form is a form that was received. Close it.
type Form struct {
	Fields   map[string][]string
	FileName string        // as the client said, without path and control characters; shown, never opened
	Type     filetype.Type // told by the first bytes
	File     *File
}

// Close gives back what the form holds.
func (f *Form) Close() error {
	if f.File == nil {
		return nil
	}
	return f.File.Close()
}

// ReadForm receives the multipart form of r, whose file has at most maxFile bytes and must be called "file". check is
// asked about the fields that came before the file, so that a wish which cannot be granted is refused before the file has
// been sent for nothing; nil for no check. Errors are problems, except those of the disk.
func (s *Spool) ReadForm(r *http.Request, maxFile int64, check func(*Form) error) (*Form, error) {
	if p := tooLarge(r.ContentLength, maxFile); p != nil {
		return nil, p
	}
	boundary, err := boundaryOf(r)
	if err != nil {
		return nil, err
	}
	body := &quota{r: r.Body}
	parts := multipart.NewReader(body, boundary)
	form := &Form{Fields: map[string][]string{}}
	done := false
	defer func() {
		if !done {
			_ = form.Close() // an error is on its way already
		}
	}()
	for n := 0; ; n++ {
		body.left = maxHeaders
		part, err := parts.NextPart()
		if err == io.EOF { // bare: wrapped, it is that of a form which broke off
			break
		}
		if err != nil {
			return nil, bodyFault(err)
		}
		if n == maxParts {
			return nil, problem.New(problem.MalformedUpload, "The form has more than %d parts", maxParts)
		}
		if part.FormName() == "file" && check != nil {
			if err := check(form); err != nil {
				return nil, err
			}
		}
		if err := s.readPart(form, part, body, r.ContentLength, maxFile); err != nil {
			return nil, err
		}
	}
	if form.File == nil {
		return nil, problem.New(problem.MissingFile, "The form has no field called file")
	}
	done = true
	return form, nil
}

// tooLarge refuses a request by its declared length before the first byte of its body is read. A form is a little
// larger than its file.
func tooLarge(contentLength, maxFile int64) *problem.Problem {
	if contentLength > maxFile+maxParts*(maxField+maxHeaders) {
		return problem.New(problem.TooLarge, "The request has %d bytes, and a file may have %d", contentLength, maxFile)
	}
	return nil
}

func boundaryOf(r *http.Request) (string, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" {
		return "", problem.New(problem.UnsupportedEncoding, "The body is %.80q", r.Header.Get("Content-Type"))
	}
	// RFC 2046 allows 70 characters.
	if b := params["boundary"]; b != "" && len(b) <= 70 {
		return b, nil
	}
	return "", problem.New(problem.MalformedUpload, "The Content-Type has no usable boundary")
}

func (s *Spool) readPart(form *Form, part *multipart.Part, body *quota, contentLength, maxFile int64) error {
	name := part.FormName()
	if name == "file" {
		if form.File != nil {
			return problem.New(problem.SeveralFiles, "The form has the field file twice")
		}
		// The boundary at the end counts as well; the size itself is counted where the file is written.
		body.left = maxFile + maxHeaders
		return s.readFile(form, part, contentLength, maxFile)
	}
	if part.FileName() != "" {
		return problem.New(problem.MissingFile, "The form has a file in the field %.80q", name)
	}
	body.left = maxField + maxHeaders
	value, err := io.ReadAll(io.LimitReader(part, maxField+1))
	if err != nil {
		return bodyFault(err)
	}
	if len(value) > maxField {
		return problem.New(problem.MalformedUpload, "The field %.80q has more than %d bytes", name, maxField)
	}
	form.Fields[name] = append(form.Fields[name], string(value))
	return nil
}

func (s *Spool) readFile(form *Form, part *multipart.Part, contentLength, maxFile int64) error {
	buf, done := s.buffer()
	defer done()
	n, end := fill(part, buf, filetype.HeadSize)
	if end != nil && !errors.Is(end, io.EOF) {
		return bodyFault(end)
	}
	if n == 0 {
		return problem.New(problem.EmptyFile, "The file %.80q is empty", part.FileName())
	}
	kind, ok := filetype.Detect(buf[:n])
	if !ok {
		return problem.New(problem.UnsupportedFile, "The file %.80q begins with other bytes than a PDF, PNG, JPEG or TIFF", part.FileName())
	}
	form.Type, form.FileName = kind, cleanFileName(part.FileName())
	var err error
	if form.File, err = s.NewFile(min(max(contentLength, 0), maxFile)); err != nil {
		return err
	}
	for {
		if form.File.Size()+int64(n) > maxFile {
			return problem.New(problem.TooLarge, "The file has more than %d bytes", maxFile)
		}
		if _, err := form.File.Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(end, io.EOF) {
			return nil
		}
		if end != nil {
			return bodyFault(end)
		}
		// A part gives what it has at hand, often less than 4 KiB; whole buffers make fewer calls.
		n, end = fill(part, buf, len(buf))
	}
}

// fill reads at least min bytes into buf, fewer only with the error that ended r: io.EOF where that was its end. Unlike
// io.ReadAtLeast it tells an end from a break.
func fill(r io.Reader, buf []byte, min int) (n int, err error) {
	for n < min && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// quota ends a body that sends more than is expected at a place, so that the multipart reader, which buffers a part's
// headers whole, cannot be made to grow.
type quota struct {
	r    io.Reader
	left int64
}

var errQuota = errors.New("more than is expected here")

func (q *quota) Read(p []byte) (int, error) {
	if q.left <= 0 {
		return 0, errQuota
	}
	if int64(len(p)) > q.left {
		p = p[:q.left]
	}
	n, err := q.r.Read(p)
	q.left -= int64(n)
	return n, err
}

// bodyFault is the problem of a body that could not be read.
func bodyFault(err error) error {
	var p *problem.Problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, os.ErrDeadlineExceeded):
		return problem.Because(err, problem.UploadTimeout, "The body came too slowly")
	case errors.Is(err, errQuota):
		return problem.Because(err, problem.MalformedUpload, "A part of the form has headers that are too long")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return problem.Because(err, problem.UploadBroken, "The body ended before its time")
	default:
		return problem.Because(err, problem.MalformedUpload, "The form cannot be read")
	}
}

// cleanFileName is what is left of a client's file name: one segment, printable, of at most maxFileName bytes.
func cleanFileName(name string) string {
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, name)
	for len(name) > maxFileName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return strings.TrimSpace(name)
}
