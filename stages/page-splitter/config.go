// Package pagesplitter holds the two stages that turn a document into page
// images. The [Planner] takes what was submitted from the topic documents, opens
// it, and makes runs and page ranges. The [Splitter] takes page ranges, renders
// their pages and reads their text, and hands each page to the detectors of its
// model. cmd/page-splitter runs both in one process, or one of them.
//
// Neither stage parses a document itself: package render does, in child
// processes.
package pagesplitter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"leafcutter/pkg/config"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/render"
)

// Codes of what can be wrong with a submission or a range, besides those of
// package render and of package objectstore.
const (
	CodeRecord       = "record-invalid"   // the value cannot be read
	CodeUnknownModel = "unknown-model"    // no detector has ever announced the model
	CodeNoSelection  = "no-pages"         // the selection names no page that the document has
	CodeUnsupported  = "unsupported-type" // neither PDF, PNG, JPEG nor TIFF by its first bytes
)

// Config is the knobs of both stages.
type Config struct {
	DefaultModel string       `env:"LEAFCUTTER_DEFAULT_MODEL" envDefault:"layout_cdla" desc:"model of a submission that names none; waited for where no detector has announced it yet"`
	ShadowModel  string       `env:"LEAFCUTTER_SHADOW_MODEL" desc:"model that is tried beside the default one: documents chosen by LEAFCUTTER_SHADOW_SHARE get a run by it that nothing depends on; empty for none"`
	ShadowShare  float64      `env:"LEAFCUTTER_SHADOW_SHARE" envDefault:"0" desc:"share of documents, 0 to 1, that LEAFCUTTER_SHADOW_MODEL is tried on"`
	MaxDocument  config.Bytes `env:"LEAFCUTTER_MAX_DOCUMENT_BYTES" envDefault:"512MiB" desc:"size of a document above which it is refused as document-too-large"`
	CacheDir     string       `env:"LEAFCUTTER_CACHE_DIR" desc:"folder for documents while their pages are rendered; empty for leafcutter/page-splitter in the user's cache folder"`
	CacheBytes   config.Bytes `env:"LEAFCUTTER_CACHE_BYTES" envDefault:"2GiB" desc:"bytes of documents kept there at most"`
	Uploads      int          `env:"LEAFCUTTER_UPLOADS" envDefault:"4" desc:"pages of one range that are uploaded at once"`
	PagesAhead   int          `env:"LEAFCUTTER_PAGES_AHEAD" envDefault:"32" desc:"pages of the bulk lane rendered ahead of each detector of a model; beyond it ranges wait; 0 for no bound"`
	Render       render.Config
}

// Validate reports every fault at once, but those of Render, which tells its own.
func (c Config) Validate() error {
	var faults []error
	if !schemas.IsModelName(c.DefaultModel) {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_DEFAULT_MODEL: %.80q is not a model name (a-z, 0-9, _ and -, up to 64)", c.DefaultModel))
	}
	if c.ShadowModel != "" && !schemas.IsModelName(c.ShadowModel) {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_SHADOW_MODEL: %.80q is not a model name (a-z, 0-9, _ and -, up to 64)", c.ShadowModel))
	}
	if !(c.ShadowShare >= 0 && c.ShadowShare <= 1) { // also refuses NaN
		faults = append(faults, fmt.Errorf("LEAFCUTTER_SHADOW_SHARE: %g is outside 0 to 1", c.ShadowShare))
	}
	if c.ShadowShare > 0 && c.ShadowModel == "" {
		faults = append(faults, errors.New("LEAFCUTTER_SHADOW_SHARE: LEAFCUTTER_SHADOW_MODEL names no model"))
	}
	if c.MaxDocument < schemas.MaxRawDocument {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_MAX_DOCUMENT_BYTES: %s, must be 8MiB or more: a record may hold so much", c.MaxDocument))
	}
	if c.CacheBytes < c.MaxDocument {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_CACHE_BYTES: %s, must be LEAFCUTTER_MAX_DOCUMENT_BYTES (%s) or more", c.CacheBytes, c.MaxDocument))
	}
	if _, err := c.cacheDir(); err != nil {
		faults = append(faults, err)
	}
	if c.Uploads < 1 || c.Uploads > schemas.FirstPages {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_UPLOADS: %d is outside 1 to %d", c.Uploads, schemas.FirstPages))
	}
	if c.PagesAhead < 0 {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_PAGES_AHEAD: %d, must be 0 or more", c.PagesAhead))
	}
	return errors.Join(faults...)
}

// cacheDir is where documents are kept: by default in a folder that is this user's
// alone. In the system's folder for temporary files anybody could have made it
// first, and would own what lies in it.
func (c Config) cacheDir() (string, error) {
	if c.CacheDir != "" {
		return c.CacheDir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no cache folder for documents: set LEAFCUTTER_CACHE_DIR: %w", err)
	}
	return filepath.Join(dir, "leafcutter", "page-splitter"), nil
}
