package pages_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"leafcutter/schemas/pages"
)

func TestSelection(t *testing.T) {
	for _, c := range []struct {
		in    string
		count int
		want  []int
		short string
	}{
		{"", 3, []int{1, 2, 3}, "all"},
		{"all", 3, []int{1, 2, 3}, "all"},
		{" all ", 1, []int{1}, "all"},
		{"all", 0, nil, "all"},
		{"1-", 2, []int{1, 2}, "all"},
		{"2", 3, []int{2}, "2"},
		{"1-3,7,10-", 12, []int{1, 2, 3, 7, 10, 11, 12}, "1-3,7,10-"},
		{"1-3,7,10-", 8, []int{1, 2, 3, 7}, "1-3,7,10-"},
		{"-3", 9, []int{1, 2, 3}, "1-3"},
		{"7,1-3", 9, []int{1, 2, 3, 7}, "1-3,7"},
		{"1-4,2-3,4,5", 9, []int{1, 2, 3, 4, 5}, "1-5"},
		{"3-,5", 6, []int{3, 4, 5, 6}, "3-"},
		{" 1 , 3 - 4 ", 9, []int{1, 3, 4}, "1,3-4"},
		{"007", 9, []int{7}, "7"},
		{"5-9", 4, nil, "5-9"},
		{"2147483647", 4, nil, "2147483647"},
	} {
		s, err := pages.Parse(c.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.in, err)
			continue
		}
		if got := s.Of(c.count); !slices.Equal(got, c.want) {
			t.Errorf("Parse(%q).Of(%d) = %v, want %v", c.in, c.count, got, c.want)
		}
		if got := s.String(); got != c.short {
			t.Errorf("Parse(%q).String() = %q, want %q", c.in, got, c.short)
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for in, part := range map[string]string{
		"0":                       "0",
		"1,0-3":                   "0-3",
		"1,,2":                    "",
		"1,":                      "",
		"-":                       "-",
		"3-1":                     "3-1",
		"1-2-3":                   "1-2-3",
		"+1":                      "+1",
		"1.5":                     "1.5",
		"last":                    "last",
		"1,all":                   "all",
		"99999999999999999999999": "99999999999999999999999",
		"2147483648":              "2147483648",
		"１":                       "１",
		"1;2":                     "1;2",
	} {
		_, err := pages.Parse(in)
		syntax, ok := errors.AsType[*pages.SyntaxError](err)
		if !ok {
			t.Errorf("Parse(%q) = %v, want a *SyntaxError", in, err)
			continue
		}
		if syntax.Part != part || syntax.Reason == "" || !strings.Contains(err.Error(), syntax.Reason) {
			t.Errorf("Parse(%q): part %q, reason %q, message %q; want part %q", in, syntax.Part, syntax.Reason, err, part)
		}
	}
	if _, err := pages.Parse(strings.Repeat("1,", pages.MaxLength) + "1"); err == nil {
		t.Error("a selection above MaxLength was accepted")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "all", "1-3,7,10-", "-3", "5,4-6", "0", "1--2", "2147483647", " 1 - 2 "} {
		f.Add(seed, 20)
	}
	f.Fuzz(func(t *testing.T, in string, count int) {
		count = min(max(count, 0), 1000)
		s, err := pages.Parse(in)
		if err != nil {
			if _, ok := errors.AsType[*pages.SyntaxError](err); !ok {
				t.Fatalf("Parse(%q): %v is no *SyntaxError", in, err)
			}
			return
		}
		selected := s.Of(count)
		for i, page := range selected {
			if page < 1 || page > count || i > 0 && page <= selected[i-1] {
				t.Fatalf("Parse(%q).Of(%d) = %v", in, count, selected)
			}
		}
		again, err := pages.Parse(s.String())
		if err != nil || again.String() != s.String() || !slices.Equal(again.Of(count), selected) {
			t.Fatalf("%q became %q, and that %q (%v)", in, s, again, err)
		}
	})
}
