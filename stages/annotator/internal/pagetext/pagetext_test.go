package pagetext

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"leafcutter/schemas"
)

func line(text string, x0, y0, x1, y1 float64) schemas.TextLine {
	return schemas.TextLine{Text: text, Rect: [4]float64{x0, y0, x1, y1}}
}

func TestAssign(t *testing.T) {
	box := [4]float64{100, 100, 300, 200}
	for _, c := range []struct {
		name  string
		lines []schemas.TextLine
		want  string
	}{
		{"inside", []schemas.TextLine{line("a heading", 110, 110, 200, 130)}, "a heading"},
		{"in the order of the lines, not from top to bottom", []schemas.TextLine{line("first", 110, 160, 200, 170), line("second", 110, 110, 200, 120)}, "first\nsecond"},
		{"just more than half of its width", []schemas.TextLine{line("x", 199, 110, 400, 130)}, "x"},
		{"just half of its width", []schemas.TextLine{line("x", 200, 110, 400, 130)}, ""},
		{"more than half of its height", []schemas.TextLine{line("x", 110, 91, 200, 110)}, "x"},
		{"a core that is out by a corner", []schemas.TextLine{line("x", 60, 82, 160, 112)}, ""},
		{"a box as high as the ink, a line as high as its font", []schemas.TextLine{line("x", 104, 60, 296, 240)}, "x"},
		{"a line beside the ink of the next", []schemas.TextLine{line("x", 110, 75, 290, 104)}, ""},
		{"written upwards", []schemas.TextLine{line("x", 85, 110, 125, 190)}, "x"},
		{"outside", []schemas.TextLine{line("x", 310, 110, 400, 130)}, ""},
		{"touching", []schemas.TextLine{line("x", 300, 110, 400, 130)}, ""},
		{"no area, middle inside", []schemas.TextLine{line("x", 150, 150, 150, 170)}, "x"},
		{"no area, middle outside", []schemas.TextLine{line("x", 50, 150, 50, 170)}, ""},
		{"inside out", []schemas.TextLine{line("x", 200, 130, 110, 110)}, "x"},
		{"beyond all numbers", []schemas.TextLine{line("x", -1.7e308, -1.7e308, 1.7e308, 1.7e308)}, ""},
		{"blank lines are left out", []schemas.TextLine{line("a", 110, 110, 200, 120), line(" \t ", 110, 130, 200, 140), line("b", 110, 150, 200, 160)}, "a\nb"},
		{"a line of text is one line", []schemas.TextLine{line(" a\nb\x00c\u2028d\u0085e ", 110, 110, 200, 120)}, "a b c d e"},
		{"not UTF-8", []schemas.TextLine{line("a\xffb", 110, 110, 200, 120)}, "a\uFFFDb"},
		{"letters of any script", []schemas.TextLine{line("Überschrift 図 1", 110, 110, 200, 120)}, "Überschrift 図 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Assign(c.lines, []schemas.Box{{Rect: box}})
			if diff := cmp.Diff([]string{c.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAssignGivesALineToEveryBoxThatHoldsIt(t *testing.T) {
	lines := []schemas.TextLine{line("table", 20, 20, 80, 30), line("cell", 20, 60, 80, 70)}
	boxes := []schemas.Box{{Rect: [4]float64{0, 0, 100, 100}}, {Rect: [4]float64{0, 50, 100, 100}}, {Rect: [4]float64{0, 200, 100, 300}}}
	if diff := cmp.Diff([]string{"table\ncell", "cell", ""}, Assign(lines, boxes)); diff != "" {
		t.Error(diff)
	}
	if got := Assign(nil, boxes); len(got) != 3 {
		t.Errorf("without lines: %q", got)
	}
}

func TestAssignCutsAtACharacter(t *testing.T) {
	for shift := range 4 {
		text := strings.Repeat("a", shift) + strings.Repeat("図", MaxBox)
		got := Assign([]schemas.TextLine{line(text, 0, 0, 10, 10)}, []schemas.Box{{Rect: [4]float64{0, 0, 10, 10}}})[0]
		if !utf8.ValidString(got) || len(got) > MaxBox || len(got) < MaxBox-2 || !strings.HasPrefix(text, got) {
			t.Errorf("shift %d: %d bytes, valid %v", shift, len(got), utf8.ValidString(got))
		}
	}
}

func TestAssignKeepsTheRecordSmall(t *testing.T) {
	lines := []schemas.TextLine{line(strings.Repeat("<", MaxBox), 0, 0, 10, 10)} // six bytes each in JSON
	boxes := make([]schemas.Box, 1000)
	for i := range boxes {
		boxes[i].Rect = [4]float64{0, 0, 10, 10}
	}
	texts := Assign(lines, boxes)
	if texts[0] == "" || texts[999] != "" {
		t.Errorf("the first box has %d bytes, the last %d", len(texts[0]), len(texts[999]))
	}
	b, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > MaxPage+4*len(boxes) {
		t.Errorf("%d bytes of JSON", len(b))
	}
}

func TestAssignIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		coordinate := rapid.Float64()
		rect := rapid.Custom(func(t *rapid.T) [4]float64 {
			return [4]float64{coordinate.Draw(t, "x0"), coordinate.Draw(t, "y0"), coordinate.Draw(t, "x1"), coordinate.Draw(t, "y1")}
		})
		lines := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) schemas.TextLine {
			return schemas.TextLine{Text: rapid.String().Draw(t, "text"), Rect: rect.Draw(t, "line")}
		}), 0, 20).Draw(t, "lines")
		boxes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) schemas.Box {
			return schemas.Box{Rect: rect.Draw(t, "box")}
		}), 0, 10).Draw(t, "boxes")
		texts := Assign(lines, boxes)
		if len(texts) != len(boxes) {
			t.Fatalf("%d texts for %d boxes", len(texts), len(boxes))
		}
		for _, text := range texts {
			b, err := json.Marshal(text)
			if err != nil || len(text) > MaxBox || !utf8.ValidString(text) || len(b) > inJSON(text)+2 {
				t.Fatalf("text of %d bytes, %d in JSON, counted %d: %q", len(text), len(b), inJSON(text), text)
			}
		}
	})
}

func TestDecode(t *testing.T) {
	want := []schemas.TextLine{line("one", 1, 2, 3.5, 4), line("two", 5, 6, 7, 8)}
	plain, err := json.Marshal(schemas.PageText{Lines: want})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"as the splitter writes it": string(plain),
		"with fields of the future": `{"version":{"a":[1,{}]},` + string(plain[1:len(plain)-1]) + `,"words":[[]]}` + "\n",
	} {
		got, err := Decode([]byte(data))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	for _, empty := range []string{`{}`, `{"lines":[]}`, `{"lines":null}`} {
		if got, err := Decode([]byte(empty)); err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v", empty, got, err)
		}
	}
	for _, bad := range []string{``, `[]`, `7`, `{"lines":7}`, `{"lines":[7]}`, `{"lines":[{"box":[1,2,"x"]}]}`, string(plain[:len(plain)-2]), string(plain) + "{}"} {
		if got, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %v", bad, got)
		}
	}
}

func TestDecodeStopsAtMaxLines(t *testing.T) {
	got, err := Decode([]byte(`{"lines":[` + strings.Repeat("{},", MaxLines+5) + `{}]}`))
	if err != nil || len(got) != MaxLines {
		t.Errorf("%d lines, %v", len(got), err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"lines":[{"text":"a","box":[0,0,1,1]}]}`, `{"lines":[{"text":"\ud800"}],"lines":[]}`, `{"x":[{"y":null}],"lines":[{}]}`, `{"lines":null}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := Decode(data)
		if err != nil {
			return
		}
		// What is accepted is JSON of the right shape, and can be assigned.
		var whole struct{ Lines []json.RawMessage }
		if err := json.Unmarshal(data, &whole); err != nil && len(lines) < MaxLines {
			t.Fatalf("accepted what is not a PageText: %v", err)
		}
		for _, text := range Assign(lines, []schemas.Box{{Rect: [4]float64{0, 0, 1e6, 1e6}}}) {
			if len(text) > MaxBox || !utf8.ValidString(text) {
				t.Fatalf("text of %d bytes, valid %v", len(text), utf8.ValidString(text))
			}
		}
	})
}

// BenchmarkAssign: a page of 60 lines and 20 boxes, as most are; then a newspaper's.
func BenchmarkAssign(b *testing.B) {
	for _, size := range []struct{ lines, boxes int }{{60, 20}, {1000, 200}} {
		b.Run(fmt.Sprintf("%dlines/%dboxes", size.lines, size.boxes), func(b *testing.B) {
			var page schemas.PageText
			for i := range size.lines {
				y := float64(i * 20)
				page.Lines = append(page.Lines, line("a line of some eighty characters, as they stand in books and in reports", 80, y, 800, y+18))
			}
			boxes := make([]schemas.Box, size.boxes)
			for i := range boxes {
				y := float64(i * 60)
				boxes[i].Rect = [4]float64{70, y, 820, y + 60}
			}
			data, err := json.Marshal(page)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				lines, err := Decode(data)
				if err != nil {
					b.Fatal(err)
				}
				if texts := Assign(lines, boxes); texts[0] == "" {
					b.Fatal("no text")
				}
			}
		})
	}
}
