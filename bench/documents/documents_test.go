package documents

import (
	"testing"

	"github.com/pdfcpu/pdfcpu/pkg/api"

	"leafcutter/e2e/pipeline"
)

// The files are another project's test data: a newer version may drop or replace one.
func TestEveryDocumentIsThereAndHasPages(t *testing.T) {
	root, err := pipeline.Root()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := Paths(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 10 {
		t.Errorf("%d documents, at least 10 are wanted", len(paths))
	}
	api.DisableConfigDir() // it would be made in the user's home
	for _, path := range paths {
		if n, err := api.PageCountFile(path); err != nil || n < 1 {
			t.Errorf("%s: %d pages: %v", path, n, err)
		}
	}
}
