package corpus

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pdfcpu/pdfcpu/pkg/api"
	"github.com/pdfcpu/pdfcpu/pkg/pdfcpu/model"
)

// File is a document with the name under which a user would have it.
type File struct {
	Name string
	Data []byte
}

// Real gives the sample of docs/ and PDFs from the test data of the modules go-fitz and pdfcpu: the files themselves, as
// they lie in the module cache.
func Real(root string) ([]File, error) {
	fitz, err := moduleDir(filepath.Join(root, "stages", "page-splitter"), "github.com/gen2brain/go-fitz")
	if err != nil {
		return nil, err
	}
	pdfcpu, err := moduleDir(filepath.Join(root, "e2e"), "github.com/pdfcpu/pdfcpu")
	if err != nil {
		return nil, err
	}
	return read(
		filepath.Join(root, "docs", "samples", "leafcutter.pdf"),
		filepath.Join(fitz, "testdata", "test.pdf"),
		filepath.Join(pdfcpu, "pkg", "testdata", "read.go.pdf"),
		filepath.Join(pdfcpu, "pkg", "testdata", "Wonderwall.pdf"),
	)
}

func read(paths ...string) ([]File, error) {
	var files []File
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read a real document: %w", err)
		}
		files = append(files, File{filepath.Base(path), data})
	}
	return files, nil
}

// moduleDir is where the version of a module lies that the module in dir requires.
func moduleDir(dir, path string) (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			err = fmt.Errorf("%w: %s", err, ended.Stderr)
		}
		return "", fmt.Errorf("find the module %s: %w", path, err)
	}
	found := strings.TrimSpace(string(out))
	if found == "" {
		return "", fmt.Errorf("the module %s is not in the module cache: run make build", path)
	}
	return found, nil
}

// noConfigDir keeps pdfcpu from making a folder in the user's home. It sets a variable of pdfcpu's that every call reads, and
// tests call side by side.
var noConfigDir = sync.OnceFunc(api.DisableConfigDir)

// Pages is how many pages a PDF has, by another reader than the product's.
func Pages(pdf []byte) (int, error) {
	noConfigDir()
	n, err := api.PageCount(bytes.NewReader(pdf), nil)
	if err != nil {
		return 0, fmt.Errorf("count the pages of a PDF: %w", err)
	}
	return n, nil
}

// Encrypted is a PDF that needs a password to be opened, by AES with 256 bits.
func Encrypted(pdf []byte) ([]byte, error) {
	noConfigDir()
	var b bytes.Buffer
	if err := api.Encrypt(bytes.NewReader(pdf), &b, model.NewAESConfiguration("a password", "another", 256)); err != nil {
		return nil, fmt.Errorf("encrypt a PDF: %w", err)
	}
	return b.Bytes(), nil
}
