package up

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"leafcutter/pkg/config"
	"leafcutter/pkg/kafka"
)

// Tuning keeps of an environment what tunes the stages. What says where servers are or who may come in is not among it:
// it would lead the stages away from the servers that the pipeline starts.
func Tuning(environ []string) []string {
	var tuned []string
	for _, v := range environ {
		if name, _, _ := strings.Cut(v, "="); tunes(name) {
			tuned = append(tuned, v)
		}
	}
	return tuned
}

func tunes(name string) bool {
	switch name {
	case "S3_SOURCES", "S3_CHECKSUM", "S3_CONNECTIONS", "S3_TRACE_REQUESTS", "KAFKA_SESSION_TIMEOUT", "CLICKHOUSE_TIMEOUT":
		return true
	case "LEAFCUTTER_API", "LEAFCUTTER_API_ADDR", "LEAFCUTTER_DATA_DIR", "LEAFCUTTER_OTLP_ADDR", "LEAFCUTTER_LOG_FORMAT":
		return false
	}
	if strings.HasPrefix(name, "LEAFCUTTER_ADMIN_") {
		return false
	}
	return strings.HasPrefix(name, "LEAFCUTTER_") || strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "GO")
}

// environment is what a child is started with, for a stage or the pipeline's own clients alike: what the pipeline
// suggests, then what the user says, then what must hold. The last word on a name wins.
func (p *Pipeline) environment(suggested, fixed []string) []string {
	env := []string{"HOME=" + os.Getenv("HOME"), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(),
		// Eight Go processes that each look for work on every processor take time from what they look for.
		"GOMAXPROCS=" + strconv.Itoa((runtime.GOMAXPROCS(0)+1)/2)}
	env = append(append(env, suggested...), p.opts.Environ...)
	// The relay reads JSON.
	return append(append(env, "LEAFCUTTER_LOG_FORMAT=json"), fixed...)
}

// stageEnvironment is that of the stage called name.
func (p *Pipeline) stageEnvironment(name string) []string {
	data := p.opts.Layout.Data
	suggested := []string{
		"LEAFCUTTER_CACHE_DIR=" + filepath.Join(data, "cache", name),
		"LEAFCUTTER_SPOOL_DIR=" + filepath.Join(data, "spool"),
		"LEAFCUTTER_ONNXRUNTIME_LIB=" + p.opts.Layout.ONNX,
		"OTEL_TRACES_EXPORTER=otlp",
		// A killed child's place in its group must be free within the time in which the child itself is back.
		"KAFKA_SESSION_TIMEOUT=6s",
	}
	fixed := append(p.State.Env(),
		"LEAFCUTTER_DEFAULT_MODEL="+p.State.Model,     // it is this variable's, where no flag names another
		"LEAFCUTTER_MODELS_DIR="+p.opts.Layout.Models, // as given it may be relative
		"LEAFCUTTER_ADMIN_ADDR=127.0.0.1:0",
		"LEAFCUTTER_ADMIN_FILE="+adminFile(data, name),
		"LEAFCUTTER_API_ADDR="+strings.TrimPrefix(p.State.API, "http://"),
	)
	// Spans go to otel_traces, unless the user has somewhere else for them.
	if !given(p.opts.Environ, "OTEL_EXPORTER_OTLP_ENDPOINT") && !given(p.opts.Environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
		fixed = append(fixed, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+p.State.OTLP+"/v1/traces", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf")
	}
	switch name {
	case "ingest-api":
		// Whoever tries webhooks here has the receiver on this machine too.
		suggested = append(suggested, p.State.WebhookEnv(), "LEAFCUTTER_WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8,::1/128")
	case "recorder":
		fixed = append(fixed, "LEAFCUTTER_OTLP_ADDR="+strings.TrimPrefix(p.State.OTLP, "http://"))
	case "detector":
		// Pages are inferred one after another, and the others leave of the processors what an inference can use: with one
		// thread it is what all wait for. Measured at a first start, when everything starts, it might come out as one.
		all := runtime.GOMAXPROCS(0)
		suggested = append(suggested, "LEAFCUTTER_MODEL="+p.State.Model, "GOMAXPROCS="+strconv.Itoa(all), "LEAFCUTTER_INFERENCE_THREADS="+strconv.Itoa(min(all, 4)))
	case "page-splitter":
		// Pages are rendered in processes of their own, and one that takes long must not keep all others waiting.
		suggested = append(suggested, "LEAFCUTTER_WORKERS="+strconv.Itoa(runtime.GOMAXPROCS(0)))
	}
	return p.environment(suggested, fixed)
}

// kafka is how the stages reach the broker: with their prefixes, which topics and groups must agree on.
func (p *Pipeline) kafka() (kafka.Config, error) {
	var c kafka.Config
	_, err := config.Load("leafcutter", nil, p.stageEnvironment("recorder"), &c)
	return c, err
}

func given(environ []string, name string) bool { return value(environ, name) != "" }

// value is the last word of an environment on a name.
func value(environ []string, name string) (last string) {
	for _, v := range environ {
		if n, value, _ := strings.Cut(v, "="); n == name && value != "" {
			last = value
		}
	}
	return last
}
