package annotator

import (
	"bytes"
	"context"

	"golang.org/x/sync/errgroup"
)

// shelfSize is the number of bytes of a page's files from which on they are uploaded before the next is made. A page
// seldom has so many: a scan at 108 dpi, cut up wholly, has some four million.
const shelfSize = 8 << 20

// shelf is the files of a page that are still to be uploaded, one behind the other in one buffer.
type shelf struct {
	buffer *bytes.Buffer
	files  []shelved
}

type shelved struct {
	key string
	end int // in the buffer; it begins where the one before it ends
}

// shelf is an empty one.
func (a *Annotator) shelf() *shelf { return &shelf{buffer: a.file()} }

// done names what was written behind the last file.
func (s *shelf) done(key string) { s.files = append(s.files, shelved{key, s.buffer.Len()}) }

// upload puts all files of a shelf into the store and empties it. After an error the buffer must not be written to:
// the transport may still be reading it.
func (a *Annotator) upload(ctx context.Context, s *shelf) error {
	uploads, uploading := errgroup.WithContext(ctx)
	uploads.SetLimit(a.cfg.Uploads)
	from := 0
	for _, f := range s.files {
		body := s.buffer.Bytes()[from:f.end]
		from = f.end
		if uploading.Err() != nil {
			break // the first upload that failed has cancelled the others, and is the one to tell; or the stage is stopping
		}
		uploads.Go(func() error { return a.store.Put(uploading, f.key, body, "image/png") })
	}
	if err := uploads.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // nothing failed, but not all were put
	}
	s.buffer.Reset()
	s.files = s.files[:0]
	return nil
}
