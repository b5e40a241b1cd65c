package reliability

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"leafcutter/e2e/pipeline"
	"leafcutter/pkg/crop"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
)

// ref is which document of the corpus an identity belongs to.
type ref struct {
	copy int
	item string
}

// fact is one thing that a pipeline knows of a document: a row, an object, an end, a dead letter. Its name holds no
// identity, so that copies of a document have facts of the same names.
type fact struct {
	item string
	kind string // document, run, page, status, failure, object, end, letter
	key  string // such as the run and page, or the object's key
}

func (f fact) String() string { return f.item + ": " + f.kind + " " + f.key }

// answers are a copy's facts with what each says. A fact that was found twice says two things.
type answers map[fact][]string

// strange is what stands for documents that nobody submitted.
const strange = -1

// questions are asked of SQL: every column but times, durations, traces and versions of rows.
var questions = []struct{ kind, query, key string }{
	{"document", "SELECT document_id, title, source_uri, content_type, sha256, bytes, page_count FROM documents FINAL", ""},
	{"run", `SELECT document_id, run_id, model, model_digest, options, dpi, pages_selected, pages_done, pages_failed, boxes, state, code, stage, error,
		planned_at IS NULL, first_result_at IS NULL, finished_at IS NULL FROM runs FINAL`, "run_id"},
	{"page", "SELECT * EXCEPT (version, render_ms, queue_ms, infer_ms, annotate_ms, trace_id, detected_at, submitted_at) FROM page_results FINAL", "page"},
	{"status", "SELECT document_id, title, state, pages_selected, pages_done, pages_failed, boxes FROM document_status", ""},
	{"failure", "SELECT document_id, run_id, title, model, page, stage, code, error FROM failures", "page"},
}

// collect reads all that a pipeline knows, by copies of the corpus. known says whose identities are whose. It reads raw
// where identities and keys are to stay as they are, to be compared between pipelines.
func collect(ctx context.Context, p *pipeline.Pipeline, known map[string]ref, raw bool) (map[int]answers, error) {
	c := collection{p: p, known: known, raw: raw, runs: map[string]string{}, crops: map[string]string{}, all: map[int]answers{}}
	for _, q := range questions {
		if err := c.ask(ctx, q.kind, q.query, q.key); err != nil {
			return nil, err
		}
	}
	return c.all, errors.Join(c.objects(ctx), c.ends(ctx), c.letters(ctx))
}

type collection struct {
	p     *pipeline.Pipeline
	known map[string]ref
	raw   bool
	runs  map[string]string // by identity, what stands for it
	crops map[string]string // by key

	mu  sync.Mutex
	all map[int]answers
}

func (c *collection) add(document, kind, key, says string) {
	r, ok := c.known[document]
	if !ok {
		r = ref{strange, document}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[r.copy] == nil {
		c.all[r.copy] = answers{}
	}
	f := fact{r.item, kind, c.plain(document, key)}
	c.all[r.copy][f] = append(c.all[r.copy][f], c.plain(document, says))
}

// ofRequest is what an S3 server says of one request, in the text of an error.
var ofRequest = regexp.MustCompile(`RequestID: [^,]*, HostID: [^,]*, `)

// plain is text without identities. What was not expected to be where it is keeps its own name, and shows.
func (c *collection) plain(document, text string) string {
	text = ofRequest.ReplaceAllString(text, "")
	if c.raw {
		return text
	}
	text = strings.ReplaceAll(text, document, "{document}")
	for id, run := range c.runs {
		if strings.HasPrefix(run, document) {
			text = strings.ReplaceAll(text, id, "{run}")
		}
	}
	return text
}

// row is a row as SQL gives it: numbers as they are written.
type row map[string]json.RawMessage

func (r row) text(column string) string {
	var s string
	if json.Unmarshal(r[column], &s) != nil {
		return string(r[column])
	}
	return s
}

func (c *collection) ask(ctx context.Context, kind, query, key string) error {
	status, body, err := c.p.Curl(ctx, query+" FORMAT JSONEachRow")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s: status %d: %.300s", query, status, body)
	}
	for line := range strings.Lines(body) {
		var r row
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return fmt.Errorf("%s: %w: %.300s", query, err, line)
		}
		document := r.text("document_id")
		if run := r.text("run_id"); kind == "run" {
			c.runs[run] = document + " " + r.text("model")
		}
		if kind == "page" {
			if err := c.cropsOf(document, r); err != nil {
				return err
			}
		}
		says, err := json.Marshal(r) // in the order of the columns' names
		if err != nil {
			return fmt.Errorf("write a row: %w", err)
		}
		c.add(document, kind, strings.TrimSpace(r.text("run_id")+" "+r.text(key)), string(says))
	}
	return nil
}

// cropsOf replaces the keys of a page's crops, which are digests of identities, by what they are digests of.
func (c *collection) cropsOf(document string, r row) error {
	if c.raw {
		return nil
	}
	var page, width, height int
	var keys []string
	var corners [4][]float64
	for column, into := range map[string]any{"page": &page, "width": &width, "height": &height, "boxes.crop_key": &keys,
		"boxes.x0": &corners[0], "boxes.y0": &corners[1], "boxes.x1": &corners[2], "boxes.y1": &corners[3]} {
		if err := json.Unmarshal(r[column], into); err != nil {
			return fmt.Errorf("read %s of a page: %w", column, err)
		}
	}
	for i, key := range keys {
		if key == "" {
			continue
		}
		rect := crop.Rect([4]float64{corners[0][i], corners[1][i], corners[2][i], corners[3][i]}, schemas.DefaultPadding, width, height)
		if key == schemas.CropKey(document, r.text("run_id"), page, r.text("image_key"), rect, schemas.DefaultPadding) {
			keys[i] = fmt.Sprintf("{crop %05d %v}", page, rect)
			c.crops[key] = keys[i]
		}
	}
	replaced, err := json.Marshal(keys)
	r["boxes.crop_key"] = replaced
	return err
}

// digests is how many objects are read at once.
const digests = 8

// objects are the bucket's, each with its digest. What lies in the inbox is the tests' own.
func (c *collection) objects(ctx context.Context) error {
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(digests)
	err := c.p.Objects.List(ctx, "documents/", func(o objectstore.Info) error {
		reading.Go(func() error {
			body, err := c.p.Objects.Get(ctx, o.Key, 256<<20)
			if err != nil {
				return err
			}
			document, _, _ := strings.Cut(strings.TrimPrefix(o.Key, "documents/"), "/")
			key := o.Key
			if crop, ok := c.crops[key]; ok {
				key = crop
			}
			if strings.HasSuffix(key, "/submission.json") {
				if body, err = timeless(body); err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
				body = []byte(c.plain(document, string(body)))
			}
			sum := sha256.Sum256(body)
			c.add(document, "object", key, hex.EncodeToString(sum[:]))
			return nil
		})
		return nil
	})
	return errors.Join(err, reading.Wait())
}

// timeless is the marker of a submission without the time at which it was made and the digest that follows from it, and
// without where its source lies: that is put in last, by a write which may be lost.
func timeless(marker []byte) ([]byte, error) {
	var m struct {
		Document map[string]any `json:"document"`
	}
	if err := json.Unmarshal(marker, &m); err != nil {
		return nil, err
	}
	delete(m.Document, "submitted_at")
	delete(m.Document, "source")
	return json.Marshal(m.Document)
}

// ends are what document-events says. The same end said again is one end; another one of the same run is another fact.
func (c *collection) ends(ctx context.Context) error {
	records, err := records(ctx, c.p, schemas.TopicDocumentEvents)
	if err != nil {
		return err
	}
	said := map[string]bool{}
	for _, r := range records {
		e, err := schemas.Unmarshal[schemas.RunEnded](r.Value)
		if err != nil {
			return err
		}
		if said[e.ID] {
			continue
		}
		said[e.ID] = true
		c.add(e.DocumentID, "end", e.RunID, fmt.Sprint(e.Title, e.Model, e.State, e.Code, e.PagesSelected, e.PagesDone, e.PagesFailed, e.Boxes, e.ID == e.EventID()))
	}
	return nil
}

// letters are the dead letters, each place once. How often a letter was tried is part of what it says only where that is
// above three.
func (c *collection) letters(ctx context.Context) error {
	records, err := records(ctx, c.p, schemas.TopicDeadLetters)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, r := range records {
		h := map[string]string{}
		for _, one := range r.Headers {
			h[one.Key] = string(one.Value)
		}
		place := strings.Join([]string{h[schemas.HeaderStage], h[schemas.HeaderRunID], h[schemas.HeaderPage]}, " ")
		document := h[schemas.HeaderDocumentID]
		if document == "" { // nobody's: told apart by its place
			place = strings.Join([]string{h[schemas.HeaderStage], h[schemas.HeaderTopic], h[schemas.HeaderPartition], h[schemas.HeaderOffset]}, " ")
		}
		if seen[document+place+h[schemas.HeaderCode]] {
			continue
		}
		seen[document+place+h[schemas.HeaderCode]] = true
		says := h[schemas.HeaderCode]
		if tries := h[schemas.HeaderAttempts]; len(tries) != 1 || tries > "3" {
			says += " after " + tries + " tries"
		}
		c.add(document, "letter", place, says)
	}
	return nil
}

// records reads a topic from its beginning to where it ends now.
func records(ctx context.Context, p *pipeline.Pipeline, topic string) ([]*kgo.Record, error) {
	client, err := kafka.NewClient(p.KafkaConfig(), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("ask where %s ends: %w", topic, err)
	}
	left := map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		if end.Offset > 0 {
			left[end.Partition] = end.Offset
		}
	})
	var all []*kgo.Record
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, fmt.Errorf("read %s: %w", topic, err)
		}
		for r := range fetches.RecordsAll() {
			all = append(all, &kgo.Record{Key: bytes.Clone(r.Key), Value: r.Value, Headers: r.Headers, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp})
			if end, known := left[r.Partition]; known && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		}
	}
	return all, nil
}
