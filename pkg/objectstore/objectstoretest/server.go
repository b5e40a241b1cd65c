// Package objectstoretest is for tests: a small S3 server in memory, and one suite that every S3 server has to pass, the
// small one here and the real ones in e2e/.
package objectstoretest

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/pkg/objectstore"
)

// Keys that the server accepts.
const (
	AccessKey = "test-access-key"
	SecretKey = "test-secret-key"
)

// Server speaks the part of S3 that the object store uses, path style, over plain HTTP. It checks the access key, the
// digest and the checksum of bodies, and the expiry of signed links; not the signatures themselves.
type Server struct {
	// URL is the endpoint.
	URL string

	mu      sync.Mutex
	buckets map[string]map[string]object
	fail    func(*http.Request) (status int, code string)
	now     func() time.Time
	server  *httptest.Server
}

type object struct {
	body        []byte
	contentType string
	crc32       string // base64, as the client sent it; "" if it did not
	modified    time.Time
}

// NewServer starts a server without a bucket. It closes with the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{buckets: map[string]map[string]object{}, now: time.Now}
	s.server = httptest.NewServer(s)
	s.URL = s.server.URL
	t.Cleanup(s.server.Close)
	return s
}

// New opens a store on a server of its own, with the bucket there. Both close with the test. It is what unit tests of
// the stages use.
func New(t testing.TB) *objectstore.Store {
	t.Helper()
	store := NewServer(t).Open(t)
	if err := store.EnsureBucket(context.Background()); err != nil {
		t.Fatal(err)
	}
	return store
}

// Config leads to the server.
func (s *Server) Config() objectstore.Config {
	return objectstore.Config{
		Endpoint: s.URL, Region: "us-east-1", AccessKeyID: AccessKey, SecretAccessKey: SecretKey,
		Bucket: "leafcutter", ForcePathStyle: true, Checksum: "when-supported", Connections: 8,
	}
}

// Open opens a store on the server; it closes with the test.
func (s *Server) Open(t testing.TB, options ...objectstore.Option) *objectstore.Store {
	t.Helper()
	store, err := objectstore.Open(context.Background(), s.Config(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

// Fail lets hook answer requests with an error: the HTTP status and S3's code. Status 0 lets a request through. A nil
// hook ends it.
func (s *Server) Fail(hook func(*http.Request) (status int, code string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = hook
}

// Corrupt changes the stored bytes of an object behind the checksum that it was stored with.
func (s *Server) Corrupt(bucket, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.buckets[bucket][key]
	o.body = slices.Clone(o.body)
	o.body[0] ^= 0xff
	s.buckets[bucket][key] = o
}

// Disconnect breaks every connection, in use or not.
func (s *Server) Disconnect() { s.server.CloseClientConnections() }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client broke off
	}
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if status, code := fail(r); status != 0 {
			refuse(w, r, status, code)
			return
		}
	}
	if code := s.authorise(r, body); code != "" {
		refuse(w, r, http.StatusForbidden, code)
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == "" && r.Method == http.MethodPut {
		s.createBucket(w, r, bucket)
		return
	}
	objects, ok := s.buckets[bucket]
	switch {
	case !ok:
		refuse(w, r, http.StatusNotFound, "NoSuchBucket")
	case key == "" && r.Method == http.MethodHead:
	case key == "" && r.Method == http.MethodGet:
		list(w, r, objects)
	case key == "" && r.Method == http.MethodPost && r.URL.Query().Has("delete"):
		deleteMany(w, r, objects, body)
	case r.Method == http.MethodPut:
		put(w, r, objects, key, body, s.now())
	case r.Method == http.MethodDelete:
		delete(objects, key)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		get(w, r, objects, key)
	default:
		refuse(w, r, http.StatusMethodNotAllowed, "MethodNotAllowed")
	}
}

// authorise gives S3's code for what is wrong with a request, or "".
func (s *Server) authorise(r *http.Request, body []byte) string {
	query := r.URL.Query()
	if query.Has("X-Amz-Signature") {
		signed, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
		seconds, err2 := strconv.Atoi(query.Get("X-Amz-Expires"))
		if err != nil || err2 != nil || s.now().After(signed.Add(time.Duration(seconds)*time.Second)) {
			return "AccessDenied"
		}
		if !strings.HasPrefix(query.Get("X-Amz-Credential"), AccessKey+"/") {
			return "InvalidAccessKeyId"
		}
		return ""
	}
	if !strings.Contains(r.Header.Get("Authorization"), "Credential="+AccessKey+"/") {
		return "InvalidAccessKeyId"
	}
	digest := sha256.Sum256(body)
	if given := r.Header.Get("X-Amz-Content-Sha256"); given != "UNSIGNED-PAYLOAD" && given != hex.EncodeToString(digest[:]) {
		return "XAmzContentSHA256Mismatch"
	}
	return ""
}

func (s *Server) createBucket(w http.ResponseWriter, r *http.Request, bucket string) {
	if _, ok := s.buckets[bucket]; ok {
		refuse(w, r, http.StatusConflict, "BucketAlreadyOwnedByYou")
		return
	}
	s.buckets[bucket] = map[string]object{}
}

func put(w http.ResponseWriter, r *http.Request, objects map[string]object, key string, body []byte, now time.Time) {
	given := r.Header.Get("X-Amz-Checksum-Crc32")
	if given != "" && given != checksum(body) {
		refuse(w, r, http.StatusBadRequest, "BadDigest")
		return
	}
	objects[key] = object{body: body, contentType: r.Header.Get("Content-Type"), crc32: given, modified: now}
	w.Header().Set("ETag", etag(body))
}

func get(w http.ResponseWriter, r *http.Request, objects map[string]object, key string) {
	o, ok := objects[key]
	if !ok {
		refuse(w, r, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("Content-Type", cmp.Or(o.contentType, "application/octet-stream"))
	w.Header().Set("Content-Length", strconv.Itoa(len(o.body)))
	w.Header().Set("ETag", etag(o.body))
	w.Header().Set("Last-Modified", o.modified.UTC().Format(http.TimeFormat))
	if o.crc32 != "" && r.Header.Get("X-Amz-Checksum-Mode") == "ENABLED" {
		w.Header().Set("X-Amz-Checksum-Crc32", o.crc32)
	}
	if r.Method == http.MethodGet {
		_, _ = w.Write(o.body)
	}
}

func list(w http.ResponseWriter, r *http.Request, objects map[string]object) {
	type content struct {
		Key          string
		Size         int
		ETag         string
		LastModified string
	}
	result := struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []content
		CommonPrefixes        []struct{ Prefix string }
	}{}
	query := r.URL.Query()
	prefix, delimiter := query.Get("prefix"), query.Get("delimiter")
	keys := make([]string, 0, len(objects)) // and folders, which end with the delimiter as no key here does
	for key := range objects {
		rest, below := strings.CutPrefix(key, prefix)
		if i := strings.Index(rest, delimiter); delimiter != "" && i >= 0 {
			key = prefix + rest[:i+len(delimiter)]
		}
		if below && key > query.Get("continuation-token") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if len(keys) > 1000 {
		keys = keys[:1000]
		result.IsTruncated, result.NextContinuationToken = true, keys[999]
	}
	for _, key := range keys {
		if delimiter != "" && strings.HasSuffix(key, delimiter) {
			result.CommonPrefixes = append(result.CommonPrefixes, struct{ Prefix string }{key})
			continue
		}
		o := objects[key]
		result.Contents = append(result.Contents, content{key, len(o.body), etag(o.body), o.modified.UTC().Format(time.RFC3339)})
	}
	answer(w, http.StatusOK, result)
}

func deleteMany(w http.ResponseWriter, r *http.Request, objects map[string]object, body []byte) {
	var request struct {
		Object []struct{ Key string }
	}
	if err := xml.Unmarshal(body, &request); err != nil || len(request.Object) > 1000 {
		refuse(w, r, http.StatusBadRequest, "MalformedXML")
		return
	}
	for _, o := range request.Object {
		delete(objects, o.Key)
	}
	answer(w, http.StatusOK, struct {
		XMLName xml.Name `xml:"DeleteResult"`
	}{})
}

func refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	answer(w, status, struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: code, Message: "refused by the test server"})
}

func answer(w http.ResponseWriter, status int, body any) {
	text, err := xml.Marshal(body)
	if err != nil {
		http.Error(w, fmt.Sprintf("marshal: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), text...))
}

func etag(body []byte) string {
	sum := md5.Sum(body)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func checksum(body []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(body)))
}
