package detector

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/repository"
)

// draft writes the manifest that a file tells.
func (t *modelTool) draft(_ context.Context, file string) error {
	m, err := t.drafted(file)
	if err != nil {
		return err
	}
	b, err := m.Text()
	if err != nil {
		return err
	}
	_, err = t.out.Write(b)
	return err
}

// drafted makes a manifest for a file: what it does not tell has the values that
// most models of its family want.
func (t *modelTool) drafted(file string) (manifest.Manifest, error) {
	var m manifest.Manifest
	if err := isModelFile(file); err != nil {
		return m, err
	}
	g, err := t.graph(file)
	if err != nil {
		return m, err
	}
	m, known, err := family.Infer(g)
	if err != nil {
		return m, err
	}
	if t.family != "" && t.family != m.Family {
		return m, complain(CodeModelMismatch, "Leave --family out, or export the model that you mean.",
			"%s is of the family %s, not %s: its inputs are %v, its outputs %v", file, m.Family, t.family, g.Inputs, g.Outputs)
	}
	if m.Classes, err = readClasses(t.classes, file, known); err != nil {
		return m, err
	}
	if m.SHA256, err = manifest.FileDigest(file); err != nil {
		return m, fmt.Errorf("read weights: %w", err)
	}
	if m.Name, err = t.named(file); err != nil {
		return m, err
	}
	if err := t.sized(&m, file); err != nil {
		return m, err
	}
	threshold := cmp.Or(t.threshold, 0.4)
	m.Version, m.File = cmp.Or(t.version, "1"), filepath.Base(file)
	m.Input.Channels = cmp.Or(t.channels, m.Input.Channels)
	m.ScoreFloor, m.Thresholds, m.Provider = min(0.1, threshold), map[string]float64{schemas.AllClasses: threshold}, manifest.CPU
	if err := m.Validate(); err != nil {
		return m, fmt.Errorf("%w:\n%w", repository.ErrInvalid, err)
	}
	if err := family.Check(m, g); err != nil {
		return m, complain(CodeModelMismatch, remedyFamily, "%s is almost of the family %s:\n%w", filepath.Base(file), m.Family, err)
	}
	return m, nil
}

// isModelFile says in plain words what ONNX Runtime would say in others.
func isModelFile(file string) error {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return complain(CodeModelUnreadable, remedyExport, "there is no file %s", file)
	case err != nil:
		return fmt.Errorf("read weights: %w", err)
	case info.IsDir():
		return complain(CodeModelUnreadable, "Name the ONNX file in it.", "%s is a folder", file)
	}
	switch strings.ToLower(filepath.Ext(file)) {
	case ".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".pdparams":
		return complain(CodeModelUnreadable, remedyExport, "%s is a checkpoint of the framework that trained it, not an ONNX file", file)
	}
	return nil
}

// named is the model's name: as given, or its file's.
func (t *modelTool) named(file string) (string, error) {
	name := t.name
	if name == "" {
		at, err := filepath.Abs(file)
		if err != nil {
			return "", fmt.Errorf("find the model's folder: %w", err)
		}
		if name = strings.TrimSuffix(filepath.Base(at), filepath.Ext(at)); name == "model" {
			name = filepath.Base(filepath.Dir(at))
		}
		name = strings.ToLower(strings.ReplaceAll(name, " ", "-"))
	}
	if !schemas.IsModelName(name) {
		return "", complain(CodeModelInvalid, "Give one with --name.", "%.80q is no name for a model: it must be 1 to 64 of a-z, 0-9, _ and -", name)
	}
	return name, nil
}

// sized takes the size that was given, where the file leaves it open.
func (t *modelTool) sized(m *manifest.Manifest, file string) error {
	in := &m.Input
	switch {
	case in.Varies():
		if t.height != 0 {
			return complain(CodeModelMismatch, "Leave --size out.", "%s takes pages of any size", file)
		}
		return nil
	case t.height == 0 && (in.Height == 0 || in.Width == 0):
		return complain(CodeModelMismatch, "Give the size that it was trained with as --size 1024, or --size HEIGHTxWIDTH.", "%s leaves the size of its input open", file)
	case t.height == 0:
		return nil
	case in.Height != 0 && in.Height != t.height || in.Width != 0 && in.Width != t.width:
		return complain(CodeModelMismatch, "Leave --size out, or export the model in the size that you mean.",
			"%s has an input of height %d and width %d, --size says %d and %d", file, in.Height, in.Width, t.height, t.width)
	}
	in.Height, in.Width = t.height, t.width
	return nil
}

// readClasses reads the names of the classes, of which the model knows so many,
// or does not say where known is 0.
func readClasses(given, file string, known int) ([]string, error) {
	count := "as many as it was trained with"
	if known > 0 {
		count = fmt.Sprintf("%d of them", known)
	}
	remedy := "Give the names in the order of training, " + count + ": --classes title,table, or a file with a name a line."
	if given == "" {
		return nil, complain(CodeModelClasses, remedy, "--classes is missing: %s does not say what its classes are called", file)
	}
	separator, from := ",", given
	if b, err := os.ReadFile(given); err == nil {
		given, separator = string(b), "\n"
	} else if strings.ContainsAny(given, "/\\") || strings.HasSuffix(given, ".txt") {
		return nil, complain(CodeModelClasses, remedy, "read the names of the classes: %w", err)
	}
	var classes []string
	for c := range strings.SplitSeq(given, separator) {
		if c = strings.TrimSpace(c); c != "" {
			classes = append(classes, c)
		}
	}
	if known > 0 && len(classes) != known {
		return nil, complain(CodeModelClasses, remedy, "%s knows %d classes, %s names %d", file, known, from, len(classes))
	}
	return classes, nil
}

// offered is the model that is to be added: a file, for which a manifest is
// drafted, or a folder that has one.
func (t *modelTool) offered(ctx context.Context, at string) (m manifest.Manifest, weights string, err error) {
	if _, err := os.Stat(filepath.Join(at, manifest.File)); err != nil {
		m, err = t.drafted(at)
		return m, at, err
	}
	if t.family != "" || t.classes != "" || t.channels != "" || t.height != 0 || t.threshold != 0 {
		return m, "", complain(CodeModelMismatch, "Mend that one and leave the options out, or name the ONNX file.", "%s has a manifest, which says what it is", at)
	}
	dir, err := filepath.Abs(at)
	if err != nil {
		return m, "", fmt.Errorf("find the model's folder: %w", err)
	}
	from, err := repository.Open(ctx, filepath.Dir(dir), objectstore.Config{}, "")
	if err != nil {
		return m, "", err
	}
	found, err := from.Fetch(ctx, filepath.Base(dir))
	if err != nil {
		return m, "", err
	}
	m = found.Manifest
	m.Name, m.Version = cmp.Or(t.name, m.Name), cmp.Or(t.version, m.Version)
	return m, found.Weights, t.fits(m, found.Weights)
}

// added is what add-model tells, as JSON.
type added struct {
	Location   string             `json:"location"` // of the models
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Digest     string             `json:"digest"`
	Family     string             `json:"family"`
	Classes    []string           `json:"classes"`
	Input      manifest.Input     `json:"input"`
	Thresholds map[string]float64 `json:"thresholds"`
	File       string             `json:"file"`    // the weights' name beside the manifest
	Drafted    bool               `json:"drafted"` // nobody has read the manifest yet
	// What was found on the sample page: boxes, those among them that would
	// be cropped, and the time of inference.
	Boxes   int     `json:"boxes"`
	Cropped int     `json:"cropped"`
	InferMS float64 `json:"infer_ms"`
}

// add tries a model on a page as it will be served, and only then stores it.
func (t *modelTool) add(ctx context.Context, at string) error {
	m, file, err := t.offered(ctx, at)
	if err != nil {
		return err
	}
	models, err := t.repository(ctx, "")
	if err != nil {
		return err
	}
	defer models.Close()
	found, err := t.try(ctx, repository.Fetched{Manifest: m, Weights: file}, samplePage)
	if err != nil && strings.Contains(err.Error(), "xternal") { // ONNX Runtime's words for it have changed before
		return complain(CodeModelUnreadable, "Save it as one file: onnx.save(onnx.load(FILE), ONE_FILE).", "weights lie in other files beside %s: %w", file, err)
	}
	if err != nil {
		return err
	}
	if m, err = models.Add(ctx, m, file); err != nil {
		return err
	}
	digest, err := m.Digest()
	if err != nil {
		return err
	}
	return t.tell(added{
		Location: models.Location(), Name: m.Name, Version: m.Version, Digest: digest, Family: m.Family, Classes: m.Classes, Input: m.Input,
		Thresholds: m.Thresholds, File: m.File, Drafted: file == at, Boxes: len(found.Boxes), Cropped: cropped(m, found.Boxes), InferMS: milliseconds(found.Infer),
	})
}

// tell writes JSON.
func (t *modelTool) tell(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("tell what was done: %w", err)
	}
	_, err = t.out.Write(append(b, '\n'))
	return err
}
