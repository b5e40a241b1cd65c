package session

import (
	"errors"
	"fmt"

	ort "github.com/yalue/onnxruntime_go"

	"leafcutter/stages/detector/internal/manifest"
)

// ErrProvider means that the library cannot run models by the execution
// provider asked for: it was built without it, or what that needs of the
// machine is not there.
var ErrProvider = errors.New("execution provider missing")

// provide makes an execution provider the first to be asked for each operator;
// the processor does what it cannot do.
func provide(o *ort.SessionOptions, name string) error {
	var err error
	switch name {
	case "", manifest.CPU:
		return nil
	case manifest.CUDA:
		err = provideCUDA(o)
	case manifest.OpenVINO:
		err = o.AppendExecutionProviderOpenVINO(nil)
	default:
		err = errors.New("there is none of this name")
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrProvider, name, err)
	}
	return nil
}

func provideCUDA(o *ort.SessionOptions) error {
	cuda, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	return errors.Join(o.AppendExecutionProviderCUDA(cuda), cuda.Destroy())
}
