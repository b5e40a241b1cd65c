package rewrite

import "leafcutter/stages/detector/internal/onnx"

// fuseHardSwish replaces every hard-swish that a converter spelled out,
//
//	x · clip(x + 3, 0, 6) / 6        (Howard et al. 2019, MobileNetV3)
//
// by Mul(x, HardSigmoid(x, alpha 1/6, beta 0.5)), which is the same function:
// clip((x+3)/6, 0, 1) = clip(x/6 + 1/2, 0, 1). ONNX Runtime recognises that
// pair and computes it inside the convolution that produced x, where the
// four operators each read and wrote the whole tensor.
//
// The division may come before or after the multiplication, and be a
// multiplication by 1/6. A pattern is left alone when one of its intermediate
// values is used elsewhere or is an output of the graph.
func fuseHardSwish(g *onnx.Graph) int {
	s := newSearch(g)
	replaced := make(map[*onnx.Node]*onnx.Node) // last node of a pattern → first node of its replacement
	gone := make(map[*onnx.Node]bool)
	for _, last := range g.Nodes {
		p, ok := s.divideLast(last)
		if !ok {
			p, ok = s.multiplyLast(last)
		}
		if !ok {
			continue
		}
		for _, n := range p.nodes {
			gone[n] = true
		}
		out := last.Outputs[0]
		gate := out + "/hard_sigmoid"
		replaced[last] = onnx.NewNode("HardSigmoid", gate, []string{p.x}, []string{gate},
			onnx.Float{Name: "alpha", Value: 1.0 / 6}, onnx.Float{Name: "beta", Value: 0.5})
	}
	nodes := make([]*onnx.Node, 0, len(g.Nodes))
	for _, n := range g.Nodes {
		if first, ok := replaced[n]; ok {
			// Where the last node of the pattern stood, x and all
			// it depends on have been computed.
			nodes = append(nodes, first, onnx.NewNode("Mul", n.Outputs[0]+"/hard_swish",
				[]string{first.Inputs[0], first.Outputs[0]}, n.Outputs))
			continue
		}
		if !gone[n] {
			nodes = append(nodes, n)
		}
	}
	g.Nodes = nodes
	return len(replaced)
}

// pattern is one spelled-out hard-swish: its argument and its nodes.
type pattern struct {
	x     string
	nodes []*onnx.Node
}

// divideLast matches (x · clip(x+3)) / 6.
func (s *search) divideLast(last *onnx.Node) (pattern, bool) {
	product, ok := s.sixth(last)
	if !ok {
		return pattern{}, false
	}
	mul, ok := s.only(product, "Mul")
	if !ok || len(mul.Inputs) != 2 {
		return pattern{}, false
	}
	for i, in := range mul.Inputs {
		x := mul.Inputs[1-i]
		if clip, add, ok := s.relu6(in, x); ok {
			return pattern{x: x, nodes: []*onnx.Node{add, clip, mul, last}}, true
		}
	}
	return pattern{}, false
}

// multiplyLast matches x · (clip(x+3) / 6).
func (s *search) multiplyLast(last *onnx.Node) (pattern, bool) {
	if !is(last, "Mul") || len(last.Inputs) != 2 {
		return pattern{}, false
	}
	for i, in := range last.Inputs {
		x := last.Inputs[1-i]
		div, ok := s.onlyAny(in)
		if !ok {
			continue
		}
		clipped, ok := s.sixth(div)
		if !ok {
			continue
		}
		if clip, add, ok := s.relu6(clipped, x); ok {
			return pattern{x: x, nodes: []*onnx.Node{add, clip, div, last}}, true
		}
	}
	return pattern{}, false
}

// sixth matches v / 6 or v · (1/6) and returns v.
func (s *search) sixth(n *onnx.Node) (string, bool) {
	if len(n.Inputs) != 2 {
		return "", false
	}
	a, b := n.Inputs[0], n.Inputs[1]
	switch {
	case is(n, "Div") && s.equals(b, 6):
		return a, true
	case is(n, "Mul") && s.equals(b, 1.0/6):
		return a, true
	case is(n, "Mul") && s.equals(a, 1.0/6):
		return b, true
	}
	return "", false
}

// relu6 matches value = clip(x + 3, 0, 6).
func (s *search) relu6(value, x string) (clip, add *onnx.Node, ok bool) {
	clip, ok = s.only(value, "Clip")
	if !ok || !s.clips(clip, 0, 6) {
		return nil, nil, false
	}
	add, ok = s.only(clip.Inputs[0], "Add")
	if !ok || len(add.Inputs) != 2 {
		return nil, nil, false
	}
	a, b := add.Inputs[0], add.Inputs[1]
	if (a == x && s.equals(b, 3)) || (b == x && s.equals(a, 3)) {
		return clip, add, true
	}
	return nil, nil, false
}

// clips checks a Clip's bounds: attributes before opset 11, inputs since.
func (s *search) clips(n *onnx.Node, low, high float32) bool {
	if len(n.Inputs) == 3 {
		return s.equals(n.Inputs[1], low) && s.equals(n.Inputs[2], high)
	}
	lo, okLo := n.FloatAttr("min")
	hi, okHi := n.FloatAttr("max")
	return len(n.Inputs) == 1 && okLo && okHi && lo == low && hi == high
}
