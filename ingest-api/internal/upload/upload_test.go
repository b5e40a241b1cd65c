package upload_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/pkg/filetype"
	"leafcutter/schemas"
)

const maxFile = 100_000

func spool(t testing.TB, limit int64, slots int) *upload.Spool {
	t.Helper()
	s, err := upload.NewSpool(t.TempDir(), limit, slots, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// part is one part of a form, as it goes over the wire.
func part(disposition, body string) string {
	return "--b\r\nContent-Disposition: form-data; " + disposition + "\r\n\r\n" + body + "\r\n"
}

const end = "--b--\r\n"

func read(s *upload.Spool, body io.Reader, length int64) (*upload.Form, error) {
	r := &http.Request{Header: http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}, Body: io.NopCloser(body), ContentLength: length}
	return s.ReadForm(r, maxFile, nil)
}

func TestFieldsBeforeTheFileAreCheckedBeforeIt(t *testing.T) {
	s := spool(t, 1<<20, 1)
	body := part(`name="title"`, "T") + "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n%PDF-1.7"
	r := &http.Request{Header: http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}, ContentLength: -1,
		Body: io.NopCloser(io.MultiReader(strings.NewReader(body), unreadable{t}))}
	wrong := errors.New("no such title")
	_, err := s.ReadForm(r, maxFile, func(f *upload.Form) error {
		if fmt.Sprint(f.Fields) != "map[title:[T]]" {
			t.Errorf("fields %v", f.Fields)
		}
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Error(err)
	}
}

func codeOf(err error) string {
	var p *problem.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return fmt.Sprint(err)
}

func TestForms(t *testing.T) {
	pdf := "%PDF-1.7\n" + strings.Repeat("0123456789", 4000)
	for _, c := range []struct {
		name, body, code string
		fields           map[string][]string
		fileName         string
	}{
		{name: "file alone", body: part(`name="file"; filename="a.pdf"`, pdf) + end, fileName: "a.pdf", fields: map[string][]string{}},
		{name: "fields on both sides of it", fileName: "a.pdf", fields: map[string][]string{"title": {"T"}, "model": {"m", "n"}},
			body: part(`name="model"`, "m") + part(`name="file"; filename="a.pdf"`, pdf) + part(`name="title"`, "T") + part(`name="model"`, "n") + end},
		{name: "a file that has the boundary in it", body: part(`name="file"; filename="a.pdf"`, pdf+"--b"+pdf[9:]) + end, fileName: "a.pdf", fields: map[string][]string{}},
		{name: "junk before the mark", body: part(`name="file"; filename="a.pdf"`, strings.Repeat("j", 1000)+pdf) + end, fileName: "a.pdf", fields: map[string][]string{}},
		{name: "a path for a name", body: part(`name="file"; filename="C:\\docs\\..\\a.pdf"`, pdf) + end, fileName: "a.pdf", fields: map[string][]string{}},
		{name: "no name", body: part(`name="file"`, pdf) + end, fields: map[string][]string{}},
		{name: "a name with control characters", body: part(`name="file"; filename*=UTF-8''a%0A%00%C2%85b.pdf`, pdf) + end, fileName: "ab.pdf", fields: map[string][]string{}},

		{name: "no file", body: part(`name="title"`, "T") + end, code: "missing-file"},
		{name: "a file under another name", body: part(`name="document"; filename="a.pdf"`, pdf) + end, code: "missing-file"},
		{name: "two files", body: part(`name="file"; filename="a"`, pdf) + part(`name="file"; filename="b"`, pdf) + end, code: "several-files"},
		{name: "empty", body: part(`name="file"; filename="a"`, "") + end, code: "empty-file"},
		{name: "text", body: part(`name="file"; filename="a.pdf"`, "hello") + end, code: "unsupported-file-type"},
		{name: "the mark too late", body: part(`name="file"; filename="a.pdf"`, strings.Repeat("j", 1100)+pdf) + end, code: "unsupported-file-type"},
		{name: "too large", body: part(`name="file"; filename="a.pdf"`, pdf+pdf+pdf) + end, code: "file-too-large"},
		{name: "cut off in the file", body: part(`name="file"; filename="a.pdf"`, pdf)[:20_000], code: "upload-broken"},
		{name: "cut off in the head of the file", body: part(`name="file"; filename="a.pdf"`, pdf)[:80], code: "upload-broken"},
		{name: "cut off after the file", body: part(`name="file"; filename="a.pdf"`, pdf), code: "upload-broken"},
		{name: "no form at all", body: "hello", code: "upload-broken"},
		{name: "nothing", body: "", code: "upload-broken"},
		{name: "too many parts", body: strings.Repeat(part(`name="x"`, ""), 70) + end, code: "malformed-upload"},
		{name: "a field too large", body: part(`name="title"`, strings.Repeat("x", 20_000)) + end, code: "malformed-upload"},
		{name: "headers too long", body: "--b\r\nX-Long: " + strings.Repeat("x", 40_000) + "\r\n" + part(`name="file"; filename="a"`, pdf)[5:] + end, code: "malformed-upload"},
		{name: "headers that never end", body: "--b\r\n" + strings.Repeat("X-Many: x\r\n", 5_000), code: "malformed-upload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spool(t, 1<<20, 1)
			// One byte at a time, and all at once: what a network makes of a form changes nothing.
			for name, body := range map[string]io.Reader{"whole": strings.NewReader(c.body), "in bytes": iotestOneByte{strings.NewReader(c.body)}} {
				form, err := read(s, body, int64(len(c.body)))
				if c.code != "" {
					if codeOf(err) != c.code {
						t.Errorf("%s: %v, want %s", name, err, c.code)
					}
				} else if err != nil {
					t.Errorf("%s: %v", name, err)
				} else {
					check(t, form, c.body, c.fields, c.fileName)
				}
				if used := s.Used(); used != 0 {
					t.Errorf("%s: %d bytes of the room are still taken", name, used)
				}
			}
		})
	}
}

func check(t *testing.T, form *upload.Form, body string, fields map[string][]string, fileName string) {
	t.Helper()
	if diff := cmp.Diff(fields, form.Fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if form.FileName != fileName || form.Type != filetype.PDF {
		t.Errorf("file name %q of type %s", form.FileName, form.Type)
	}
	for range 2 { // read as often as needed
		r, err := form.File.Reader()
		if err != nil {
			t.Fatal(err)
		}
		stored, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(stored)
		if !strings.Contains(body, string(stored)) || form.File.Size() != int64(len(stored)) || form.File.SHA256() != hex.EncodeToString(sum[:]) {
			t.Errorf("stored %d bytes with digest %s", form.File.Size(), form.File.SHA256())
		}
	}
	if err := errors.Join(form.Close(), form.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// iotestOneByte gives one byte at a time.
type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

func TestRefusedBeforeTheFirstByte(t *testing.T) {
	s := spool(t, 1<<20, 1)
	_, err := read(s, unreadable{t}, 1<<30)
	if codeOf(err) != "file-too-large" {
		t.Error(err)
	}
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestSlowAndBrokenBodies(t *testing.T) {
	s := spool(t, 1<<20, 1)
	head := part(`name="file"; filename="a.pdf"`, "%PDF-1.7\n"+strings.Repeat("x", 5000))
	for want, err := range map[string]error{"upload-timeout": os.ErrDeadlineExceeded, "upload-broken": io.ErrUnexpectedEOF} {
		if _, got := read(s, io.MultiReader(strings.NewReader(head), failing{err}), -1); codeOf(got) != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestRoom(t *testing.T) {
	s := spool(t, 3<<20, 1)
	first, err := s.NewFile(2 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewFile(2 << 20); codeOf(err) != "spool-full" {
		t.Errorf("a second file of 2 MiB: %v", err)
	}
	second, err := s.NewFile(0) // its length is not known: it takes room as it grows
	if err != nil {
		t.Fatal(err)
	}
	mib := make([]byte, 1<<20)
	if _, err := second.Write(mib); err != nil {
		t.Errorf("its first MiB: %v", err)
	}
	if _, err := second.Write(mib[:1]); codeOf(err) != "spool-full" {
		t.Errorf("one byte more: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := second.Write(mib); err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if s.Used() != 0 {
		t.Errorf("%d bytes are still taken", s.Used())
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	s, err := upload.NewSpool(dir, 1<<20, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.NewFile(10)
	if err != nil {
		t.Fatal(err)
	}
	// While it is being written, as a kill -9 would find it.
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := upload.NewSpool(dir+"/absent", 1, 1, 0); err == nil || !strings.Contains(err.Error(), "LEAFCUTTER_SPOOL_DIR") {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestSlots(t *testing.T) {
	s, err := upload.NewSpool(t.TempDir(), 1, 1, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	leave, err := s.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enter(t.Context()); codeOf(err) != "too-many-uploads" {
		t.Errorf("a second one: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Enter(gone); !errors.Is(err, context.Canceled) && codeOf(err) != "too-many-uploads" {
		t.Errorf("one whose client is gone: %v", err)
	}
	leave()
	leave, err = s.Enter(t.Context())
	if err != nil {
		t.Errorf("after the first left: %v", err)
	}
	leave()
}

func TestOptions(t *testing.T) {
	padding := 0
	form := upload.Form{FileName: "a.pdf", Fields: map[string][]string{
		"title": {" T "}, "model": {"m", "", "n"}, "dpi": {"150"}, "pages": {"1-3, 7"}, "thresholds": {"title=0.5"}, "crop_padding": {"0"}, "webhook_url": {""},
	}}
	got, err := form.Options()
	want := schemas.DocumentSubmitted{Title: "T", FileName: "a.pdf", Models: []string{"m", "n"}, DPI: 150, Pages: "1-3, 7",
		Thresholds: map[string]float64{"title": 0.5}, CropPadding: &padding}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	bad := upload.Form{Fields: map[string][]string{
		"dpi": {"x"}, "treshold": {"0.5"}, "title": {"a", "b"}, "crop_padding": {"1.5"}, "thresholds": {"title"},
	}}
	_, err = bad.Options()
	var p *problem.Problem
	if !errors.As(err, &p) || p.Code != "invalid-request" {
		t.Fatal(err)
	}
	var places []string
	for _, f := range p.Errors {
		places = append(places, f.Location)
	}
	if diff := cmp.Diff([]string{"form.crop_padding", "form.dpi", "form.thresholds", "form.title", "form.treshold"}, slices.Sorted(slices.Values(places))); diff != "" {
		t.Errorf("every fault is named at once (-want +got):\n%s", diff)
	}
}

func TestParseThresholds(t *testing.T) {
	for in, want := range map[string]map[string]float64{
		"":                              nil,
		"0.4":                           {"*": 0.4},
		"title=0.5":                     {"title": 0.5},
		" title = 0.5 , *=0.25":         {"title": 0.5, "*": 0.25},
		`{"title":0.5,"*":1}`:           {"title": 0.5, "*": 1},
		`{}`:                            {},
		"figure caption=0.1,table=1e-1": {"figure caption": 0.1, "table": 0.1},
	} {
		if got, err := upload.ParseThresholds(in); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "NaN", "title=NaN", "title=2", "title=-0.1", "=0.5", "title=0.5,title=0.6", "title", "title=0.5,", `{"a":"b"}`,
		`{"a":2}`, `[0.5]`, `{"":0.5}`, "a=0.1,b", strings.Repeat("x", 65) + "=0.5", "Inf"} {
		if got, err := upload.ParseThresholds(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func FuzzParseThresholds(f *testing.F) {
	for _, seed := range []string{"", "0.4", "title=0.5,*=0.25", `{"title":0.5}`, "a=b=c", "{", "NaN", "=", ",", `{"a":1e999}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		thresholds, err := upload.ParseThresholds(s)
		if err != nil {
			return
		}
		if faults := schemas.ValidateOptions("", nil, 0, "", thresholds, nil); len(faults) > 0 {
			t.Errorf("%q gives %v, which is refused: %v", s, thresholds, faults)
		}
	})
}

func FuzzReadForm(f *testing.F) {
	f.Add([]byte(part(`name="file"; filename="a.pdf"`, "%PDF-1.7 x") + part(`name="title"`, "T") + end))
	f.Add([]byte(part(`name="file"; filename="a.png"`, "\x89PNG\r\n\x1a\n") + end))
	f.Add([]byte(part(`name="title"`, "T")))
	f.Add([]byte("--b\r\nContent-Transfer-Encoding: quoted-printable\r\n" + part(`name="file"`, "%PDF-=31")[5:] + end))
	f.Add([]byte("--b--"))
	f.Add([]byte("--b\r\n\r\n--b\r\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := upload.NewSpool(dir, 1<<20, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		form, err := read(s, bytes.NewReader(body), -1)
		if err == nil {
			if form.File.Size() == 0 || form.File.Size() > int64(len(body)) || form.Type == "" {
				t.Errorf("a file of %d bytes and type %q from %d bytes", form.File.Size(), form.Type, len(body))
			}
			_, _ = form.Options() // must not panic, whatever it says
			if err := form.Close(); err != nil {
				t.Error(err)
			}
		} else if codeOf(err) == fmt.Sprint(err) {
			t.Errorf("not a problem: %v", err)
		}
		if s.Used() != 0 {
			t.Errorf("%d bytes of the room are still taken", s.Used())
		}
	})
}
