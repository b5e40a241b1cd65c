package up

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"leafcutter/deploy/local/internal/datadir"
)

// State is what `leafcutter status` repeats while the pipeline runs: where everything listens, and its credentials. It
// lies in the data directory, readable by its owner only.
type State struct {
	PID        int    `json:"pid"`
	Data       string `json:"data"`
	API        string `json:"api"`   // URL of the UI and the API
	Kafka      string `json:"kafka"` // host:port
	S3         string `json:"s3"`    // URL
	S3Bucket   string `json:"s3_bucket"`
	S3Key      string `json:"s3_access_key"`
	S3Secret   string `json:"s3_secret_key"`
	SQL        string `json:"clickhouse"` // URL
	SQLUser    string `json:"clickhouse_writer"`
	SQLSecret  string `json:"clickhouse_writer_password"`
	Webhooks   string `json:"webhook_secret"` // signs webhooks
	OTLP       string `json:"otlp"`           // URL that takes spans
	Model      string `json:"model"`
	ModelsFrom string `json:"models_from"`
}

// Env is the state as environment variables under the names that Kafka, S3 and ClickHouse users know.
func (s State) Env() []string {
	return []string{
		"LEAFCUTTER_API=" + s.API,
		"KAFKA_BROKERS=" + s.Kafka,
		"AWS_ENDPOINT_URL=" + s.S3,
		"AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=" + s.S3Key,
		"AWS_SECRET_ACCESS_KEY=" + s.S3Secret,
		"S3_BUCKET=" + s.S3Bucket,
		"S3_FORCE_PATH_STYLE=true",
		"CLICKHOUSE_ADDR=" + strings.TrimPrefix(s.SQL, "http://"),
		"CLICKHOUSE_DATABASE=leafcutter",
		"CLICKHOUSE_USER=" + s.SQLUser,
		"CLICKHOUSE_PASSWORD=" + s.SQLSecret,
	}
}

// WebhookEnv is the secret that signs webhooks, for ingest-api and for receivers.
func (s State) WebhookEnv() string { return "LEAFCUTTER_WEBHOOK_SECRET=" + s.Webhooks }

func statePath(data string) string { return filepath.Join(data, "run", "state.json") }

// ReadState is the state of the pipeline that runs on data; ErrNotRunning where none does.
func ReadState(data string) (State, error) {
	var s State
	b, err := os.ReadFile(statePath(data))
	if errors.Is(err, os.ErrNotExist) {
		return s, ErrNotRunning
	}
	if err != nil {
		return s, fmt.Errorf("read the state of the running pipeline: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read the state of the running pipeline: %w", err)
	}
	// A process of that number proves nothing: a pipeline that was killed leaves its state behind, and numbers are used
	// again. The lock goes with its holder.
	held, err := datadir.Held(data)
	if err != nil {
		return s, fmt.Errorf("read the state of the running pipeline: %w", err)
	}
	if !held {
		return s, ErrNotRunning
	}
	return s, nil
}

// ErrNotRunning says that no pipeline runs on a data directory.
var ErrNotRunning = errors.New("no pipeline runs on this data directory: start one with leafcutter up")

func (s State) write() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeAtomically(statePath(s.Data), b)
}

func (s State) remove() error { return os.Remove(statePath(s.Data)) }

// credentials are made once per data directory.
type credentials struct {
	S3Key     string `json:"s3_access_key"`
	S3Secret  string `json:"s3_secret_key"`
	SQLUser   string `json:"clickhouse_user"`
	SQLSecret string `json:"clickhouse_password"`
	Webhooks  string `json:"webhook_secret"`
}

func loadCredentials(data string) (credentials, error) {
	var c credentials
	path := filepath.Join(data, "credentials.json")
	b, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(b, &c); err != nil {
			return c, fmt.Errorf("read %s: %w", path, err)
		}
		if c.Webhooks != "" {
			return c, nil
		}
		c.Webhooks = newWebhookSecret() // the data directory is older than webhooks
		return c, c.write(path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("read the credentials: %w", err)
	}
	c = credentials{S3Key: "leafcutter", S3Secret: rand.Text(), SQLUser: "leafcutter", SQLSecret: rand.Text(), Webhooks: newWebhookSecret()}
	return c, c.write(path)
}

func (c credentials) write(path string) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return writeAtomically(path, b)
}

// newWebhookSecret is 32 bytes as the Standard Webhooks specification writes them.
func newWebhookSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return "whsec_" + base64.StdEncoding.EncodeToString(b[:])
}

func writeAtomically(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
