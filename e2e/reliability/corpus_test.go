package reliability

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/google/uuid"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/schemas"
)

// door is the way by which a document comes in.
type door int

const (
	byUpload    door = iota // a file, by HTTP, under an Idempotency-Key
	byReference             // a record that says where the file lies
	byRecord                // a record that is the file
	asItIs                  // a record whose value is whatever data holds
)

// item is one document of the corpus.
type item struct {
	name string
	door door
	data []byte
	// pages are those that come to be done, poison says that something of it fails for ever.
	pages  int
	poison bool
}

// corpusOf is the mixed corpus of a seed: letters, a book that is long enough for the bulk lane, pictures of pages, and
// poison of every kind.
func corpusOf(seed uint64) ([]item, error) {
	random := rand.New(rand.NewPCG(seed, 1))
	number := func() int { return 1 + random.IntN(1_000_000) }
	var all []item
	doors := []door{byUpload, byReference, byRecord, byUpload}
	for n, way := range doors {
		pages := 1 + random.IntN(3)
		all = append(all, item{name: fmt.Sprintf("letter-%d.pdf", n+1), door: way, data: corpus.Report(pages, number()), pages: pages})
	}
	book := schemas.FirstPages + 2 + random.IntN(3)
	all = append(all, item{name: "book.pdf", door: byUpload, data: corpus.Report(book, number()), pages: book})
	picture, err := corpus.PNG(corpus.Scan(612, 792, random.IntN(9)))
	if err != nil {
		return nil, err
	}
	photograph, err := corpus.JPEG(corpus.Scan(700, 900, random.IntN(9)))
	if err != nil {
		return nil, err
	}
	all = append(all,
		item{name: "scan.png", door: byUpload, data: picture, pages: 1},
		item{name: "photo.jpg", door: byRecord, data: photograph, pages: 1},
		item{name: "fax.tiff", door: byReference, data: corpus.TIFF(corpus.Scan(500, 700, 1), corpus.Scan(600, 400, 2)), pages: 2})
	poison, err := poisonOf(number())
	if err != nil {
		return nil, err
	}
	return append(all, poison...), nil
}

// poisonOf is a document of each kind that fails for ever, in the whole or by a page.
func poisonOf(seed int) ([]item, error) {
	whole := corpus.Report(2, seed)
	encrypted, err := corpus.Encrypted(whole)
	if err != nil {
		return nil, err
	}
	picture, err := corpus.PNG(corpus.Scan(200, 300, 1))
	if err != nil {
		return nil, err
	}
	record := func(of map[string]any) []byte {
		b, err := json.Marshal(of)
		if err != nil {
			panic(err) // maps of strings
		}
		return b
	}
	all := []item{
		{name: "poster.pdf", door: byUpload, data: corpus.OneTooLarge(4, 2), pages: 3},
		{name: "truncated.pdf", door: byUpload, data: whole[:40]},
		{name: "broken.pdf", door: byRecord, data: append([]byte("%PDF-1.7\n"), bytes.Repeat([]byte("\x00\xffleaf"), 4000)...)},
		{name: "encrypted.pdf", door: byReference, data: encrypted},
		{name: "empty.pdf", door: byUpload, data: corpus.NoPages()},
		{name: "cut.png", door: byUpload, data: picture[:60]},
		{name: "archive.pdf", door: byRecord, data: append([]byte("PK\x03\x04\x14\x00"), make([]byte, 500)...)},
		{name: "garbled.json", door: asItIs, data: []byte(`{"source": "s3://`)},
		{name: "nowhere.json", door: asItIs, data: record(map[string]any{"source": "s3://leafcutter/inbox/nowhere.pdf"})},
		{name: "foreign.json", door: asItIs, data: record(map[string]any{"source": "s3://elsewhere/report.pdf"})},
		{name: "model.json", door: asItIs, data: record(map[string]any{"source": "s3://leafcutter/inbox/nowhere.pdf", "model": "nobody-has-it"})},
	}
	for i := range all {
		all[i].poison = true
	}
	return all, nil
}

// healthy are the items of which nothing fails.
func healthy(items []item) []item {
	var well []item
	for _, i := range items {
		if !i.poison {
			well = append(well, i)
		}
	}
	return well
}

// pagesOf is how many pages come of items.
func pagesOf(items []item) int {
	n := 0
	for _, i := range items {
		n += i.pages
	}
	return n
}

// name is what a copy of an item is called: the same everywhere and always, so that equal names have equal identities on
// every pipeline.
func (i item) named(copy int) string { return fmt.Sprintf("%d/%s", copy, i.name) }

// recordID is the identity under which a record names its document.
func (i item) recordID(copy int) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("reliability/"+i.named(copy))).String()
}

// inbox is where the file lies that a record refers to.
func (i item) inbox() string { return "inbox/" + i.name }

// value is the item as a record of the topic documents.
func (i item) value(p *pipeline.Pipeline, copy int) ([]byte, error) {
	if i.door != byReference {
		return i.data, nil
	}
	b, err := json.Marshal(map[string]any{"document_id": i.recordID(copy), "source": p.Objects.URI(i.inbox()), "title": i.name})
	if err != nil {
		return nil, fmt.Errorf("make the record of %s: %w", i.name, err)
	}
	return b, nil
}
