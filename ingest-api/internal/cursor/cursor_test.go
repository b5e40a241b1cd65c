package cursor_test

import (
	"errors"
	"strings"
	"testing"

	"leafcutter/ingest-api/internal/cursor"
	"leafcutter/ingest-api/internal/problem"
)

type place struct {
	At int64  `json:"a,omitempty"`
	ID string `json:"i,omitempty"`
}

func TestRoundTrip(t *testing.T) {
	want := place{At: 1 << 60, ID: "x/ä?&"}
	text := cursor.Encode("list", &want)
	if strings.ContainsAny(text, "+/=&? ") {
		t.Errorf("%q must be escaped in a URL", text)
	}
	if got, err := cursor.Decode[place]("list", text); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := cursor.Decode[place]("list", ""); err != nil || got != (place{}) {
		t.Errorf("none: %+v, %v", got, err)
	}
	if got := cursor.Encode[place]("list", nil); got != "" {
		t.Errorf("nowhere: %q", got)
	}
	for name, bad := range map[string]string{"another list's": cursor.Encode("other", &want), "nonsense": "abc", "too long": strings.Repeat("a", 600), "not base64": "!"} {
		got, err := cursor.Decode[place]("list", bad)
		var p *problem.Problem
		if !errors.As(err, &p) || p.Code != "invalid-cursor" || got != (place{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(cursor.Encode("list", &place{At: 1, ID: "x"}))
	f.Add("")
	f.Add("bnVsbA")
	f.Add("eyJrIjoibGlzdCIsInAiOnsiYSI6MWU5OX19")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := cursor.Decode[place]("list", s)
		if err != nil {
			return
		}
		if again, err := cursor.Decode[place]("list", cursor.Encode("list", &got)); err != nil || again != got {
			t.Errorf("%q gives %+v, and that %+v, %v", s, got, again, err)
		}
	})
}
