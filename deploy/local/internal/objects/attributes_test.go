package objects

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/versity/versitygw/backend/meta"
)

func newAttributes(t *testing.T) *attributes { return &attributes{dir: t.TempDir()} }

func store(t *testing.T, a *attributes, object, name, value string) {
	t.Helper()
	if err := a.StoreAttribute(nil, "b", object, name, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func wantValue(t *testing.T, a *attributes, object, name, want string) {
	t.Helper()
	got, err := a.RetrieveAttribute(nil, "b", object, name)
	if err != nil || string(got) != want {
		t.Errorf("%s of %q: %q, %v, want %q", name, object, got, err, want)
	}
}

func wantNone(t *testing.T, a *attributes, object, name string) {
	t.Helper()
	if got, err := a.RetrieveAttribute(nil, "b", object, name); !errors.Is(err, meta.ErrNoSuchKey) {
		t.Errorf("%s of %q: %q, %v, want none", name, object, got, err)
	}
}

// The last value holds, values are any bytes, and what is deleted is gone, with the folders that nothing needs.
func TestAttributes(t *testing.T) {
	a := newAttributes(t)
	store(t, a, "", "acl", "{}")
	odd := "a \"quoted\"\nline \x00\xff -"
	for _, value := range []string{"first", "", odd} {
		store(t, a, "x/y.png", "etag", value)
		wantValue(t, a, "x/y.png", "etag", value)
	}
	store(t, a, "x/y.png", "content-type", "image/png")
	if names, err := a.ListAttributes("b", "x/y.png"); err != nil || strings.Join(names, " ") != "content-type etag" {
		t.Errorf("names %q, %v", names, err)
	}
	if err := a.DeleteAttribute("b", "x/y.png", "etag"); err != nil {
		t.Fatal(err)
	}
	wantNone(t, a, "x/y.png", "etag")
	wantNone(t, a, "x", "etag")
	wantValue(t, a, "x/y.png", "content-type", "image/png")
	for _, gone := range []string{"etag", "never"} {
		if err := a.DeleteAttribute("b", "x/y.png", gone); !errors.Is(err, meta.ErrNoSuchKey) {
			t.Errorf("delete of %s: %v", gone, err)
		}
	}
	if err := a.DeleteAttributes("b", "x/y.png"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(a.dir, "b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder is left: %v", err)
	}
	wantValue(t, a, "", "acl", "{}")
	store(t, a, "x/y.png", "etag", "again")
	if err := a.DeleteAttributes("b", ""); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(a.dir); err != nil || len(left) != 0 {
		t.Errorf("left of a bucket: %v, %v", left, err)
	}
}

// Names that look like the store's own do not meet.
func TestAttributeNamesDoNotMeet(t *testing.T) {
	a := newAttributes(t)
	names := []string{
		"a", "a/b", "a.attributes", "a.attributes/b", "a.attributes.folder", "a.attributes.folder/b", "a.attributes.folder.folder/b",
		"a.folder", "a.folder/b", "a/b.attributes", "a/b.attributes/c.attributes", "-", "a.attributes.attributes/d", ".new",
	}
	for _, name := range names {
		store(t, a, name, "etag", name)
	}
	for _, name := range names {
		wantValue(t, a, name, "etag", name)
	}
}

// A renamed object takes what lies below its name along, as an upload of parts is renamed.
func TestAttributesAreRenamed(t *testing.T) {
	a := newAttributes(t)
	store(t, a, "up/1", "objname", "o")
	store(t, a, "up/1/2", "etag", "e")
	if err := a.RenameObject("b", "up/1", "other/active"); err != nil {
		t.Fatal(err)
	}
	wantValue(t, a, "other/active", "objname", "o")
	wantValue(t, a, "other/active/2", "etag", "e")
	wantNone(t, a, "up/1", "objname")
	wantNone(t, a, "up/1/2", "etag")
	if err := a.RenameObject("b", "unknown", "other/unknown"); err != nil {
		t.Errorf("nothing is known of it: %v", err)
	}
}

// Whatever a write that was broken off leaves, what was there before holds, and the next write counts.
func TestAttributesAfterABrokenWrite(t *testing.T) {
	broken := line("etag", []byte("new"))
	for n := range len(broken) {
		a := newAttributes(t)
		store(t, a, "o", "etag", "old")
		f, err := appending(a.path("b", "o"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(broken[:n])
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		wantValue(t, a, "o", "etag", "old")
		store(t, a, "o", "content-type", "image/png")
		wantValue(t, a, "o", "etag", "old")
		wantValue(t, a, "o", "content-type", "image/png")
	}
}

// A file stays small however often its object is replaced, and no write is lost on the way.
func TestAttributesStaySmall(t *testing.T) {
	a := newAttributes(t)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			name := fmt.Sprintf("attribute%d", w)
			for n := range 300 {
				value := bytes.Repeat([]byte{byte('0' + n%10)}, 50)
				if err := a.StoreAttribute(nil, "b", "o", name, value); err != nil {
					t.Error(err)
				}
				if got, err := a.RetrieveAttribute(nil, "b", "o", name); err != nil || !bytes.Equal(got, value) {
					t.Errorf("%s: %q, %v, want %q", name, got, err, value)
				}
			}
		})
	}
	all.Wait()
	if i, err := os.Stat(a.path("b", "o")); err != nil || i.Size() > maxGrown {
		t.Errorf("%v, %v", i.Size(), err)
	}
}

// An attribute that is set while the last other one is deleted is not lost with the file.
func TestAttributeSetWhileAnotherIsDeleted(t *testing.T) {
	a := newAttributes(t)
	for n := range 1000 {
		object := fmt.Sprintf("o%d", n)
		store(t, a, object, "etag", "e")
		var both sync.WaitGroup
		both.Go(func() {
			if err := a.DeleteAttribute("b", object, "etag"); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			if err := a.StoreAttribute(nil, "b", object, "content-type", []byte("image/png")); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		wantNone(t, a, object, "etag")
		wantValue(t, a, object, "content-type", "image/png")
		if t.Failed() {
			return
		}
	}
}
