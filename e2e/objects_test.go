package e2e

import (
	"bytes"
	"context"
	"image"
	"image/draw"
	"image/png"
	"math"
	"testing"

	"leafcutter/deploy/local/localtest"
	"leafcutter/e2e/pipeline"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/objectstore/objectstoretest"
)

// checkObjects holds every object that SQL names of a document to what it should be: page images and annotated pages of
// the page's size, crops that equal the padded rectangle of the page image pixel by pixel. It gives the number of crops.
func checkObjects(ctx context.Context, t *testing.T, p *pipeline.Pipeline, documentID string, padding int) int {
	t.Helper()
	var pages []struct {
		Page      uint32 `ch:"page"`
		Width     uint32 `ch:"width"`
		Height    uint32 `ch:"height"`
		Image     string `ch:"image_key"`
		Annotated string `ch:"annotated_key"`
	}
	ok(t, p.Select(ctx, &pages, `SELECT page, width, height, image_key, annotated_key FROM page_results FINAL
		WHERE document_id = ? AND state = 'done' ORDER BY page`, documentID))
	images := map[uint32]*image.RGBA{}
	for _, page := range pages {
		size := image.Pt(int(page.Width), int(page.Height))
		images[page.Page] = picture(ctx, t, p.Objects, page.Image)
		annotated := picture(ctx, t, p.Objects, page.Annotated)
		if got := images[page.Page].Bounds().Size(); got != size {
			t.Errorf("page %d: the image is %v, its row says %v", page.Page, got, size)
		}
		if got := annotated.Bounds().Size(); got != size {
			t.Errorf("page %d: the annotated page is %v, the page %v", page.Page, got, size)
		}
	}
	boxes := must(p.Boxes(ctx, documentID))(t)
	drawn, crops := map[uint32]bool{}, 0
	for _, box := range boxes {
		page := images[box.Page]
		if page == nil {
			t.Fatalf("box %d is on page %d, which is not done", box.K, box.Page)
		}
		if !(box.X0 >= 0 && box.X0 < box.X1 && box.X1 <= float64(box.Width) && box.Y0 >= 0 && box.Y0 < box.Y1 && box.Y1 <= float64(box.Height)) {
			t.Errorf("page %d, box %d: %g,%g to %g,%g is not on the page of %d × %d", box.Page, box.K, box.X0, box.Y0, box.X1, box.Y1, box.Width, box.Height)
		}
		if box.CropKey == "" {
			continue
		}
		crops++
		drawn[box.Page] = true
		crop := picture(ctx, t, p.Objects, box.CropKey)
		rect := image.Rect(int(math.Floor(box.X0))-padding, int(math.Floor(box.Y0))-padding,
			int(math.Ceil(box.X1))+padding, int(math.Ceil(box.Y1))+padding).Intersect(page.Bounds())
		want := image.NewRGBA(image.Rectangle{Max: rect.Size()})
		draw.Draw(want, want.Bounds(), page, rect.Min, draw.Src)
		if crop.Bounds() != want.Bounds() || !bytes.Equal(crop.Pix, want.Pix) {
			t.Errorf("page %d, box %d: the crop of %v is not what the page image has at %v", box.Page, box.K, crop.Bounds().Size(), rect)
		}
	}
	for _, page := range pages {
		annotated := picture(ctx, t, p.Objects, page.Annotated)
		if same := bytes.Equal(annotated.Pix, images[page.Page].Pix); same == drawn[page.Page] {
			t.Errorf("page %d: boxes drawn %t, boxes cut %t", page.Page, !same, drawn[page.Page])
		}
	}
	return crops
}

// picture reads a PNG object, with the S3 client and Go's own decoder.
func picture(ctx context.Context, t *testing.T, store *objectstore.Store, key string) *image.RGBA {
	t.Helper()
	object, err := store.Get(ctx, key, 64<<20)
	if err != nil {
		t.Fatalf("object %q: %v", key, err)
	}
	decoded, err := png.Decode(bytes.NewReader(object))
	if err != nil {
		t.Fatalf("object %q: %v", key, err)
	}
	plain := image.NewRGBA(image.Rectangle{Max: decoded.Bounds().Size()})
	draw.Draw(plain, plain.Bounds(), decoded, decoded.Bounds().Min, draw.Src)
	return plain
}

// The embedded object store keeps to what every other one has to.
func TestEmbeddedObjectsConform(t *testing.T) {
	t.Parallel()
	server := localtest.StartObjects(t)
	store := must(objectstore.Open(t.Context(), objectstore.Config{
		Endpoint: server.URL, Region: server.Region, AccessKeyID: server.AccessKey, SecretAccessKey: server.SecretKey,
		Bucket: server.Bucket, ForcePathStyle: true, Checksum: "when-supported", Connections: 8,
	}))(t)
	defer store.Close()
	objectstoretest.Conformance(t, store)
}
