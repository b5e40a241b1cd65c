package mupdf

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"leafcutter/stages/page-splitter/internal/testpdf"
)

// The documents here are the tests' own, so opening them in this process is safe.

func open(t *testing.T, content []byte) *Document {
	t.Helper()
	pinner := new(runtime.Pinner)
	pinner.Pin(&content[0])
	doc, err := Open(content, KindPDF)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { doc.Close(); pinner.Unpin() })
	return doc
}

func TestOpenRefuses(t *testing.T) {
	for name, content := range map[string][]byte{"empty": nil, "text": []byte("nothing to see")} {
		if doc, err := Open(content, KindPDF); !errors.Is(err, ErrBroken) || doc != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Only the parser of the kind that was asked for is reachable.
	for _, content := range []string{`<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>`, "P1 1 1 1", "<html>x</html>"} {
		if _, err := Open([]byte(content), KindPDF); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", content, err)
		}
	}
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
