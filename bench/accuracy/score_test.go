package main

import (
	"testing"

	"leafcutter/bench/documents"
)

// A page of 900×1200 with two headings that the outline names and one that only its type tells.
func page() documents.Document {
	return documents.Document{Path: "a.pdf", Pages: []documents.Page{{
		Number: 7, Width: 900, Height: 1200,
		Outline: []documents.Rect{{100, 100, 500, 130}, {100, 600, 300, 620}},
		Font:    []documents.Rect{{100, 100, 500, 130}, {100, 900, 400, 925}},
	}}}
}

func TestScore(t *testing.T) {
	for name, c := range map[string]struct {
		boxes []documents.Rect
		want  tally
	}{
		"nothing found":                     {nil, tally{2, 0, 0, 0}},
		"both, exactly":                     {[]documents.Rect{{100, 100, 500, 130}, {100, 600, 300, 620}}, tally{2, 2, 2, 2}},
		"30 % of the line is enough":        {[]documents.Rect{{100, 100, 220, 130}}, tally{2, 1, 1, 1}},
		"29 % is not":                       {[]documents.Rect{{100, 100, 216, 130}}, tally{2, 0, 1, 0}},
		"one box over two headings":         {[]documents.Rect{{100, 400, 700, 700}, {100, 90, 700, 140}}, tally{2, 2, 2, 2}},
		"two boxes on one heading":          {[]documents.Rect{{100, 100, 300, 130}, {300, 100, 500, 130}}, tally{2, 1, 2, 2}},
		"a heading told by type alone":      {[]documents.Rect{{90, 890, 410, 930}}, tally{2, 0, 1, 1}},
		"on no heading":                     {[]documents.Rect{{100, 300, 500, 330}}, tally{2, 0, 1, 0}},
		"over the page: neither hit counts": {[]documents.Rect{{0, 0, 900, 1200}}, tally{2, 0, 1, 0}},
		"inside out":                        {[]documents.Rect{{500, 130, 100, 100}}, tally{2, 0, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			missed, alarms := 0, 0
			got := score(page(), map[int][]documents.Rect{7: c.boxes, 8: {{100, 100, 500, 130}}},
				func(int, documents.Rect) { missed++ }, func(int, documents.Rect) { alarms++ })
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if missed != got.Headings-got.Found || alarms != got.Titles-got.Right {
				t.Errorf("told of %d missed and %d alarms with %+v", missed, alarms, got)
			}
		})
	}
}

func TestTheBars(t *testing.T) {
	good := tally{Headings: 100, Found: 88, Titles: 100, Right: 80}
	for name, c := range map[string]struct {
		ours, theirs tally
		ok           bool
	}{
		"reached":               {good, tally{Headings: 100, Found: 90}, true},
		"behind the peer":       {good, tally{Headings: 100, Found: 91}, false},
		"recall too low":        {tally{Headings: 100, Found: 84, Titles: 100, Right: 80}, tally{Headings: 100, Found: 84}, false},
		"precision too low":     {tally{Headings: 100, Found: 90, Titles: 100, Right: 74}, tally{Headings: 100, Found: 90}, false},
		"nothing was submitted": {tally{}, tally{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := result{[]row{{name: "a", ours: c.ours, theirs: c.theirs}}}.check()
			if (err == nil) != c.ok {
				t.Error(err)
			}
		})
	}
}
