package annotator_test

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"leafcutter/pkg/crop"
	"leafcutter/pkg/pngdec"
	"leafcutter/pkg/pngenc"
	"leafcutter/schemas"
)

// While the store keeps pages waiting, their pixels are not in memory: more pages wait with their files than there may be
// open at once.
func TestWhatWaitsForTheStoreIsNotOpen(t *testing.T) {
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	p.Boxes = nil
	store.blocked = make(chan struct{})
	pages := 2*runtime.GOMAXPROCS(0) + 1
	cfg := config()
	cfg.MaxPixels = pages * p.Width * p.Height
	a := newAnnotator(t, cfg, store)
	finished := make(chan error, pages)
	for range pages {
		go func() { finished <- a.Handle(t.Context(), in(t, p)).Err }()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		store.mu.Lock()
		putting := store.putting
		store.mu.Unlock()
		if putting == pages {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pages wait for the store", putting, pages)
		}
	}
	close(store.blocked)
	for range pages {
		if err := <-finished; err != nil {
			t.Error(err)
		}
	}
}

// Crops of a page that cannot be compressed are several times what a shelf takes: they are uploaded in between, and each is
// what it would have been alone.
func TestMoreFilesThanAShelfTakes(t *testing.T) {
	const side = 900
	random := rand.New(rand.NewPCG(1, 2))
	noise := image.NewRGBA(image.Rect(0, 0, side, side))
	for i := range noise.Pix {
		noise.Pix[i] = byte(random.Uint32()) | byte(i%4/3*255) // opaque
	}
	var file bytes.Buffer
	if err := pngenc.Encode(&file, noise); err != nil {
		t.Fatal(err)
	}
	store, p := newMemory(), page(t)
	splitterDid(t, store, p)
	store.objects[p.ImageKey], p.Width, p.Height, p.Boxes = file.Bytes(), side, side, nil
	for i := range 9 {
		p.Boxes = append(p.Boxes, schemas.Box{Class: "figure", Score: 0.9, Rect: [4]float64{0, float64(10 * i), side, side}})
	}
	done := handle(t, newAnnotator(t, config(), store), p)
	open, err := pngdec.New(side * side).Decode(file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for i, box := range done.Boxes {
		want, err := crop.PNG(open, crop.Rect(box.Rect, p.Options.CropPadding, side, side))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(store.objects[box.CropKey], want) {
			t.Errorf("crop %d has %d bytes, and not the %d that it has alone", i, len(store.objects[box.CropKey]), len(want))
		}
	}
	if _, err := png.Decode(bytes.NewReader(store.objects[done.AnnotatedKey])); err != nil {
		t.Errorf("the annotated page: %v", err)
	}

	// The store fails in the middle: the first fault is what is told.
	store.fail = func(key string) error {
		if key == done.Boxes[3].CropKey {
			return fmt.Errorf("no room for %s", key)
		}
		return nil
	}
	if r := newAnnotator(t, config(), store).Handle(t.Context(), in(t, p)); r.Err == nil || !bytes.Contains([]byte(r.Err.Error()), []byte("no room for")) {
		t.Errorf("got %v", r.Err)
	}
}
