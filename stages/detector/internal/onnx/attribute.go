package onnx

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of AttributeProto, and the attribute types that are written
// here.
const (
	attrName   = 1
	attrFloat  = 2
	attrInt    = 3
	attrString = 4
	attrTensor = 5
	attrGraph  = 6
	attrInts   = 8
	attrGraphs = 11
	attrType   = 20

	attrTypeFloat = 1
	attrTypeInt   = 2
	attrTypeInts  = 7
)

// attribute is one attribute of a node. Which value it has is by its type;
// the others are nil.
type attribute struct {
	name   string
	float  *float32
	int    *int64
	ints   []int64
	text   *string
	tensor []byte
}

// Attribute is a Float, an Int or an Ints.
type Attribute interface {
	attribute() attribute
}

// Float is an attribute of one float32.
type Float struct {
	Name  string
	Value float32
}

// Int is an attribute of one integer.
type Int struct {
	Name  string
	Value int64
}

// Ints is an attribute of a list of integers.
type Ints struct {
	Name   string
	Values []int64
}

func (f Float) attribute() attribute { return attribute{name: f.Name, float: &f.Value} }
func (i Int) attribute() attribute   { return attribute{name: i.Name, int: &i.Value} }
func (i Ints) attribute() attribute  { return attribute{name: i.Name, ints: i.Values} }

func (a attribute) encode() []byte {
	b := appendString(nil, attrName, a.name)
	kind := uint64(attrTypeInts)
	switch {
	case a.float != nil:
		kind = attrTypeFloat
		b = protowire.AppendTag(b, attrFloat, protowire.Fixed32Type)
		b = protowire.AppendFixed32(b, math.Float32bits(*a.float))
	case a.int != nil:
		kind = attrTypeInt
		b = appendVarint(b, attrInt, uint64(*a.int))
	default:
		for _, v := range a.ints {
			b = appendVarint(b, attrInts, uint64(v))
		}
	}
	return appendVarint(b, attrType, kind)
}

// FloatAttr returns a float attribute.
func (n *Node) FloatAttr(name string) (float32, bool) {
	if a := n.attr(name); a != nil && a.float != nil {
		return *a.float, true
	}
	return 0, false
}

// IntAttr returns an integer attribute, or what stands for it where the node
// has none of that name.
func (n *Node) IntAttr(name string, otherwise int64) int64 {
	if a := n.attr(name); a != nil && a.int != nil {
		return *a.int
	}
	return otherwise
}

// IntsAttr returns a list of integers, or what stands for it where the node
// has none of that name.
func (n *Node) IntsAttr(name string, otherwise ...int64) []int64 {
	if a := n.attr(name); a != nil {
		return a.ints
	}
	return otherwise
}

// StringAttr returns a text, or what stands for it where the node has none of
// that name.
func (n *Node) StringAttr(name, otherwise string) string {
	if a := n.attr(name); a != nil && a.text != nil {
		return *a.text
	}
	return otherwise
}

func (n *Node) attr(name string) *attribute {
	for i := range n.attrs {
		if n.attrs[i].name == name {
			return &n.attrs[i]
		}
	}
	return nil
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
		case attrName, attrString, attrTensor, attrGraph, attrGraphs:
			err = f.wants(protowire.BytesType)
		case attrFloat:
			err = f.wants(protowire.Fixed32Type)
		case attrInt:
			err = f.wants(protowire.VarintType)
		}
		if err != nil {
			return a, nil, err
		}
		switch f.num {
		case attrName:
			a.name = string(f.value)
		case attrFloat:
			v := math.Float32frombits(uint32(f.number))
			a.float = &v
		case attrInt:
			v := int64(f.number)
			a.int = &v
		case attrInts:
			v, err := f.varints()
			if err != nil {
				return a, nil, err
			}
			a.ints = append(a.ints, v...)
		case attrString:
			v := string(f.value)
			a.text = &v
		case attrTensor:
			a.tensor = f.value
		case attrGraph, attrGraphs:
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
