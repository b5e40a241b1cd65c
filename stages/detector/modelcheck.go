package detector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	_ "image/jpeg" // of a scanned page
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/repository"
)

// check says everything that is wrong with a model, by its name or by its
// folder, and tries it on a page.
func (t *modelTool) check(ctx context.Context, model string) error {
	page := samplePage
	if t.image != "" {
		var err error
		if page, err = readPage(t.image); err != nil {
			return err
		}
	}
	location, name, err := locate(model)
	if err != nil {
		return err
	}
	models, err := t.repository(ctx, location)
	if err != nil {
		return err
	}
	defer models.Close()
	found, err := models.Fetch(ctx, name)
	if err != nil {
		return err
	}
	if err := t.fits(found.Manifest, found.Weights); err != nil {
		return err
	}
	m := found.Manifest
	fmt.Fprintf(t.out, "%s %s: family %s, %d classes, fits its manifest\n", m.Name, m.Version, m.Family, len(m.Classes))
	result, err := t.try(ctx, found, page)
	if err != nil {
		return err
	}
	for k, b := range result.Boxes {
		fmt.Fprintf(t.out, "%3d  %-20s %.3f  %v\n", k+1, b.Class, b.Score, b.Rect)
	}
	on := "a sample page"
	if t.image != "" {
		on = filepath.Base(t.image)
	}
	fmt.Fprintf(t.out, "%d boxes on %s, %d of them above their class's threshold, %.0f ms of inference\n",
		len(result.Boxes), on, cropped(m, result.Boxes), milliseconds(result.Infer))
	if t.drawing == "" {
		return nil
	}
	drawn, err := drawBoxes(page, result.Boxes, m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(t.drawing, drawn, 0o644); err != nil {
		return fmt.Errorf("draw: %w", err)
	}
	return nil
}

// locate takes a folder, which has a slash in it or is one, or the name of one
// among the models, whose location is then "".
func locate(model string) (location, name string, err error) {
	if strings.HasPrefix(model, s3Scheme) {
		location, name, ok := cutLast(strings.TrimRight(model, "/"))
		if !ok {
			return "", "", complain(CodeModelAbsent, "Name the model's folder: s3://bucket/prefix/NAME.", "%s is no model", model)
		}
		return location, name, nil
	}
	if _, err := os.Stat(filepath.Join(model, manifest.File)); err != nil && schemas.IsModelName(model) {
		return "", model, nil
	}
	dir, err := filepath.Abs(model)
	if err != nil {
		return "", "", fmt.Errorf("find the model's folder: %w", err)
	}
	return filepath.Dir(dir), filepath.Base(dir), nil
}

func cutLast(uri string) (before, after string, ok bool) {
	i := strings.LastIndexByte(uri, '/')
	if i <= len(s3Scheme) {
		return "", "", false
	}
	return uri[:i], uri[i+1:], true
}

// readPage reads a page image of any kind, on white where it is transparent, and
// makes of it a PNG as pages between the stages are.
func readPage(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, complain(CodePageImage, "", "read the page: %w", err)
	}
	decoded, _, err := image.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, complain(CodePageImage, "Give a page of a PDF with --pdf, or make a PNG of it.", "%s is neither PNG nor JPEG: %w", file, err)
	}
	page := image.NewRGBA(decoded.Bounds())
	draw.Draw(page, page.Rect, image.White, image.Point{}, draw.Src)
	draw.Draw(page, page.Rect, decoded, decoded.Bounds().Min, draw.Over)
	var out bytes.Buffer
	if err := png.Encode(&out, page); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return out.Bytes(), nil
}

// try runs a model as a detector would, but keeps nothing of it.
func (t *modelTool) try(ctx context.Context, f repository.Fetched, page []byte) (found Page, err error) {
	c, err := t.places()
	if err != nil {
		return found, err
	}
	dir, err := os.MkdirTemp("", "leafcutter-check-")
	if err != nil {
		return found, fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := laidOut(dir, f); err != nil {
		return found, err
	}
	c.Model, c.ModelsDir, c.CacheDir = f.Manifest.Name, filepath.Join(dir, "models"), filepath.Join(dir, "cache")
	d, err := New(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Detect(ctx, page)
}

// cropped counts the boxes from their class's threshold on.
func cropped(m manifest.Manifest, boxes []schemas.Box) (n int) {
	for _, b := range boxes {
		if b.Score >= threshold(m, b.Class) {
			n++
		}
	}
	return n
}

// laidOut makes a folder of one model, whose weights stay where they are. What
// lies beside them is left behind, as it would be by a download.
func laidOut(dir string, f repository.Fetched) error {
	m := f.Manifest
	m.File = "model.onnx"
	weights, err := filepath.Abs(f.Weights)
	if err != nil {
		return fmt.Errorf("find the weights: %w", err)
	}
	b, err := m.Text()
	if err != nil {
		return err
	}
	at := filepath.Join(dir, "models", m.Name)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(at, manifest.File), b, 0o600); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if err := os.Symlink(weights, filepath.Join(at, m.File)); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	return nil
}

// threshold is the score from which a class is cropped.
func threshold(m manifest.Manifest, class string) float64 {
	if t, ok := m.Thresholds[class]; ok {
		return t
	}
	return m.Thresholds[schemas.AllClasses]
}

// drawBoxes draws boxes on a page: thick and in the class's colour from its
// threshold on, thin and grey below.
func drawBoxes(page []byte, boxes []schemas.Box, m manifest.Manifest) ([]byte, error) {
	decoded, err := png.Decode(bytes.NewReader(page))
	if err != nil {
		return nil, fmt.Errorf("draw: %w", err)
	}
	img := image.NewRGBA(decoded.Bounds())
	draw.Draw(img, img.Rect, decoded, decoded.Bounds().Min, draw.Src)
	colours := []color.RGBA{{220, 0, 0, 255}, {0, 90, 220, 255}, {0, 140, 60, 255}, {200, 90, 0, 255}, {140, 0, 180, 255}, {0, 140, 160, 255}}
	place := make(map[string]int)
	for i, c := range m.Classes {
		place[c] = i
	}
	for _, b := range boxes {
		ink, width := colours[place[b.Class]%len(colours)], 3
		if b.Score < threshold(m, b.Class) {
			ink, width = color.RGBA{150, 150, 150, 255}, 1
		}
		outer := image.Rect(int(b.Rect[0]), int(b.Rect[1]), int(b.Rect[2])+1, int(b.Rect[3])+1)
		inner := outer.Inset(width)
		for _, edge := range []image.Rectangle{
			{outer.Min, image.Pt(outer.Max.X, inner.Min.Y)}, {image.Pt(outer.Min.X, inner.Max.Y), outer.Max},
			{outer.Min, image.Pt(inner.Min.X, outer.Max.Y)}, {image.Pt(inner.Max.X, outer.Min.Y), outer.Max},
		} {
			draw.Draw(img, edge.Intersect(img.Rect), image.NewUniform(ink), image.Point{}, draw.Src)
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		return nil, fmt.Errorf("draw: %w", err)
	}
	return out.Bytes(), nil
}
