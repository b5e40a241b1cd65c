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
	// others were there before the session was opened: those of another session of
	// the same file. When that one is closed, what lies there may be anybody's.
	others []mapping
	once   sync.Once
	at     []mapping
}

// mapped are the mappings of the files beside a graph.
func mapped(graph string) []mapping {
	graph, err := filepath.Abs(graph) // as the system names mappings
	if err == nil {
		graph, err = filepath.EvalSymlinks(graph)
	}
	if err != nil {
		return nil
	}
	return unwritten(func(path, _ string) bool { return filepath.Dir(path) == filepath.Dir(graph) })
}

// without are the parts of mappings that others have not. The system makes one
// of two mappings of a file that follow each other, whoever they belong to.
func without(all, others []mapping) []mapping {
	for _, o := range others {
		var left []mapping
		for _, m := range all {
			if o.end() <= m.at || m.end() <= o.at {
				left = append(left, m)
				continue
			}
			if m.at < o.at {
				left = append(left, mapping{m.at, o.at - m.at})
			}
			if o.end() < m.end() {
				left = append(left, mapping{o.end(), m.end() - o.end()})
			}
		}
		all = left
	}
	return all
}

// mapping is a part of this process's memory that a file is mapped to.
type mapping struct{ at, size uintptr }

func (m mapping) end() uintptr { return m.at + m.size }

// letGo is called after a run. The mappings are looked up after the first, when
// each operator has run once: what one of them has written to is no copy of the
// file and is kept.
func (w *weights) letGo() {
	w.once.Do(func() {
		if w.graph == "" {
			return
		}
		size := uintptr(0)
		w.at = without(mapped(w.graph), w.others)
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
