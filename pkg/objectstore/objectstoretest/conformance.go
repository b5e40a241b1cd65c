package objectstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
)

// Conformance holds a server to what the pipeline relies on. store may hold other objects; the suite keeps to keys
// below "conformance/" and leaves none behind. The bucket need not exist yet.
func Conformance(t *testing.T, store *objectstore.Store) {
	ctx := context.Background()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(t, store.EnsureBucket(ctx))
	t.Cleanup(func() {
		if _, err := store.DeletePrefix(ctx, "conformance/"); err != nil {
			t.Error(err)
		}
	})
	t.Run("bucket", func(t *testing.T) {
		must(t, store.EnsureBucket(ctx)) // again
		must(t, store.Probe(ctx))
	})
	t.Run("round trip", func(t *testing.T) {
		for name, body := range map[string][]byte{
			"empty": {}, "one byte": {0}, "page": bytes.Repeat([]byte("leafcutter\x00\xff"), 100_000), "ünï ☃+&?#%=.png": []byte("name"),
		} {
			key := "conformance/round/" + name
			must(t, store.Put(ctx, key, body, "image/png"))
			got, err := store.Get(ctx, key, 4<<20)
			must(t, err)
			if !bytes.Equal(got, body) {
				t.Errorf("%s: %d bytes came back as %d others", name, len(body), len(got))
			}
			info, err := store.Head(ctx, key)
			must(t, err)
			if info.Key != key || info.Size != int64(len(body)) || info.ContentType != "image/png" || info.ETag == "" || info.Modified.IsZero() {
				t.Errorf("%s: head says %+v", name, info)
			}
		}
	})
	t.Run("replace", func(t *testing.T) {
		must(t, store.Put(ctx, "conformance/replaced", []byte("longer before"), "text/plain"))
		must(t, store.Put(ctx, "conformance/replaced", []byte("after"), "image/png"))
		body, info, err := store.Open(ctx, "conformance/replaced")
		must(t, err)
		got, err := io.ReadAll(body)
		must(t, errors.Join(err, body.Close()))
		if string(got) != "after" || info.Size != 5 || info.ContentType != "image/png" {
			t.Errorf("got %q, %+v", got, info)
		}
	})
	t.Run("reader from where it stands", func(t *testing.T) {
		r := strings.NewReader("skipped|kept")
		_, err := r.Seek(8, io.SeekStart)
		must(t, err)
		must(t, store.PutReader(ctx, "conformance/reader", r, 4, ""))
		got, err := store.Get(ctx, "conformance/reader", 100)
		must(t, err)
		if string(got) != "kept" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("limit", func(t *testing.T) {
		must(t, store.Put(ctx, "conformance/large", make([]byte, 101), ""))
		if _, err := store.Get(ctx, "conformance/large", 100); fault.CodeOf(err) != objectstore.CodeTooLarge || fault.ClassOf(err) != fault.Permanent {
			t.Errorf("got %v", err)
		}
		if got, err := store.Get(ctx, "conformance/large", 101); err != nil || len(got) != 101 {
			t.Errorf("at the limit: %d bytes, %v", len(got), err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, getErr := store.Get(ctx, "conformance/missing", 100)
		_, headErr := store.Head(ctx, "conformance/missing")
		_, _, uriErr := store.OpenURI(ctx, store.URI("conformance/missing"))
		for name, err := range map[string]error{"get": getErr, "head": headErr, "uri": uriErr} {
			if fault.CodeOf(err) != objectstore.CodeMissing || fault.ClassOf(err) != fault.Permanent {
				t.Errorf("%s: %v is %s %s", name, err, fault.ClassOf(err), fault.CodeOf(err))
			}
		}
		if exists, err := store.Exists(ctx, "conformance/missing"); exists || err != nil {
			t.Errorf("exists: %t, %v", exists, err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		must(t, store.Put(ctx, "conformance/deleted", []byte("x"), ""))
		if exists, err := store.Exists(ctx, "conformance/deleted"); !exists || err != nil {
			t.Errorf("before: %t, %v", exists, err)
		}
		must(t, store.Delete(ctx))
		must(t, store.Delete(ctx, "conformance/deleted"))
		must(t, store.Delete(ctx, "conformance/deleted")) // again
		must(t, store.Delete(ctx, "conformance/deleted", "conformance/never-there"))
		if exists, err := store.Exists(ctx, "conformance/deleted"); exists || err != nil {
			t.Errorf("after: %t, %v", exists, err)
		}
	})
	t.Run("list and delete by prefix", func(t *testing.T) { listing(ctx, t, store) })
	t.Run("signed link", func(t *testing.T) { signedLink(ctx, t, store) })
	t.Run("concurrent writers", func(t *testing.T) {
		var writers sync.WaitGroup
		for i := range 16 {
			writers.Go(func() {
				if err := store.Put(ctx, "conformance/contended", bytes.Repeat([]byte{byte(i)}, 50_000), ""); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		got, err := store.Get(ctx, "conformance/contended", 1<<20)
		must(t, err)
		if len(got) != 50_000 || bytes.Count(got, got[:1]) != len(got) {
			t.Errorf("%d bytes of several writers", len(got))
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		if err := store.Put(cancelled, "conformance/cancelled", []byte("x"), ""); !errors.Is(err, context.Canceled) || fault.ClassOf(err) != fault.Shutdown {
			t.Errorf("got %v", err)
		}
	})
}

func listing(ctx context.Context, t *testing.T, store *objectstore.Store) {
	const many = 1003 // more than one page of a listing, and more than one batch of a deletion
	var writers sync.WaitGroup
	keys := make(chan string)
	for range 8 {
		writers.Go(func() {
			for key := range keys {
				if err := store.Put(ctx, key, []byte(key), ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range many {
		keys <- fmt.Sprintf("conformance/list/%05d", i)
	}
	close(keys)
	writers.Wait()
	if err := store.Put(ctx, "conformance/list-not", nil, ""); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := store.List(ctx, "conformance/list/", func(info objectstore.Info) error {
		if want := fmt.Sprintf("conformance/list/%05d", n); info.Key != want || info.Size != int64(len(want)) || info.Modified.IsZero() {
			t.Errorf("item %d is %+v", n, info)
		}
		n++
		return nil
	})
	if err != nil || n != many {
		t.Errorf("listed %d of %d: %v", n, many, err)
	}
	for _, key := range []string{"conformance/list/b/2", "conformance/list/b/1/x", "conformance/list/a/1"} {
		if err := store.Put(ctx, key, []byte("x"), ""); err != nil {
			t.Fatal(err)
		}
	}
	var folders []string
	err = store.Folders(ctx, "conformance/list/", func(name string) error {
		folders = append(folders, name)
		return nil
	})
	if got := strings.Join(folders, " "); got != "a b" || err != nil {
		t.Errorf("the folders are %q, %v", got, err)
	}
	enough := errors.New("enough")
	if err := store.Folders(ctx, "conformance/list/", func(string) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a visitor's error came back as %v", err)
	}
	if err := store.List(ctx, "conformance/list/", func(objectstore.Info) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a visitor's error came back as %v", err)
	}
	if removed, err := store.DeletePrefix(ctx, "conformance/list/"); removed != many+3 || err != nil {
		t.Errorf("removed %d of %d: %v", removed, many+3, err)
	}
	if removed, err := store.DeletePrefix(ctx, "conformance/list/"); removed != 0 || err != nil {
		t.Errorf("removed %d more: %v", removed, err)
	}
	if exists, err := store.Exists(ctx, "conformance/list-not"); !exists || err != nil {
		t.Errorf("the neighbour: %t, %v", exists, err)
	}
}

func signedLink(ctx context.Context, t *testing.T, store *objectstore.Store) {
	if err := store.Put(ctx, "conformance/signed é.txt", []byte("for anybody"), "text/plain"); err != nil {
		t.Fatal(err)
	}
	link, err := store.PresignGet(ctx, "conformance/signed é.txt", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	fetch := func(link string) (int, string) {
		response, err := client.Get(link)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if status, body := fetch(link); status != http.StatusOK || body != "for anybody" {
		t.Errorf("signed: %d %q", status, body)
	}
	plain, _, _ := strings.Cut(link, "?")
	if status, _ := fetch(plain); status != http.StatusForbidden && status != http.StatusUnauthorized {
		t.Errorf("without a signature: %d", status)
	}
}
