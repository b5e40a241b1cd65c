package objectstore

import (
	"context"
	"io"
	"strings"

	"leafcutter/pkg/fault"
)

// URI is the s3:// reference of one of the store's own objects.
func (s *Store) URI(key string) string { return "s3://" + s.cfg.Bucket + "/" + key }

// OpenURI starts to read what a submitted s3:// reference points to. Our credentials may see more than a submitter may
// name, so only the own bucket and what S3_SOURCES lists is opened; anything else is a permanent fault, code
// "source-not-allowed", whether it exists or not.
func (s *Store) OpenURI(ctx context.Context, uri string) (io.ReadCloser, Info, error) {
	bucket, key, err := s.resolve(uri)
	if err != nil {
		return nil, Info{}, err
	}
	return s.open(ctx, bucket, key)
}

// CheckURI tells, without asking the server, whether [Store.OpenURI] may open uri.
func (s *Store) CheckURI(uri string) error {
	_, _, err := s.resolve(uri)
	return err
}

// resolve splits an allowed reference into bucket and key. Keys are opaque: nothing in them is unescaped.
func (s *Store) resolve(uri string) (bucket, key string, err error) {
	rest, ok := strings.CutPrefix(uri, "s3://")
	if !ok {
		return "", "", fault.Permanentf(CodeSource, "%q does not begin with s3://", uri)
	}
	bucket, key, _ = strings.Cut(rest, "/")
	if !validBucket(bucket) || checkKey(key) != nil {
		return "", "", fault.Permanentf(CodeSource, "%q is not an s3://bucket/key reference", uri)
	}
	if bucket == s.cfg.Bucket {
		return bucket, key, nil
	}
	for _, source := range s.cfg.Sources {
		allowed, prefix, _ := strings.Cut(strings.TrimSpace(source), "/")
		prefix = strings.TrimSuffix(prefix, "/")
		if bucket == allowed && (prefix == "" || strings.HasPrefix(key, prefix+"/")) {
			return bucket, key, nil
		}
	}
	return "", "", fault.Permanentf(CodeSource, "%q is in no bucket that S3_SOURCES allows", uri)
}
