package pagesplitter

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"leafcutter/stages/page-splitter/internal/testpdf"
)

func TestPageToolRendersOnePage(t *testing.T) {
	file, text := filepath.Join(t.TempDir(), "two.pdf"), filepath.Join(t.TempDir(), "notes.txt")
	pages := []testpdf.Page{{MediaBox: "0 0 200 100"}, {MediaBox: "0 0 100 200"}}
	if err := os.WriteFile(file, testpdf.Document(pages), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, []byte("no document"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-page", "2", "-dpi", "72", file}, 0, ""},
		{[]string{"-page", "3", file}, 1, "unreadable-page: "},
		{[]string{text}, 1, "unsupported-type: "},
		{[]string{filepath.Join(t.TempDir(), "none.pdf")}, 1, "opening the document: "},
		{[]string{"-dpi", "9999", file}, 2, "render-page: "},
		{[]string{file, "-page", "2"}, 2, "render-page: "},
	} {
		args := append([]string{"page-splitter", "render-page"}, c.args...)
		if !IsPageTool(args) {
			t.Fatalf("%v renders no page", args)
		}
		var out, complaints bytes.Buffer
		if code := PageTool(t.Context(), args, &out, &complaints); code != c.code || !strings.HasPrefix(complaints.String(), c.want) {
			t.Errorf("%v: %d: %s", c.args, code, &complaints)
		}
		if c.code != 0 {
			continue
		}
		if img, err := png.DecodeConfig(&out); err != nil || img.Width != 100 || img.Height != 200 {
			t.Errorf("%v: %+v, %v", c.args, img, err)
		}
	}
}
