package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// The same bytes by every front door give the same boxes, crops, page images and annotated pages.
func TestEveryFrontDoorFindsTheSame(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	file := sample(t)

	uploaded := submit(ctx, t, p, file, client.Options{Title: "by upload"})

	const key = "inbox/report.pdf"
	ok(t, p.Objects.Put(ctx, key, file.Data, "application/pdf"))
	referred := must(p.Client.SubmitReference(ctx, p.Objects.URI(key), client.Options{Title: "by reference"}))(t).DocumentID

	submission := must(json.Marshal(map[string]any{"source": p.Objects.URI(key), "title": "by JSON record"}))(t)
	record := produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Value: submission})
	produced := schemas.DocumentIDForRecord(record.Topic, record.Partition, record.Offset, record.Timestamp, record.Value)

	title := []kgo.RecordHeader{{Key: schemas.HeaderTitle, Value: []byte("by raw record")}}
	record = produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Value: file.Data, Headers: title})
	raw := schemas.DocumentIDForRecord(record.Topic, record.Partition, record.Offset, record.Timestamp, record.Value)

	named := must(uuid.NewV7())(t).String()
	produce(ctx, t, p, &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(named), Value: file.Data})

	want := must(func() (any, error) {
		await(ctx, t, p, uploaded, schemas.Completed)
		return p.Found(ctx, uploaded)
	}())(t)
	for id, title := range map[string]string{
		uploaded: "by upload", referred: "by reference", produced: "by JSON record", raw: "by raw record", named: "",
	} {
		eventually(ctx, t, "the API knows "+id, func() (bool, error) {
			_, err := p.Client.Get(ctx, id) // a producer's document is known once the planner has read it
			return err == nil, err
		})
		d := await(ctx, t, p, id, schemas.Completed)
		if d.Title != title {
			t.Errorf("title %q, want %q", d.Title, title)
		}
		if d.Bytes != int64(len(file.Data)) || d.ContentType != "application/pdf" {
			t.Errorf("%s: %d bytes of %s", title, d.Bytes, d.ContentType)
		}
		var got any = must(p.Found(ctx, id))(t)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q finds other things than the upload:\n%s", title, diff)
		}
		source := must(p.Client.Download(ctx, d.Links.Source))(t)
		back := must(io.ReadAll(source))(t)
		ok(t, source.Close())
		if !bytes.Equal(back, file.Data) {
			t.Errorf("%q: the source comes back as %d bytes of %d", title, len(back), len(file.Data))
		}
	}
}
