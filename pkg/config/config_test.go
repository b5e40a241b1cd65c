package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/pkg/config"
)

type kafka struct {
	Brokers  []string `env:"KAFKA_BROKERS,required" desc:"brokers"`
	Password string   `env:"KAFKA_SASL_PASSWORD" secret:"true" desc:"password"`
}

func (k kafka) Validate() error {
	var faults []error
	for _, broker := range k.Brokers {
		if !strings.Contains(broker, ":") {
			faults = append(faults, fmt.Errorf("KAFKA_BROKERS: %q has no port", broker))
		}
	}
	return errors.Join(faults...)
}

type limits struct {
	Pages   int               `env:"PAGES" envDefault:"500" desc:"most pages"`
	Upload  config.Bytes      `env:"UPLOAD" envDefault:"50MiB" desc:"largest upload"`
	Timeout time.Duration     `env:"TIMEOUT" envDefault:"30s" desc:"how long"`
	Ratio   float64           `env:"RATIO" envDefault:"0.5"`
	Classes map[string]string `env:"CLASSES"`
}

func (l *limits) Validate() error {
	if l.Pages < 1 {
		return fmt.Errorf("LEAFCUTTER_PAGES: %d is not above zero", l.Pages)
	}
	return nil
}

type settings struct {
	Kafka  kafka
	Limits limits `envPrefix:"LEAFCUTTER_"`
	Crops  string `env:"LEAFCUTTER_CROPS" flag:"cut" envDefault:"eager" desc:"crops"`
	Quiet  bool   `env:"LEAFCUTTER_QUIET" desc:"say less"`
	Hidden string `env:"LEAFCUTTER_HIDDEN" flag:"-"`
	Plain  int    // not a variable
	inner  int    //nolint:unused // shows that unexported fields are passed over
}

func load(args []string, environ ...string) (settings, config.Flags, error) {
	cfg := settings{Plain: 7}
	flags, err := config.Load("prog", args, environ, &cfg)
	return cfg, flags, err
}

func TestLaterSourcesWin(t *testing.T) {
	got, _, err := load(nil, "KAFKA_BROKERS=a:1")
	want := settings{
		Kafka: kafka{Brokers: []string{"a:1"}}, Crops: "eager", Plain: 7,
		Limits: limits{Pages: 500, Upload: 50 << 20, Timeout: 30 * time.Second, Ratio: 0.5},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{})); err != nil || diff != "" {
		t.Errorf("defaults: %v\n%s", err, diff)
	}

	environ := []string{
		"KAFKA_BROKERS=a:1,b:2", "KAFKA_SASL_PASSWORD=p=q", "LEAFCUTTER_PAGES=20", "LEAFCUTTER_UPLOAD=1g", "LEAFCUTTER_TIMEOUT=1m",
		"LEAFCUTTER_CROPS=lazy", "LEAFCUTTER_CLASSES=title:0.4,table:0.5", "LEAFCUTTER_QUIET=true", "LEAFCUTTER_RATIO=", "NOISE",
	}
	want = settings{
		Kafka: kafka{Brokers: []string{"a:1", "b:2"}, Password: "p=q"}, Crops: "lazy", Plain: 7, Quiet: true,
		Limits: limits{Pages: 20, Upload: 1 << 30, Timeout: time.Minute, Ratio: 0.5, Classes: map[string]string{"title": "0.4", "table": "0.5"}},
	}
	got, _, err = load(nil, environ...)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{})); err != nil || diff != "" {
		t.Errorf("environment: %v\n%s", err, diff)
	}

	want.Kafka.Brokers, want.Crops, want.Quiet, want.Limits.Pages = []string{"c:3"}, "", false, 21
	got, _, err = load([]string{"-kafka-brokers", "c:3", "-cut=", "--quiet=false", "-pages=21"}, environ...)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{})); err != nil || diff != "" {
		t.Errorf("flags: %v\n%s", err, diff)
	}
}

func TestPresetFieldsAreDefaults(t *testing.T) {
	cfg := settings{Kafka: kafka{Brokers: []string{"preset:1"}}, Limits: limits{Pages: 3}}
	if _, err := config.Load("prog", nil, nil, &cfg); err != nil || cfg.Limits.Pages != 3 || cfg.Kafka.Brokers[0] != "preset:1" {
		t.Errorf("preset: %+v, %v", cfg, err)
	}
	if _, err := config.Load("prog", nil, []string{"LEAFCUTTER_PAGES=4"}, &cfg); err != nil || cfg.Limits.Pages != 4 {
		t.Errorf("environment over preset: %+v, %v", cfg, err)
	}
}

func TestEveryFaultIsTold(t *testing.T) {
	_, _, err := load([]string{"-timeout", "soon", "-ratio=-"}, "LEAFCUTTER_PAGES=many", "LEAFCUTTER_UPLOAD=huge", "LEAFCUTTER_QUIET=perhaps")
	for _, part := range []string{
		"KAFKA_BROKERS: required", `-timeout: "soon" is not a valid duration`, `-ratio: "-" is not a valid number`,
		`LEAFCUTTER_PAGES: "many" is not a valid number`, `LEAFCUTTER_UPLOAD: "huge" is not a valid bytes`, "LEAFCUTTER_QUIET",
	} {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("%s is not in:\n%v", part, err)
		}
	}
	_, _, err = load(nil, "KAFKA_BROKERS=a,b", "LEAFCUTTER_PAGES=0")
	for _, part := range []string{`"a" has no port`, `"b" has no port`, "LEAFCUTTER_PAGES: 0 is not above zero"} {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("%s is not in:\n%v", part, err)
		}
	}
}

func TestSwitches(t *testing.T) {
	for _, c := range []struct {
		args []string
		want config.Flags
		ok   bool
	}{
		{nil, config.Flags{}, false}, // a required variable is missing
		{[]string{"-help"}, config.Flags{Help: true}, true},
		{[]string{"-h"}, config.Flags{Help: true}, true},
		{[]string{"--version"}, config.Flags{Version: true}, true},
		{[]string{"-config.list"}, config.Flags{List: true}, true},
		{[]string{"-config.verify"}, config.Flags{Verify: true}, false},
		{[]string{"-config.verify", "-kafka-brokers=a:1"}, config.Flags{Verify: true}, true},
		{[]string{"-health", "-kafka-brokers=a"}, config.Flags{Health: true}, true}, // not for this to validate
		{[]string{"-unknown"}, config.Flags{}, false},
		{[]string{"-kafka-sasl-password=x"}, config.Flags{}, false}, // secrets are not flags
		{[]string{"-hidden=x"}, config.Flags{}, false},
		{[]string{"-quiet=perhaps"}, config.Flags{}, false},
		{[]string{"argument"}, config.Flags{}, false},
	} {
		_, flags, err := load(c.args)
		if flags != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %+v, %v", c.args, flags, err)
		}
	}
}

func TestSecretsStaySecret(t *testing.T) {
	type secretive struct {
		Token string  `env:"TOKEN" secret:"true" envDefault:"letmein"`
		Count float64 `env:"COUNT" secret:"true"`
		None  string  `env:"NONE" secret:"true"`
	}
	cfg := secretive{}
	if _, err := config.Load("prog", nil, []string{"TOKEN=hunter2", "COUNT=12"}, &cfg); err != nil {
		t.Fatal(err)
	}
	want := []config.Setting{{"TOKEN", "(set)"}, {"COUNT", "(set)"}, {"NONE", "(not set)"}}
	if diff := cmp.Diff(want, config.Settings(&cfg)); diff != "" {
		t.Error(diff)
	}
	if v := config.Variables(&secretive{})[0]; v.Default != "" || v.Flag != "" || !v.Secret {
		t.Errorf("%+v", v)
	}
	_, err := config.Load("prog", nil, []string{"COUNT=hunter2"}, &cfg)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "COUNT") {
		t.Errorf("fault: %v", err)
	}
}

func TestVariables(t *testing.T) {
	cfg := settings{Limits: limits{Upload: 1 << 20}}
	want := []config.Variable{
		{Name: "KAFKA_BROKERS", Flag: "kafka-brokers", Type: "list", Description: "brokers", Required: true},
		{Name: "KAFKA_SASL_PASSWORD", Type: "text", Description: "password", Secret: true},
		{Name: "LEAFCUTTER_PAGES", Flag: "pages", Type: "number", Default: "500", Description: "most pages"},
		{Name: "LEAFCUTTER_UPLOAD", Flag: "upload", Type: "bytes", Default: "1MiB", Description: "largest upload"},
		{Name: "LEAFCUTTER_TIMEOUT", Flag: "timeout", Type: "duration", Default: "30s", Description: "how long"},
		{Name: "LEAFCUTTER_RATIO", Flag: "ratio", Type: "number", Default: "0.5"},
		{Name: "LEAFCUTTER_CLASSES", Flag: "classes", Type: "map"},
		{Name: "LEAFCUTTER_CROPS", Flag: "cut", Type: "text", Default: "eager", Description: "crops"},
		{Name: "LEAFCUTTER_QUIET", Flag: "quiet", Type: "switch", Description: "say less"},
		{Name: "LEAFCUTTER_HIDDEN", Type: "text"},
	}
	if diff := cmp.Diff(want, config.Variables(&cfg)); diff != "" {
		t.Error(diff)
	}
}

func TestListIsTheVariables(t *testing.T) {
	type knobs struct {
		Token  string `env:"TOKEN,required" secret:"true" envDefault:"letmein" desc:"less than < is kept"`
		Limits limits `envPrefix:"LEAFCUTTER_"`
	}
	var out strings.Builder
	if err := config.List(&out, &knobs{}); err != nil {
		t.Fatal(err)
	}
	var got []config.Variable
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if diff := cmp.Diff(config.Variables(&knobs{}), got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(out.String(), "letmein") || !strings.Contains(out.String(), "less than < is kept") {
		t.Errorf("written as\n%s", out.String())
	}
}

func TestHelpShowsEveryKnob(t *testing.T) {
	var out strings.Builder
	if err := config.Help(&out, "prog", "does it", &settings{}); err != nil {
		t.Fatal(err)
	}
	for _, v := range config.Variables(&settings{}) {
		if !strings.Contains(out.String(), v.Name) || !strings.Contains(out.String(), v.Description) || !strings.Contains(out.String(), v.Default) {
			t.Errorf("%+v is not in:\n%s", v, out.String())
		}
	}
	for _, part := range []string{"prog: does it", "-config.verify", "-config.list", "-health", "-version", "-cut", "(required)"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%s is not in:\n%s", part, out.String())
		}
	}
}

func TestMistakesInTheProgramAreTold(t *testing.T) {
	type twice struct {
		A string `env:"SAME"`
		B struct {
			C string `env:"SAME"`
		}
	}
	type impossible struct {
		C chan int `env:"C"`
	}
	type taken struct {
		V bool `env:"VERSION"`
	}
	for _, cfg := range []any{settings{}, nil, new(int), (*settings)(nil), &twice{}, &impossible{}, &taken{}} {
		if _, err := config.Load("prog", nil, nil, cfg); err == nil {
			t.Errorf("%T was taken", cfg)
		}
	}
}

type embedded struct{ kafka }

type Exported struct {
	N int `env:"N"`
}

func (e Exported) Validate() error { return fmt.Errorf("N is %d", e.N) }

func TestPromotedValidateSpeaksOnce(t *testing.T) {
	var cfg struct {
		Outer struct{ Exported }
		embedded
	}
	_, err := config.Load("prog", nil, []string{"N=4"}, &cfg)
	if err == nil || strings.Count(err.Error(), "N is 4") != 1 {
		t.Errorf("got %v", err)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]config.Bytes{
		"0": 0, "8388608": 8 << 20, "8MiB": 8 << 20, "8 mib": 8 << 20, "8m": 8 << 20, "1.5GiB": 3 << 29, "500MB": 500e6, "2kB": 2000, "7b": 7, "1T": 1 << 40,
	} {
		var got config.Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
		var again config.Bytes
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1e30", "9999999TiB", "nan", "inf", "8 miles", "0x10p3000"} {
		var got config.Bytes
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func FuzzBytes(f *testing.F) {
	for _, seed := range []string{"0", "8MiB", "1.5g", "500 MB", "-1", "1e400", "kib"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var b, again config.Bytes
		if b.UnmarshalText([]byte(text)) != nil {
			return
		}
		if b < 0 {
			t.Fatalf("%q is %d", text, b)
		}
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Fatalf("%q is %d, written %q, read back as %d, %v", text, b, b, again, err)
		}
	})
}
