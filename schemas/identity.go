package schemas

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// DocumentIDForKey is the identity of a submission that carries an Idempotency-Key: the same key of the same API key
// names the same document for ever.
func DocumentIDForKey(apiKey, idempotencyKey string) string {
	return nameUUID("document", "idempotency-key", apiKey, idempotencyKey)
}

// DocumentIDForRecord is the identity of a document that a producer put onto the documents topic without naming it.
// The timestamp and digest tell apart the records of a topic that was deleted and made again.
func DocumentIDForRecord(topic string, partition int32, offset int64, timestamp time.Time, value []byte) string {
	sum := sha256.Sum256(value)
	return nameUUID("document", "record", topic, strconv.Itoa(int(partition)), strconv.FormatInt(offset, 10),
		strconv.FormatInt(timestamp.UnixMilli(), 10), hex.EncodeToString(sum[:]))
}

// RunID is the identity of one document × one model × one set of resolved options. Submitting the same again names the
// same run.
func RunID(documentID string, o RunOptions) string {
	return nameUUID("run", documentID, o.Canonical())
}

// Sampled reports whether a document is among the share, 0 to 1, of all. It follows from the document alone: the same are
// chosen each time, and those of a share are among those of a larger one.
func Sampled(documentID string, share float64) bool {
	sum := sha256.Sum256([]byte("sample/" + documentID))
	return float64(binary.BigEndian.Uint64(sum[:])>>11)/(1<<53) < share
}

// Canonical is the options as JSON with sorted keys: what run identities are made of and what runs.options holds.
func (o RunOptions) Canonical() string {
	b, err := json.Marshal(o) // struct order is fixed and encoding/json sorts map keys
	if err != nil {
		panic("schemas: options cannot fail to marshal: " + err.Error()) // no channels, functions or NaN: Validate refused them
	}
	return string(b)
}

// SourceKey is the object that holds the document as it was submitted.
func SourceKey(documentID string) string { return "documents/" + documentID + "/source" }

// RecordKey is the object that holds the record that submitted the document, where it is too large for a dead letter.
func RecordKey(documentID string) string { return "documents/" + documentID + "/record" }

// SubmissionKey is the object that says what ingest-api accepted under the document's id.
func SubmissionKey(documentID string) string { return DocumentPrefix(documentID) + "submission.json" }

// DocumentsPrefix is the prefix of every object of every document.
const DocumentsPrefix = "documents/"

// DocumentPrefix is the prefix of every object of a document.
func DocumentPrefix(documentID string) string { return DocumentsPrefix + documentID + "/" }

// PageImageKey is the object that holds page n (from 1) rendered at dpi by the renderer build; runs share it.
func PageImageKey(documentID string, dpi int, renderer string, page int) string {
	return fmt.Sprintf("documents/%s/pages/%d-%s/%05d.png", documentID, dpi, renderer, page)
}

// PageTextKey is the object that holds the text lines of the same page, as JSON (PageText).
func PageTextKey(documentID string, dpi int, renderer string, page int) string {
	return fmt.Sprintf("documents/%s/pages/%d-%s/%05d.json", documentID, dpi, renderer, page)
}

// AnnotatedKey is the object that holds page n of a run with its boxes drawn.
func AnnotatedKey(documentID, runID string, page int) string {
	return fmt.Sprintf("documents/%s/runs/%s/annotated/%05d.png", documentID, runID, page)
}

// CropKey is the object that holds what rect (padded, whole pixels of the page image, [x0,y0,x1,y1), origin top left)
// cuts from the page image. Equal rectangles of one page share one object.
func CropKey(documentID, runID string, page int, imageKey string, rect [4]int, padding int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d,%d,%d,%d\n%d", imageKey, rect[0], rect[1], rect[2], rect[3], padding))
	return fmt.Sprintf("documents/%s/runs/%s/crops/%05d-%s.png", documentID, runID, page, hex.EncodeToString(sum[:])[:12])
}

// RowVersion orders the versions of a row by the results record it came from, never by the time of insertion: its
// timestamp in milliseconds in the high bits, the low 20 bits of its offset below.
func RowVersion(timestamp time.Time, offset int64) uint64 {
	return uint64(timestamp.UnixMilli())<<20 | uint64(offset)&(1<<20-1)
}
