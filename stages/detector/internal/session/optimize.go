package session

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	ort "github.com/yalue/onnxruntime_go"
	"golang.org/x/sys/cpu"
)

// Optimize writes to the file to what ONNX Runtime makes of a model for this
// machine's processor: constants folded, operators fused, weights in the order
// in which its kernels read them. The weights go to a file called weights, in
// to's folder; sessions map them from there, and need neither a copy of the
// original ones nor the time to convert them. For the default model that is
// 23 MB of 58, and half of the time to load.
//
// Both files must keep their names, and are for processors with the same
// Processor only.
func (r *Runtime) Optimize(from, to, weights string) error {
	o, err := options(Config{Threads: 1}, ort.GraphOptimizationLevelEnableAll)
	if err != nil {
		return err
	}
	defer o.Destroy() //nolint:errcheck // the session has its own copy
	for _, err := range []error{
		o.SetOptimizedModelFilePath(to),
		o.AddSessionConfigEntry("session.optimized_model_external_initializers_file_name", weights),
		o.AddSessionConfigEntry("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
	} {
		if err != nil {
			return fmt.Errorf("session options: %w", err)
		}
	}
	s, err := ort.NewDynamicAdvancedSession(from, nil, nil, o)
	if err != nil {
		return fmt.Errorf("%w: optimize %s: %w", ErrModel, from, err)
	}
	if err := s.Destroy(); err != nil {
		return errors.Join(fmt.Errorf("optimize %s", from), err)
	}
	return nil
}

// Processor names what the runtime's kernels ask of a processor, as part of a
// file name: optimised models are for those with the same one.
func Processor() string {
	name := []string{runtime.GOARCH}
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"avx", cpu.X86.HasAVX}, {"avx2", cpu.X86.HasAVX2}, {"fma", cpu.X86.HasFMA},
		{"avx512f", cpu.X86.HasAVX512F}, {"avx512vl", cpu.X86.HasAVX512VL}, {"avx512bw", cpu.X86.HasAVX512BW},
		{"avx512dq", cpu.X86.HasAVX512DQ}, {"avx512vnni", cpu.X86.HasAVX512VNNI},
		{"dotprod", cpu.ARM64.HasASIMDDP}, {"fp16", cpu.ARM64.HasASIMDHP}, {"sve", cpu.ARM64.HasSVE},
	} {
		if f.has {
			name = append(name, f.name)
		}
	}
	return strings.Join(name, "-")
}
