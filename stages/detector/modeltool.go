package detector

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/session"
)

// Whoever adds a model wants to know what its file takes for granted, whether
// the manifest fits, and what it finds. Only this binary has ONNX Runtime, so
// it answers, by two commands of its own.
const (
	draftCommand = "draft-manifest"
	checkCommand = "check-model"
)

// IsModelTool says whether a process with these arguments is to answer
// questions about a model, and not to be a stage.
func IsModelTool(args []string) bool {
	return len(args) > 1 && (args[1] == draftCommand || args[1] == checkCommand)
}

// ModelTool answers, and gives the exit code.
//
//	detector draft-manifest [flags] FILE.onnx   writes the manifest that the file tells
//	detector check-model [flags] DIR            says in what a model is not what its manifest says, and tries it on a page
func ModelTool(ctx context.Context, args []string, out, complaints io.Writer) int {
	flags := flag.NewFlagSet(args[1], flag.ContinueOnError)
	flags.SetOutput(complaints)
	var t modelTool
	flags.StringVar(&t.library, "library", os.Getenv("LEAFCUTTER_ONNXRUNTIME_LIB"), "ONNX Runtime's shared library; empty for the one in ../lib")
	run := (*modelTool).check
	if args[1] == draftCommand {
		run = (*modelTool).draft
		flags.StringVar(&t.name, "name", "", "the model's name; empty for the folder's")
		flags.StringVar(&t.family, "family", "", "what you take it for: "+strings.Join(family.Names(), ", "))
		flags.StringVar(&t.classes, "classes", "", "its classes, comma-separated, or a file with a name a line")
	} else {
		flags.StringVar(&t.image, "image", "", "page image to try it on, PNG")
		flags.StringVar(&t.out, "out", "", "where to draw what is found, PNG")
	}
	if err := flags.Parse(args[2:]); err != nil {
		return 2
	}
	if flags.NArg() != 1 {
		fmt.Fprintf(complaints, "%s: one argument is wanted, a file or folder\n", args[1])
		return 2
	}
	if err := run(&t, ctx, flags.Arg(0), out); err != nil {
		fmt.Fprintln(complaints, err)
		return 1
	}
	return 0
}

type modelTool struct {
	library               string
	name, family, classes string
	image, out            string
}

// graph is what a model file says of itself.
func graph(r *session.Runtime, file string) (family.Graph, error) {
	inputs, outputs, err := r.Ports(file)
	if err != nil {
		return family.Graph{}, err
	}
	var g family.Graph
	for _, p := range inputs {
		g.Inputs = append(g.Inputs, family.Port(p))
	}
	for _, p := range outputs {
		g.Outputs = append(g.Outputs, family.Port(p))
	}
	return g, nil
}

// loaded calls use with the library.
func (t *modelTool) loaded(use func(r *session.Runtime, library string) error) (err error) {
	c, err := Config{Model: "any", Library: t.library, MaxPixels: 1 << 26, MaxBytes: 1 << 26}.resolve()
	if err != nil {
		return err
	}
	r, err := session.Load(c.Library)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return use(r, c.Library)
}

// draft writes a manifest for a file: what it does not tell has the values that
// most models of its family want, and is to be read before it is served.
func (t *modelTool) draft(_ context.Context, file string, out io.Writer) error {
	return t.loaded(func(r *session.Runtime, _ string) error {
		g, err := graph(r, file)
		if err != nil {
			return err
		}
		m, known, err := family.Infer(g)
		if err != nil {
			return err
		}
		if t.family != "" && t.family != m.Family {
			return fmt.Errorf("%s is of the family %s, not %s: its inputs are %v, its outputs %v", file, m.Family, t.family, g.Inputs, g.Outputs)
		}
		if m.SHA256, err = digestOf(file); err != nil {
			return fmt.Errorf("read weights: %w", err)
		}
		if m.Classes, err = readClasses(t.classes); err != nil {
			return err
		}
		if known > 0 && len(m.Classes) != known {
			return fmt.Errorf("%s knows %d classes, -classes names %d", file, known, len(m.Classes))
		}
		folder, err := filepath.Abs(filepath.Dir(file))
		if err != nil {
			return fmt.Errorf("find the model's folder: %w", err)
		}
		m.Name, m.Version, m.File = cmp.Or(t.name, filepath.Base(folder)), "1", filepath.Base(file)
		m.ScoreFloor, m.Thresholds, m.Provider = 0.1, map[string]float64{schemas.AllClasses: 0.4}, "cpu"
		if err := errors.Join(m.Validate(), family.Check(m, g)); err != nil {
			return err
		}
		b, err := json.MarshalIndent(m, "", "  ")
		if err != nil {
			return fmt.Errorf("write manifest: %w", err)
		}
		_, err = out.Write(append(b, '\n'))
		return err
	})
}

func readClasses(given string) ([]string, error) {
	if given == "" {
		return nil, errors.New("-classes is missing: names, comma-separated, or a file with a name a line, in the order of training")
	}
	separator := ","
	if b, err := os.ReadFile(given); err == nil {
		given, separator = string(b), "\n"
	}
	var classes []string
	for c := range strings.SplitSeq(given, separator) {
		if c = strings.TrimSpace(c); c != "" {
			classes = append(classes, c)
		}
	}
	return classes, nil
}

// check says everything that is wrong with a model's folder. Where it has a
// page it runs the model on it too.
func (t *modelTool) check(ctx context.Context, dir string, out io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find the model's folder: %w", err)
	}
	m, err := readManifest(dir)
	if err != nil {
		return err
	}
	if m.Name != filepath.Base(dir) {
		return fmt.Errorf("%w: the folder %s has a model called %s", ErrModelInvalid, filepath.Base(dir), m.Name)
	}
	weights := filepath.Join(dir, m.File)
	sum, err := digestOf(weights)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrModelAbsent, err)
	}
	if sum != m.SHA256 {
		return fmt.Errorf("%w: %s is %s, its manifest says %s", ErrModelDigest, weights, sum, m.SHA256)
	}
	var library string
	err = t.loaded(func(r *session.Runtime, path string) error {
		library = path
		g, err := graph(r, weights)
		if err != nil {
			return err
		}
		if err := family.Check(m, g); err != nil {
			return fmt.Errorf("%w:\n%w", ErrModelInvalid, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s %s: family %s, %d classes, fits its manifest\n", m.Name, m.Version, m.Family, len(m.Classes))
	if t.image == "" {
		return nil
	}
	return t.try(ctx, dir, m, library, out)
}

// try runs a model as a detector would, but keeps nothing of it.
func (t *modelTool) try(ctx context.Context, dir string, m manifest.Manifest, library string, out io.Writer) (err error) {
	page, err := os.ReadFile(t.image)
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	cache, err := os.MkdirTemp("", "leafcutter-check-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cache)) }()
	c := Config{Model: m.Name, ModelsDir: filepath.Dir(dir), Library: library, CacheDir: cache, MaxPixels: 1 << 26, MaxBytes: 1 << 26}
	d, err := New(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	found, err := d.Detect(ctx, page)
	if err != nil {
		return err
	}
	for k, b := range found.Boxes {
		fmt.Fprintf(out, "%3d  %-20s %.3f  %v\n", k+1, b.Class, b.Score, b.Rect)
	}
	fmt.Fprintf(out, "%d boxes, %.0f ms of inference\n", len(found.Boxes), milliseconds(found.Infer))
	if t.out == "" {
		return nil
	}
	drawn, err := drawBoxes(page, found.Boxes, m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(t.out, drawn, 0o644); err != nil {
		return fmt.Errorf("draw: %w", err)
	}
	return nil
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
		threshold, ok := m.Thresholds[b.Class]
		if !ok {
			threshold = m.Thresholds[schemas.AllClasses]
		}
		ink, width := colours[place[b.Class]%len(colours)], 3
		if b.Score < threshold {
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
