package family_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/session"
)

// graphOf is what a model file says of itself.
func graphOf(t *testing.T, r *session.Runtime, path string) family.Graph {
	t.Helper()
	inputs, outputs, err := r.Ports(path)
	if err != nil {
		t.Fatal(err)
	}
	var g family.Graph
	for _, p := range inputs {
		g.Inputs = append(g.Inputs, family.Port(p))
	}
	for _, p := range outputs {
		g.Outputs = append(g.Outputs, family.Port(p))
	}
	return g
}

func object(t *testing.T, b []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// modelDirs are the tiny models and the default one.
func modelDirs(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("../../testdata/families/*")
	if err != nil {
		t.Fatal(err)
	}
	return append(dirs, "../../../../build/models/layout_cdla")
}

func TestAModelFileTellsItsManifest(t *testing.T) {
	r := library(t)
	for _, dir := range modelDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, err := manifest.Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			g := graphOf(t, r, filepath.Join(dir, m.File))
			if err := family.Check(m, g); err != nil {
				t.Errorf("its own manifest is refused: %v", err)
			}
			guess, classes, err := family.Infer(g)
			if err != nil {
				t.Fatal(err)
			}
			options := object(t, m.Options)
			delete(options, "whole_pixels") // a wish, not a fact of the file
			if guess.Family != m.Family || !reflect.DeepEqual(object(t, guess.Options), options) {
				t.Errorf("taken for %s with %s, want %s with %s", guess.Family, guess.Options, m.Family, m.Options)
			}
			if classes != 0 && classes != len(m.Classes) {
				t.Errorf("%d classes, want %d", classes, len(m.Classes))
			}
			if guess.Input.Name != m.Input.Name || guess.Input.Width != m.Input.Width || guess.Input.Varies() != m.Input.Varies() {
				t.Errorf("input %+v, want %+v", guess.Input, m.Input)
			}
			// With a name, classes and the like it is a manifest that works.
			guess.Name, guess.Version, guess.File, guess.SHA256, guess.Provider = m.Name, "1", m.File, m.SHA256, "cpu"
			guess.Classes, guess.ScoreFloor, guess.Thresholds = m.Classes, m.ScoreFloor, m.Thresholds
			if err := errors.Join(guess.Validate(), family.Check(guess, g)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckExplainsWhatDoesNotFit(t *testing.T) {
	r := library(t)
	read := func(name string) manifest.Manifest {
		m, err := manifest.Read("../../testdata/families/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	graph := func(name string) family.Graph { return graphOf(t, r, "../../testdata/families/"+name+"/model.onnx") }

	yolo, cells := read("yolo"), graph("yolo")
	fewer := yolo
	fewer.Classes = yolo.Classes[:2]
	larger := yolo
	larger.Input.Width, larger.Input.Height = 640, 640
	misnamed := yolo
	misnamed.Input.Name = "image"
	renamed := yolo
	renamed.Options = []byte(`{"output":"output"}`)
	half := family.Graph{Inputs: []family.Port{{Name: "images", Type: "float16", Shape: []int64{1, 3, 160, 128}}}, Outputs: cells.Outputs}
	rcnn := read("faster_rcnn")
	baked := graph("faster_rcnn")
	baked.Inputs = []family.Port{{Name: "image", Type: "float32", Shape: []int64{3, 800, 1067}}}
	labels := graph("rtdetr_labels")
	lone := family.Graph{Inputs: labels.Inputs[:1], Outputs: labels.Outputs}
	logits := read("rtdetr_logits")
	logits.Input.Name = "images"

	for name, c := range map[string]struct {
		m    manifest.Manifest
		g    family.Graph
		want []string
	}{
		"a class less":          {fewer, cells, []string{"output0 float32 [1 7 420]", "want output0 float32 [1 6 420]", "the model knows 3, the manifest names 2"}},
		"another size":          {larger, cells, []string{"images float32 [1 3 160 128], want [1 3 640 640]", "[1 7 8400]"}},
		"another input name":    {misnamed, cells, []string{`no input "image"; it has images float32 [1 3 160 128]`, "wants another input, images"}},
		"another output name":   {renamed, cells, []string{`no output "output"; it has output0`}},
		"half precision":        {yolo, half, []string{"want float32"}},
		"another family":        {yolo, graph("faster_rcnn"), []string{`no input "images"`, "those of the family faster-rcnn"}},
		"a yolo as R-CNN":       {rcnn, cells, []string{"those of the family yolo"}},
		"a size baked in":       {rcnn, baked, []string{"the size is fixed", "dynamic axes"}},
		"no second input":       {read("rtdetr_labels"), lone, []string{`no second input "orig_target_sizes"`}},
		"a second input":        {logits, labels, []string{"wants another input, orig_target_sizes int64"}},
		"end to end or not":     {read("yolo_end_to_end"), cells, []string{"want output0 float32 [1 n 6]"}},
		"a manifest with flaws": {manifest.Manifest{Family: "yolo9000"}, cells, []string{"picodet, yolo, rt-detr, faster-rcnn, mask-rcnn"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := family.Check(c.m, c.g)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in:\n%v", w, err)
				}
			}
		})
	}
}

func TestInferRefusesWhatIsOfNoFamily(t *testing.T) {
	image := family.Port{Name: "x", Type: "float32", Shape: []int64{1, 3, 224, 224}}
	for name, g := range map[string]family.Graph{
		"a classifier": {Inputs: []family.Port{image}, Outputs: []family.Port{{Name: "p", Type: "float32", Shape: []int64{1, 1000}}}},
		"text":         {Inputs: []family.Port{{Name: "ids", Type: "int64", Shape: []int64{1, -1}}}, Outputs: []family.Port{{Name: "y", Type: "float32", Shape: []int64{1, -1, 6}}}},
		"nothing":      {},
		"no shapes":    {Inputs: []family.Port{{Name: "x", Type: "float32"}}, Outputs: []family.Port{{Name: "y", Type: "float32"}}},
		"a sequence":   {Inputs: []family.Port{image}, Outputs: []family.Port{{Name: "y", Type: "sequence"}}},
	} {
		if m, _, err := family.Infer(g); !errors.Is(err, family.ErrUnknown) {
			t.Errorf("%s: taken for %q, %v", name, m.Family, err)
		}
	}
}

func TestOptionsOfEachFamilyAreChecked(t *testing.T) {
	fixed := manifest.Input{Name: "x", Width: 64, Height: 64, Channels: "rgb"}
	varies := manifest.Input{Name: "x", ShortestEdge: 80, LongestEdge: 133, Channels: "rgb"}
	area, scaled := fixed, varies
	area.Resize = manifest.Area
	scaled.Std = [3]float64{1, 1, 1}
	for name, c := range map[string]struct {
		family  string
		input   manifest.Input
		options string
		want    []string
	}{
		"yolo without output":   {family.YOLO, fixed, ``, []string{"options.output"}},
		"yolo of any size":      {family.YOLO, varies, `{"output":"o"}`, []string{"give width and height"}},
		"yolo by area":          {family.YOLO, area, `{"output":"o"}`, []string{"input.resize"}},
		"yolo's strides":        {family.YOLO, fixed, `{"output":"o","strides":[8,0,48]}`, []string{"strides[1]", "strides[2]"}},
		"strides without cells": {family.YOLO, fixed, `{"output":"o","end_to_end":true,"strides":[8]}`, []string{"has no cells"}},
		"a mistyped option":     {family.YOLO, fixed, `{"outputs":"o"}`, []string{"outputs"}},
		"rt-detr of both forms": {family.RTDETR, fixed, `{"boxes":"b","logits":"l","scores":"s"}`, []string{"either"}},
		"rt-detr of neither":    {family.RTDETR, fixed, `{}`, []string{"options.boxes", "either"}},
		"rt-detr in part":       {family.RTDETR, fixed, `{"boxes":"b","labels":"l","scores":"s"}`, []string{"either"}},
		"rcnn of one size":      {family.FasterRCNN, fixed, `{}`, []string{"options.boxes", "options.classes", "options.scores", "shortest_edge"}},
		"rcnn normalised":       {family.FasterRCNN, scaled, `{"boxes":"b","classes":"c","scores":"s"}`, []string{"normalises by itself"}},
		"masks without masks":   {family.FasterRCNN, varies, `{"boxes":"b","classes":"c","scores":"s","masks":"m"}`, []string{"mask-rcnn"}},
		"picodet of any size":   {family.PicoDet, varies, `{"bins":8,"heads":[{"stride":8,"scores":"s","boxes":"b"}]}`, []string{"give width and height", "input.resize", "input.mean"}},
	} {
		_, err := family.New(manifest.Manifest{Family: c.family, Input: c.input, Options: []byte(c.options), Classes: []string{"a"}})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in: %v", name, w, err)
			}
		}
	}
	if names := family.Names(); !slices.Contains(names, family.MaskRCNN) || len(names) != 5 {
		t.Errorf("families: %v", names)
	}
}
