package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"leafcutter/pkg/fault"
)

const (
	probeTimeout = 3 * time.Second
	probeBytes   = 64 << 10 // read of what is there, and thrown away
	deleteBatch  = 1000     // the most that one DeleteObjects takes
)

// Delete removes objects; those that are not there count as removed.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	if len(keys) == 1 {
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(s.cfg.Bucket), Key: aws.String(keys[0])})
		if err = notMissing(ctx, "delete "+keys[0], err); err != nil {
			return err
		}
		return nil
	}
	for len(keys) > 0 {
		n := min(len(keys), deleteBatch)
		if err := s.deleteBatch(ctx, keys[:n]); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

func (s *Store) deleteBatch(ctx context.Context, keys []string) error {
	objects := make([]types.ObjectIdentifier, len(keys))
	for i, key := range keys {
		objects[i] = types.ObjectIdentifier{Key: aws.String(key)}
	}
	out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
		Bucket: aws.String(s.cfg.Bucket),
		Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)},
	})
	if err != nil {
		return classed(ctx, fmt.Sprintf("delete %d objects", len(keys)), err)
	}
	var failed error
	for _, e := range out.Errors {
		if code := aws.ToString(e.Code); code != "NoSuchKey" {
			failed = errors.Join(failed, fmt.Errorf("delete %s: %s: %s", aws.ToString(e.Key), code, aws.ToString(e.Message)))
		}
	}
	if failed != nil {
		return fault.AsUnavailable(Dependency, failed)
	}
	return nil
}

// notMissing classes err, and forgives an object that is not there.
func notMissing(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if err = classed(ctx, doing, err); fault.CodeOf(err) == CodeMissing {
		return nil
	}
	return err
}

// List calls visit for every object whose key begins with prefix, in the order of keys, until visit returns an error,
// which List returns as it is. Infos have no content type.
func (s *Store) List(ctx context.Context, prefix string, visit func(Info) error) error {
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{
		Bucket: aws.String(s.cfg.Bucket),
		Prefix: aws.String(prefix),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return classed(ctx, "list "+prefix, err)
		}
		for _, o := range page.Contents {
			info := Info{Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag), Modified: aws.ToTime(o.LastModified)}
			if err := visit(info); err != nil {
				return err
			}
		}
	}
	return nil
}

// Folders calls visit with each name that stands between prefix, which ends with a slash, and the next slash of a key, in
// order, until visit returns an error, which Folders returns as it is. Keys without that slash are passed over.
func (s *Store) Folders(ctx context.Context, prefix string, visit func(name string) error) error {
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{
		Bucket: aws.String(s.cfg.Bucket), Prefix: aws.String(prefix), Delimiter: aws.String("/"),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return classed(ctx, "list folders of "+prefix, err)
		}
		for _, folder := range page.CommonPrefixes {
			if err := visit(strings.TrimSuffix(strings.TrimPrefix(aws.ToString(folder.Prefix), prefix), "/")); err != nil {
				return err
			}
		}
	}
	return nil
}

// DeletePrefix removes every object whose key begins with prefix, which must not be empty, and tells how many. It holds
// at most one batch of keys, however many there are.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int, error) {
	if prefix == "" {
		return 0, fault.Permanentf(CodeKeyInvalid, "refusing to delete the whole bucket")
	}
	removed := 0
	batch := make([]string, 0, deleteBatch)
	flush := func() error {
		if err := s.Delete(ctx, batch...); err != nil {
			return err
		}
		removed += len(batch)
		batch = batch[:0]
		return nil
	}
	err := s.List(ctx, prefix, func(info Info) error {
		if batch = append(batch, info.Key); len(batch) == deleteBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		return removed, err
	}
	return removed, flush()
}

// PresignGet signs a link by which anybody may read one object for ttl. The server is not asked: the object need not exist.
func (s *Store) PresignGet(ctx context.Context, key string, ttl time.Duration) (string, error) {
	if err := checkKey(key); err != nil {
		return "", err
	}
	request, err := s.presign.PresignGetObject(ctx,
		&s3.GetObjectInput{Bucket: aws.String(s.cfg.Bucket), Key: aws.String(key)},
		s3.WithPresignExpires(ttl))
	if err != nil {
		return "", classed(ctx, "sign "+key, err)
	}
	return request.URL, nil
}

// probeKey is an object of one byte that every probe writes: a store that is full, or keys that may only read, are as
// much in the way as a store that is gone.
const probeKey = "leafcutter/probe"

// Probe tells within three seconds whether the bucket can be reached with our keys, written to and read from. It shares
// no connection and no retry with other requests, so it may contradict them. That it reads back is for stores of several
// parts: one that is coming back may take objects, or tell of them, before it can give any.
func (s *Store) Probe(ctx context.Context) error {
	probe, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	defer s.probing.CloseIdleConnections()
	if _, err := s.prober.PutObject(probe, &s3.PutObjectInput{Bucket: aws.String(s.cfg.Bucket), Key: aws.String(probeKey), Body: strings.NewReader("1")}); err != nil {
		return unreachable(ctx, "probe bucket "+s.cfg.Bucket, err)
	}
	read, err := s.prober.GetObject(probe, &s3.GetObjectInput{Bucket: aws.String(s.cfg.Bucket), Key: aws.String(probeKey)})
	if err != nil {
		return unreachable(ctx, "read back from bucket "+s.cfg.Bucket, err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(read.Body, probeBytes))
	if err = errors.Join(err, read.Body.Close()); err != nil {
		return unreachable(ctx, "read back from bucket "+s.cfg.Bucket, err)
	}
	return nil
}

// EnsureBucket creates the bucket where it is missing. Two callers at once both succeed.
func (s *Store) EnsureBucket(ctx context.Context) error {
	bucket := aws.String(s.cfg.Bucket)
	_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: bucket})
	if err == nil {
		return nil
	}
	var missing *types.NotFound
	if !errors.As(err, &missing) {
		return unreachable(ctx, "look for bucket "+s.cfg.Bucket, err)
	}
	input := &s3.CreateBucketInput{Bucket: bucket}
	if s.cfg.Region != "us-east-1" {
		input.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(s.cfg.Region)}
	}
	var owned *types.BucketAlreadyOwnedByYou
	if _, err := s.client.CreateBucket(ctx, input); err != nil && !errors.As(err, &owned) {
		return unreachable(ctx, "create bucket "+s.cfg.Bucket, err)
	}
	return nil
}

// unreachable classes the error of an operation on the bucket itself, where nothing is an object's fault.
func unreachable(ctx context.Context, doing string, err error) error {
	err = classed(ctx, doing, err)
	var f *fault.Error
	if errors.As(err, &f) && f.Class != fault.Unavailable {
		return fault.AsUnavailable(Dependency, f.Err)
	}
	return err
}
