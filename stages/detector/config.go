package detector

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"leafcutter/pkg/config"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/session"
)

// Config is the stage's own knobs. Package config reads it from environment and
// flags; fields left zero have the defaults that their descriptions name.
type Config struct {
	Model     string   `env:"LEAFCUTTER_MODEL" envDefault:"layout_cdla" desc:"model to serve: a folder in LEAFCUTTER_MODELS_DIR"`
	Models    []string `env:"LEAFCUTTER_MODELS" desc:"models to serve, instead of LEAFCUTTER_MODEL: names with commas between them, or * for all of LEAFCUTTER_MODELS_DIR"`
	ModelsDir string   `env:"LEAFCUTTER_MODELS_DIR" desc:"folder of models, each a folder with manifest.json and weights, or s3://bucket/prefix of such; empty for ../models, seen from the binary"`
	Library   string   `env:"LEAFCUTTER_ONNXRUNTIME_LIB" desc:"ONNX Runtime's shared library; empty for the one in ../lib, seen from the binary"`
	CacheDir  string   `env:"LEAFCUTTER_CACHE_DIR" desc:"folder that keeps prepared models from one start to the next; empty for leafcutter in the user's cache folder"`

	Memory  config.Bytes  `env:"LEAFCUTTER_MODELS_MEMORY" envDefault:"512MiB" desc:"memory for loaded models, each counted as 64MiB and two and a half times its weights, and as more with dynamic_batching or several LEAFCUTTER_INFERENCES; where it does not hold the next one, the one unused for longest is unloaded first; one model is loaded whatever its size"`
	Refresh time.Duration `env:"LEAFCUTTER_MODELS_REFRESH" envDefault:"30s" desc:"how often LEAFCUTTER_MODELS_DIR is looked at for models that have changed; 0 for never"`

	Provider string `env:"LEAFCUTTER_INFERENCE_PROVIDER" desc:"ONNX Runtime's execution provider: cpu, cuda or openvino; empty for the one that the model's manifest names. The last two need an ONNX Runtime that was built with them"`

	Threads int `env:"LEAFCUTTER_INFERENCE_THREADS" desc:"threads that one inference uses; 0: as many, up to one a processor, as made it a third faster for each doubling when the model was prepared, at its first start here with 0; it is measured again once its folder in LEAFCUTTER_CACHE_DIR is gone"`
	Runs    int `env:"LEAFCUTTER_INFERENCES" desc:"inferences that go on at once; 0: one, for it is not measured: each takes the memory of its layers again"`
	Pages   int `env:"LEAFCUTTER_INFERENCE_PAGES" desc:"pages read, inferred or decoded at once, about 8 MB each; 0: one more than inferences, so that a page is read while another is inferred; that many batches of a model with dynamic_batching"`

	MaxPixels int          `env:"LEAFCUTTER_MAX_PAGE_PIXELS" envDefault:"40000000" desc:"pixels of a page image above which it is refused"`
	MaxBytes  config.Bytes `env:"LEAFCUTTER_MAX_PAGE_BYTES" envDefault:"64MiB" desc:"bytes of a page image above which it is refused, and of all page images held at once: models that have pages in work share that equally, and a page larger than a share waits until the others leave as much"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !schemas.IsModelName(c.Model) {
		fault("LEAFCUTTER_MODEL: %.80q is not a model name (1 to 64 of a-z, 0-9, _ and -)", c.Model)
	}
	for _, name := range c.Models {
		if name != everyModel && !schemas.IsModelName(name) {
			fault("LEAFCUTTER_MODELS: %.80q is neither a model name (1 to 64 of a-z, 0-9, _ and -) nor %s", name, everyModel)
		}
	}
	if c.Memory < 0 {
		fault("LEAFCUTTER_MODELS_MEMORY: %s is less than 0", c.Memory)
	}
	if c.Refresh < 0 {
		fault("LEAFCUTTER_MODELS_REFRESH: %s is less than 0", c.Refresh)
	}
	if c.Provider != "" && !manifest.IsProvider(c.Provider) {
		fault("LEAFCUTTER_INFERENCE_PROVIDER: %.80q is none of %s", c.Provider, strings.Join(manifest.Providers(), ", "))
	}
	if c.Threads < 0 || c.Threads > 1024 {
		fault("LEAFCUTTER_INFERENCE_THREADS: %d is outside 0 to 1024", c.Threads)
	}
	if c.Runs < 0 || c.Runs > 256 {
		fault("LEAFCUTTER_INFERENCES: %d is outside 0 to 256", c.Runs)
	}
	if c.Pages != 0 && (c.Pages < max(c.Runs, 1) || c.Pages > 1024) {
		fault("LEAFCUTTER_INFERENCE_PAGES: %d is outside LEAFCUTTER_INFERENCES (%d) to 1024", c.Pages, max(c.Runs, 1))
	}
	if c.MaxPixels < 1<<16 || c.MaxPixels > math.MaxInt32 {
		fault("LEAFCUTTER_MAX_PAGE_PIXELS: %d is outside %d to %d", c.MaxPixels, 1<<16, math.MaxInt32)
	}
	if c.MaxBytes < 1<<16 {
		fault("LEAFCUTTER_MAX_PAGE_BYTES: %s is less than 64KiB", c.MaxBytes)
	}
	return errors.Join(faults...)
}

// everyModel stands for all models of the repository.
const everyModel = "*"

// all says whether whatever the repository holds is served.
func (c Config) all() bool { return slices.Contains(c.Models, everyModel) }

// names are the models that are named, each once.
func (c Config) names() []string {
	switch {
	case c.all():
		return nil
	case len(c.Models) == 0:
		return []string{c.Model}
	}
	return slices.Compact(slices.Sorted(slices.Values(c.Models)))
}

// pages is how many pages of a model are in work at once: those of each inference,
// and as many as one of them takes that are being read meanwhile. It is Pages
// where that is given: a batch is no larger than it.
func (c Config) pages(m manifest.Manifest) int {
	if c.Pages > 0 {
		return c.Pages
	}
	return (c.Runs + 1) * max(m.Batching.MaxSize, 1)
}

// resolve fills in what was left zero, but for Pages.
func (c Config) resolve() (Config, error) {
	if err := c.Validate(); err != nil {
		return c, err
	}
	if c.Memory == 0 {
		c.Memory = 512 << 20
	}
	if c.Runs == 0 {
		c.Runs = 1
	}
	if c.ModelsDir == "" || c.Library == "" {
		binary, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("find the folder of models and ONNX Runtime: %w: set LEAFCUTTER_MODELS_DIR and LEAFCUTTER_ONNXRUNTIME_LIB", err)
		}
		// The name may be a link from elsewhere; what lies beside the
		// binary lies beside its target.
		if target, err := filepath.EvalSymlinks(binary); err == nil {
			binary = target
		}
		root := filepath.Dir(filepath.Dir(binary))
		if c.ModelsDir == "" {
			c.ModelsDir = filepath.Join(root, "models")
		}
		if c.Library == "" {
			c.Library = filepath.Join(root, "lib", session.LibraryFile())
		}
	}
	if c.CacheDir == "" {
		// Where there is no such folder, nothing is kept; loading says so.
		if dir, err := os.UserCacheDir(); err == nil {
			c.CacheDir = filepath.Join(dir, "leafcutter")
		}
	}
	return c, nil
}
