package pagesplitter

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/filetype"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/schemas/pages"
	"leafcutter/stages/page-splitter/internal/sourcecache"
)

// submission is a record of the topic documents in one form, whichever it came
// in.
type submission struct {
	schemas.DocumentSubmitted
	raw []byte // the document itself, where the record holds it
}

// readSubmission reads a record: the JSON of a DocumentSubmitted, or the bytes of
// a document, told apart by the content type that the producer gave and else by
// the first byte. A faulty submission comes back with its fault and with as much
// of it as could be read, so that its failure can be told.
func readSubmission(in stage.In) (submission, error) {
	if isJSON(in) {
		return readReference(in)
	}
	return readRaw(in)
}

func isJSON(in stage.In) bool {
	given, _, _ := strings.Cut(in.Headers[schemas.HeaderContentType], ";")
	given = strings.ToLower(strings.TrimSpace(given))
	if given == "application/json" || strings.HasSuffix(given, "+json") {
		return true
	}
	if _, document := filetype.Parse(given); document {
		return false
	}
	return bytes.HasPrefix(bytes.TrimLeft(in.Value, " \t\r\n"), []byte("{"))
}

func readReference(in stage.In) (submission, error) {
	d, err := schemas.ParseDocumentSubmitted(in.Value)
	if err != nil {
		d = soundPart(d)
	}
	s := submission{DocumentSubmitted: d}
	if !schemas.IsUUID(d.DocumentID) {
		s.DocumentID = documentID(in)
	}
	s.SubmittedAt = storableTime(d.SubmittedAt, in.Timestamp)
	s.Title = cmp.Or(s.Title, s.FileName)
	if s.Title == "" && s.Source != "" && !strings.HasSuffix(s.Source, "/"+schemas.SourceKey(s.DocumentID)) {
		s.Title = path.Base(s.Source)
	}
	s.Title = shorten(s.Title)
	if err != nil {
		return s, fault.AsPermanent(CodeRecord, err)
	}
	return s, nil
}

func readRaw(in stage.In) (submission, error) {
	sum := sha256.Sum256(in.Value)
	s := submission{raw: in.Value}
	s.DocumentID = documentID(in)
	s.Title = shorten(in.Headers[schemas.HeaderTitle])
	s.SHA256 = hex.EncodeToString(sum[:])
	s.Bytes = int64(len(in.Value))
	s.SubmittedAt = storableTime(in.Timestamp)
	kind, ok := filetype.Detect(in.Value)
	switch {
	case len(in.Value) == 0:
		return s, fault.Permanentf(CodeRecord, "the record is empty")
	case !ok:
		return s, fault.Permanentf(CodeUnsupported, "the record is neither a DocumentSubmitted nor a PDF, PNG, JPEG or TIFF")
	case len(in.Value) > schemas.MaxRawDocument:
		return s, fault.Permanentf(sourcecache.CodeTooLarge, "%d bytes, a record may hold %d: put the document into the object store and submit a reference", len(in.Value), schemas.MaxRawDocument)
	}
	s.ContentType = string(kind)
	return s, nil
}

// storableTime is the first of the times given, all of which are a producer's to
// choose, that can be stored. Where none can, the document is as old as can be: the
// same time whenever the record is read.
func storableTime(given ...time.Time) time.Time {
	for _, t := range given {
		if schemas.StorableTime(t) {
			return t.UTC()
		}
	}
	return schemas.MinTime
}

// soundPart is a faulty submission without what is at fault in it. What is left is
// bounded, so that it may be copied into the records that tell of the fault.
func soundPart(d schemas.DocumentSubmitted) schemas.DocumentSubmitted {
	sound := schemas.DocumentSubmitted{DocumentID: d.DocumentID, SubmittedAt: d.SubmittedAt, Title: shorten(cmp.Or(d.Title, d.FileName))}
	for _, copyField := range []func(to *schemas.DocumentSubmitted){
		func(to *schemas.DocumentSubmitted) { to.Source = d.Source },
		func(to *schemas.DocumentSubmitted) { to.ContentType = d.ContentType },
		func(to *schemas.DocumentSubmitted) { to.SHA256 = d.SHA256 },
		func(to *schemas.DocumentSubmitted) { to.Bytes = d.Bytes },
		func(to *schemas.DocumentSubmitted) { to.DPI = d.DPI },
		func(to *schemas.DocumentSubmitted) { to.Pages = d.Pages },
		func(to *schemas.DocumentSubmitted) { to.Thresholds = d.Thresholds },
		func(to *schemas.DocumentSubmitted) { to.CropPadding = d.CropPadding },
		func(to *schemas.DocumentSubmitted) { to.WebhookURL = d.WebhookURL },
	} {
		alone := schemas.DocumentSubmitted{Source: "s3://bucket/key"}
		if copyField(&alone); alone.Validate() == nil {
			copyField(&sound)
		}
	}
	for _, name := range d.ModelNames() {
		if schemas.IsModelName(name) && len(sound.Models) < schemas.MaxModels {
			sound.Models = append(sound.Models, name)
		}
	}
	return sound
}

// documentID is the record's key where that is a UUID, and else follows from the
// record itself: delivered twice, it names one document.
func documentID(in stage.In) string {
	if schemas.IsUUID(in.Key) {
		return in.Key
	}
	return schemas.DocumentIDForRecord(in.Topic, in.Partition, in.Offset, in.Timestamp, in.Value)
}

// shorten makes any text a title.
func shorten(title string) string {
	title = strings.ToValidUTF8(strings.TrimSpace(title), "\uFFFD")
	if utf8.RuneCountInString(title) > schemas.MaxTitle {
		title = string([]rune(title)[:schemas.MaxTitle])
	}
	return title
}

// models are the models that were asked for.
func (s submission) models(standard string) []string {
	if names := s.ModelNames(); len(names) > 0 {
		return names
	}
	return []string{standard}
}

// accepted says what was submitted.
func (s submission) accepted(pageCount int) schemas.DocumentAccepted {
	return schemas.DocumentAccepted{
		DocumentID: s.DocumentID, Title: s.Title, Source: s.Source, ContentType: s.ContentType, SHA256: s.SHA256,
		Bytes: s.Bytes, PageCount: pageCount, SubmittedAt: s.SubmittedAt, WebhookURL: s.WebhookURL,
	}
}

// resolve fills the defaults of the deployment and of a model in.
func (s submission) resolve(m schemas.ModelAnnounced, selection pages.Selection, renderer string) schemas.RunOptions {
	o := schemas.RunOptions{
		Model: m.Model, ModelDigest: m.Digest, DPI: cmp.Or(s.DPI, schemas.DefaultDPI), Pages: selection.String(),
		Thresholds: map[string]float64{}, CropPadding: schemas.DefaultPadding, Renderer: renderer,
	}
	for _, thresholds := range []map[string]float64{m.Thresholds, s.Thresholds} {
		for class, threshold := range thresholds {
			o.Thresholds[class] = threshold
		}
	}
	if s.CropPadding != nil {
		o.CropPadding = *s.CropPadding
	}
	return o
}

// run is a run of the submission with resolved options.
func (s submission) run(o schemas.RunOptions, selected int) schemas.Run {
	return schemas.Run{
		DocumentID: s.DocumentID, RunID: schemas.RunID(s.DocumentID, o), SubmittedAt: s.SubmittedAt, Source: s.Source,
		SHA256: s.SHA256, ContentType: s.ContentType, PagesSelected: selected, Options: o,
	}
}

// failed is the end of a run that could not be planned. Its identity comes from
// what was asked for, as far as that makes sense: there is no model to resolve it
// with.
func (s submission) failed(model, code string, cause error) schemas.RunFailed {
	selection, _ := pages.Parse(s.Pages) // readSubmission left out what cannot be read
	o := s.resolve(schemas.ModelAnnounced{Model: model}, selection, "")
	return schemas.RunFailed{
		Run: s.run(o, 0), Stage: PlannerName, Code: code, Error: stage.ErrorText(cause), FailedAt: time.Now().UTC(),
	}
}

// reference is the record that submits s again for one model alone.
func (s submission) reference(model string) (stage.Out, error) {
	d := s.DocumentSubmitted
	d.Model, d.Models = model, nil
	value, err := json.Marshal(d)
	if err != nil {
		return stage.Out{}, fmt.Errorf("writing a submission: %w", err)
	}
	return stage.Out{Topic: schemas.TopicDocuments, Key: s.DocumentID, Value: value, Headers: map[string]string{
		schemas.HeaderContentType: "application/json",
		schemas.HeaderSchema:      d.Schema(),
		schemas.HeaderID:          schemas.LCID(d),
	}}, nil
}
