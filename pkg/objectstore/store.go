// Package objectstore keeps sources, page images, annotated pages and crops in one bucket of an S3 server. Every stage
// and ingest-api call it; aws-sdk-go-v2 is the only client, against Amazon S3, SeaweedFS and the embedded server alike.
//
// Errors are classed here, once (see [leafcutter/pkg/fault]): a missing object is permanent, code "object-missing"; a
// server that is away, slow or overloaded, and keys that it does not accept, are Unavailable("s3"), because no document
// is to blame for either; a cancelled context stays context.Canceled.
package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"leafcutter/pkg/failpoint"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/outbound"
)

// Dependency is the name under which the store's probe is registered and its absence is classed.
const Dependency = "s3"

// patience is how long a server that is not known to be slow may be silent. Every request may be repeated: what is put is
// the same however often.
const patience = 20 * time.Second

// Store is one bucket. It is safe for any number of goroutines.
type Store struct {
	cfg       Config
	client    *s3.Client
	presign   *s3.PresignClient
	prober    *s3.Client
	transport *outbound.Transport
	probing   *outbound.Transport
}

// Info is what the server says about an object.
type Info struct {
	Key         string
	Size        int64 // bytes
	ContentType string
	ETag        string
	Modified    time.Time
}

// Option changes how a store is opened.
type Option func(*outbound.Settings)

// WithTelemetry sends metrics of requests, and with Config.TraceRequests their spans, to these providers.
func WithTelemetry(tracers trace.TracerProvider, meters metric.MeterProvider) Option {
	return func(s *outbound.Settings) { s.Tracers, s.Meters = tracers, meters }
}

// WithStall changes after how long without a byte in either direction a request is given up: where not given 20 s, and up
// to 60 s from a server that has lately been as slow. It is tried again by a new connection.
func WithStall(stall time.Duration) Option {
	return func(s *outbound.Settings) { s.Stall, s.Patience = stall, stall }
}

// Open makes a store without touching the network: a server that is away shows at the first use, and in [Store.Probe].
func Open(ctx context.Context, cfg Config, options ...Option) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	settings := outbound.Settings{Connections: cfg.Connections, Patience: patience}
	for _, option := range options {
		option(&settings)
	}
	if !cfg.TraceRequests {
		settings.Tracers = noop.NewTracerProvider()
	}
	load := []func(*awsconfig.LoadOptions) error{awsconfig.WithRegion(cfg.Region)}
	if cfg.AccessKeyID != "" {
		static := credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, cfg.SessionToken)
		load = append(load, awsconfig.WithCredentialsProvider(static))
	}
	shared, err := awsconfig.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("object store: load the AWS configuration: %w", err)
	}
	s := &Store{cfg: cfg, transport: outbound.New(settings)}
	s.client = s3.NewFromConfig(shared, cfg.clientOptions(cfg.Endpoint, s.transport, 3))

	// The probe shares nothing with the traffic that it judges: no pooled connection, no retry.
	settings.Connections, settings.DialTimeout, settings.Stall = 1, probeTimeout, probeTimeout
	s.probing = outbound.New(settings)
	s.prober = s3.NewFromConfig(shared, cfg.clientOptions(cfg.Endpoint, s.probing, 1))

	public := cfg.PublicEndpoint
	if public == "" {
		public = cfg.Endpoint
	}
	s.presign = s3.NewPresignClient(s3.NewFromConfig(shared, cfg.clientOptions(public, s.transport, 1)))
	return s, nil
}

func (c Config) clientOptions(endpoint string, transport http.RoundTripper, attempts int) func(*s3.Options) {
	return func(o *s3.Options) {
		if endpoint != "" {
			o.BaseEndpoint = aws.String(endpoint)
		}
		o.UsePathStyle = c.ForcePathStyle
		o.HTTPClient = &http.Client{Transport: transport}
		o.DisableLogOutputChecksumValidationSkipped = true
		// The stage runtime waits out an absence with its own backoff. Here only a blip is hidden, and the SDK's token
		// bucket is off: once empty it would answer for the server, and healthy requests would fail with it.
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts = attempts
			r.MaxBackoff = 250 * time.Millisecond
			r.RateLimiter = ratelimit.None
		})
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenSupported
		if c.Checksum == "when-required" {
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		}
	}
}

// Close closes idle connections. Requests in flight end by themselves.
func (s *Store) Close() {
	s.transport.CloseIdleConnections()
	s.probing.CloseIdleConnections()
}

// Bucket is the name of the store's own bucket.
func (s *Store) Bucket() string { return s.cfg.Bucket }

// Put stores a small object under key and replaces what is there. It returns when the server has it.
func (s *Store) Put(ctx context.Context, key string, body []byte, contentType string) error {
	return s.PutReader(ctx, key, bytes.NewReader(body), int64(len(body)), contentType)
}

// PutReader stores size bytes of r, from where it stands, in constant memory. r is read twice where a signature or a
// checksum has to go before the body, and again for each retry; that is why it has to seek.
func (s *Store) PutReader(ctx context.Context, key string, r io.ReadSeeker, size int64, contentType string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	input := &s3.PutObjectInput{
		Bucket:        aws.String(s.cfg.Bucket),
		Key:           aws.String(key),
		Body:          r,
		ContentLength: aws.Int64(size),
	}
	if contentType != "" {
		input.ContentType = aws.String(contentType)
	}
	if _, err := s.client.PutObject(ctx, input); err != nil {
		return classed(ctx, "put "+key, err)
	}
	failpoint.Hit("object", "put")
	return nil
}

// Get reads a whole object of at most limit bytes. A larger one is a permanent fault, code "object-too-large".
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	body, info, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // read to its end or of no interest any more
	if info.Size > limit {
		return nil, fault.Permanentf("object-too-large", "get %s: %d bytes, the limit is %d", key, info.Size, limit)
	}
	content := make([]byte, info.Size)
	if _, err := io.ReadFull(body, content); err != nil {
		return nil, err
	}
	// One byte more shows the end of the body, where the checksum is compared.
	if n, err := body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		if err == nil || errors.Is(err, io.EOF) {
			err = fault.AsUnavailable(Dependency, fmt.Errorf("get %s: body is longer than announced", key))
		}
		return nil, err
	}
	return content, nil
}

// Open starts to read an object. The caller closes the body; errors of its Read are classed like those of Open.
func (s *Store) Open(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	return s.open(ctx, s.cfg.Bucket, key)
}

func (s *Store) open(ctx context.Context, bucket, key string) (io.ReadCloser, Info, error) {
	if err := checkKey(key); err != nil {
		return nil, Info{}, err
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	if err != nil {
		return nil, Info{}, classed(ctx, "get "+key, err)
	}
	info := Info{
		Key:         key,
		Size:        aws.ToInt64(out.ContentLength),
		ContentType: aws.ToString(out.ContentType),
		ETag:        aws.ToString(out.ETag),
		Modified:    aws.ToTime(out.LastModified),
	}
	return &body{ReadCloser: out.Body, ctx: ctx, key: key}, info, nil
}

// body classes the errors of an object that is being read.
type body struct {
	io.ReadCloser
	ctx context.Context
	key string
}

// Read is that of the response's body.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = classed(b.ctx, "read "+b.key, err)
	}
	return n, err
}

// Head tells about an object without its body; a missing one is a permanent fault, code "object-missing".
func (s *Store) Head(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(s.cfg.Bucket), Key: aws.String(key)})
	if err != nil {
		return Info{}, classed(ctx, "head "+key, err)
	}
	return Info{
		Key:         key,
		Size:        aws.ToInt64(out.ContentLength),
		ContentType: aws.ToString(out.ContentType),
		ETag:        aws.ToString(out.ETag),
		Modified:    aws.ToTime(out.LastModified),
	}, nil
}

// Exists tells whether there is an object under key.
func (s *Store) Exists(ctx context.Context, key string) (bool, error) {
	_, err := s.Head(ctx, key)
	if fault.CodeOf(err) == CodeMissing {
		return false, nil
	}
	return err == nil, err
}
