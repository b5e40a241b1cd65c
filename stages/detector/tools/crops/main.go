// Command crops compares what the detector finds on pages with what other code
// cut out of them: the rectangles, and every pixel of the crops as the
// annotator cuts them. tools/tutorial_crops.py makes the reference.
//
//	go run ./tools/crops -models DIR -model NAME [-library FILE] REFERENCE
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"leafcutter/pkg/crop"
	"leafcutter/pkg/pngdec"
	"leafcutter/stages/detector"
)

// reference is a page and what was cut out of it, in falling order of score.
type reference struct {
	Page  string    `json:"page"`
	Size  [2]int    `json:"size"`
	Crops []cropped `json:"crops"`
}

// cropped is a crop: its rectangle on the page, and its pixels.
type cropped struct {
	Box    [4]int `json:"box"`
	Size   [2]int `json:"size"`
	SHA256 string `json:"sha256"` // of width × height × RGB
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("crops", flag.ContinueOnError)
	c := detector.Config{MaxPixels: 1 << 26, MaxBytes: 1 << 26}
	flags.StringVar(&c.ModelsDir, "models", "../../build/models", "folder of models")
	flags.StringVar(&c.Model, "model", "", "the model")
	flags.StringVar(&c.Library, "library", "../../build/lib/libonnxruntime.so.1.32.0", "ONNX Runtime")
	flags.StringVar(&c.CacheDir, "cache", "", "folder of prepared models; empty for the user's")
	flags.IntVar(&c.Threads, "threads", 0, "threads of one inference")
	score := flags.Float64("score", 0.9, "score from which boxes are cropped")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("the folder of the reference is wanted")
	}
	pages, err := readReference(flags.Arg(0))
	if err != nil {
		return err
	}
	d, err := detector.New(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	defer d.Close()
	same, all := 0, 0
	best := time.Duration(1 << 62)
	for _, p := range pages {
		start := time.Now()
		got, err := cut(ctx, d, filepath.Join(flags.Arg(0), p.Page), *score)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Page, err)
		}
		best = min(best, time.Since(start))
		sortCrops(p.Crops)
		equal := 0
		for _, want := range p.Crops {
			if slices.Contains(got, want) {
				equal++
			}
		}
		same, all = same+equal, all+max(len(p.Crops), len(got))
		fmt.Fprintf(out, "%s: %d of %d crops identical\n", p.Page, equal, len(p.Crops))
		if !slices.Equal(got, p.Crops) {
			fmt.Fprintf(out, "  want %v\n  got  %v\n", boxes(p.Crops), boxes(got))
		}
	}
	fmt.Fprintf(out, "%d of %d crops on %d pages are identical, %.2f s a page at best\n", same, all, len(pages), best.Seconds())
	if same != all {
		return errors.New("crops differ")
	}
	return nil
}

func readReference(dir string) ([]reference, error) {
	b, err := os.ReadFile(filepath.Join(dir, "crops.json"))
	if err != nil {
		return nil, fmt.Errorf("read reference: %w", err)
	}
	var pages []reference
	if err := json.Unmarshal(b, &pages); err != nil {
		return nil, fmt.Errorf("read reference: %w", err)
	}
	if len(pages) == 0 {
		return nil, errors.New("the reference has no page")
	}
	return pages, nil
}

// cut is what the detector and the annotator do with a page: boxes, and the
// pixels of those whose score is high enough.
func cut(ctx context.Context, d *detector.Detector, file string, score float64) ([]cropped, error) {
	png, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read page: %w", err)
	}
	found, err := d.Detect(ctx, png)
	if err != nil {
		return nil, err
	}
	page, err := pngdec.New(1 << 26).Decode(png)
	if err != nil {
		return nil, err
	}
	var crops []cropped
	for _, b := range found.Boxes {
		rect := crop.Rect(b.Rect, 0, page.Width, page.Height)
		if !(b.Score > score) || crop.Empty(rect) {
			continue
		}
		sum := sha256.New()
		for y := rect[1]; y < rect[3]; y++ {
			sum.Write(page.Row(y)[3*rect[0] : 3*rect[2]])
		}
		crops = append(crops, cropped{Box: rect, Size: [2]int{rect[2] - rect[0], rect[3] - rect[1]}, SHA256: hex.EncodeToString(sum.Sum(nil))})
	}
	sortCrops(crops)
	return crops, nil
}

func sortCrops(c []cropped) {
	slices.SortFunc(c, func(a, b cropped) int {
		return cmp.Or(slices.Compare(a.Box[:], b.Box[:]), cmp.Compare(a.SHA256, b.SHA256))
	})
}

func boxes(c []cropped) [][4]int {
	var out [][4]int
	for _, c := range c {
		out = append(out, c.Box)
	}
	return out
}
