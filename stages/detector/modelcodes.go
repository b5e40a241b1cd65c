package detector

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"leafcutter/pkg/fault"
	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/repository"
	"leafcutter/stages/detector/internal/session"
)

// Codes of what can be wrong with a model, for scripts and for docs/errors.md.
const (
	CodeModelAbsent     = "model-absent"         // no manifest, or no weights
	CodeModelInvalid    = "model-invalid"        // the manifest has faults
	CodeModelDigest     = "model-digest"         // the weights are not those that the manifest names
	CodeModelUnreadable = "model-unreadable"     // ONNX Runtime does not load the file
	CodeModelFamily     = "model-family-unknown" // inputs and outputs are of no family
	CodeModelMismatch   = "model-mismatch"       // they are not those of the family, classes or sizes that were given
	CodeModelClasses    = "model-classes"        // the classes are missing, or another number than the model knows
	CodeModelExists     = "model-exists"         // another model has the name and version
	CodeLibrary         = "onnxruntime-missing"  // ONNX Runtime itself cannot be loaded
)

const (
	remedyMismatch = "Mend the field of manifest.json that is named, or export the model again; leafcutter models add writes a manifest that fits."
	remedyFamily   = "Export it with the scripts of docs/models.md, without half precision: a file has to have the inputs and outputs of one of the families there."
	remedyExport   = "Give the ONNX file: docs/models.md has the scripts that make one of a .pt or .pth."
)

// complaint is an error with a code, and what to do about it.
type complaint struct {
	code, remedy string
	error
}

func (c complaint) Unwrap() error { return c.error }

func complain(code, remedy, format string, args ...any) error {
	return complaint{code, remedy, fmt.Errorf(format, args...)}
}

// explain is how an error is told: its code, what is wrong, and on a line of
// its own what to do where the text does not say so already.
func explain(err error) string {
	code, remedy := coded(err)
	text := err.Error()
	if code != "" {
		// Some begin with it, or with its words.
		for _, said := range []string{code, strings.ReplaceAll(code, "-", " ")} {
			text = strings.TrimPrefix(text, said+": ")
		}
		text = code + ": " + text
	}
	if remedy != "" {
		text += "\n" + remedy
	}
	return text
}

// coded finds an error's code.
func coded(err error) (code, remedy string) {
	var c complaint
	switch {
	case errors.As(err, &c):
		return c.code, c.remedy
	case errors.Is(err, repository.ErrAbsent):
		return CodeModelAbsent, ""
	case errors.Is(err, repository.ErrDigest):
		return CodeModelDigest, ""
	case errors.Is(err, repository.ErrExists):
		return CodeModelExists, "Give it another --version to replace that one, or another --name to have both."
	case errors.Is(err, family.ErrUnknown):
		return CodeModelFamily, remedyFamily
	case errors.Is(err, session.ErrProvider):
		return "", "" // its text begins with the code
	case errors.Is(err, session.ErrLibrary):
		return CodeLibrary, ""
	case errors.Is(err, session.ErrModel):
		return CodeModelUnreadable, "Export the model again with an opset that ONNX Runtime " + session.Version + " has, in one file."
	case errors.Is(err, repository.ErrInvalid):
		return CodeModelInvalid, ""
	case errors.Is(err, os.ErrPermission):
		return "", "Give this user the right to it, or name another place."
	}
	var f *fault.Error
	if errors.As(err, &f) {
		code = f.Code
	}
	return code, ""
}
