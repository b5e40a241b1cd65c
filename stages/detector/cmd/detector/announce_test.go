package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// A model is announced once its pages have topics to go to, and until then health
// and the log, once, say how they are made.
func TestAnnouncedOnceItsTopicsExist(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, schemas.TopicModels, "pages.late"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	var log bytes.Buffer
	k := kafka.Config{Brokers: cluster.ListenAddrs()}
	a, err := newAnnouncer(&program.Program{Logger: slog.New(slog.NewTextHandler(&log, nil))}, k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.producer.Close)
	a.say(schemas.ModelAnnounced{Model: "late", AnnouncedAt: time.Now()})
	const way = "leafcutter topics apply --model late"
	for range 3 {
		if a.sayAll(t.Context()) {
			t.Fatal("announced without a topic for its bulk pages")
		}
	}
	if err := a.ready(); err == nil || !strings.Contains(err.Error(), way) || !strings.Contains(err.Error(), "pages.late.bulk") {
		t.Errorf("ready: %v", err)
	}
	if n := strings.Count(log.String(), way); n != 1 {
		t.Errorf("said %d times: %s", n, &log)
	}
	if _, err := kafka.Apply(t.Context(), k, []schemas.Topic{{Name: "pages.late.bulk", Partitions: 1, MaxBytes: 1 << 20}}, 1); err != nil {
		t.Fatal(err)
	}
	if !a.sayAll(t.Context()) || a.ready() != nil {
		t.Errorf("not announced: %v; %s", a.ready(), &log)
	}
}

// What anybody announced last of a model is known, and that nobody did.
func TestLastAnnounced(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, schemas.TopicModels, "pages.m", "pages.m.bulk", "pages.other", "pages.other.bulk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	a, err := newAnnouncer(&program.Program{Logger: slog.New(slog.DiscardHandler)}, kafka.Config{Brokers: cluster.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.producer.Close)
	if last, err := a.last(t.Context(), "m"); last.Digest != "" || err != nil {
		t.Errorf("%+v, %v of a model that nobody announced", last, err)
	}
	for _, m := range []schemas.ModelAnnounced{{Model: "m", Digest: "1"}, {Model: "m", Digest: "2"}, {Model: "other", Digest: "3"}} {
		if a.say(m); !a.sayAll(t.Context()) {
			t.Fatal(a.ready())
		}
	}
	if err := a.producer.Produce(t.Context(), stage.Out{Topic: schemas.TopicModels, Key: "m", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	if last, err := a.last(t.Context(), "m"); last.Digest != "2" || err != nil {
		t.Errorf("%+v, %v", last, err)
	}
	cluster.Close()
	soon, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if last, err := a.last(soon, "m"); err == nil {
		t.Errorf("%+v without Kafka", last)
	}
}
