package upload_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// BenchmarkReadForm receives a document of 20 MiB: the way of every byte through this process but for S3. What it
// allocates must not grow with the document.
func BenchmarkReadForm(b *testing.B) {
	const size = 20 << 20
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // never fails
	head, tail := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.pdf\"\r\n\r\n%PDF-1.7\n", "\r\n--b--\r\n"
	s := spool(b, 1<<30, 1)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		body := io.MultiReader(strings.NewReader(head), bytes.NewReader(noise), strings.NewReader(tail))
		r := &http.Request{Header: http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}, Body: io.NopCloser(body), ContentLength: size}
		form, err := s.ReadForm(r, size+100, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := form.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
