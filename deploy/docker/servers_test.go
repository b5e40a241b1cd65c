package docker_test

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const (
	users      = "deploy/docker/clickhouse/users.d/leafcutter.xml"
	collector  = "deploy/otel/collector.yaml"
	datasource = "deploy/grafana/provisioning/datasources/clickhouse.yaml"
)

// TestClickHouseUsers: who says nothing reads and no more; who writes has the password of the compose file.
func TestClickHouseUsers(t *testing.T) {
	type user struct {
		Replace  string `xml:"replace,attr"`
		Password struct {
			Text string `xml:",chardata"`
			From string `xml:"from_env,attr"`
		} `xml:"password"`
		Profile string   `xml:"profile"`
		Grants  []string `xml:"grants>query"`
	}
	var file struct {
		ReadOnly int      `xml:"profiles>reader>readonly"`
		Limits   []string `xml:"profiles>reader>constraints>max_execution_time>max"`
		Reader   user     `xml:"users>default"`
		Writer   user     `xml:"users>leafcutter"`
	}
	if err := xml.Unmarshal([]byte(readFile(t, users)), &file); err != nil {
		t.Fatal(err)
	}
	if file.Reader.Replace != "replace" {
		t.Error("user default keeps what the image grants it")
	}
	if file.ReadOnly == 0 || len(file.Limits) == 0 || file.Reader.Profile != "reader" {
		t.Errorf("user default is bound by profile %s: readonly %d, limits %v", file.Reader.Profile, file.ReadOnly, file.Limits)
	}
	if !slices.Equal(file.Reader.Grants, []string{"GRANT SELECT, SHOW ON leafcutter.*"}) {
		t.Errorf("user default is granted %v", file.Reader.Grants)
	}
	server := set(project(t, nil).Services["clickhouse"])
	if file.Writer.Password.Text != "" || server[file.Writer.Password.From] == "" {
		t.Errorf("user leafcutter's password comes from %q, which docker-compose.yml does not set", file.Writer.Password.From)
	}
	if server["CLICKHOUSE_SKIP_USER_SETUP"] != "1" {
		t.Error("the image writes users of its own over ours")
	}
	// The other file is at least XML.
	decoder := xml.NewDecoder(strings.NewReader(readFile(t, "deploy/docker/clickhouse/config.d/leafcutter.xml")))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCollectorWritesIntoOurTable: the collector makes no table, so names must be those of the migration.
func TestCollectorWritesIntoOurTable(t *testing.T) {
	var config struct {
		Receivers struct {
			OTLP struct {
				Protocols map[string]struct{ Endpoint string }
			} `yaml:"otlp"`
		}
		Processors map[string]any
		Exporters  struct {
			ClickHouse struct {
				Endpoint, Database, Username, Password string
				Table                                  string `yaml:"traces_table_name"`
				Create                                 *bool  `yaml:"create_schema"`
			} `yaml:"clickhouse"`
		}
		Service struct {
			Pipelines map[string]struct{ Receivers, Processors, Exporters []string }
		}
	}
	text := readFile(t, collector)
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	p := project(t, nil)
	published := map[string]bool{}
	for _, port := range p.Services["otel-collector"].Ports {
		published[port.Published] = true
	}
	for name, receiver := range config.Receivers.OTLP.Protocols {
		if _, port, _ := strings.Cut(receiver.Endpoint, ":"); !published[port] {
			t.Errorf("%s listens on %s, which is not published", name, receiver.Endpoint)
		}
	}
	to, ours := config.Exporters.ClickHouse, set(p.Services["recorder"])
	if to.Endpoint != ours["CLICKHOUSE_ADDR"] || to.Database != ours["CLICKHOUSE_DATABASE"] || to.Username != ours["CLICKHOUSE_USER"] {
		t.Errorf("spans go to %+v, rows to %v", to, ours)
	}
	if to.Create == nil || *to.Create || !strings.Contains(readFile(t, "schemas/clickhouse/00004_otel_traces.sql"), "EXISTS "+to.Table+"\n") {
		t.Errorf("table %s is not that of the migration", to.Table)
	}
	for _, match := range regexp.MustCompile(`\$\{env:([A-Z_]+)\}`).FindAllStringSubmatch(text, -1) {
		if set(p.Services["otel-collector"])[match[1]] == "" {
			t.Errorf("%s is not set for the collector", match[1])
		}
	}
	traces, ok := config.Service.Pipelines["traces"]
	if !ok || !slices.Equal(traces.Receivers, []string{"otlp"}) || !slices.Equal(traces.Exporters, []string{"clickhouse"}) {
		t.Errorf("pipelines: %+v", config.Service.Pipelines)
	}
	for _, name := range traces.Processors {
		if _, ok := config.Processors[name]; !ok {
			t.Errorf("processor %s is not configured", name)
		}
	}
	// Every place that names the file names the same.
	service := p.Services["otel-collector"]
	for _, argument := range []string{service.Command[0], service.HealthCheck.Test[len(service.HealthCheck.Test)-1]} {
		if argument != "--config="+service.Volumes[0].Target {
			t.Errorf("the collector reads %s, %s is mounted", argument, service.Volumes[0].Target)
		}
	}
}

// TestGrafanaReadsAsEverybodyDoes: its data source is the user without a password, so that no editor of a dashboard can
// write.
func TestGrafanaReadsAsEverybodyDoes(t *testing.T) {
	var file struct {
		Datasources []struct {
			Type     string
			JSONData struct {
				Host, Protocol, Username string
				Port                     int
				Database                 string `yaml:"defaultDatabase"`
			} `yaml:"jsonData"`
		}
	}
	if err := yaml.Unmarshal([]byte(readFile(t, datasource)), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Datasources) != 1 {
		t.Fatalf("data sources: %+v", file)
	}
	source, service := file.Datasources[0], project(t, nil).Services["grafana"]
	if source.JSONData.Username != "default" || source.JSONData.Host != "clickhouse" || source.JSONData.Port != 8123 ||
		source.JSONData.Protocol != "http" || source.JSONData.Database != "leafcutter" {
		t.Errorf("data source: %+v", source)
	}
	if !strings.HasPrefix(set(service)["GF_PLUGINS_PREINSTALL"], source.Type+"@") {
		t.Errorf("the plugin of %s is not installed", source.Type)
	}
}
