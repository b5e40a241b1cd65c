package objectstore

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
)

// Config says which bucket of which S3 server, and what submitted references may point into. The variables are those
// that the AWS SDKs and tools know, so one environment serves them all.
type Config struct {
	Endpoint       string `env:"AWS_ENDPOINT_URL" desc:"S3 server, as http://host:port; empty for Amazon S3 itself"`
	PublicEndpoint string `env:"S3_PUBLIC_ENDPOINT_URL" desc:"S3 server as browsers reach it, for signed links; empty for AWS_ENDPOINT_URL"`
	Region         string `env:"AWS_REGION" envDefault:"us-east-1" desc:"region of the bucket"`

	// Where these are empty, the SDK's own chain is asked: shared files, web identity, container and instance roles.
	AccessKeyID     string `env:"AWS_ACCESS_KEY_ID" flag:"-" desc:"access key; empty to use shared files or the machine's role"`
	SecretAccessKey string `env:"AWS_SECRET_ACCESS_KEY" secret:"true" desc:"secret of the access key"`
	SessionToken    string `env:"AWS_SESSION_TOKEN" secret:"true" desc:"session token, with temporary keys"`

	Bucket         string   `env:"S3_BUCKET" envDefault:"leafcutter" desc:"bucket that holds sources, page images and crops"`
	ForcePathStyle bool     `env:"S3_FORCE_PATH_STYLE" desc:"put the bucket into the path and not into the host name; needed by most servers that are not Amazon's"`
	Checksum       string   `env:"S3_CHECKSUM" envDefault:"when-supported" desc:"CRC32 of bodies: when-supported, or when-required for servers that refuse it"`
	Sources        []string `env:"S3_SOURCES" desc:"other buckets, or bucket/prefix, that a submitted s3:// source may point into, separated by commas"`
	Connections    int      `env:"S3_CONNECTIONS" envDefault:"32" desc:"connections to S3 that are kept open"`
	TraceRequests  bool     `env:"S3_TRACE_REQUESTS" desc:"a span for each request to S3: a page makes a dozen, which cost more than all its other spans. Metrics of requests are there in any case"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for name, endpoint := range map[string]string{"AWS_ENDPOINT_URL": c.Endpoint, "S3_PUBLIC_ENDPOINT_URL": c.PublicEndpoint} {
		if endpoint == "" {
			continue
		}
		if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			fault("%s: %q is not a URL such as http://127.0.0.1:9000", name, endpoint)
		}
	}
	if !validBucket(c.Bucket) {
		fault("S3_BUCKET: %q is not a bucket's name", c.Bucket)
	}
	if c.Region == "" {
		fault("AWS_REGION: must not be empty")
	}
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		fault("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: give both or neither")
	}
	if c.Checksum != "when-supported" && c.Checksum != "when-required" {
		fault("S3_CHECKSUM: %q is neither when-supported nor when-required", c.Checksum)
	}
	if c.Connections < 1 || c.Connections > 4096 {
		fault("S3_CONNECTIONS: %d is not between 1 and 4096", c.Connections)
	}
	for _, source := range c.Sources {
		bucket, _, _ := strings.Cut(strings.TrimSpace(source), "/")
		if !validBucket(bucket) {
			fault("S3_SOURCES: %q does not begin with a bucket's name", source)
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(faults...)
}

// LogValue tells where, and never with which key.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(slog.String("endpoint", c.Endpoint), slog.String("region", c.Region), slog.String("bucket", c.Bucket))
}

// String is for a Config that is printed by accident: it withholds the keys.
func (c Config) String() string {
	return fmt.Sprintf("s3://%s at %s (%s)", c.Bucket, c.Endpoint, c.Region)
}

// GoString is String, for %#v.
func (c Config) GoString() string { return c.String() }

// validBucket holds a name to the rules for new buckets of S3: 3 to 63 of a-z, 0-9, dot and hyphen, beginning and ending
// with a letter or digit.
func validBucket(name string) bool {
	if len(name) < 3 || len(name) > 63 || strings.Contains(name, "..") {
		return false
	}
	edge := func(b byte) bool { return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' }
	for i := range len(name) {
		if b := name[i]; !edge(b) && b != '-' && b != '.' {
			return false
		}
	}
	return edge(name[0]) && edge(name[len(name)-1])
}
