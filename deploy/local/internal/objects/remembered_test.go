package objects

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// What was read before a change is not kept after it, of whatever file the change was.
func TestReadAcrossAChangeIsNotKept(t *testing.T) {
	old := map[string][]byte{"etag": []byte("old")}
	for name, change := range map[string]func(*remembered){
		"of the file": func(r *remembered) { r.forget("f") },
		"of folders":  (*remembered).forgetAll,
	} {
		var r remembered
		_, _, changes := r.of("f")
		change(&r)
		r.keep("f", old, changes)
		if all, found, _ := r.of("f"); found {
			t.Errorf("a change %s: %v is remembered", name, all)
		}
		_, _, changes = r.of("f")
		r.keep("f", old, changes)
		if all, found, _ := r.of("f"); !found || string(all["etag"]) != "old" {
			t.Errorf("after a change %s: %v, %v", name, all, found)
		}
	}
}

func TestOnlySomeFilesAreRemembered(t *testing.T) {
	var r remembered
	for n := range 3 * maxRemembered {
		file := fmt.Sprint(n)
		_, _, changes := r.of(file)
		r.keep(file, nil, changes)
		if _, found, _ := r.of(file); !found {
			t.Fatalf("file %s is not remembered", file)
		}
	}
	if len(r.files) != maxRemembered {
		t.Errorf("%d files are remembered, want %d", len(r.files), maxRemembered)
	}
}

// Attributes that were read are gone or renamed with their folders, and come back with new values.
func TestRememberedAttributesFollowFolders(t *testing.T) {
	a := newAttributes(t)
	store(t, a, "", "acl", "{}")
	store(t, a, "up/1", "etag", "1")
	store(t, a, "up/1/2", "etag", "2")
	store(t, a, "up/4", "etag", "4")
	wantValue(t, a, "up/1", "etag", "1")
	wantValue(t, a, "up/1/2", "etag", "2")
	wantNone(t, a, "down", "etag")
	wantNone(t, a, "down/2", "etag")
	if err := a.RenameObject("b", "up/1", "down"); err != nil {
		t.Fatal(err)
	}
	wantNone(t, a, "up/1", "etag")
	wantNone(t, a, "up/1/2", "etag")
	wantValue(t, a, "down", "etag", "1")
	wantValue(t, a, "down/2", "etag", "2")
	wantValue(t, a, "up/4", "etag", "4")
	if err := a.DeleteAttributes("b", "up/4"); err != nil {
		t.Fatal(err)
	}
	wantNone(t, a, "up/4", "etag")
	wantValue(t, a, "", "acl", "{}")
	if err := a.DeleteAttributes("b", ""); err != nil {
		t.Fatal(err)
	}
	wantNone(t, a, "", "acl")
	wantNone(t, a, "down/2", "etag")
	store(t, a, "down/2", "etag", "new")
	wantValue(t, a, "down/2", "etag", "new")
}

// A caller may do what it likes with a value that it was given.
func TestValuesAreTheCallersOwn(t *testing.T) {
	a := newAttributes(t)
	store(t, a, "o", "etag", "mine")
	for range 2 {
		value, err := a.RetrieveAttribute(nil, "b", "o", "etag")
		if err != nil || string(value) != "mine" {
			t.Fatalf("%q, %v", value, err)
		}
		clear(value)
	}
}

// While others read the same file without end, a writer reads what it has written, and a remover nothing.
func TestWritersReadWhatTheyWrote(t *testing.T) {
	a := newAttributes(t)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := a.ListAttributes("b", "f/o"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 600 {
		value := fmt.Appendf(nil, "%d", n)
		if err := a.StoreAttribute(nil, "b", "f/o", "etag", value); err != nil {
			t.Fatal(err)
		}
		if got, err := a.RetrieveAttribute(nil, "b", "f/o", "etag"); err != nil || !bytes.Equal(got, value) {
			t.Fatalf("%q, %v, want %q", got, err, value)
		}
		if n%3 == 0 {
			if err := a.DeleteAttributes("b", "f/o"); err != nil {
				t.Fatal(err)
			}
			wantNone(t, a, "f/o", "etag")
		}
	}
	close(done)
	readers.Wait()
}
