package dockerfile_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"leafcutter/deploy/docker/internal/dockerfile"
)

func TestParse(t *testing.T) {
	got, err := dockerfile.Parse(`# a comment
FROM golang:1.26 AS go
ENV A=1 \
    # inside
    B=2

FROM go as build
copy --from=go --chown=1:1 /a /b
RUN --mount=type=cache,target=/x \
    go build
`)
	want := []dockerfile.Stage{
		{Name: "go", From: "golang:1.26", Instructions: []dockerfile.Instruction{{Command: "ENV", Args: "A=1 B=2", Line: 3}}},
		{Name: "build", From: "go", Instructions: []dockerfile.Instruction{
			{Command: "COPY", Flags: []string{"--from=go", "--chown=1:1"}, Args: "/a /b", Line: 8},
			{Command: "RUN", Flags: []string{"--mount=type=cache,target=/x"}, Args: "go build", Line: 9},
		}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if from := got[1].Instructions[0].Flag("from"); from != "go" {
		t.Errorf("--from is %q", from)
	}
	if mode := got[1].Instructions[0].Flag("chmod"); mode != "" {
		t.Errorf("--chmod is %q", mode)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"FROM golang:1.26", "FROM a AS b\nRUN x \\", "ARG X\nFROM a AS b", "FROM a b c"} {
		if stages, err := dockerfile.Parse(text); err == nil {
			t.Errorf("%q is %+v", text, stages)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("FROM a AS b\nRUN x \\\n  y\n")
	f.Add("FROM a AS b\nCOPY --from=x --chown=1 a b")
	f.Add("\\\n\\")
	f.Fuzz(func(t *testing.T, text string) {
		stages, err := dockerfile.Parse(text)
		if err != nil && stages != nil {
			t.Errorf("%q is both refused and read", text)
		}
		line := 0
		for _, s := range stages {
			if s.Name == "" || s.From == "" {
				t.Errorf("a stage without a name in %q", text)
			}
			for _, i := range s.Instructions {
				if i.Line <= line || i.Line > strings.Count(text, "\n")+1 {
					t.Errorf("line %d after %d in %q", i.Line, line, text)
				}
				line = i.Line
			}
		}
	})
}
