package datadir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"leafcutter/deploy/local/internal/datadir"
)

func TestSecondHolderIsRefusedUntilRelease(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	first, err := datadir.Take(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = datadir.Take(dir)
	if err == nil {
		t.Fatal("two holders")
	}
	if want := fmt.Sprintf("process %d", os.Getpid()); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
		t.Errorf("refusal %q names neither %q nor %s", err, want, dir)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := datadir.Take(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	if err := second.Release(); err != nil {
		t.Fatal(err)
	}
}
