// Package kafka opens clients of any Kafka (Apache Kafka, Redpanda, the embedded broker), makes the topics from the
// table in package schemas, and reads compacted topics to their end and on. The stage runtime, the API and the command
// line call it.
package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"leafcutter/schemas"
)

// Config says which Kafka, and how to be let in.
type Config struct {
	Brokers       []string `env:"KAFKA_BROKERS" desc:"addresses to start from, comma-separated" envDefault:"127.0.0.1:9092"`
	TopicPrefix   string   `env:"LEAFCUTTER_TOPIC_PREFIX" desc:"put before the name of every topic"`
	GroupPrefix   string   `env:"LEAFCUTTER_GROUP_PREFIX" desc:"put before the name of every consumer group"`
	TLS           bool     `env:"KAFKA_TLS_ENABLED" desc:"speak TLS; on by itself where a certificate is given"`
	TLSCA         string   `env:"KAFKA_TLS_CA" desc:"file with the certificate authorities to trust, PEM; the system's where empty"`
	TLSCert       string   `env:"KAFKA_TLS_CERT" desc:"file with the client certificate, PEM"`
	TLSKey        string   `env:"KAFKA_TLS_KEY" desc:"file with the client certificate's key, PEM"`
	TLSServerName string   `env:"KAFKA_TLS_SERVER_NAME" desc:"name to verify instead of the broker's"`
	SASLMechanism string   `env:"KAFKA_SASL_MECHANISM" desc:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; none where empty"`
	SASLUser      string   `env:"KAFKA_SASL_USERNAME" desc:"user for SASL"`
	SASLPassword  string   `env:"KAFKA_SASL_PASSWORD" desc:"password for SASL" secret:"true"`

	SessionTimeout time.Duration `env:"KAFKA_SESSION_TIMEOUT" desc:"a member silent for so long is taken out of its group" envDefault:"10s"`
}

// Topic is the name of a topic in this deployment.
func (c Config) Topic(name string) string { return c.TopicPrefix + name }

// Group is the name of a consumer group in this deployment.
func (c Config) Group(name string) string { return c.GroupPrefix + name }

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if len(c.Brokers) == 0 {
		faults = append(faults, errors.New("KAFKA_BROKERS: none given"))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		faults = append(faults, errors.New("KAFKA_TLS_CERT and KAFKA_TLS_KEY: give both or neither"))
	}
	switch c.SASLMechanism {
	case "":
		if c.SASLUser != "" || c.SASLPassword != "" {
			faults = append(faults, errors.New("KAFKA_SASL_MECHANISM: missing though a user or password is given"))
		}
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if c.SASLUser == "" {
			faults = append(faults, errors.New("KAFKA_SASL_USERNAME: missing"))
		}
	default:
		faults = append(faults, fmt.Errorf("KAFKA_SASL_MECHANISM: %q is not PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.SASLMechanism))
	}
	if c.SessionTimeout < time.Second {
		faults = append(faults, fmt.Errorf("KAFKA_SESSION_TIMEOUT: %s, must be 1s or more", c.SessionTimeout))
	}
	return errors.Join(faults...)
}

// NewClient is a client for the deployment's Kafka with what every client of ours needs; opts come after and win.
func NewClient(c Config, opts ...kgo.Opt) (*kgo.Client, error) {
	all := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID("leafcutter"),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 { return schemas.MaxBytes(strings.TrimPrefix(topic, c.TopicPrefix)) }),
		kgo.DisableClientMetrics(), // KIP-714: ours are at /metrics
		// Not LZ4: its writer works in blocks of 4 MiB, and making a client, as every probe does, already takes two of them.
		kgo.ProducerBatchCompression(kgo.SnappyCompression(), kgo.NoCompression()),
		// Reading: what is not compressed is bounded by nothing but these.
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
	}
	all = append(all, bounded(MaxDecompressed, MaxUnfolded)...) // reading: what a direct producer compressed may unfold to gigabytes
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	all = append(all, kgo.Dialer(newSiblings(tlsConfig).connect))
	switch c.SASLMechanism {
	case "PLAIN":
		all = append(all, kgo.SASL(plain.Auth{User: c.SASLUser, Pass: c.SASLPassword}.AsMechanism()))
	case "SCRAM-SHA-256":
		all = append(all, kgo.SASL(scram.Auth{User: c.SASLUser, Pass: c.SASLPassword}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		all = append(all, kgo.SASL(scram.Auth{User: c.SASLUser, Pass: c.SASLPassword}.AsSha512Mechanism()))
	}
	client, err := kgo.NewClient(append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make a Kafka client: %w", err)
	}
	return client, nil
}

const (
	fetchBytes          = 4 << 20   // of one fetch; a larger batch comes alone
	fetchPartitionBytes = 256 << 10 // of one partition in a fetch
)

// MaxDecompressed bounds a fetched batch after decompression, in bytes: several of the largest records.
const MaxDecompressed = 32 << 20

func (c Config) tls() (*tls.Config, error) {
	if !c.TLS && c.TLSCA == "" && c.TLSCert == "" {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.TLSCA != "" {
		pem, err := os.ReadFile(c.TLSCA)
		if err != nil {
			return nil, fmt.Errorf("KAFKA_TLS_CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("KAFKA_TLS_CA: no certificate in %s", c.TLSCA)
		}
	}
	if c.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("KAFKA_TLS_CERT, KAFKA_TLS_KEY: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}
