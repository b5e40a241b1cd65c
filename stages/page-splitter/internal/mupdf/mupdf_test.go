package mupdf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"leafcutter/stages/page-splitter/internal/testpdf"
)

// The documents here are the tests' own, so opening them in this process is safe.

func open(t *testing.T, content []byte) *Document {
	t.Helper()
	doc, err := Open(written(t, content), int64(len(content)), KindPDF)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(doc.Close)
	return doc
}

// written returns the descriptor of a file with the content, which is open until
// the test ends.
func written(t *testing.T, content []byte) int {
	t.Helper()
	path := filepath.Join(t.TempDir(), "document")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() }) // read only
	return int(file.Fd())
}

func TestOpenRefuses(t *testing.T) {
	// Only the parser of the kind that was asked for is reachable.
	for _, content := range []string{"", "nothing to see", `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>`, "P1 1 1 1", "<html>x</html>"} {
		if doc, err := Open(written(t, []byte(content)), int64(len(content)), KindPDF); !errors.Is(err, ErrBroken) || doc != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestPageTree: whatever its tree looks like, a document's pages are where they are
// by the tree.
func TestPageTree(t *testing.T) {
	tree := string(testpdf.Tree(1234))
	for name, c := range map[string]struct {
		document string
		pages    map[int]string // number, from 0: its text
	}{
		"nodes":       {tree, map[int]string{0: "1", 9: "10", 10: "11", 1000: "1001", 1233: "1234"}},
		"page twice":  {strings.Replace(tree, "/Kids [128 0 R 130 0 R", "/Kids [128 0 R 128 0 R", 1), map[int]string{0: "1", 1: "1", 2: "3"}},
		"swapped":     {strings.Replace(tree, "/Kids [4 0 R 5 0 R", "/Kids [5 0 R 4 0 R", 1), map[int]string{0: "11", 10: "1", 20: "21"}},
		"fewer":       {strings.Replace(tree, "/Count 1234", "/Count 9999", 1), map[int]string{0: "1", 1233: "1234"}},
		"cycle":       {strings.Replace(tree, "/Kids [4 0 R 5 0 R", "/Kids [4 0 R 2 0 R", 1), map[int]string{0: "1", 9: "10"}},
		"no table":    {strings.Replace(tree, "startxref", "startnone", 1), map[int]string{0: "1", 1233: "1234"}},
		"wrong place": {strings.Replace(tree, "\n1500 0 obj", "\n\n\n1500 0 obj", 1), map[int]string{0: "1", 1233: "1234"}},
	} {
		t.Run(name, func(t *testing.T) {
			doc := open(t, []byte(c.document))
			for number, want := range c.pages {
				if got := text(t, doc, number); got != want {
					t.Errorf("page %d says %q, want %q", number, got, want)
				}
			}
		})
	}
}

// text returns the only line of a page, counted from 0.
func text(t *testing.T, doc *Document, number int) string {
	t.Helper()
	width, height, err := doc.Load(number)
	if err != nil {
		t.Fatal(err)
	}
	page, err := doc.Render(1, int(width), int(height), true)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Drop()
	if len(page.Lines) != 1 {
		t.Fatalf("page %d has lines %+v", number, page.Lines)
	}
	return page.Lines[0].Text
}

// TestHostileText: a font may map its glyphs to any character. Whatever they are,
// the page has its text, and it is clean UTF-8.
func TestHostileText(t *testing.T) {
	targets := []string{"0001", "0022", "005C", "000A", "D800", "FFFE", "0000", "202E", "D83DDE00", "2028", "007F", "FFFF", "0041"}
	cmap := &strings.Builder{}
	cmap.WriteString("/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <ff> endcodespacerange\n")
	text := &strings.Builder{}
	for i, target := range targets {
		fmt.Fprintf(cmap, "1 beginbfchar <%02x> <%s> endbfchar\n", 0x41+i, target)
		fmt.Fprintf(text, "%02x", 0x41+i)
	}
	cmap.WriteString("endcmap end end")
	doc := open(t, testpdf.Document([]testpdf.Page{{
		Content:   fmt.Sprintf("BT /G 20 Tf 50 700 Td <%s> Tj ET BT /F 20 Tf 50 600 Td (after) Tj ET", text),
		Resources: "/Font << /F 3 0 R /G 4 0 R >>",
	}}, "<< /Type /Font /Subtype /Type1 /BaseFont /Courier /ToUnicode 5 0 R >>", testpdf.Stream("", []byte(cmap.String()))))
	width, height, err := doc.Load(0)
	if err != nil {
		t.Fatal(err)
	}
	page, err := doc.Render(1, int(width), int(height), true)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Drop()
	if len(page.Lines) == 0 || page.Lines[len(page.Lines)-1].Text != "after" {
		t.Errorf("lines %+v", page.Lines)
	}
	for _, l := range page.Lines {
		if !utf8.ValidString(l.Text) || strings.ContainsFunc(l.Text, unicode.IsControl) {
			t.Errorf("line %q", l.Text)
		}
	}
}

func FuzzParseText(f *testing.F) {
	f.Add([]byte(`{"blocks":[{"type":"text","lines":[{"wmode":0,"bbox":{"x":1,"y":2,"w":3,"h":4},"text":" a  b "}]}]}`))
	f.Add([]byte(`{"blocks":[{"lines":[{"text":"\ud800\u0000"}]}]}`))
	f.Add([]byte(`{"blocks":[{"lines":[{"bbox":{"x":1e999}}]}]}`))
	f.Add([]byte("{\"blocks\":[{\"lines\":[{\"text\":\"\x01\xff\"}]}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := parseText(data)
		if err != nil && !errors.Is(err, ErrBroken) {
			t.Fatal(err)
		}
		for _, l := range lines {
			if l.Text == "" || strings.TrimSpace(l.Text) != l.Text || !utf8.ValidString(l.Text) || strings.ContainsFunc(l.Text, unicode.IsControl) {
				t.Fatalf("line %q", l.Text)
			}
		}
	})
}
