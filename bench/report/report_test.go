package report

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAPageKeepsWhatIsAroundAPartAndItsHistory(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "docs", "a.md")
	before := "Before.\n\n<!-- now -->\nold\n<!-- /now -->\n\n<!-- history -->\n| a | b |\n|---|---|\n| 1 | 2 |\n<!-- /history -->\n\nAfter.\n"
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	page, err := Open(root, "a.md")
	if err != nil {
		t.Fatal(err)
	}
	if err := page.Replace("now", []byte("new\n")); err != nil {
		t.Error(err)
	}
	if err := page.Prepend("history", Table{{"a", "b"}, {"3", "4"}}); err != nil {
		t.Error(err)
	}
	if err := page.Replace("nowhere", nil); err == nil {
		t.Error("a part that is not there is replaced")
	}
	if err := page.Save(); err != nil {
		t.Fatal(err)
	}
	want := "Before.\n\n<!-- now -->\nnew\n<!-- /now -->\n\n<!-- history -->\n| a | b |\n|---|---|\n| 3 | 4 |\n| 1 | 2 |\n<!-- /history -->\n\nAfter.\n"
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
}
