package objectstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/objectstore/objectstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	for _, checksum := range []string{"when-supported", "when-required"} {
		t.Run(checksum, func(t *testing.T) {
			cfg := objectstoretest.NewServer(t).Config()
			cfg.Checksum = checksum
			objectstoretest.Conformance(t, open(t, cfg))
		})
	}
}

func open(t *testing.T, cfg objectstore.Config, options ...objectstore.Option) *objectstore.Store {
	t.Helper()
	store, err := objectstore.Open(t.Context(), cfg, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func TestServerFaultsAreClassed(t *testing.T) {
	for _, c := range []struct {
		status int
		s3     string
		class  fault.Class
		code   string
	}{
		{503, "SlowDown", fault.Unavailable, "s3-unavailable"},
		{500, "InternalError", fault.Unavailable, "s3-unavailable"},
		{507, "XMinioStorageFull", fault.Unavailable, "s3-unavailable"},
		{429, "TooManyRequests", fault.Unavailable, "s3-unavailable"},
		{403, "AccessDenied", fault.Unavailable, "s3-unavailable"},
		{403, "InvalidAccessKeyId", fault.Unavailable, "s3-unavailable"},
		{403, "SignatureDoesNotMatch", fault.Unavailable, "s3-unavailable"},
		{400, "ExpiredToken", fault.Unavailable, "s3-unavailable"},
		{400, "RequestTimeout", fault.Unavailable, "s3-unavailable"},
		{301, "PermanentRedirect", fault.Unavailable, "s3-unavailable"},
		{404, "NoSuchBucket", fault.Unavailable, "s3-unavailable"},
		{404, "NoSuchKey", fault.Permanent, "object-missing"},
		{400, "EntityTooLarge", fault.Permanent, "object-too-large"},
		{400, "BadDigest", fault.Transient, "s3-error"},
		{409, "OperationAborted", fault.Transient, "s3-error"},
	} {
		t.Run(c.s3, func(t *testing.T) {
			t.Parallel() // each of those that are tried again takes a while
			server := objectstoretest.NewServer(t)
			store := server.Open(t)
			server.Fail(func(*http.Request) (int, string) { return c.status, c.s3 })
			_, err := store.Get(t.Context(), "k", 10)
			if fault.ClassOf(err) != c.class || fault.CodeOf(err) != c.code {
				t.Errorf("%v is %s %s, want %s %s", err, fault.ClassOf(err), fault.CodeOf(err), c.class, c.code)
			}
			if objectstore.IsDenied(err) != (c.s3 == "AccessDenied") {
				t.Errorf("%v: denied %t", err, objectstore.IsDenied(err))
			}
			if _, err := store.Head(t.Context(), "k"); objectstore.IsDenied(err) != (c.status == http.StatusForbidden) {
				t.Errorf("%v: denied to a Head %t", err, objectstore.IsDenied(err))
			}
			if c.class == fault.Unavailable && fault.DependencyOf(err) != objectstore.Dependency {
				t.Errorf("%v is the absence of %q", err, fault.DependencyOf(err))
			}
		})
	}
}

func TestAbsentServer(t *testing.T) {
	// Nobody listens on port 1. A port that was free a moment ago may be anybody's now.
	endpoint := "http://127.0.0.1:1"
	cfg := objectstoretest.NewServer(t).Config()
	cfg.Endpoint = endpoint
	store := open(t, cfg)
	for name, do := range map[string]func(context.Context) error{
		"get":           func(ctx context.Context) error { _, err := store.Get(ctx, "k", 10); return err },
		"exists":        func(ctx context.Context) error { _, err := store.Exists(ctx, "k"); return err },
		"delete prefix": func(ctx context.Context) error { _, err := store.DeletePrefix(ctx, "p"); return err },
		"put":           func(ctx context.Context) error { return store.Put(ctx, "k", nil, "") },
		"delete":        func(ctx context.Context) error { return store.Delete(ctx, "a", "b") },
		"probe":         store.Probe,
		"bucket":        store.EnsureBucket,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := do(t.Context()); fault.ClassOf(err) != fault.Unavailable || fault.DependencyOf(err) != "s3" {
				t.Errorf("%v is %s", err, fault.ClassOf(err))
			}
		})
	}
	// Signing asks nobody.
	if _, err := store.PresignGet(t.Context(), "k", time.Minute); err != nil {
		t.Error(err)
	}
}

func TestBlipIsHiddenAndTheBodySentAgain(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int32
	server.Fail(func(*http.Request) (int, string) {
		if requests.Add(1) == 1 {
			return http.StatusServiceUnavailable, "SlowDown"
		}
		return 0, ""
	})
	if err := store.Put(t.Context(), "k", []byte("whole body"), ""); err != nil {
		t.Fatal(err)
	}
	server.Fail(nil)
	if got, err := store.Get(t.Context(), "k", 100); err != nil || string(got) != "whole body" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestProbeDoesNotRetryAndSeesWrongKeys(t *testing.T) {
	server := objectstoretest.NewServer(t)
	cfg := server.Config()
	cfg.AccessKeyID = "somebody-else"
	var requests atomic.Int32
	server.Fail(func(*http.Request) (int, string) { requests.Add(1); return 0, "" })
	err := open(t, cfg).Probe(t.Context())
	if fault.ClassOf(err) != fault.Unavailable || requests.Load() != 1 {
		t.Errorf("%v after %d requests", err, requests.Load())
	}
}

func TestCancelIsNotAnAbsence(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	server.Fail(func(*http.Request) (int, string) { cancel(); return 503, "SlowDown" })
	err := store.Put(ctx, "k", []byte("x"), "")
	if !errors.Is(err, context.Canceled) || fault.ClassOf(err) != fault.Shutdown {
		t.Errorf("%v is %s", err, fault.ClassOf(err))
	}
}

func TestDeadlineIsAnAbsence(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	cfg := objectstoretest.NewServer(t).Config()
	cfg.Endpoint = server.URL
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := open(t, cfg).Get(ctx, "k", 10); fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("%v is %s", err, fault.ClassOf(err))
	}
}

// A server that sends the head of an object and then nothing must not hold a stage for ever.
func TestStalledBodyIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "the beginning")
		_ = http.NewResponseController(w).Flush()
		<-release
	}))
	defer server.Close()
	defer close(release)
	cfg := objectstoretest.NewServer(t).Config()
	cfg.Endpoint = server.URL
	_, err := open(t, cfg, objectstore.WithStall(100*time.Millisecond)).Get(t.Context(), "k", 2000)
	if fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("%v is %s", err, fault.ClassOf(err))
	}
}

func TestBrokenBodyIsNotTheObject(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "the beginning")
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	cfg := objectstoretest.NewServer(t).Config()
	cfg.Endpoint = server.URL
	if got, err := open(t, cfg).Get(t.Context(), "k", 2000); fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("%q, %v is %s", got, err, fault.ClassOf(err))
	}
}

func TestCorruptedObjectIsNoticed(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := errors.Join(store.EnsureBucket(t.Context()), store.Put(t.Context(), "k", []byte("content"), "")); err != nil {
		t.Fatal(err)
	}
	server.Corrupt(store.Bucket(), "k")
	if got, err := store.Get(t.Context(), "k", 100); err == nil {
		t.Errorf("got %q without complaint", got)
	}
}

func TestKeysThatAreNotKeys(t *testing.T) {
	store := objectstoretest.New(t)
	for _, key := range []string{"", "/", "a//b", "/a", "a/", "../a", "a/../b", "a/.", "a\x00b", "a\xff", strings.Repeat("k", 1025)} {
		err := store.Put(t.Context(), key, nil, "")
		if fault.CodeOf(err) != objectstore.CodeKeyInvalid || fault.ClassOf(err) != fault.Permanent {
			t.Errorf("%q: %v", key, err)
		}
	}
	if _, err := store.DeletePrefix(t.Context(), ""); fault.ClassOf(err) != fault.Permanent {
		t.Errorf("the whole bucket: %v", err)
	}
}

func TestSourcesOutsideTheAllowList(t *testing.T) {
	server := objectstoretest.NewServer(t)
	for _, bucket := range []string{"inbox", "shared"} {
		cfg := server.Config()
		cfg.Bucket = bucket
		other := open(t, cfg)
		if err := other.EnsureBucket(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a.pdf", "in/a.pdf", "in-secret/a.pdf"} {
			if err := other.Put(t.Context(), key, []byte(bucket+key), "application/pdf"); err != nil {
				t.Fatal(err)
			}
		}
	}
	cfg := server.Config()
	cfg.Sources = []string{"inbox", " shared/in/"}
	store := open(t, cfg)
	if err := errors.Join(store.EnsureBucket(t.Context()), store.Put(t.Context(), "own.pdf", nil, "")); err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{"s3://inbox/a.pdf", "s3://inbox/in-secret/a.pdf", "s3://shared/in/a.pdf", store.URI("own.pdf")} {
		body, info, err := store.OpenURI(t.Context(), uri)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		content, err := io.ReadAll(body)
		if err = errors.Join(err, body.Close()); err != nil || int64(len(content)) != info.Size {
			t.Errorf("%s: %d bytes of %d, %v", uri, len(content), info.Size, err)
		}
	}
	for _, uri := range []string{
		"s3://shared/a.pdf", "s3://shared/in-secret/a.pdf", "s3://shared/in/../a.pdf", "s3://other/a.pdf", "s3://inbox", "s3://inbox/",
		"s3:///a.pdf", "http://inbox/a.pdf", "inbox/a.pdf", "", "s3://INBOX/a.pdf", "s3://inbox:9000/a.pdf", "s3://user@inbox/a.pdf",
	} {
		_, _, err := store.OpenURI(t.Context(), uri)
		if fault.CodeOf(err) != objectstore.CodeSource || fault.ClassOf(err) != fault.Permanent {
			t.Errorf("%q: %v", uri, err)
		}
		if err := store.CheckURI(uri); fault.CodeOf(err) != objectstore.CodeSource {
			t.Errorf("check %q: %v", uri, err)
		}
	}
}

// zeros is a body of any size that takes no memory.
type zeros struct{ size, at int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.at >= z.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.size-z.at)
	clear(p[:n])
	z.at += n
	return int(n), nil
}

func (z *zeros) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		z.at = offset
	case io.SeekCurrent:
		z.at += offset
	default:
		z.at = z.size + offset
	}
	return z.at, nil
}

func TestLargeBodiesTakeConstantMemory(t *testing.T) {
	const size = 64 << 20
	var received atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Error(err)
		}
		received.Add(n)
		w.Header().Set("ETag", `"x"`)
	}))
	defer server.Close()
	cfg := objectstoretest.NewServer(t).Config()
	cfg.Endpoint = server.URL
	store := open(t, cfg)
	if err := store.Put(t.Context(), "warm", []byte("up"), ""); err != nil {
		t.Fatal(err)
	}
	received.Store(0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := store.PutReader(t.Context(), "large", &zeros{size: size}, size, "application/pdf"); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if received.Load() != size {
		t.Errorf("%d of %d bytes arrived", received.Load(), int64(size))
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 2<<20 {
		t.Errorf("%d bytes were allocated for a body of %d", allocated, int64(size))
	}
}

func TestLinksAreSignedForThePublicEndpoint(t *testing.T) {
	cfg := objectstoretest.NewServer(t).Config()
	cfg.PublicEndpoint = "https://files.example.org"
	link, err := open(t, cfg).PresignGet(t.Context(), "a b.png", time.Minute)
	if err != nil || !strings.HasPrefix(link, "https://files.example.org/leafcutter/a%20b.png?") {
		t.Errorf("%q, %v", link, err)
	}
}

func TestConfigTellsEveryFaultAndNoSecret(t *testing.T) {
	cfg := objectstore.Config{
		Endpoint: "127.0.0.1:9000", PublicEndpoint: "ftp://x", AccessKeyID: "id", Bucket: "No_Bucket", Checksum: "never",
		Sources: []string{"ok-bucket/p", "*"},
	}
	_, err := objectstore.Open(t.Context(), cfg)
	for _, name := range []string{
		"AWS_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL", "S3_BUCKET", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "S3_CHECKSUM", "S3_CONNECTIONS", `"*"`,
	} {
		if !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("%s is not in: %v", name, err)
		}
	}
	secret := objectstoretest.NewServer(t).Config()
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("open", slog.Any("config", secret))
	for _, printed := range []string{fmt.Sprint(secret), fmt.Sprintf("%+v %#v", secret, secret), logged.String()} {
		if strings.Contains(printed, objectstoretest.SecretKey) || !strings.Contains(printed, "leafcutter") {
			t.Errorf("printed as %s", printed)
		}
	}
}

// A store that comes back may take objects before it can give any: what fails then is not the objects' fault.
func TestProbeReadsBack(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := store.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Fail(func(r *http.Request) (int, string) {
		if r.Method == http.MethodGet {
			return http.StatusInternalServerError, "InternalError"
		}
		return 0, ""
	})
	if err := store.Probe(t.Context()); fault.ClassOf(err) != fault.Unavailable || fault.DependencyOf(err) != "s3" {
		t.Errorf("%v is %s", err, fault.ClassOf(err))
	}
}

// TestRequestsAreTracedWhereAskedFor: a page's dozen of objects makes a dozen spans only if somebody wants them.
func TestRequestsAreTracedWhereAskedFor(t *testing.T) {
	for traced, want := range map[bool]int{false: 0, true: 1} {
		exporter := tracetest.NewInMemoryExporter()
		provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
		cfg := objectstoretest.NewServer(t).Config()
		cfg.TraceRequests = traced
		if err := open(t, cfg, objectstore.WithTelemetry(provider, noop.NewMeterProvider())).Put(t.Context(), "k", []byte("v"), ""); err == nil {
			t.Error("stored in a server that has no bucket")
		}
		if got := len(exporter.GetSpans()); got != want {
			t.Errorf("S3_TRACE_REQUESTS=%v: %d spans, want %d", traced, got, want)
		}
	}
}
