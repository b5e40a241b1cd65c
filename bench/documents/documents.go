// Package documents gives the real PDFs that accuracy and speed are measured on, and where their headings stand. The
// files are test data of the module pdfcpu, which go.mod pins, so the Go module cache is where they come from.
package documents

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"leafcutter/bench/peers"
)

// DPI is the resolution of the pixels in this package.
const DPI = 108

// Rect is [x0,y0,x1,y1] in pixels at DPI, origin at the page's top left.
type Rect [4]float64

// Area of the rectangle; 0 where it is empty or inside out.
func (r Rect) Area() float64 { return max(0, r[2]-r[0]) * max(0, r[3]-r[1]) }

// Document is a PDF and those of its pages that have a heading.
type Document struct {
	Path    string `json:"file"`
	Entries int    `json:"entries"` // of the outline
	Missed  int    `json:"missed"`  // those that are not on their page
	Pages   []Page `json:"pages"`
}

// Page is a page with headings that the outline names.
type Page struct {
	Number  int     `json:"page"` // from 1
	Width   float64 `json:"width"`
	Height  float64 `json:"height"`
	Outline []Rect  `json:"outline"` // lines of headings that the outline names
	Font    []Rect  `json:"font"`    // lines that look like headings by their type
}

// Name of the file, without its ending.
func (d Document) Name() string { return strings.TrimSuffix(filepath.Base(d.Path), ".pdf") }

// Selection is the pages with headings.
func (d Document) Selection() peers.Selection {
	s := peers.Selection{Path: d.Path}
	for _, p := range d.Pages {
		s.Pages = append(s.Pages, p.Number)
	}
	return s
}

// Names are the files with an outline whose pages have a text layer, largest first: books, reports, specifications, in
// English and German, one and two columns, typeset and from word processors. Left out are those whose outline lists
// pages instead of headings.
func Names() []string {
	return []string{
		"gobook.0", "ECSTR11-01", "T4", "5116.DCT_Filter", "WaldenFull", "TheGoProgrammingLanguageCh1", "BuildingWebappsWithGo",
		"golang", "adobe_errata", "adobeImplOfPDFSpec", "xdp_2.0", "T6", "adobe_supplement_iso32000_1",
	}
}

// Paths are the files of Names in the module cache, downloaded where they are not there yet. root is the repository's.
func Paths(ctx context.Context, root string) ([]string, error) {
	const module = "github.com/pdfcpu/pdfcpu"
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = filepath.Join(root, "bench")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("download the module %s, whose test data are measured on: %w\n%s", module, err, out)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		return nil, fmt.Errorf("find the module %s: %w", module, err)
	}
	var paths []string
	for _, name := range Names() {
		path := filepath.Join(found.Dir, "pkg", "testdata", name+".pdf")
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("find a document: %w", err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// Headings are the documents at paths with their headings (headings.py says how these are told).
func Headings(ctx context.Context, python peers.Python, paths []string) ([]Document, error) {
	out, err := python.Run(ctx, filepath.Join("bench", "documents", "headings.py"), paths...)
	if err != nil {
		return nil, err
	}
	var documents []Document
	if err := json.Unmarshal(out, &documents); err != nil {
		return nil, fmt.Errorf("read the headings: %w", err)
	}
	return documents, nil
}
