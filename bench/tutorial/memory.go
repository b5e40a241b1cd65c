package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"leafcutter/e2e/pipeline"
	"leafcutter/pkg/pngdec"
	"leafcutter/pkg/pngenc"
)

// footprint is the resident memory of a detector's process at most, in bytes.
type footprint struct {
	model        string
	first, later int64 // at its first start with the model, and at another
	child        int64 // of the process that prepared it
	most         int   // boxes on a page
}

// memoryOf runs a detector twice with nothing set but where things are: on the pages given, and on one upright and one
// lying page that a model like this takes at its largest, 800 × 1,333.
func memoryOf(ctx context.Context, p plan, work, model string, pages []page) (footprint, error) {
	f := footprint{model: model}
	long, err := longest(pages)
	if err != nil {
		return f, err
	}
	cache := filepath.Join(work, "memory-"+model)
	for range 2 {
		o, child, err := footprintOnce(ctx, p, model, cache, append(long, pages...))
		if err != nil {
			return f, err
		}
		if f.first == 0 {
			f.first, f.child = o.peak, child
		}
		f.later = o.peak
		for _, found := range o.pages {
			f.most = max(f.most, len(found.boxes))
		}
	}
	return f, nil
}

func footprintOnce(ctx context.Context, p plan, model, cache string, pages []page) (all pass, child int64, err error) {
	s, err := startDetector(ctx, p.binary, p.models, model, cache, pages)
	if err != nil {
		return all, 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for range 2 {
		if all, err = s.all(ctx); err != nil {
			return all, 0, err
		}
	}
	return all, s.child, nil
}

// longest are a page of 918 × 1,530 pixels, which is scaled to 800 × 1,333, and the same on its side. They hold what there
// is on the pages given, as much of it as fits.
func longest(pages []page) ([]page, error) {
	const width, height = 918, 1530
	upright := bytes.Repeat([]byte{255}, 3*width*height)
	y := 0
	for i := 0; y < height; i++ {
		image, err := pngdec.New(1 << 26).Decode(pages[i%len(pages)].png)
		if err != nil {
			return nil, fmt.Errorf("decode page: %w", err)
		}
		for row := 0; row < image.Height && y < height; row, y = row+1, y+1 {
			copy(upright[3*width*y:3*width*(y+1)], image.Row(row))
		}
	}
	lying := make([]byte, len(upright))
	for y := range height {
		for x := range width {
			copy(lying[3*(x*height+y):][:3], upright[3*(y*width+x):][:3])
		}
	}
	var all []page
	for _, one := range []struct {
		name          string
		pix           []byte
		width, height int
	}{{"upright.png", upright, width, height}, {"lying.png", lying, height, width}} {
		var b bytes.Buffer
		if err := new(pngenc.Encoder).EncodeRGB(&b, one.pix, one.width, one.height, 3*one.width); err != nil {
			return nil, fmt.Errorf("encode page: %w", err)
		}
		all = append(all, page{one.name, b.Bytes(), one.width, one.height})
	}
	return all, nil
}

// peakOfChildren is the resident memory of the largest child of a process at most, until ctx ends.
func peakOfChildren(ctx context.Context, pid int) (largest int64) {
	for {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // of each thread
		for _, file := range tasks {
			b, err := os.ReadFile(file)
			if err != nil {
				continue // it has ended meanwhile
			}
			for child := range strings.FieldsSeq(string(b)) {
				if n, err := strconv.Atoi(child); err == nil {
					if _, peak, err := pipeline.Memory(n); err == nil {
						largest = max(largest, peak)
					}
				}
			}
		}
		select {
		case <-ctx.Done():
			return largest
		case <-time.After(50 * time.Millisecond):
		}
	}
}
