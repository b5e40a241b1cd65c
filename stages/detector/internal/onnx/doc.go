// Package onnx reads and writes ONNX model files as far as a graph rewrite
// needs it: nodes with their names, inputs, outputs and attributes, the
// constants they refer to, and what is fed from outside. Everything else
// (weights, metadata, fields of newer versions) is carried through byte for
// byte.
//
// It works on the protobuf wire format directly, because the generated code of
// the whole schema would be thousands of lines for a handful of fields. Field
// numbers are those of onnx.proto3 in the ONNX specification.
//
// Package rewrite calls it when a model is loaded for the first time.
package onnx
