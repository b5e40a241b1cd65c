package session

import (
	"fmt"
	"syscall"
	"unsafe"
)

// memory is that of a tensor, mapped from the system and not allocated by Go:
// tensors are most of what a detector holds, and the collector would let as
// much again of garbage lie for a share of them.
type memory struct{ bytes []byte }

// atLeast is memory for n values of float32, as zeros or what was there.
func (m memory) atLeast(n int) (memory, error) {
	if len(m.bytes) >= 4*n {
		return m, nil
	}
	if err := m.free(); err != nil {
		return memory{}, err
	}
	b, err := syscall.Mmap(-1, 0, 4*n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return memory{}, fmt.Errorf("%d bytes of memory: %w", 4*n, err)
	}
	return memory{b}, nil
}

func (m memory) floats() []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(m.bytes))), len(m.bytes)/4)
}

func (m memory) free() error {
	if m.bytes == nil {
		return nil
	}
	if err := syscall.Munmap(m.bytes); err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	return nil
}
