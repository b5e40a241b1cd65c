package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/stages/detector/internal/manifest"
)

// CachedFolder is where the cache has weights from S3.
const CachedFolder = "weights"

// Cached is where the cache has weights from S3 of this sha256, if it has them.
func Cached(cache, sha256 string) string {
	return filepath.Join(cache, CachedFolder, sha256+keptSuffix)
}

// bucket is a place below a prefix of an S3 bucket.
type bucket struct {
	store  *objectstore.Store
	prefix string // ends with a slash
	cache  string
}

func openBucket(ctx context.Context, location string, cfg objectstore.Config, cache string, options []objectstore.Option) (*bucket, error) {
	name, prefix, _ := strings.Cut(location, "/")
	if name == "" {
		return nil, errors.New("no bucket is named: write s3://bucket/prefix")
	}
	if prefix = strings.Trim(prefix, "/"); prefix == "" {
		// It is listed every so often, and a bucket may hold millions of pages.
		return nil, fmt.Errorf("no prefix is named, and all of the bucket would be read for models: write s3://%s/models and put them there", name)
	}
	if path.Clean(prefix) != prefix || strings.HasPrefix(prefix, "..") {
		return nil, fmt.Errorf("%q is no prefix of keys", prefix)
	}
	prefix += "/"
	if cache == "" {
		return nil, errors.New("there is no folder to keep weights in: set LEAFCUTTER_CACHE_DIR")
	}
	cfg.Bucket = name
	store, err := objectstore.Open(ctx, cfg, options...)
	if err != nil {
		return nil, err
	}
	return &bucket{store: store, prefix: prefix, cache: filepath.Join(cache, CachedFolder)}, nil
}

func (b *bucket) close() { b.store.Close() }

// key is that of a file of a model.
func (b *bucket) key(name, file string) string {
	return b.prefix + name + "/" + path.Clean(filepath.ToSlash(file))
}

func (b *bucket) uri(name, file string) string { return b.store.URI(b.key(name, file)) }

func (b *bucket) folders(ctx context.Context) (map[string]string, error) {
	found := make(map[string]string)
	err := b.store.List(ctx, b.prefix, func(o objectstore.Info) error {
		name, file, ok := strings.Cut(strings.TrimPrefix(o.Key, b.prefix), "/")
		if !ok {
			return nil
		}
		switch {
		case file == manifest.File:
			found[name] = o.ETag
			if o.ETag == "" { // not every server has them
				found[name] = fmt.Sprintf("%d bytes of %s", o.Size, o.Modified.UTC().Format(time.RFC3339Nano))
			}
		case isWeights(file) && found[name] == "":
			found[name] = ""
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list models: %w", err)
	}
	return found, nil
}

func (b *bucket) manifest(ctx context.Context, name string) ([]byte, error) {
	content, err := b.store.Get(ctx, b.key(name, manifest.File), maxManifest)
	switch fault.CodeOf(err) {
	case objectstore.CodeMissing:
		return nil, fmt.Errorf("%w: there is no %s: leafcutter models add makes one", ErrAbsent, b.uri(name, manifest.File))
	case objectstore.CodeTooLarge:
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, b.uri(name, manifest.File), err)
	}
	return content, err
}

func (b *bucket) holds(ctx context.Context, name, file string) (bool, error) {
	return b.store.Exists(ctx, b.key(name, file))
}

// weights are downloaded once, and from then on found in the cache by their
// digest. What is there under a digest is checked again at each start: disks
// forget.
func (b *bucket) weights(ctx context.Context, name, file, want string) (string, error) {
	at := filepath.Join(b.cache, want+keptSuffix)
	if got, err := manifest.FileDigest(at); err == nil && got == want {
		return at, nil
	}
	b.tidy()
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return "", fmt.Errorf("make a folder for weights (LEAFCUTTER_CACHE_DIR chooses another): %w", err)
	}
	body, _, err := b.store.Open(ctx, b.key(name, file))
	if fault.CodeOf(err) == objectstore.CodeMissing {
		return "", fmt.Errorf("%w: there is no %s: leafcutter models add stores a model whole", ErrAbsent, b.uri(name, file))
	}
	if err != nil {
		return "", err
	}
	defer body.Close()
	// Under a name of its own until the digest is known, so that two that
	// fetch it at once, or one that is killed, leave nothing wrong behind.
	staging, err := os.MkdirTemp(b.cache, unfinished)
	if err != nil {
		return "", fmt.Errorf("keep weights (LEAFCUTTER_CACHE_DIR chooses another folder): %w", err)
	}
	defer os.RemoveAll(staging) // at worst a folder stays in a cache, until tidy
	staged := filepath.Join(staging, "weights")
	if err := write(staged, 0o644, body); err != nil {
		return "", fmt.Errorf("fetch %s: %w", b.uri(name, file), err)
	}
	got, err := manifest.FileDigest(staged)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", b.uri(name, file), err)
	}
	if got != want {
		return "", fmt.Errorf("%w: %s is %s, its manifest says %s: add the model again", ErrDigest, b.uri(name, file), got, want)
	}
	if err := os.Rename(staged, at); err != nil {
		return "", fmt.Errorf("keep weights: %w", err)
	}
	return at, nil
}

// tidy removes what killed processes left unfinished. A download that is still
// going on after a day is nobody's.
func (b *bucket) tidy() {
	entries, err := os.ReadDir(b.cache)
	if err != nil {
		return // nothing there yet
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), unfinished) && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(filepath.Join(b.cache, e.Name())) // the next fetch tries again
		}
	}
}

func (b *bucket) put(ctx context.Context, name, file, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("store %s: %w", file, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("store %s: %w", file, err)
	}
	kind := "application/octet-stream"
	if file == manifest.File {
		kind = "application/json"
	}
	return b.store.PutReader(ctx, b.key(name, file), f, info.Size(), kind)
}

func (b *bucket) files(ctx context.Context, name string) ([]string, error) {
	prefix := b.prefix + name + "/"
	var names []string
	err := b.store.List(ctx, prefix, func(o objectstore.Info) error {
		names = append(names, strings.TrimPrefix(o.Key, prefix))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list files of model %s: %w", name, err)
	}
	return names, nil
}

func (b *bucket) remove(ctx context.Context, name, file string) error {
	return b.store.Delete(ctx, b.key(name, file))
}
