package render

import (
	"bytes"
	"context"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/pkg/filetype"
)

func TestMain(m *testing.M) {
	if IsChild(os.Args) {
		os.Exit(Child())
	}
	if len(os.Args) == 3 && os.Args[1] == parentArg {
		os.Exit(waitToBeKilled())
	}
	goleak.VerifyTestMain(m)
}

// testConfig is a configuration whose limits tests can reach.
func testConfig() Config {
	return Config{
		PageTimeout:  10 * time.Second,
		Memory:       512 << 20,
		MaxPixels:    10_000_000,
		MaxPages:     1000,
		RecyclePages: 500,
		RecycleRSS:   1 << 30,
	}
}

func newPool(t testing.TB, change ...func(*Config)) *Pool {
	t.Helper()
	return newPoolOf(t, 1, change...)
}

func newPoolOf(t testing.TB, children int, change ...func(*Config)) *Pool {
	t.Helper()
	cfg := testConfig()
	for _, c := range change {
		c(&cfg)
	}
	pool, err := NewPool(context.Background(), children, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func write(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, pool *Pool, content []byte) Document {
	t.Helper()
	doc, err := pool.Open(context.Background(), write(t, content))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(doc.Close)
	return doc
}

func page(t testing.TB, doc Document, number, dpi int) *Page {
	t.Helper()
	p, err := doc.Page(context.Background(), number, dpi)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := png.DecodeConfig(bytes.NewReader(p.PNG))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Width != p.Width || cfg.Height != p.Height {
		t.Fatalf("PNG of %d × %d, page says %d × %d", cfg.Width, cfg.Height, p.Width, p.Height)
	}
	return p
}

var imageKinds = []filetype.Type{filetype.PNG, filetype.JPEG, filetype.TIFF}
