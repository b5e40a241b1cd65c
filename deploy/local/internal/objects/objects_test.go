package objects_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"leafcutter/deploy/local/internal/objects"
	"leafcutter/deploy/local/localtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T, o *localtest.Objects, secret string) *s3.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(o.URL), UsePathStyle: true, Region: o.Region,
		Credentials: credentials.NewStaticCredentialsProvider(o.AccessKey, secret, ""),
		HTTPClient:  &http.Client{Transport: transport},
	})
}

func put(ctx context.Context, t *testing.T, c *s3.Client, o *localtest.Objects, key string, body []byte) {
	t.Helper()
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: &key, Body: bytes.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
}

// get returns the object, or a part of it where byteRange names one.
func get(ctx context.Context, t *testing.T, c *s3.Client, o *localtest.Objects, key, byteRange string) []byte {
	t.Helper()
	in := &s3.GetObjectInput{Bucket: &o.Bucket, Key: &key}
	if byteRange != "" {
		in.Range = &byteRange
	}
	out, err := c.GetObject(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return data
}

func wantCode(t *testing.T, err error, codes ...string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || !slices.Contains(codes, api.ErrorCode()) {
		t.Errorf("error %v, want one of %v", err, codes)
	}
}

func TestObjects(t *testing.T) {
	o := localtest.StartObjects(t)
	c := client(t, o, o.SecretKey)
	ctx := context.Background()
	data := make([]byte, 300_000)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}

	t.Run("put, head, get, range, delete", func(t *testing.T) {
		key := aws.String("documents/a b+c%ü/source")
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: key, Body: bytes.NewReader(data),
			ContentType: aws.String("application/pdf"), Metadata: map[string]string{"sha256": "abc"}})
		if err != nil {
			t.Fatal(err)
		}
		head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.Bucket, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		if *head.ContentLength != int64(len(data)) || *head.ContentType != "application/pdf" || head.Metadata["sha256"] != "abc" || *head.ETag == "" {
			t.Errorf("head: %d bytes, %s, %v, ETag %s", *head.ContentLength, *head.ContentType, head.Metadata, *head.ETag)
		}
		if got := get(ctx, t, c, o, *key, ""); !bytes.Equal(got, data) {
			t.Errorf("%d bytes come back different", len(got))
		}
		if got := get(ctx, t, c, o, *key, "bytes=100-199"); !bytes.Equal(got, data[100:200]) {
			t.Errorf("a range of 100 bytes comes back as %d, or different", len(got))
		}
		if got := get(ctx, t, c, o, *key, "bytes=-10"); !bytes.Equal(got, data[len(data)-10:]) {
			t.Errorf("the last 10 bytes come back as %d, or different", len(got))
		}
		for range 2 { // deleting what is gone is no error
			if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &o.Bucket, Key: key}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = c.GetObject(ctx, &s3.GetObjectInput{Bucket: &o.Bucket, Key: key})
		wantCode(t, err, "NoSuchKey")
		_, err = c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.Bucket, Key: key})
		wantCode(t, err, "NotFound")
	})

	t.Run("streamed body", func(t *testing.T) {
		key := "streamed"
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: &key, Body: io.MultiReader(bytes.NewReader(data)), ContentLength: aws.Int64(int64(len(data)))},
			s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware))
		if err != nil {
			t.Fatal(err)
		}
		if got := get(ctx, t, c, o, key, ""); !bytes.Equal(got, data) {
			t.Errorf("%d bytes come back different", len(got))
		}
	})

	t.Run("if-none-match", func(t *testing.T) {
		key := aws.String("once")
		once := func(body string) error {
			_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: key, Body: strings.NewReader(body), IfNoneMatch: aws.String("*")})
			return err
		}
		if err := once("first"); err != nil {
			t.Fatal(err)
		}
		wantCode(t, once("second"), "PreconditionFailed")
		if got := string(get(ctx, t, c, o, *key, "")); got != "first" {
			t.Errorf("the object is %q", got)
		}
		put(ctx, t, c, o, *key, []byte("third"))
		if got := string(get(ctx, t, c, o, *key, "")); got != "third" {
			t.Errorf("after an unconditional put the object is %q", got)
		}
	})

	t.Run("ETag", func(t *testing.T) {
		tag := func(body string) string {
			out, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: aws.String("tagged"), Body: strings.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			return *out.ETag
		}
		first, other, again := tag("one body"), tag("another"), tag("one body")
		if !strings.HasPrefix(first, `"CRC`) || first == other || first != again {
			t.Errorf("ETags %s and %s of one body, %s of another", first, again, other)
		}
		_, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: &o.Bucket, Key: aws.String("tagged"), IfNoneMatch: &first})
		wantCode(t, err, "NotModified")
		_, err = c.GetObject(ctx, &s3.GetObjectInput{Bucket: &o.Bucket, Key: aws.String("tagged"), IfMatch: &other})
		wantCode(t, err, "PreconditionFailed")
		list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &o.Bucket, Prefix: aws.String("tagged")})
		if err != nil || len(list.Contents) != 1 || *list.Contents[0].ETag != first {
			t.Errorf("lists %v (%v), want ETag %s", list.Contents, err, first)
		}
	})

	t.Run("a damaged body is refused", func(t *testing.T) {
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: aws.String("damaged"), Body: strings.NewReader("body"), ChecksumCRC32: aws.String("AAAAAA==")})
		wantCode(t, err, "BadDigest")
		_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: aws.String("damaged"), Body: strings.NewReader("body"), ContentMD5: aws.String("1B2M2Y8AsgTpgAmY7PhCfg==")})
		wantCode(t, err, "BadDigest")
		_, err = c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.Bucket, Key: aws.String("damaged")})
		wantCode(t, err, "NotFound")
	})

	t.Run("list", func(t *testing.T) {
		want := make([]string, 25)
		for i := range want {
			want[i] = fmt.Sprintf("list/%02d/x", i)
			put(ctx, t, c, o, want[i], nil)
		}
		var got []string
		pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: &o.Bucket, Prefix: aws.String("list/"), MaxKeys: aws.Int32(10)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range page.Contents {
				got = append(got, *object.Key)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("lists %v", got)
		}
		folders, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &o.Bucket, Prefix: aws.String("list/"), Delimiter: aws.String("/")})
		if err != nil || len(folders.CommonPrefixes) != 25 || len(folders.Contents) != 0 {
			t.Errorf("lists %d folders and %d objects (%v)", len(folders.CommonPrefixes), len(folders.Contents), err)
		}
		ids := make([]types.ObjectIdentifier, len(want))
		for i := range want {
			ids[i].Key = &want[i]
		}
		if _, err := c.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &o.Bucket, Delete: &types.Delete{Objects: ids}}); err != nil {
			t.Fatal(err)
		}
		left, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &o.Bucket, Prefix: aws.String("list/")})
		if err != nil || len(left.Contents) != 0 {
			t.Errorf("%d objects are left (%v)", len(left.Contents), err)
		}
	})

	t.Run("multipart", func(t *testing.T) {
		key, part := aws.String("large"), bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
		upload, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &o.Bucket, Key: key, ContentType: aws.String("image/tiff")})
		if err != nil {
			t.Fatal(err)
		}
		var parts []types.CompletedPart
		for n := int32(1); n <= 3; n++ {
			out, err := c.UploadPart(ctx, &s3.UploadPartInput{Bucket: &o.Bucket, Key: key, UploadId: upload.UploadId, PartNumber: &n, Body: bytes.NewReader(part)})
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(n), ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32})
		}
		if _, err := c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &o.Bucket, Key: key, UploadId: upload.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}); err != nil {
			t.Fatal(err)
		}
		head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.Bucket, Key: key})
		if err != nil || *head.ContentLength != 3*int64(len(part)) || *head.ContentType != "image/tiff" {
			t.Errorf("the whole has %v bytes of %v (%v)", head.ContentLength, head.ContentType, err)
		}
	})

	t.Run("signed links", func(t *testing.T) {
		key := "linked"
		put(ctx, t, c, o, key, []byte("by link"))
		link := func(life time.Duration) string {
			signed, err := s3.NewPresignClient(c).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &o.Bucket, Key: &key, ResponseContentDisposition: aws.String(`attachment; filename="x.png"`)}, s3.WithPresignExpires(life))
			if err != nil {
				t.Fatal(err)
			}
			return signed.URL
		}
		status, body, header := fetch(t, link(time.Minute))
		if status != http.StatusOK || body != "by link" || header.Get("Content-Disposition") != `attachment; filename="x.png"` {
			t.Errorf("a signed link answers %d %q %v", status, body, header)
		}
		if status, _, _ := fetch(t, strings.Replace(link(time.Minute), "linked", "source", 1)); status != http.StatusForbidden {
			t.Errorf("a link to another object answers %d", status)
		}
		if status, _, _ := fetch(t, o.URL+"/"+o.Bucket+"/"+key); status != http.StatusForbidden {
			t.Errorf("no signature answers %d", status)
		}
	})

	t.Run("strangers", func(t *testing.T) {
		_, err := client(t, o, "wrong").ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &o.Bucket})
		wantCode(t, err, "SignatureDoesNotMatch")
		_, err = c.GetObject(ctx, &s3.GetObjectInput{Bucket: &o.Bucket, Key: aws.String("../attributes/" + o.Bucket + "/once.attributes")})
		if err == nil {
			t.Error("a key climbs out of the bucket")
		}
		_, err = c.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String("nope")})
		wantCode(t, err, "NotFound")
	})

	t.Run("the bucket is there, and may be asked for again", func(t *testing.T) {
		if _, err := c.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &o.Bucket}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &o.Bucket}); err != nil {
			wantCode(t, err, "BucketAlreadyOwnedByYou", "BucketAlreadyExists")
		}
	})

	t.Run("health", func(t *testing.T) {
		if status, _, _ := fetch(t, o.URL+objects.HealthPath); status != http.StatusOK {
			t.Errorf("health answers %d", status)
		}
	})
}

func fetch(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// TestKillLeavesWholeObjects kills the gateway under uploads: what was acknowledged is there and whole, and
// what was not is there whole or not at all.
func TestKillLeavesWholeObjects(t *testing.T) {
	o := localtest.StartObjects(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := client(t, o, o.SecretKey)
	body := bytes.Repeat([]byte("x"), 100_000)
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var running sync.WaitGroup
	enough := make(chan struct{})
	for w := range 4 {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("w%d/%d", w, n)
				_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.Bucket, Key: &key, Body: bytes.NewReader(body), ContentType: aws.String("image/png")},
					func(opts *s3.Options) { opts.RetryMaxAttempts = 1 })
				if err != nil {
					return
				}
				mu.Lock()
				acknowledged[key] = true
				if len(acknowledged) == 40 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	o.Kill()
	running.Wait()
	o.Restart()
	for key := range acknowledged {
		head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.Bucket, Key: &key})
		if err != nil || *head.ContentLength != int64(len(body)) || *head.ContentType != "image/png" {
			t.Fatalf("acknowledged object %s: %v", key, err)
		}
	}
	list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &o.Bucket})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range list.Contents {
		if *object.Size != int64(len(body)) {
			t.Errorf("object %s has %d bytes of %d", *object.Key, *object.Size, len(body))
		}
	}
}

func TestRefusals(t *testing.T) {
	o := localtest.StartObjects(t)
	for name, c := range map[string]struct {
		cfg  objects.Config
		want string
	}{
		"port in use":   {objects.Config{Addr: o.Addr, Dir: t.TempDir(), AccessKey: "a", SecretKey: "s"}, o.Addr + ", another program listens there: stop it, or let `leafcutter up --any-port` choose"},
		"every address": {objects.Config{Addr: "0.0.0.0:0", Dir: t.TempDir(), AccessKey: "a", SecretKey: "s"}, "is no loopback address"},
		"no keys":       {objects.Config{Addr: "127.0.0.1:0", Dir: t.TempDir()}, "no access key and secret key given"},
	} {
		_, err := objects.New(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := objects.New(objects.Config{Addr: "127.0.0.1:0", Dir: file, AccessKey: "a", SecretKey: "s"}); err == nil {
		t.Error("a file serves as a data directory")
	}
}
