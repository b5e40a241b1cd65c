package onnx

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of NodeProto.
const (
	nodeInput     = 1
	nodeOutput    = 2
	nodeName      = 3
	nodeOpType    = 4
	nodeAttribute = 5
	nodeDomain    = 7
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

// NewNode makes an operator of the default domain.
func NewNode(opType, name string, inputs, outputs []string, attrs ...Attribute) *Node {
	n := &Node{}
	n.addNames(name, inputs, outputs)
	n.OpType = opType
	n.raw = appendString(n.raw, nodeOpType, opType)
	n.addAttributes(attrs)
	return n
}

// As makes a node that does what n does, with these attributes, to other
// values.
func (n *Node) As(name string, inputs, outputs []string, attrs ...Attribute) *Node {
	c := &Node{OpType: n.OpType, Domain: n.Domain, Captured: n.Captured}
	c.addNames(name, inputs, outputs)
	all, _ := fields(n.raw) // it has been read before, or written here
	at := 0
	for _, f := range all {
		switch f.num {
		case nodeInput, nodeOutput, nodeName:
			continue
		case nodeAttribute:
			kept := n.attrs[at]
			at++
			if slices.ContainsFunc(attrs, func(a Attribute) bool { return a.attribute().name == kept.name }) {
				continue
			}
			c.attrs = append(c.attrs, kept)
		}
		c.raw = append(c.raw, f.raw...)
	}
	c.addAttributes(attrs)
	return c
}

func (n *Node) addNames(name string, inputs, outputs []string) {
	n.Name, n.Inputs, n.Outputs = name, inputs, outputs
	for _, s := range inputs {
		n.raw = appendString(n.raw, nodeInput, s)
	}
	for _, s := range outputs {
		n.raw = appendString(n.raw, nodeOutput, s)
	}
	n.raw = appendString(n.raw, nodeName, name)
}

func (n *Node) addAttributes(attrs []Attribute) {
	for _, a := range attrs {
		n.attrs = append(n.attrs, a.attribute())
		n.raw = appendMessage(n.raw, nodeAttribute, a.attribute().encode())
	}
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
