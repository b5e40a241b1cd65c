package onnx

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of NodeProto and AttributeProto, and the attribute types that
// are written here.
const (
	nodeInput     = 1
	nodeOutput    = 2
	nodeName      = 3
	nodeOpType    = 4
	nodeAttribute = 5
	nodeDomain    = 7

	attrName   = 1
	attrFloat  = 2
	attrTensor = 5
	attrGraph  = 6
	attrGraphs = 11
	attrType   = 20

	attrTypeFloat = 1
)

// Node is one operator of a graph.
type Node struct {
	Name, OpType, Domain string
	Inputs, Outputs      []string
	// Captured are names that a subgraph of this node (If, Loop, Scan) may
	// take from the graph around it: uses that are in no input list.
	Captured []string

	attrs []attribute
	raw   []byte
}

type attribute struct {
	name     string
	float    float32
	hasFloat bool
	tensor   []byte
}

// Float is a scalar attribute for NewNode.
type Float struct {
	Name  string
	Value float32
}

// NewNode makes an operator of the default domain with float attributes.
func NewNode(opType, name string, inputs, outputs []string, attrs ...Float) *Node {
	n := &Node{Name: name, OpType: opType, Inputs: inputs, Outputs: outputs}
	for _, s := range inputs {
		n.raw = appendString(n.raw, nodeInput, s)
	}
	for _, s := range outputs {
		n.raw = appendString(n.raw, nodeOutput, s)
	}
	n.raw = appendString(n.raw, nodeName, name)
	n.raw = appendString(n.raw, nodeOpType, opType)
	for _, a := range attrs {
		n.attrs = append(n.attrs, attribute{name: a.Name, float: a.Value, hasFloat: true})
		b := appendString(nil, attrName, a.Name)
		b = protowire.AppendTag(b, attrFloat, protowire.Fixed32Type)
		b = protowire.AppendFixed32(b, math.Float32bits(a.Value))
		b = protowire.AppendTag(b, attrType, protowire.VarintType)
		b = protowire.AppendVarint(b, attrTypeFloat)
		n.raw = appendMessage(n.raw, nodeAttribute, b)
	}
	return n
}

// FloatAttr returns a float attribute.
func (n *Node) FloatAttr(name string) (float32, bool) {
	for _, a := range n.attrs {
		if a.name == name && a.hasFloat {
			return a.float, true
		}
	}
	return 0, false
}

func parseNode(b []byte, depth int) (*Node, error) {
	all, err := fields(b)
	if err != nil {
		return nil, err
	}
	n := &Node{raw: b}
	for _, f := range all {
		switch f.num {
		case nodeInput, nodeOutput, nodeName, nodeOpType, nodeAttribute, nodeDomain:
			if err := f.wants(protowire.BytesType); err != nil {
				return nil, err
			}
		}
		switch f.num {
		case nodeInput:
			n.Inputs = append(n.Inputs, string(f.value))
		case nodeOutput:
			n.Outputs = append(n.Outputs, string(f.value))
		case nodeName:
			n.Name = string(f.value)
		case nodeOpType:
			n.OpType = string(f.value)
		case nodeDomain:
			n.Domain = string(f.value)
		case nodeAttribute:
			a, captured, err := parseAttribute(f.value, depth)
			if err != nil {
				return nil, fmt.Errorf("attribute %d: %w", len(n.attrs), err)
			}
			n.attrs = append(n.attrs, a)
			n.Captured = append(n.Captured, captured...)
		}
	}
	return n, nil
}

// parseAttribute also returns every name that subgraphs in the attribute
// refer to. Names that the subgraph defines itself are among them, which errs
// on the side of leaving a graph alone.
func parseAttribute(b []byte, depth int) (attribute, []string, error) {
	all, err := fields(b)
	if err != nil {
		return attribute{}, nil, err
	}
	var a attribute
	var captured []string
	for _, f := range all {
		switch f.num {
		case attrName:
			if err := f.wants(protowire.BytesType); err != nil {
				return a, nil, err
			}
			a.name = string(f.value)
		case attrFloat:
			if err := f.wants(protowire.Fixed32Type); err != nil {
				return a, nil, err
			}
			a.float, a.hasFloat = math.Float32frombits(uint32(f.number)), true
		case attrTensor:
			if err := f.wants(protowire.BytesType); err != nil {
				return a, nil, err
			}
			a.tensor = f.value
		case attrGraph, attrGraphs:
			if err := f.wants(protowire.BytesType); err != nil {
				return a, nil, err
			}
			g, err := parseGraph(f.value, depth+1)
			if err != nil {
				return a, nil, fmt.Errorf("subgraph: %w", err)
			}
			for _, n := range g.Nodes {
				captured = append(captured, n.Inputs...)
				captured = append(captured, n.Captured...)
			}
			captured = append(captured, g.outputs...)
		}
	}
	return a, captured, nil
}
