package ingestapi

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"leafcutter/ingest-api/internal/httpapi"
	"leafcutter/ingest-api/internal/webhook"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
)

// Config is everything that ingest-api reads.
type Config struct {
	Addr           string        `env:"LEAFCUTTER_API_ADDR" envDefault:"127.0.0.1:8090" desc:"host:port of the API and the web pages"`
	MaxConnections int           `env:"LEAFCUTTER_MAX_CONNECTIONS" envDefault:"2048" desc:"connections at once; more wait to be accepted"`
	MaxUploads     int           `env:"LEAFCUTTER_MAX_UPLOADS" envDefault:"64" desc:"uploads received at once; more wait a few seconds and are then told to come back"`
	SpoolDir       string        `env:"LEAFCUTTER_SPOOL_DIR" desc:"folder for uploads on their way to S3; the system's temporary folder where empty"`
	SpoolBytes     int64         `env:"LEAFCUTTER_SPOOL_BYTES" envDefault:"2147483648" desc:"bytes that uploads on their way may hold together"`
	ProduceTimeout time.Duration `env:"LEAFCUTTER_PRODUCE_TIMEOUT" envDefault:"15s" desc:"how long Kafka may take to acknowledge a document"`
	QueryTimeout   time.Duration `env:"LEAFCUTTER_QUERY_TIMEOUT" envDefault:"15s" desc:"how long ClickHouse may take to answer one question"`
	Grace          time.Duration `env:"LEAFCUTTER_GRACE" envDefault:"25s" desc:"how long a stop waits for requests in flight"`
	DefaultModel   string        `env:"LEAFCUTTER_DEFAULT_MODEL" envDefault:"layout_cdla" desc:"model of a submission that names none; always known"`

	HTTP       httpapi.Config
	Kafka      kafka.Config
	S3         objectstore.Config
	ClickHouse clickhouse.Config
	Webhooks   webhook.Config
}

// Validate reports every fault of this part at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		fault("LEAFCUTTER_API_ADDR: %q is not host:port", c.Addr)
	}
	if c.MaxConnections < 1 {
		fault("LEAFCUTTER_MAX_CONNECTIONS: %d, must be 1 or more", c.MaxConnections)
	}
	if c.MaxUploads < 1 {
		fault("LEAFCUTTER_MAX_UPLOADS: %d, must be 1 or more", c.MaxUploads)
	}
	if c.SpoolBytes < c.HTTP.MaxUpload {
		fault("LEAFCUTTER_SPOOL_BYTES: %d is less than one upload of LEAFCUTTER_MAX_UPLOAD_BYTES, %d", c.SpoolBytes, c.HTTP.MaxUpload)
	}
	if c.ProduceTimeout <= 0 || c.QueryTimeout <= 0 || c.Grace < 0 {
		fault("LEAFCUTTER_PRODUCE_TIMEOUT, LEAFCUTTER_QUERY_TIMEOUT and LEAFCUTTER_GRACE: must be above zero")
	}
	if !schemas.IsModelName(c.DefaultModel) {
		fault("LEAFCUTTER_DEFAULT_MODEL: %q is not a model name (a-z, 0-9, _ and -, up to 64)", c.DefaultModel)
	}
	return errors.Join(faults...)
}

func (c Config) spoolDir() string {
	if c.SpoolDir != "" {
		return c.SpoolDir
	}
	return os.TempDir()
}

// loopback reports whether the API can be reached from this machine alone.
func (c Config) loopback() bool {
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
