// Package repository is where models lie: a folder of folders, on this
// machine's disk or below a prefix of an S3 bucket, each of which has a
// manifest.json and the weights that it names. A detector lists what it may
// serve, fetches what it serves and asks now and then what has changed; the
// commands about models add to it.
//
//	models/                s3://leafcutter/models/
//	  headings/              headings/
//	    manifest.json          manifest.json
//	    model.onnx             model.onnx
package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
)

// Why a model cannot be had. Any other error is of the disk or of the object
// store (leafcutter/pkg/fault tells which), and says nothing about the model.
var (
	ErrAbsent  = errors.New("model absent")                      // no folder, no manifest, or no weights
	ErrInvalid = errors.New("model invalid")                     // its manifest has faults
	ErrDigest  = errors.New("model weights have another digest") // the weights are not those that the manifest names
)

// Model is one that a repository holds.
type Model struct {
	Name     string // the folder's, and where Err is nil the manifest's
	Manifest manifest.Manifest
	Digest   string // of the manifest: see its Digest
	// Err is why it cannot be served; Manifest and Digest are then zero.
	Err error
}

// Fetched is a model that lies on this machine.
type Fetched struct {
	Manifest manifest.Manifest
	Digest   string
	// Weights is the path of a file whose sha256 is the manifest's. It stays
	// where it is while the model is in the repository, and one fetched from
	// S3 for ever.
	Weights string
}

// Repository is one of them. It is safe for concurrent use.
type Repository struct {
	location string
	place    place
}

// place is a folder or an S3 prefix.
type place interface {
	// folders are those that could be models, by name, with what changes
	// when the manifest does, or "" where there is only an ONNX file.
	folders(ctx context.Context) (map[string]string, error)
	// manifest is that file's content, or an ErrAbsent.
	manifest(ctx context.Context, name string) ([]byte, error)
	// holds says whether a model's folder has a file, by its path below it.
	holds(ctx context.Context, name, file string) (bool, error)
	// weights is a path on this machine at which such a file has this
	// sha256, or an ErrAbsent or ErrDigest.
	weights(ctx context.Context, name, file, sha256 string) (string, error)
	// put stores what from names as such a file, whole or not at all.
	put(ctx context.Context, name, file, from string) error
	// files are the names directly in a model's folder.
	files(ctx context.Context, name string) ([]string, error)
	remove(ctx context.Context, name, file string) error
	close()
}

// Open makes a repository of a folder's path, or of s3://bucket/prefix on the
// server and with the keys of s3, whose own bucket plays no part. Weights from
// S3 are kept in the folder cache. Nothing is read yet: an error is one of
// location, cache or s3 themselves.
func Open(ctx context.Context, location string, s3 objectstore.Config, cache string, options ...objectstore.Option) (*Repository, error) {
	if rest, ok := strings.CutPrefix(location, scheme); ok {
		b, err := openBucket(ctx, rest, s3, cache, options)
		if err != nil {
			return nil, fmt.Errorf("models at %s: %w", location, err)
		}
		return &Repository{location: strings.TrimRight(location, "/"), place: b}, nil
	}
	if location == "" {
		return nil, errors.New("models: no folder is given")
	}
	root, err := filepath.Abs(location)
	if err != nil {
		return nil, fmt.Errorf("models at %s: %w", location, err)
	}
	return &Repository{location: root, place: folder(root)}, nil
}

const scheme = "s3://"

// Location is where the models are, for people.
func (r *Repository) Location() string { return r.location }

// Close closes idle connections.
func (r *Repository) Close() { r.place.close() }

// List tells what the repository holds, by name. A model that is broken or cannot
// be read has an error of its own and hides no other; List's error means that the
// models could not be listed.
func (r *Repository) List(ctx context.Context) ([]Model, error) {
	found, err := r.place.folders(ctx)
	if err != nil {
		return nil, err
	}
	var list []Model
	for _, name := range slices.Sorted(maps.Keys(found)) {
		m := Model{Name: name}
		m.Manifest, m.Digest, m.Err = r.read(ctx, name)
		if m.Err == nil {
			if there, err := r.place.holds(ctx, name, m.Manifest.File); err != nil {
				m.Err = err
			} else if !there {
				m.Err = fmt.Errorf("%w: its weights %s are not there", ErrAbsent, m.Manifest.File)
			}
		}
		if m.Err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			m.Manifest, m.Digest = manifest.Manifest{}, ""
		}
		list = append(list, m)
	}
	return list, nil
}

// aboutModel tells a broken model from a repository that cannot be read.
func aboutModel(err error) bool {
	return errors.Is(err, ErrAbsent) || errors.Is(err, ErrInvalid) || errors.Is(err, os.ErrPermission)
}

// Fetch gives one model by name, with its weights on this machine and their
// digest checked.
func (r *Repository) Fetch(ctx context.Context, name string) (Fetched, error) {
	m, digest, err := r.read(ctx, name)
	if err != nil {
		return Fetched{}, err
	}
	weights, err := r.place.weights(ctx, name, m.File, m.SHA256)
	if err != nil {
		return Fetched{}, err
	}
	return Fetched{Manifest: m, Digest: digest, Weights: weights}, nil
}

// Manifest is what Fetch would give of a model, but for its weights, which are not
// looked at.
func (r *Repository) Manifest(ctx context.Context, name string) (m manifest.Manifest, digest string, err error) {
	return r.read(ctx, name)
}

// Changes is something short for each model by name, broken ones too, that
// differs when its manifest has changed. It costs a listing, and in a folder
// the reading of the manifests.
func (r *Repository) Changes(ctx context.Context) (map[string]string, error) {
	return r.place.folders(ctx)
}

// read reads a model's manifest. What is wrong with the model is ErrAbsent or
// ErrInvalid.
func (r *Repository) read(ctx context.Context, name string) (m manifest.Manifest, digest string, err error) {
	if !schemas.IsModelName(name) {
		return m, "", fmt.Errorf("%w: %.80q is no name for a model: its folder must be called 1 to 64 of a-z, 0-9, _ and -", ErrInvalid, name)
	}
	b, err := r.place.manifest(ctx, name)
	if err != nil {
		return m, "", err
	}
	at := r.location + "/" + name + "/" + manifest.File
	if m, err = manifest.Parse(b); err != nil {
		return m, "", fmt.Errorf("%w: %s: %w", ErrInvalid, at, err)
	}
	if m.Name != name {
		return m, "", fmt.Errorf("%w: %s describes a model called %s: its name must be its folder's", ErrInvalid, at, m.Name)
	}
	if digest, err = m.Digest(); err != nil {
		return m, "", fmt.Errorf("%w: %s: %w", ErrInvalid, at, err)
	}
	return m, digest, nil
}

// ErrExists means that another model has the name.
var ErrExists = errors.New("model exists")

// Add stores a model: the file weights, whose sha256 is the manifest's, and
// then the manifest, which names it. Weights are called by their digest, so a
// detector that reads the manifest of before still finds its own; those before
// it are removed. It gives the manifest as it was stored.
//
// A model of the same name is replaced if its version is another. Of the same
// version, too, it must compute the same, and then the manifest that is there
// stays: its thresholds may have been set by hand. Else the error is ErrExists.
func (r *Repository) Add(ctx context.Context, m manifest.Manifest, weights string) (manifest.Manifest, error) {
	digest, err := m.Digest()
	if err != nil {
		return m, err
	}
	before, known, err := r.read(ctx, m.Name)
	switch {
	case err != nil && !aboutModel(err):
		return m, err
	case err != nil || before.Version != m.Version:
	case known != digest:
		return m, fmt.Errorf("%w: %s has another model %s of version %s", ErrExists, r.location, m.Name, m.Version)
	default:
		m = before
	}
	m.File = cmp.Or(r.lies(m.Name, weights), kept(m.SHA256))
	if err := m.Validate(); err != nil {
		return m, fmt.Errorf("%w:\n%w", ErrInvalid, err)
	}
	if sum, err := manifest.FileDigest(weights); err != nil {
		return m, fmt.Errorf("read weights: %w", err)
	} else if sum != m.SHA256 {
		return m, fmt.Errorf("%w: %s is %s, its manifest says %s", ErrDigest, weights, sum, m.SHA256)
	}
	if m.File == kept(m.SHA256) {
		if err := r.place.put(ctx, m.Name, m.File, weights); err != nil {
			return m, err
		}
	}
	if err := r.describe(ctx, m); err != nil {
		return m, err
	}
	return m, r.sweep(ctx, m.Name, m.File, before.File)
}

// describe stores a manifest.
func (r *Repository) describe(ctx context.Context, m manifest.Manifest) (err error) {
	b, err := m.Text()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp("", "leafcutter-manifest-")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if _, err = f.Write(b); err != nil {
		return errors.Join(fmt.Errorf("write manifest: %w", err), f.Close())
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return r.place.put(ctx, m.Name, manifest.File, f.Name())
}

// lies is the path below a model's folder at which a file lies already, or "".
func (r *Repository) lies(name, file string) string {
	root, ok := r.place.(folder)
	if !ok {
		return ""
	}
	at, err := filepath.Abs(file)
	if err != nil {
		return ""
	}
	below, err := filepath.Rel(root.path(name), at)
	if err != nil || !filepath.IsLocal(below) {
		return ""
	}
	return filepath.ToSlash(below)
}

// What Add calls weights.
const (
	keptPrefix = "weights-"
	keptSuffix = ".onnx"
)

func kept(sha256 string) string { return keptPrefix + sha256[:min(16, len(sha256))] + keptSuffix }

// sweep removes weights that Add stored for manifests that are gone. The last
// one's stay: somebody may just have read it.
func (r *Repository) sweep(ctx context.Context, name string, still ...string) error {
	files, err := r.place.files(ctx, name)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasPrefix(f, keptPrefix) || !strings.HasSuffix(f, keptSuffix) || slices.Contains(still, f) {
			continue
		}
		if err := r.place.remove(ctx, name, f); err != nil {
			return err
		}
	}
	return nil
}

// isWeights says whether a file's name is that of a model.
func isWeights(name string) bool { return path.Ext(name) == ".onnx" }
