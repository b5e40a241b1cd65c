package docker_test

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"

	"leafcutter/deploy/docker/internal/binary"
	"leafcutter/deploy/docker/internal/dockerfile"
)

// job is the service that prepares the servers.
const job = "init"

// programOf gives the binary that a service of ours runs.
func programOf(service string) (binary.Binary, bool) {
	name := service
	if service == job {
		name = "leafcutter"
	}
	all := binary.All()
	i := slices.IndexFunc(all, func(b binary.Binary) bool { return b.Name == name })
	if i < 0 {
		return binary.Binary{}, false
	}
	return all[i], true
}

// project loads docker-compose.yml as `docker compose` does, with an environment of its own.
func project(t testing.TB, environ map[string]string) *types.Project {
	t.Helper()
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  root(t),
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(root(t), "docker-compose.yml")}},
		Environment: environ,
	}, func(o *loader.Options) { o.SetProjectName("leafcutter", false) })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ours are the services that run our programs, by name.
func ours(t testing.TB, environ map[string]string) map[string]types.ServiceConfig {
	t.Helper()
	services := map[string]types.ServiceConfig{}
	for name, s := range project(t, environ).Services {
		if _, ok := programOf(name); ok {
			services[name] = s
		}
	}
	if len(services) != len(binary.All()) {
		t.Fatalf("services of ours: %v", slices.Sorted(maps.Keys(services)))
	}
	return services
}

func set(s types.ServiceConfig) map[string]string {
	values := map[string]string{}
	for name, value := range s.Environment {
		if value != nil {
			values[name] = *value
		}
	}
	return values
}

// TestServicesAndPorts is what docs/install.md promises, and what users of the servers' own quickstarts expect.
func TestServicesAndPorts(t *testing.T) {
	want := map[string][]string{
		"redpanda-0": {"127.0.0.1:19092->19092"}, "console": {"127.0.0.1:8080->8080"}, "seaweedfs": {"127.0.0.1:9000->9000"},
		"clickhouse": {"127.0.0.1:8123->8123"}, "otel-collector": {"127.0.0.1:4317->4317", "127.0.0.1:4318->4318"},
		"grafana": {"127.0.0.1:3000->3000"}, "ingest-api": {"127.0.0.1:8090->8090"},
		"init": nil, "page-splitter": nil, "detector": nil, "annotator": nil, "recorder": nil,
	}
	got := map[string][]string{}
	taken := map[string]string{}
	for name, s := range project(t, nil).Services {
		got[name] = nil
		for _, port := range s.Ports {
			got[name] = append(got[name], fmt.Sprintf("%s:%s->%d", port.HostIP, port.Published, port.Target))
			if other := taken[port.Published]; other != "" {
				t.Errorf("%s and %s both publish %s", name, other, port.Published)
			}
			taken[port.Published] = name
			if ip := net.ParseIP(port.HostIP); ip == nil || !ip.IsLoopback() {
				t.Errorf("%s publishes %s to the network: the secrets are those of a laptop", name, port.Published)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	page := readFile(t, "docs/install.md")
	for port := range taken {
		if !strings.Contains(page, port) {
			t.Errorf("docs/install.md does not mention port %s", port)
		}
	}
}

// TestVariablesAreRead compares every variable that is set with what the image's program reads: one that it does not
// read is a mistake, and so is a missing one that it cannot do without.
func TestVariablesAreRead(t *testing.T) {
	given := map[string]string{
		"LEAFCUTTER_API_KEYS": "0123456789abcdef0123", "LEAFCUTTER_LOG_LEVEL": "debug", "LEAFCUTTER_CROPS": "lazy", "S3_SECRET": "an-other-secret",
		"S3_BUCKET": "another-bucket", "CLICKHOUSE_PASSWORD": "a&b<c", "LEAFCUTTER_ALLOWED_HOSTS": "docs.example.org", "LEAFCUTTER_VERSION": "1.2.3",
	}
	for _, environ := range []map[string]string{nil, given} {
		for name, s := range ours(t, environ) {
			b, _ := programOf(name)
			read := map[string]binary.Variable{}
			for _, v := range variables(t, b) {
				read[v.Name] = v
			}
			full := environment(t, b.Name)
			maps.Copy(full, set(s))
			for variable := range set(s) {
				if _, ok := read[variable]; !ok && (!openTelemetry.MatchString(variable) || name == job) {
					t.Errorf("%s: sets %s, which %s does not read", name, variable, b.Name)
				}
			}
			for _, v := range read {
				if v.Required && full[v.Name] == "" {
					t.Errorf("%s: %s is required and not set", name, v.Name)
				}
			}
			args := []string{"-config.verify"}
			if name == job {
				args = []string{"init", "--config.verify"}
			}
			verify := exec.CommandContext(t.Context(), built.executable(t, b), args...)
			verify.Env = []string{}
			for variable, value := range full {
				verify.Env = append(verify.Env, variable+"="+value)
			}
			if said, err := verify.CombinedOutput(); err != nil {
				t.Errorf("%s: -config.verify: %v\n%s", name, err, said)
			}
		}
	}
}

// openTelemetry are the variables of its specification that mean something to a program which exports spans.
var openTelemetry = regexp.MustCompile(`^OTEL_(TRACES_EXPORTER|METRICS_EXPORTER|LOGS_EXPORTER|EXPORTER_OTLP_(TRACES_|METRICS_|LOGS_)?(ENDPOINT|PROTOCOL|HEADERS|TIMEOUT)|TRACES_SAMPLER(_ARG)?|RESOURCE_ATTRIBUTES|SERVICE_NAME|SDK_DISABLED)$`)

// TestServersAreNamedOnce: what our programs are told is where the servers are and what lets them in.
func TestServersAreNamedOnce(t *testing.T) {
	for _, environ := range []map[string]string{nil, {"S3_SECRET": "s3-from-outside", "CLICKHOUSE_PASSWORD": "sql-from-outside", "S3_BUCKET": "elsewhere"}} {
		p := project(t, environ)
		server := func(name string) map[string]string { return set(p.Services[name]) }
		for name, s := range ours(t, environ) {
			got := set(s)
			same := func(variable, want string) {
				if value, ok := got[variable]; ok && value != want {
					t.Errorf("%s: %s is %q, want %q", name, variable, value, want)
				}
			}
			same("KAFKA_BROKERS", "redpanda-0:9092")
			same("AWS_ENDPOINT_URL", "http://seaweedfs:9000")
			same("AWS_ACCESS_KEY_ID", server("seaweedfs")["AWS_ACCESS_KEY_ID"])
			same("AWS_SECRET_ACCESS_KEY", server("seaweedfs")["AWS_SECRET_ACCESS_KEY"])
			same("S3_BUCKET", set(p.Services[job])["S3_BUCKET"])
			same("CLICKHOUSE_ADDR", "http://clickhouse:8123")
			same("CLICKHOUSE_PASSWORD", server("clickhouse")["LEAFCUTTER_WRITER_PASSWORD"])
			same("CLICKHOUSE_USER", "leafcutter")
			same("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://otel-collector:4318/v1/traces")
		}
		if server("console")["KAFKA_BROKERS"] != "redpanda-0:9092" {
			t.Errorf("the console looks at %s", server("console")["KAFKA_BROKERS"])
		}
		if server("otel-collector")["CLICKHOUSE_PASSWORD"] != server("clickhouse")["LEAFCUTTER_WRITER_PASSWORD"] {
			t.Error("the collector has another password than ClickHouse")
		}
		command := strings.Join(p.Services["redpanda-0"].Command, " ")
		for _, part := range []string{"internal://redpanda-0:9092", "external://localhost:19092"} {
			if !strings.Contains(command, part) {
				t.Errorf("redpanda-0 does not advertise %s", part)
			}
		}
	}
}

func TestStagesWaitForWhatTheyNeed(t *testing.T) {
	p := project(t, nil)
	for _, server := range []string{"redpanda-0", "seaweedfs", "clickhouse"} {
		if on := p.Services[job].DependsOn[server]; on.Condition != types.ServiceConditionHealthy || !on.Required {
			t.Errorf("%s does not wait for %s to be healthy", job, server)
		}
	}
	for name := range ours(t, nil) {
		if on := p.Services[name].DependsOn[job]; name != job && on.Condition != types.ServiceConditionCompletedSuccessfully {
			t.Errorf("%s does not wait for %s to be done", name, job)
		}
	}
	if on := p.Services["otel-collector"].DependsOn[job]; on.Condition != types.ServiceConditionCompletedSuccessfully {
		t.Error("the collector does not wait for its table")
	}
}

// TestEveryServiceIsKeptInBounds: checked for health, limited in memory, restarted, its log rotated, its image pinned.
func TestEveryServiceIsKeptInBounds(t *testing.T) {
	var sum types.UnitBytes
	for name, s := range project(t, nil).Services {
		sum += s.MemLimit
		if s.MemLimit < 64<<20 {
			t.Errorf("%s: memory is limited to %d", name, s.MemLimit)
		}
		if s.Logging == nil || s.Logging.Options["max-size"] == "" {
			t.Errorf("%s: its log grows for ever", name)
		}
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged || len(s.CapAdd) > 0 {
			t.Errorf("%s: may gain privileges", name)
		}
		b, own := programOf(name)
		if !own && !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %s names no version", name, s.Image)
		}
		if name == job {
			if s.HealthCheck != nil || s.Restart == "" || s.Restart == "always" || s.Restart == "unless-stopped" {
				t.Errorf("%s is a job: health check %v, restart %q", name, s.HealthCheck, s.Restart)
			}
			continue
		}
		if s.Restart != "unless-stopped" {
			t.Errorf("%s: restart is %q", name, s.Restart)
		}
		if s.HealthCheck == nil || s.HealthCheck.Disable || len(s.HealthCheck.Test) < 2 || s.HealthCheck.Interval == nil ||
			s.HealthCheck.Timeout == nil || s.HealthCheck.StartPeriod == nil || s.HealthCheck.Retries == nil {
			t.Errorf("%s: health check %+v is not whole", name, s.HealthCheck)
			continue
		}
		if want := []string{"CMD", "/app/bin/" + b.Name, "-health"}; own && !slices.Equal(s.HealthCheck.Test, want) {
			t.Errorf("%s: health check %v, want %v", name, s.HealthCheck.Test, want)
		}
	}
	if sum > 12<<30 {
		t.Errorf("all limits together are %d MiB: more than a laptop has", sum>>20)
	}
}

// TestOurServicesAreConfined: root of the image read-only, no capability, no user but the image's, and no name or port
// that would keep a stage from being scaled.
func TestOurServicesAreConfined(t *testing.T) {
	for name, s := range ours(t, nil) {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.User != "" {
			t.Errorf("%s: read-only %v, capabilities dropped %v, user %q", name, s.ReadOnly, s.CapDrop, s.User)
		}
		if s.ContainerName != "" || s.Hostname != "" {
			t.Errorf("%s: has the fixed name %s%s", name, s.ContainerName, s.Hostname)
		}
		if len(s.Ports) > 0 && name != "ingest-api" {
			t.Errorf("%s: publishes a port, so a second one cannot start", name)
		}
		for _, mount := range s.Volumes {
			if mount.Source != "" && name != "ingest-api" {
				t.Errorf("%s: two of it would share %s", name, mount.Source)
			}
		}
		// With a read-only root the folders that the image writes to must be mounts.
		b, _ := programOf(name)
		for variable, folder := range environment(t, b.Name) {
			if strings.HasSuffix(variable, "_DIR") && strings.HasPrefix(folder, "/var/lib/") &&
				!slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == folder && !v.ReadOnly }) {
				t.Errorf("%s: %s is %s, and nothing is mounted there", name, variable, folder)
			}
		}
	}
}

func TestImagesAreBuiltFromTheirTargets(t *testing.T) {
	targets := map[string]bool{}
	for name, s := range ours(t, map[string]string{"LEAFCUTTER_VERSION": "1.2.3"}) {
		b, _ := programOf(name)
		if s.Build == nil || s.Build.Target != b.Name {
			t.Errorf("%s: is not built from target %s", name, b.Name)
			continue
		}
		if at := filepath.Join(s.Build.Context, s.Build.Dockerfile); at != filepath.Join(root(t), recipe) {
			t.Errorf("%s: is built from %s", name, at)
		}
		if s.Image != "leafcutter/"+b.Name+":1.2.3" {
			t.Errorf("%s: image is %s", name, s.Image)
		}
		targets[stage(t, s.Build.Target).Name] = true
		for arg := range s.Build.Args {
			if !slices.ContainsFunc(lineage(t, "build-"+b.Name), func(st dockerfile.Stage) bool {
				return slices.ContainsFunc(st.Instructions, func(i dockerfile.Instruction) bool {
					return i.Command == "ARG" && (i.Args == arg || strings.HasPrefix(i.Args, arg+"="))
				})
			}) {
				t.Errorf("%s: argument %s is not one of %s", name, arg, recipe)
			}
		}
	}
	if len(targets) != len(binary.All()) {
		t.Errorf("targets: %v", targets)
	}
}

func TestMountsAreThere(t *testing.T) {
	p := project(t, nil)
	used := map[string]bool{}
	for name, s := range p.Services {
		for _, mount := range s.Volumes {
			switch mount.Type {
			case types.VolumeTypeBind:
				if _, err := os.Stat(mount.Source); err != nil || !mount.ReadOnly {
					t.Errorf("%s: mounts %s (read-only %v): %v", name, mount.Source, mount.ReadOnly, err)
				}
			case types.VolumeTypeVolume:
				used[mount.Source] = true
			}
		}
	}
	for name := range p.Volumes {
		if !used[name] {
			t.Errorf("volume %s is nobody's", name)
		}
	}
	for _, server := range []string{"redpanda-0", "seaweedfs", "clickhouse", "grafana"} {
		if !used[server] {
			t.Errorf("%s forgets everything with its container", server)
		}
	}
}

// TestSubstitutionsAreDocumented: what can be set from outside is in docs/install.md, and nothing must be set.
func TestSubstitutionsAreDocumented(t *testing.T) {
	text := regexp.MustCompile(`(?m)^\s*#.*$`).ReplaceAllString(readFile(t, "docker-compose.yml"), "")
	page := readFile(t, "docs/install.md")
	found := regexp.MustCompile(`\$\{([A-Z0-9_]+)(:?[-?+])?`).FindAllStringSubmatch(text, -1)
	if len(found) == 0 {
		t.Fatal("nothing can be set from outside")
	}
	for _, match := range found {
		if !strings.Contains(page, "`"+match[1]+"`") {
			t.Errorf("docs/install.md does not tell of %s", match[1])
		}
		if match[2] != ":-" {
			t.Errorf("%s has no default", match[1])
		}
	}
}
