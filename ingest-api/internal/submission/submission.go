// Package submission makes a document out of what was received: an object, a marker beside it and a record, durable in
// this order before anybody is told the document's id. The handlers of package httpapi call it.
//
// The marker, documents/{id}/submission.json, says what was accepted under an id. By it an id is known before its row
// lands, and a repeated Idempotency-Key is told from one that is used for something else.
package submission

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/filetype"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/schemas/pages"
)

// Store is what is used of the object store.
type Store interface {
	PutReader(ctx context.Context, key string, r io.ReadSeeker, size int64, contentType string) error
	Put(ctx context.Context, key string, body []byte, contentType string) error
	Get(ctx context.Context, key string, limit int64) ([]byte, error)
	OpenURI(ctx context.Context, uri string) (io.ReadCloser, objectstore.Info, error)
	URI(key string) string
	Delete(ctx context.Context, keys ...string) error
}

// Producer is what is used of Kafka.
type Producer interface {
	Produce(ctx context.Context, outs ...stage.Out) error
}

// Desk accepts submissions. Make it with NewDesk.
type Desk struct {
	store    Store
	producer Producer
	maxBytes int64
	patience time.Duration
	now      func() time.Time
	asked    *controls.Set

	busy    keyed
	storing chan struct{}
}

// maxStoring is how many sources are sent to S3 at once. More make nothing faster and each takes a connection, two
// goroutines and the deep stacks of the SDK; the others wait on disk, which costs nothing.
const maxStoring = 12

// NewDesk makes a desk. asked is what was asked of documents, nil for nothing; maxBytes bounds sources that are referred
// to, patience the wait for a record to be acknowledged.
func NewDesk(store Store, producer Producer, asked *controls.Set, maxBytes int64, patience time.Duration, now func() time.Time) *Desk {
	return &Desk{store: store, producer: producer, asked: asked, maxBytes: maxBytes, patience: patience, now: now, storing: make(chan struct{}, maxStoring)}
}

// URI is the s3:// reference of an object of ours.
func (k *Desk) URI(key string) string { return k.store.URI(key) }

// Key is what makes a submission repeatable: the caller's Idempotency-Key, within the caller's API key. The zero Key
// makes none.
type Key struct {
	API         string
	Idempotency string
}

// Submission is the marker.
type Submission struct {
	Fingerprint string                    `json:"fingerprint"`
	Produced    bool                      `json:"produced"` // the record was acknowledged
	Document    schemas.DocumentSubmitted `json:"document"`
}

// maxMarker bounds a marker in bytes: thresholds of 256 classes and the longest selection of pages fit.
const maxMarker = 64 << 10

// MarkerKey is the object that holds the marker of a document.
func MarkerKey(documentID string) string { return schemas.SubmissionKey(documentID) }

// Upload accepts a document that was received: d has the options, file the bytes.
func (k *Desk) Upload(ctx context.Context, d schemas.DocumentSubmitted, kind filetype.Type, file *upload.File, key Key) (schemas.DocumentSubmitted, error) {
	d.ContentType, d.SHA256, d.Bytes = string(kind), file.SHA256(), file.Size()
	return k.accept(ctx, d, key, func(ctx context.Context, d *schemas.DocumentSubmitted) error {
		source := schemas.SourceKey(d.DocumentID)
		d.Source = k.store.URI(source)
		r, err := file.Reader()
		if err != nil {
			return err
		}
		select {
		case k.storing <- struct{}{}:
			defer func() { <-k.storing }()
		case <-ctx.Done():
			return ctx.Err()
		}
		return k.store.PutReader(ctx, source, r, file.Size(), string(kind))
	})
}

// Refer accepts a document that lies in a bucket already: d.Source says where.
func (k *Desk) Refer(ctx context.Context, d schemas.DocumentSubmitted, key Key) (schemas.DocumentSubmitted, error) {
	kind, size, err := k.look(ctx, d.Source)
	if err != nil {
		return d, err
	}
	d.ContentType, d.Bytes = string(kind), size
	return k.accept(ctx, d, key, nil)
}

// look tells what lies at source by its first bytes, and refuses what would fail anyway.
func (k *Desk) look(ctx context.Context, source string) (filetype.Type, int64, error) {
	body, info, err := k.store.OpenURI(ctx, source)
	switch fault.CodeOf(err) {
	case objectstore.CodeSource:
		return "", 0, problem.Because(err, problem.SourceNotAllowed, "The source %.300q cannot be read here", source)
	case objectstore.CodeMissing:
		return "", 0, problem.Because(err, problem.SourceNotFound, "There is nothing at %.300q", source)
	}
	if err != nil {
		return "", 0, problem.From(err, "Reading the source")
	}
	defer func() { _ = body.Close() }() // only its head was wanted
	switch {
	case info.Size == 0:
		return "", 0, problem.New(problem.EmptyFile, "The object at %.300q is empty", source)
	case info.Size > k.maxBytes:
		return "", 0, problem.New(problem.TooLarge, "The object at %.300q has %d bytes, at most %d are taken", source, info.Size, k.maxBytes)
	}
	head := make([]byte, filetype.HeadSize)
	n, err := io.ReadFull(body, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", 0, problem.From(err, "Reading the source")
	}
	kind, ok := filetype.Detect(head[:n])
	if !ok {
		return "", 0, problem.New(problem.UnsupportedFile, "The object at %.300q begins with other bytes than a PDF, PNG, JPEG or TIFF", source)
	}
	return kind, info.Size, nil
}

// accept gives the document its identity and makes it durable. store puts the source where it belongs and says so in
// the document; nil where it lies there already.
func (k *Desk) accept(ctx context.Context, d schemas.DocumentSubmitted, key Key, store func(context.Context, *schemas.DocumentSubmitted) error) (schemas.DocumentSubmitted, error) {
	d.SubmittedAt = k.now().UTC().Truncate(time.Millisecond)
	if key.Idempotency == "" {
		d.DocumentID = schemas.NewDocumentID(d.SubmittedAt)
		if store != nil {
			if err := store(ctx, &d); err != nil {
				return d, problem.From(err, "Storing the document")
			}
		}
		if err := k.mark(ctx, Submission{Document: d}); err != nil {
			return d, err
		}
		return d, k.produce(ctx, d)
	}
	d.DocumentID = schemas.DocumentIDForKey(key.API, key.Idempotency)
	return k.acceptKeyed(ctx, d, store)
}

// acceptKeyed claims the identity before the source is stored, because two uploads under one key share one source
// object. Within this process they take turns. Of two instances that race, the marker that is there afterwards wins, and
// the other one is refused before it stores anything; where both read back their own in turn, the planner still sees one
// document, whose sha256 then does not fit its source.
func (k *Desk) acceptKeyed(ctx context.Context, d schemas.DocumentSubmitted, store func(context.Context, *schemas.DocumentSubmitted) error) (schemas.DocumentSubmitted, error) {
	leave, err := k.busy.enter(ctx, d.DocumentID)
	if err != nil {
		return d, problem.From(err, "Waiting for the same Idempotency-Key")
	}
	defer leave()
	if err := k.refuseDeleted(ctx, d.DocumentID); err != nil {
		return d, err
	}
	print := Fingerprint(d)
	there, err := k.Find(ctx, d.DocumentID)
	if err == nil && there == nil {
		if err = k.mark(ctx, Submission{Fingerprint: print, Document: d}); err == nil {
			there, err = k.Find(ctx, d.DocumentID)
		}
	}
	switch {
	case err != nil:
		return d, err
	case there == nil:
		return d, problem.New(problem.DependencyBroken, "The marker of the submission vanished as it was written")
	case there.Fingerprint != print:
		return d, problem.New(problem.IdempotencyMismatch, "The key names document %s, whose file, title or options are others", d.DocumentID)
	case there.Produced:
		return there.Document, nil
	}
	// What was said first holds, its time of submission before all: every row of the document is ordered by it.
	mine := *there
	if store != nil {
		if err := store(ctx, &mine.Document); err != nil {
			return d, problem.From(err, "Storing the document")
		}
	}
	// Under a key the id may be known before it is told, and the document deleted while its source was on the way.
	if err := k.refuseDeleted(ctx, d.DocumentID, schemas.SourceKey(d.DocumentID), MarkerKey(d.DocumentID)); err != nil {
		return d, err
	}
	if err := k.produce(ctx, mine.Document); err != nil {
		return d, err
	}
	// Only spares a repetition the record, which changes nothing when it is read twice. So a fault here is none of the
	// client's.
	mine.Produced = true
	_ = k.mark(ctx, mine)
	return mine.Document, k.refuseDeleted(ctx, d.DocumentID, MarkerKey(d.DocumentID))
}

// refuseDeleted refuses what would bring a deleted document back, and deletes what was stored of it meanwhile.
func (k *Desk) refuseDeleted(ctx context.Context, documentID string, stored ...string) error {
	if _, deleted := k.asked.Deleted(documentID); !deleted {
		return nil
	}
	for _, key := range stored {
		if err := k.store.Delete(ctx, key); err != nil {
			return problem.From(err, "Deleting the document")
		}
	}
	return problem.New(problem.IdempotencyDeleted, "The key names document %s", documentID)
}

// Find is the marker of a document, nil where there is none.
func (k *Desk) Find(ctx context.Context, documentID string) (*Submission, error) {
	value, err := k.store.Get(ctx, MarkerKey(documentID), maxMarker)
	if fault.CodeOf(err) == objectstore.CodeMissing {
		return nil, nil
	}
	if err != nil {
		return nil, problem.From(err, "Looking for the document")
	}
	var s Submission
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, problem.Because(err, problem.DependencyBroken, "The marker of the submission cannot be read")
	}
	return &s, nil
}

func (k *Desk) mark(ctx context.Context, s Submission) error {
	value, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("marshal the marker: %w", err)
	}
	if err := k.store.Put(ctx, MarkerKey(s.Document.DocumentID), value, "application/json"); err != nil {
		return problem.From(err, "Storing the submission")
	}
	return nil
}

// produce waits as long as its patience for the record to be acknowledged. After that the object stays where it is:
// harmless, for nobody was told its id.
func (k *Desk) produce(ctx context.Context, d schemas.DocumentSubmitted) error {
	out, err := stage.Emit(schemas.TopicDocuments, d.DocumentID, d)
	if err != nil {
		return fmt.Errorf("make the record: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	err = k.producer.Produce(bounded, out)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		return problem.Because(err, problem.KafkaUnavailable, "Kafka did not acknowledge the record within %s", k.patience)
	}
	if err != nil {
		return problem.From(err, "Handing the document to the pipeline")
	}
	return nil
}

// Fingerprint is the digest of what makes two submissions the same: the file's bytes, or where it lies, and everything
// that was asked for. The file's name is none of it: what is repeated from another copy is still the same.
func Fingerprint(d schemas.DocumentSubmitted) string {
	if d.SHA256 != "" {
		d.Source = ""
	}
	d.DocumentID, d.FileName, d.ContentType, d.SubmittedAt = "", "", "", time.Time{}
	d.Models, d.Model = d.ModelNames(), ""
	if selection, err := pages.Parse(d.Pages); err == nil {
		d.Pages = selection.String()
	}
	canonical, err := json.Marshal(d)
	if err != nil {
		panic("submission: a document cannot fail to marshal: " + err.Error()) // no channels, functions or NaN: refused before
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}
