package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every code that the stages can give is explained in docs/errors.md. The API's own are compared in its module.
func TestEveryCodeIsDocumented(t *testing.T) {
	documented, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	given := regexp.MustCompile(`(?:\b[cC]ode[A-Z]\w*\s*=|fault\.(?:AsPermanent|AsTransient|Permanentf)\()\s*"([a-z0-9-]+)"`)
	codes := 0
	for _, root := range []string{"../pkg", "../stages"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range given.FindAllSubmatch(source, -1) {
				codes++
				if !strings.Contains(string(documented), "`"+string(m[1])+"`") {
					t.Errorf("%s gives %q, which docs/errors.md does not explain", path, m[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if codes < 25 {
		t.Errorf("only %d codes were found: does the pattern still fit the code?", codes)
	}
}
