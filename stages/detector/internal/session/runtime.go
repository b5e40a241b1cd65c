// Package session runs a model in ONNX Runtime: the shared library loaded
// once, one session shared by all who infer, tensors that are kept between
// pages, and a run that ends when its context does. Memory options are those
// measured to stay smallest for inputs of fixed size. Package detector calls
// it.
package session

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// Version is the ONNX Runtime that this program was built and measured with.
const Version = "1.32.0"

// ErrLibrary means that ONNX Runtime's shared library is absent or could not
// be loaded.
var ErrLibrary = errors.New("ONNX Runtime library not loaded")

// LibraryFile is the library's file name on this platform.
func LibraryFile() string {
	if runtime.GOOS == "darwin" {
		return "libonnxruntime." + Version + ".dylib"
	}
	return "libonnxruntime.so." + Version
}

// loaded counts who uses the library. It is a variable of the package because
// the thing it guards is one of the process: onnxruntime_go keeps one
// environment, and initialising it twice, or while a session lives, is an
// error or a crash.
var loaded struct {
	sync.Mutex
	path  string
	users int
}

// Runtime is a use of the loaded library.
type Runtime struct{ once sync.Once }

// Load loads the library, or joins those who have loaded it already. All of a
// process must agree on the path.
func Load(path string) (*Runtime, error) {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.users > 0 {
		if loaded.path != path {
			return nil, fmt.Errorf("%w: %s asked for while %s is in use", ErrLibrary, path, loaded.path)
		}
		loaded.users++
		return &Runtime{}, nil
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: %w: run make deps, or set LEAFCUTTER_ONNXRUNTIME_LIB to where it is", ErrLibrary, err)
	}
	// The library tells its maker what it runs, by a database in the user's
	// cache folder and a connection of its own, unless it is asked not to.
	if err := os.Setenv("ORT_DISABLE_TELEMETRY", "1"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLibrary, err)
	}
	ort.SetSharedLibraryPath(path)
	// Errors only: the runtime writes its warnings to stderr in a format
	// of its own, hundreds of lines for some models.
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrLibrary, path, err)
	}
	loaded.path, loaded.users = path, 1
	return &Runtime{}, nil
}

// Close gives the library back. All sessions must be closed before. Closing
// twice is legal.
func (r *Runtime) Close() error {
	var err error
	r.once.Do(func() {
		loaded.Lock()
		defer loaded.Unlock()
		if loaded.users--; loaded.users == 0 {
			err = ort.DestroyEnvironment()
		}
	})
	return err
}
