package onnx

import (
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of ModelProto and OperatorSetIdProto, and of GraphProto.
const (
	modelGraph = 7
	modelOpset = 8

	opsetDomain  = 1
	opsetVersion = 2

	graphNode        = 1
	graphInitializer = 5
	graphInput       = 11
	graphOutput      = 12
)

// maxDepth bounds subgraphs within subgraphs, so that a hostile file cannot
// exhaust the stack.
const maxDepth = 16

// Model is a parsed model file. It aliases the bytes that it was parsed from.
type Model struct {
	Graph *Graph

	rest []field // every field but the graph, in order
}

// Graph is the main graph of a model. Nodes may be replaced, dropped and
// added, as long as they stay in topological order.
type Graph struct {
	Nodes []*Node

	initializers []initializer
	inputs       []string
	outputs      []string
	rest         []field // every field but nodes and initializers, in order
}

type initializer struct {
	name string
	raw  []byte
}

// Parse reads a model file.
func Parse(b []byte) (*Model, error) {
	top, err := fields(b)
	if err != nil {
		return nil, err
	}
	m := &Model{}
	for _, f := range top {
		if f.num != modelGraph {
			m.rest = append(m.rest, f)
			continue
		}
		if err := f.wants(protowire.BytesType); err != nil {
			return nil, err
		}
		if m.Graph != nil {
			return nil, fmt.Errorf("%w: two graphs", ErrMalformed)
		}
		if m.Graph, err = parseGraph(f.value, 0); err != nil {
			return nil, fmt.Errorf("graph: %w", err)
		}
	}
	if m.Graph == nil {
		return nil, fmt.Errorf("%w: no graph", ErrMalformed)
	}
	return m, nil
}

func parseGraph(b []byte, depth int) (*Graph, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: subgraphs nested deeper than %d", ErrMalformed, maxDepth)
	}
	all, err := fields(b)
	if err != nil {
		return nil, err
	}
	g := &Graph{}
	for _, f := range all {
		switch f.num {
		case graphNode, graphInitializer, graphInput, graphOutput:
			if err := f.wants(protowire.BytesType); err != nil {
				return nil, err
			}
		}
		switch f.num {
		case graphNode:
			n, err := parseNode(f.value, depth)
			if err != nil {
				return nil, fmt.Errorf("node %d: %w", len(g.Nodes), err)
			}
			g.Nodes = append(g.Nodes, n)
		case graphInitializer:
			name, err := stringField(f.value, tensorName)
			if err != nil {
				return nil, fmt.Errorf("initializer %d: %w", len(g.initializers), err)
			}
			g.initializers = append(g.initializers, initializer{name: name, raw: f.value})
		case graphInput, graphOutput:
			name, err := stringField(f.value, valueInfoName)
			if err != nil {
				return nil, fmt.Errorf("graph value: %w", err)
			}
			if f.num == graphInput {
				g.inputs = append(g.inputs, name)
			} else {
				g.outputs = append(g.outputs, name)
			}
			g.rest = append(g.rest, f)
		default:
			g.rest = append(g.rest, f)
		}
	}
	return g, nil
}

// Opset is the version of the default operator set, 0 where none is named.
func (m *Model) Opset() int64 {
	for _, f := range m.rest {
		if f.num != modelOpset {
			continue
		}
		all, err := fields(f.value)
		if err != nil {
			continue
		}
		domain, version := "", int64(0)
		for _, f := range all {
			switch f.num {
			case opsetDomain:
				domain = string(f.value)
			case opsetVersion:
				version = int64(f.number)
			}
		}
		if domain == "" {
			return version
		}
	}
	return 0
}

// Encode writes the model, piece by piece, without a copy of its weights. A model
// that was not changed comes out with the same content; only the order of fields
// of different kinds may differ.
func (m *Model) Encode(w io.Writer) error {
	var pieces [][]byte
	for _, f := range m.rest {
		pieces = append(pieces, f.raw)
	}
	graph, size := m.Graph.pieces(), 0
	for _, p := range graph {
		size += len(p)
	}
	for _, p := range append(append(pieces, header(modelGraph, size)), graph...) {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func (g *Graph) pieces() (all [][]byte) {
	for _, n := range g.Nodes {
		all = append(all, header(graphNode, len(n.raw)), n.raw)
	}
	for _, i := range g.initializers {
		all = append(all, header(graphInitializer, len(i.raw)), i.raw)
	}
	for _, f := range g.rest {
		all = append(all, f.raw)
	}
	return all
}

// IsOutput says whether a value is one of the graph's results, which no
// rewrite may make disappear.
func (g *Graph) IsOutput(value string) bool {
	for _, o := range g.outputs {
		if o == value {
			return true
		}
	}
	return false
}

// IsInput says whether a value is fed from outside. An initializer that is
// also an input is only a default: its value is not known.
func (g *Graph) IsInput(value string) bool {
	for _, i := range g.inputs {
		if i == value {
			return true
		}
	}
	return false
}

// DropUnusedConstants removes Constant nodes and initializers that nothing
// refers to, and returns how many. Runtimes warn of each one, at every start.
func (g *Graph) DropUnusedConstants() int {
	used := make(map[string]bool)
	for _, n := range g.Nodes {
		for _, v := range n.Inputs {
			used[v] = true
		}
		for _, v := range n.Captured {
			used[v] = true
		}
	}
	for _, v := range g.outputs {
		used[v] = true
	}
	for _, v := range g.inputs {
		used[v] = true
	}
	dropped := 0
	nodes := g.Nodes[:0:0]
	for _, n := range g.Nodes {
		if n.OpType == "Constant" && n.Domain == "" && len(n.Outputs) == 1 && !used[n.Outputs[0]] {
			dropped++
			continue
		}
		nodes = append(nodes, n)
	}
	g.Nodes = nodes
	kept := g.initializers[:0:0]
	for _, i := range g.initializers {
		if !used[i.name] {
			dropped++
			continue
		}
		kept = append(kept, i)
	}
	g.initializers = kept
	return dropped
}

func stringField(msg []byte, num protowire.Number) (string, error) {
	all, err := fields(msg)
	if err != nil {
		return "", err
	}
	s := ""
	for _, f := range all {
		if f.num == num {
			if err := f.wants(protowire.BytesType); err != nil {
				return "", err
			}
			s = string(f.value)
		}
	}
	return s, nil
}
