package reference_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"leafcutter/deploy/docker/internal/binary"
	"leafcutter/deploy/docker/internal/reference"
)

func programs() []reference.Program {
	brokers := binary.Variable{Name: "KAFKA_BROKERS", Flag: "kafka-brokers", Type: "list", Default: "127.0.0.1:9092", Description: "where"}
	admin := func(port string) binary.Variable {
		return binary.Variable{Name: "LEAFCUTTER_ADMIN_ADDR", Flag: "admin-addr", Default: "127.0.0.1:" + port, Description: "admin"}
	}
	uploads := func(says string) binary.Variable {
		return binary.Variable{Name: "LEAFCUTTER_UPLOADS", Flag: "uploads", Default: "4", Description: says}
	}
	workers := func(def string) binary.Variable {
		return binary.Variable{Name: "WORKERS", Type: "number", Default: def, Description: "workers"}
	}
	return []reference.Program{
		{Name: "one", Variables: []binary.Variable{brokers, admin("1"), uploads("of a | b"), workers("")}},
		{Name: "two", Variables: []binary.Variable{
			{Name: "S3_KEY", Type: "text", Secret: true, Description: "key"},
			{Name: "S3_HOST", Type: "text", Required: true, Description: "host"},
			brokers, admin("2"), uploads("of another kind"),
			{Name: "QUIET", Flag: "quiet", Type: "switch", Description: "less"},
			workers(""),
		}},
		{Name: "three", Variables: []binary.Variable{brokers, workers("9")}},
	}
}

func TestTables(t *testing.T) {
	want := "## Kafka\n\n| variable | flag | default | read by | what it does |\n| --- | --- | --- | --- | --- |\n" +
		"| `KAFKA_BROKERS` | `-kafka-brokers` | `127.0.0.1:9092` | all | where |\n\n" +
		"## Every program, or every stage\n\n| variable | flag | default | read by | what it does |\n| --- | --- | --- | --- | --- |\n" +
		"| `LEAFCUTTER_ADMIN_ADDR` | `-admin-addr` | `127.0.0.1:1` (one), `127.0.0.1:2` (two) | all but three | admin |\n" +
		"| `WORKERS` |  | `0`, `9` (three) | all | workers |\n\n" +
		"## one\n\n| variable | flag | default | what it does |\n| --- | --- | --- | --- |\n" +
		"| `LEAFCUTTER_UPLOADS` | `-uploads` | `4` | of a \\| b |\n\n" +
		"## two\n\n| variable | flag | default | what it does |\n| --- | --- | --- | --- |\n" +
		"| `S3_KEY` |  | (secret) | key |\n| `S3_HOST` |  | **required** | host |\n" +
		"| `LEAFCUTTER_UPLOADS` | `-uploads` | `4` | of another kind |\n| `QUIET` | `-quiet` | `false` | less |\n"
	if diff := cmp.Diff(want, reference.Tables(programs())); diff != "" {
		t.Error(diff)
	}
}

func TestReplaceKeepsWhatPeopleWrote(t *testing.T) {
	page := "before\n" + reference.Begin + "\nold\n" + reference.End + "\nafter\n"
	once, err := reference.Replace(page, programs())
	if err != nil || !strings.HasPrefix(once, "before\n") || !strings.HasSuffix(once, "\nafter\n") || strings.Contains(once, "old") {
		t.Fatalf("%v\n%s", err, once)
	}
	twice, err := reference.Replace(once, programs())
	if err != nil || twice != once {
		t.Errorf("a second time gives another page: %v\n%s", err, cmp.Diff(once, twice))
	}
	for _, page := range []string{"", reference.Begin, reference.End + reference.Begin} {
		if _, err := reference.Replace(page, nil); err == nil {
			t.Errorf("%q was taken", page)
		}
	}
}
