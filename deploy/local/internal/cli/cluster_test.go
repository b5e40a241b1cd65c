//go:build !windows

package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"leafcutter/deploy/local/internal/datadir"
	"leafcutter/deploy/local/internal/up"
)

// pretend makes a data directory look as if a pipeline ran on it.
func pretend(t *testing.T, s up.State) string {
	t.Helper()
	// Below a folder "leafcutter", where DefaultData looks.
	s.Data = filepath.Join(t.TempDir(), "leafcutter")
	state, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(s.Data, "run", "state.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, state, 0o600)); err != nil {
		t.Fatal(err)
	}
	lock, err := datadir.Take(s.Data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	})
	return s.Data
}

// A command works on the servers of the environment, or on those of the pipeline that runs here: never on some of both.
func TestServersAreAllOfOneDeployment(t *testing.T) {
	data := pretend(t, up.State{Kafka: "here:9092", S3: "http://here:9000", S3Key: "k", S3Secret: "s", SQL: "http://here:8123"})
	usual := "XDG_DATA_HOME=" + filepath.Dir(data)
	const kafkaThere, s3There, sqlThere = "KAFKA_BROKERS=there:1", "AWS_ENDPOINT_URL=http://there:2", "CLICKHOUSE_ADDR=there:3"
	secrets := []string{"AWS_SESSION_TOKEN=for-there", "KAFKA_SASL_PASSWORD=for-there", "LEAFCUTTER_TOPIC_PREFIX=a."}
	all := []string{kafkaVariable, sqlVariable, s3Variable}
	for name, c := range map[string]struct {
		data    string
		environ []string
		needs   []string
		want    string // host of what is needed, or what is complained of
	}{
		"nothing said":                          {"", []string{usual}, all, "here"},
		"nothing said, and nothing runs":        {"", nil, all, ""},
		"all said":                              {"", []string{usual, kafkaThere, s3There, sqlThere}, all, "there"},
		"Amazon's S3":                           {"", []string{usual, kafkaThere, sqlThere}, []string{kafkaVariable, sqlVariable}, "there"},
		"all but Amazon's S3":                   {"", []string{usual, kafkaThere, sqlThere}, all, "there"},
		"S3 alone":                              {"", []string{usual, s3There}, all, "AWS_ENDPOINT_URL without KAFKA_BROKERS, CLICKHOUSE_ADDR"},
		"S3 alone, of which alone there is use": {"", []string{usual, s3There}, []string{s3Variable}, "there"},
		"Kafka alone, of which there is no use": {"", []string{usual, kafkaThere}, []string{sqlVariable, s3Variable}, "KAFKA_BROKERS without CLICKHOUSE_ADDR, AWS_ENDPOINT_URL"},
		"some said, and nothing runs":           {"", []string{kafkaThere}, []string{kafkaVariable}, "there"},
		"a pipeline named":                      {data, []string{kafkaThere, s3There, sqlThere}, all, "here"},
		"a pipeline named that does not run":    {t.TempDir(), []string{kafkaThere, s3There, sqlThere}, all, "no pipeline runs"},
	} {
		t.Run(name, func(t *testing.T) {
			if !slices.Contains(c.environ, usual) {
				c.environ = append(c.environ, "XDG_DATA_HOME="+t.TempDir())
			}
			term := &terminal{environ: append(c.environ, secrets...)}
			environ, err := term.clusterEnviron(c.data, c.needs...)
			if err != nil {
				if len(c.want) < len("there") || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			got := &terminal{environ: environ}
			for _, need := range c.needs {
				if at := got.getenv(need); !strings.Contains(at, c.want) && (need != s3Variable || c.want != "there" || at != "") {
					t.Errorf("%s is %q, want %s", need, at, c.want)
				}
			}
			if ours := c.want == "here"; (got.getenv("AWS_SESSION_TOKEN") == "") != ours || (got.getenv("KAFKA_SASL_PASSWORD") == "") != ours {
				t.Errorf("of the secrets it has %v", environ)
			}
			if got.getenv("LEAFCUTTER_TOPIC_PREFIX") != "a." {
				t.Error("what tunes is lost")
			}
		})
	}
}
