package rewrite

import "leafcutter/stages/detector/internal/onnx"

// search finds patterns in a graph as it was when the search was made.
type search struct {
	g         *onnx.Graph
	producer  map[string]*onnx.Node
	uses      map[string]int          // of a value, subgraphs' included
	users     map[string][]*onnx.Node // nodes with the value among their inputs, once for each
	constants map[string]float32
}

func newSearch(g *onnx.Graph) *search {
	s := &search{g: g, producer: map[string]*onnx.Node{}, uses: map[string]int{}, users: map[string][]*onnx.Node{}, constants: g.Constants()}
	for _, n := range g.Nodes {
		for _, o := range n.Outputs {
			s.producer[o] = n
		}
		for _, i := range n.Inputs {
			s.uses[i]++
			s.users[i] = append(s.users[i], n)
		}
		for _, c := range n.Captured {
			s.uses[c]++
		}
	}
	return s
}

func (s *search) equals(name string, want float32) bool {
	v, ok := s.constants[name]
	return ok && v == want
}

// only returns the node of this type that makes a value, if the value has no
// other purpose than its one use.
func (s *search) only(value, opType string) (*onnx.Node, bool) {
	n, ok := s.onlyAny(value)
	return n, ok && is(n, opType)
}

func (s *search) onlyAny(value string) (*onnx.Node, bool) {
	n := s.producer[value]
	return n, n != nil && len(n.Outputs) == 1 && s.uses[value] == 1 && !s.g.IsOutput(value)
}

func is(n *onnx.Node, opType string) bool { return n.OpType == opType && n.Domain == "" }
