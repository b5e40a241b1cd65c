package annotator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/annotator"
)

func TestFaults(t *testing.T) {
	unavailable := func(suffix string) func(string) error {
		return func(key string) error {
			if strings.HasSuffix(key, suffix) {
				return fault.AsUnavailable(objectstore.Dependency, errors.New("connection refused"))
			}
			return nil
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(m *memory, p *schemas.PageDetected)
		class fault.Class
		code  string
	}{
		{"no page image", func(m *memory, p *schemas.PageDetected) { delete(m.objects, p.ImageKey) }, fault.Permanent, objectstore.CodeMissing},
		{"no text lines", func(m *memory, p *schemas.PageDetected) { delete(m.objects, p.TextKey) }, fault.Permanent, objectstore.CodeMissing},
		{"page image cut short", func(m *memory, p *schemas.PageDetected) { m.objects[p.ImageKey] = m.objects[p.ImageKey][:5000] }, fault.Permanent, annotator.CodePageImage},
		{"page image is something else", func(m *memory, p *schemas.PageDetected) { m.objects[p.ImageKey] = []byte("%PDF-1.7") }, fault.Permanent, annotator.CodePageImage},
		{"page image of another size", func(_ *memory, p *schemas.PageDetected) { p.Width++ }, fault.Permanent, annotator.CodePageImage},
		{"page image says that it is huge", func(m *memory, p *schemas.PageDetected) {
			data := bytes.Clone(m.objects[p.ImageKey])
			binary.BigEndian.PutUint32(data[16:], 1<<30)
			binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
			m.objects[p.ImageKey] = data
		}, fault.Permanent, annotator.CodePageImage},
		{"page image with too many bytes", func(m *memory, p *schemas.PageDetected) {
			m.objects[p.ImageKey] = append(bytes.Clone(m.objects[p.ImageKey]), make([]byte, 4<<20)...)
		}, fault.Permanent, objectstore.CodeTooLarge},
		{"more pixels than allowed", func(_ *memory, p *schemas.PageDetected) { p.Width, p.Height = 1<<30, 1<<30 }, fault.Permanent, annotator.CodePageTooLarge},
		{"broken text lines", func(m *memory, p *schemas.PageDetected) { m.objects[p.TextKey] = []byte(`{"lines":[{]}`) }, fault.Permanent, annotator.CodePageText},
		{"too many boxes", func(_ *memory, p *schemas.PageDetected) { p.Boxes = make([]schemas.Box, annotator.MaxBoxes+1) }, fault.Permanent, annotator.CodeTooManyBoxes},
		{"no document", func(_ *memory, p *schemas.PageDetected) { p.DocumentID = "" }, fault.Permanent, annotator.CodeRecord},
		{"store away while reading", func(m *memory, _ *schemas.PageDetected) { m.fail = unavailable("/00004.png") }, fault.Unavailable, "s3-unavailable"},
		{"store away while writing a crop", func(m *memory, p *schemas.PageDetected) {
			m.fail = func(key string) error {
				if strings.Contains(key, "/crops/") {
					return fault.AsUnavailable(objectstore.Dependency, errors.New("connection refused"))
				}
				return nil
			}
		}, fault.Unavailable, "s3-unavailable"},
		{"store away for the last object", func(m *memory, p *schemas.PageDetected) {
			m.fail = unavailable("annotated/00004.png")
		}, fault.Unavailable, "s3-unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, p := newMemory(), page(t)
			splitterDid(t, store, p)
			c.spoil(store, &p)
			result := newAnnotator(t, config(), store).Handle(t.Context(), in(t, p))
			if len(result.Out) != 0 {
				t.Error("a record was made though objects are missing")
			}
			if result.Err == nil || fault.ClassOf(result.Err) != c.class || fault.CodeOf(result.Err) != c.code {
				t.Errorf("%v: %s %s, want %s %s", result.Err, fault.ClassOf(result.Err), fault.CodeOf(result.Err), c.class, c.code)
			}
		})
	}
	t.Run("not JSON", func(t *testing.T) {
		err := newAnnotator(t, config(), newMemory()).Handle(t.Context(), stage.In{Value: []byte("%PDF-1.7")}).Err
		if fault.ClassOf(err) != fault.Permanent || fault.CodeOf(err) != annotator.CodeRecord {
			t.Error(err)
		}
	})
}

// A stop is neither a success nor a fault, wherever it comes.
func TestStop(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	a := newAnnotator(t, config(), store)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if r := a.Handle(stopped, in(t, p)); r.Err == nil || fault.ClassOf(r.Err) != fault.Shutdown {
		t.Errorf("stopped before: %v", r.Err)
	}

	store.blocked = make(chan struct{}) // for ever
	stopping, cancel := context.WithCancel(t.Context())
	store.fail = func(key string) error {
		cancel() // while the first object is read
		return nil
	}
	if r := a.Handle(stopping, in(t, p)); r.Err == nil || fault.ClassOf(r.Err) != fault.Shutdown {
		t.Errorf("stopped in between: %v", r.Err)
	}
	if store.puts != 0 {
		t.Errorf("%d uploads were done", store.puts)
	}
}

func TestCondemned(t *testing.T) {
	p := page(t)
	s := newAnnotator(t, config(), newMemory()).Stage()
	record := in(t, p)
	record.Headers = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	outs := s.Condemned(record, annotator.CodePageImage, errors.New(strings.Repeat("é", 5000)))
	if len(outs) != 1 || outs[0].Topic != schemas.TopicResults || outs[0].Key != p.DocumentID {
		t.Fatalf("%+v", outs)
	}
	failed, err := schemas.Unmarshal[schemas.PageFailed](outs[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	if failed.RunID != p.RunID || failed.Page != 4 || failed.Stage != "annotator" || failed.Code != annotator.CodePageImage ||
		failed.TraceID != "0af7651916cd43dd8448eb211c80319c" || failed.FailedAt.IsZero() || failed.Options.Model != "layout_cdla" {
		t.Errorf("%+v", failed)
	}
	if failed.Error != strings.Repeat("é", 2048) {
		t.Errorf("an error of %d bytes", len(failed.Error))
	}

	// What names no page fails none.
	for _, value := range []string{"", "%PDF", "{}", `{"type":"PageDone"}`} {
		if outs := s.Condemned(stage.In{Value: []byte(value)}, "x", nil); len(outs) != 0 {
			t.Errorf("%q: %+v", value, outs)
		}
	}
}

func TestAbout(t *testing.T) {
	p := page(t)
	s := newAnnotator(t, config(), newMemory()).Stage()
	if got := s.About(in(t, p)); got != (stage.About{DocumentID: p.DocumentID, RunID: p.RunID, Page: 4}) {
		t.Errorf("%+v", got)
	}
	if got := s.About(stage.In{Value: []byte("%PDF")}); got != (stage.About{}) {
		t.Errorf("%+v", got)
	}
}
