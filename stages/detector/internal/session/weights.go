package session

import (
	"path/filepath"
	"sync"
)

// largeWeights is the size in bytes from which a prepared model's weights are let
// go of after each run. Reading them again, from the system's cache, takes some
// milliseconds; runs of models with so many weights take a second.
const largeWeights = 64 << 20

// weights are those of a prepared model, which the runtime maps from a file beside
// the graph. A run reads those of its last layers when the tensors of its first
// layers, the largest of all, are gone. So what the run before has read is let go
// of, and the peak is less by the weights of the layers after it.
type weights struct {
	graph string  // the model's file; "" for one whose weights are not mapped
	least uintptr // bytes; fewer are kept
	once  sync.Once
	at    []mapping
}

// letGo is called after a run. The mappings are looked up after the first, when
// each operator has run once: what one of them has written to is no copy of the
// file and is kept.
func (w *weights) letGo() {
	w.once.Do(func() {
		if w.graph == "" {
			return
		}
		graph, err := filepath.Abs(w.graph) // as the system names mappings
		if err == nil {
			graph, err = filepath.EvalSymlinks(graph)
		}
		if err != nil {
			return
		}
		size := uintptr(0)
		w.at = unwritten(func(path, _ string) bool { return filepath.Dir(path) == filepath.Dir(graph) })
		for _, m := range w.at {
			size += m.size
		}
		if size < w.least {
			w.at = nil
		}
	})
	for _, m := range w.at {
		m.letGo()
	}
}
