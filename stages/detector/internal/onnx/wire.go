package onnx

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed is wrapped by every error of Parse: the bytes are not a
// protobuf message of the shape that an ONNX model has.
var ErrMalformed = errors.New("not an ONNX model")

// field is one field of a message. raw is the field with its tag, exactly as
// it was read; value is the payload of a length-delimited field; number is the
// value of a varint or fixed-width one. Both slices alias the input.
type field struct {
	num    protowire.Number
	typ    protowire.Type
	raw    []byte
	value  []byte
	number uint64
}

// fields splits a message. Groups are refused: ONNX has none.
func fields(msg []byte) ([]field, error) {
	var out []field
	for len(msg) > 0 {
		num, typ, tag := protowire.ConsumeTag(msg)
		if tag < 0 {
			return nil, fmt.Errorf("%w: field tag: %w", ErrMalformed, protowire.ParseError(tag))
		}
		f := field{num: num, typ: typ}
		var n int
		switch typ {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(msg[tag:])
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(msg[tag:])
			f.number = uint64(v)
		case protowire.Fixed64Type:
			f.number, n = protowire.ConsumeFixed64(msg[tag:])
		case protowire.BytesType:
			f.value, n = protowire.ConsumeBytes(msg[tag:])
		default:
			return nil, fmt.Errorf("%w: field %d has wire type %d", ErrMalformed, num, typ)
		}
		if n < 0 {
			return nil, fmt.Errorf("%w: field %d: %w", ErrMalformed, num, protowire.ParseError(n))
		}
		f.raw = msg[:tag+n]
		out = append(out, f)
		msg = msg[tag+n:]
	}
	return out, nil
}

// wants reports a field whose wire type is not the one that the schema gives
// it, which would otherwise be read as an empty value.
func (f field) wants(typ protowire.Type) error {
	if f.typ != typ {
		return fmt.Errorf("%w: field %d has wire type %d, want %d", ErrMalformed, f.num, f.typ, typ)
	}
	return nil
}

// varints are the values of a repeated integer field, of which this is one
// value or, packed, several.
func (f field) varints() ([]int64, error) {
	if f.typ != protowire.BytesType {
		return []int64{int64(f.number)}, f.wants(protowire.VarintType)
	}
	var out []int64
	for b := f.value; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil, fmt.Errorf("%w: field %d: %w", ErrMalformed, f.num, protowire.ParseError(n))
		}
		out, b = append(out, int64(v)), b[n:]
	}
	return out, nil
}

func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func appendMessage(b []byte, num protowire.Number, msg []byte) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, msg)
}

// header is what stands before a message of so many bytes.
func header(num protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.BytesType), uint64(size))
}
