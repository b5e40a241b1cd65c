package up

import (
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func pipelineWith(environ ...string) *Pipeline {
	return &Pipeline{opts: Options{Layout: Layout{Data: "/data", Models: "/models", ONNX: "/onnx"}, Environ: Tuning(environ)},
		State: State{API: "http://127.0.0.1:1", Kafka: "127.0.0.1:2", S3: "http://127.0.0.1:3", SQL: "http://127.0.0.1:4", OTLP: "http://127.0.0.1:5", Model: "m"}}
}

// last is what a process sees under a name.
func last(environ []string, name string) string {
	for _, v := range slices.Backward(environ) {
		if n, value, _ := strings.Cut(v, "="); n == name {
			return value
		}
	}
	return ""
}

func TestWhatTunesPassesAndWhatLeadsAwayDoesNot(t *testing.T) {
	env := pipelineWith("S3_SOURCES=other/in", "S3_CHECKSUM=when-required", "S3_CONNECTIONS=4", "S3_TRACE_REQUESTS=true", "KAFKA_SESSION_TIMEOUT=9s", "CLICKHOUSE_TIMEOUT=5s",
		"LEAFCUTTER_WORKERS=3", "LEAFCUTTER_MODEL=mine", "OTEL_RESOURCE_ATTRIBUTES=a=b", "GOGC=50",
		"KAFKA_BROKERS=far:9092", "AWS_ENDPOINT_URL=http://far", "AWS_ACCESS_KEY_ID=x", "S3_BUCKET=far", "CLICKHOUSE_ADDR=far:8123", "CLICKHOUSE_USER=far",
		"KAFKA_SASL_MECHANISM=PLAIN", "LEAFCUTTER_API=http://far", "LEAFCUTTER_API_ADDR=0.0.0.0:80", "LEAFCUTTER_ADMIN_ADDR=0.0.0.0:81",
		"LEAFCUTTER_OTLP_ADDR=0.0.0.0:82", "LEAFCUTTER_LOG_FORMAT=text", "LEAFCUTTER_MODELS_DIR=relative", "LEAFCUTTER_DEFAULT_MODEL=another", "HTTPS_PROXY=x").stageEnvironment("detector")
	for name, want := range map[string]string{
		"S3_SOURCES": "other/in", "S3_CHECKSUM": "when-required", "S3_CONNECTIONS": "4", "S3_TRACE_REQUESTS": "true", "KAFKA_SESSION_TIMEOUT": "9s", "CLICKHOUSE_TIMEOUT": "5s",
		"LEAFCUTTER_WORKERS": "3", "LEAFCUTTER_MODEL": "mine", "OTEL_RESOURCE_ATTRIBUTES": "a=b", "GOGC": "50",
		"KAFKA_BROKERS": "127.0.0.1:2", "AWS_ENDPOINT_URL": "http://127.0.0.1:3", "S3_BUCKET": "", "CLICKHOUSE_ADDR": "127.0.0.1:4",
		"KAFKA_SASL_MECHANISM": "", "LEAFCUTTER_API_ADDR": "127.0.0.1:1", "LEAFCUTTER_ADMIN_ADDR": "127.0.0.1:0", "LEAFCUTTER_OTLP_ADDR": "",
		"LEAFCUTTER_LOG_FORMAT": "json", "HTTPS_PROXY": "", "LEAFCUTTER_DEFAULT_MODEL": "m",
		"LEAFCUTTER_MODELS_DIR": "/models",
	} {
		if got := last(env, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := last(pipelineWith("LEAFCUTTER_OTLP_ADDR=0.0.0.0:82").stageEnvironment("recorder"), "LEAFCUTTER_OTLP_ADDR"); got != "127.0.0.1:5" {
		t.Errorf("the recorder takes spans on %q", got)
	}
}

func TestSpansGoWhereTheUserSays(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	for name, c := range map[string]struct {
		environ []string
		want    string
	}{
		"nowhere else":                {nil, "http://127.0.0.1:5/v1/traces"},
		"another protocol alone":      {[]string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc"}, "http://127.0.0.1:5/v1/traces"},
		"an endpoint for all signals": {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://far:4318"}, ""},
		"one for traces":              {[]string{endpoint + "=http://far/t"}, "http://far/t"},
	} {
		env := pipelineWith(c.environ...).stageEnvironment("detector")
		if got := last(env, endpoint); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if got := last(env, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"); c.want == "http://127.0.0.1:5/v1/traces" && got != "http/protobuf" {
			t.Errorf("%s: by %q", name, got)
		}
	}
}

// Only the API knows the secret that signs webhooks, and the user's own goes before ours.
func TestWebhooks(t *testing.T) {
	const secret, networks = "LEAFCUTTER_WEBHOOK_SECRET", "LEAFCUTTER_WEBHOOK_ALLOW_NETWORKS"
	p := pipelineWith()
	p.State.Webhooks = newWebhookSecret()
	if env := p.stageEnvironment("ingest-api"); last(env, secret) != p.State.Webhooks || last(env, networks) != "127.0.0.0/8,::1/128" {
		t.Errorf("%q, %q", last(env, secret), last(env, networks))
	}
	if got := last(p.stageEnvironment("page-splitter"), secret); got != "" {
		t.Errorf("page-splitter knows %q", got)
	}
	p = pipelineWith(secret+"=whsec_mine", networks+"=10.0.0.0/8")
	if env := p.stageEnvironment("ingest-api"); last(env, secret) != "whsec_mine" || last(env, networks) != "10.0.0.0/8" {
		t.Errorf("%q, %q", last(env, secret), last(env, networks))
	}
}

// A data directory that is older than webhooks gets a secret, once.
func TestAnOldDataDirectoryGetsAWebhookSecret(t *testing.T) {
	data := t.TempDir()
	if err := (credentials{S3Key: "k", S3Secret: "s", SQLUser: "u", SQLSecret: "p"}).write(filepath.Join(data, "credentials.json")); err != nil {
		t.Fatal(err)
	}
	first, err := loadCredentials(data)
	if err != nil || !strings.HasPrefix(first.Webhooks, "whsec_") || first.S3Secret != "s" || first.SQLSecret != "p" {
		t.Fatalf("%+v, %v", first, err)
	}
	if second, err := loadCredentials(data); err != nil || second != first {
		t.Errorf("%+v, %v", second, err)
	}
}

// Topics are made under the names that the stages look for.
func TestPipelineHasItsStagesPrefixes(t *testing.T) {
	k, err := pipelineWith("LEAFCUTTER_TOPIC_PREFIX=a.", "LEAFCUTTER_GROUP_PREFIX=b.", "KAFKA_BROKERS=far:9092").kafka()
	if err != nil || k.Topic("documents") != "a.documents" || k.Group("planner") != "b.planner" || !slices.Equal(k.Brokers, []string{"127.0.0.1:2"}) {
		t.Errorf("%+v %v", k, err)
	}
}

// An inference may use what all others have half of, and whoever runs the pipeline has the last word.
func TestProcessorsAreShared(t *testing.T) {
	all := runtime.GOMAXPROCS(0)
	for name, want := range map[string]int{"detector": all, "annotator": (all + 1) / 2} {
		if got := last(pipelineWith().stageEnvironment(name), "GOMAXPROCS"); got != strconv.Itoa(want) {
			t.Errorf("%s has GOMAXPROCS=%s, want %d", name, got, want)
		}
		if got := last(pipelineWith("GOMAXPROCS=7").stageEnvironment(name), "GOMAXPROCS"); got != "7" {
			t.Errorf("%s has GOMAXPROCS=%s, the user said 7", name, got)
		}
	}
}
