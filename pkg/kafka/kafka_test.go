package kafka_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCluster(t *testing.T, opts ...kfake.Opt) kafka.Config {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 10 * time.Second}
}

func TestApplyMakesTheTableAndKeepsIt(t *testing.T) {
	cfg := newCluster(t)
	cfg.TopicPrefix = "lc."
	table := schemas.Topics("layout_cdla")
	made, err := kafka.Apply(t.Context(), cfg, table, 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != len(table) {
		t.Errorf("made %d topics of %d", len(made), len(table))
	}
	if made, err = kafka.Apply(t.Context(), cfg, table, 3); err != nil || len(made) != 0 {
		t.Errorf("the second time: made %v, %v", made, err)
	}
	client, err := kafka.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	configs, err := admin.DescribeTopicConfigs(t.Context(), topics.Names()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range table {
		topic, ok := topics["lc."+row.Name]
		if !ok {
			t.Errorf("%s is missing", row.Name)
			continue
		}
		want := 3
		if row.Compacted {
			want = int(row.Partitions)
		}
		if len(topic.Partitions) != want {
			t.Errorf("%s has %d partitions, want %d", row.Name, len(topic.Partitions), want)
		}
		c, err := configs.On("lc."+row.Name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range c.Configs {
			switch {
			case kv.Key == "cleanup.policy" && (kv.MaybeValue() == "compact") != row.Compacted:
				t.Errorf("%s: cleanup.policy %s", row.Name, kv.MaybeValue())
			case kv.Key == "max.message.bytes" && kv.MaybeValue() != fmt.Sprint(row.MaxBytes):
				t.Errorf("%s: max.message.bytes %s, want %d", row.Name, kv.MaybeValue(), row.MaxBytes)
			}
		}
	}
}

func TestTailReadsToTheEndAndOn(t *testing.T) {
	cfg := newCluster(t, kfake.SeedTopics(2, "models"))
	client, err := kafka.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put := func(key, value string) {
		t.Helper()
		r := &kgo.Record{Topic: "models", Key: []byte(key)}
		if value != "" {
			r.Value = []byte(value)
		}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 20 {
		put(fmt.Sprint(n%5), fmt.Sprint(n))
	}
	var mu sync.Mutex
	seen := map[string]string{}
	caughtUp, tombstone := make(chan int, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- kafka.Tail(ctx, cfg, "models", func(key string, value []byte) {
			mu.Lock()
			defer mu.Unlock()
			if value == nil {
				delete(seen, key)
				close(tombstone)
				return
			}
			seen[key] = string(value)
		}, func() {
			mu.Lock()
			defer mu.Unlock()
			caughtUp <- len(seen)
		})
	}()
	if n := <-caughtUp; n != 5 {
		t.Errorf("caught up with %d keys, want 5", n)
	}
	put("3", "")
	<-tombstone
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(seen) != 4 || seen["4"] != "19" {
		t.Errorf("seen %v", seen)
	}
}

func TestTailOfAnEmptyTopicIsCaughtUpAtOnce(t *testing.T) {
	cfg := newCluster(t, kfake.SeedTopics(1, "models"))
	ctx, cancel := context.WithCancel(t.Context())
	if err := kafka.Tail(ctx, cfg, "models", func(string, []byte) { t.Error("a record") }, cancel); err != nil {
		t.Fatal(err)
	}
}

func TestTailOfAMissingTopicIsAnError(t *testing.T) {
	cfg := newCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := kafka.Tail(ctx, cfg, "nowhere", func(string, []byte) {}, func() {}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v", err)
	}
}

func TestProbeAndMembers(t *testing.T) {
	cfg := newCluster(t, kfake.SeedTopics(1, "in"))
	if err := kafka.Probe(cfg)(t.Context()); err != nil {
		t.Error(err)
	}
	if n, err := kafka.Members(t.Context(), cfg, "nobody"); n != 0 || err != nil {
		t.Errorf("%d members, %v", n, err)
	}
	away := kafka.Config{Brokers: []string{"127.0.0.1:1"}, SessionTimeout: time.Second}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if kafka.Probe(away)(ctx) == nil {
		t.Error("nobody is there, and the probe is content")
	}
}

func TestMissing(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, "x-there"))
	c.TopicPrefix = "x-"
	for range 2 { // asking makes none
		missing, err := kafka.Missing(t.Context(), c, "away", "there", "gone")
		if err != nil || !slices.Equal(missing, []string{"away", "gone"}) {
			t.Errorf("missing %v, %v", missing, err)
		}
	}
}

func TestSASL(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			cfg := newCluster(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "admin", "secret"))
			cfg.SASLMechanism, cfg.SASLUser, cfg.SASLPassword = mechanism, "admin", "secret"
			if err := kafka.Probe(cfg)(t.Context()); err != nil {
				t.Error(err)
			}
			cfg.SASLPassword = "wrong"
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if kafka.Probe(cfg)(ctx) == nil {
				t.Error("let in with a wrong password")
			}
		})
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	err := kafka.Config{TLSCert: "c", SASLMechanism: "GSSAPI"}.Validate()
	for _, name := range []string{"KAFKA_BROKERS", "KAFKA_TLS_CERT", "KAFKA_SASL_MECHANISM", "KAFKA_SESSION_TIMEOUT"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in %v", name, err)
		}
	}
	if _, err := kafka.NewClient(kafka.Config{Brokers: []string{"x"}, TLSCA: "/nowhere"}); err == nil {
		t.Error("a missing certificate file is accepted")
	}
}

func TestLagOfAGroup(t *testing.T) {
	cfg := newCluster(t, kfake.SeedTopics(2, "lc.pages", "lc.pages.bulk"))
	cfg.TopicPrefix, cfg.GroupPrefix = "lc.", "g."
	client, err := kafka.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if lag, err := kafka.LagOf(t.Context(), client, cfg, "detector"); err != nil || lag.Members != 0 || len(lag.Waiting) != 0 {
		t.Errorf("a group that nobody joined: %+v, %v", lag, err)
	}
	for range 5 {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "lc.pages.bulk", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	member, err := kafka.NewClient(cfg, kgo.ConsumerGroup("g.detector"), kgo.ConsumeTopics("lc.pages", "lc.pages.bulk"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	member.PollRecords(t.Context(), 1)
	lag, err := kafka.LagOf(t.Context(), client, cfg, "detector")
	if err != nil || lag.Members != 1 || lag.Waiting["pages.bulk"] != 5 || lag.Waiting["pages"] != 0 {
		t.Errorf("lag %+v, %v", lag, err)
	}
}

// Whoever may write to a compacted topic cannot stop its readers with a batch that unfolds to more than they may hold.
func TestTailPassesOverWhatIsTooLarge(t *testing.T) {
	cfg := newCluster(t, kfake.SeedTopics(1, "models"))
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.ProducerBatchMaxBytes(2*kafka.MaxDecompressed), kgo.BrokerMaxWriteBytes(4*kafka.MaxDecompressed),
		kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	large := make([]byte, kafka.MaxDecompressed+1)
	for _, r := range []*kgo.Record{{Key: []byte("large"), Value: large}, {Key: []byte("a"), Value: []byte("1")}, {Key: []byte("large"), Value: large}} {
		r.Topic = "models"
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	applied, caughtUp, ended := make(chan string, 3), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- kafka.Tail(ctx, cfg, "models", func(key string, _ []byte) { applied <- key }, func() { close(caughtUp) })
	}()
	select {
	case <-caughtUp:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("not caught up")
	}
	if key := <-applied; key != "a" || len(applied) != 0 {
		t.Errorf("%q was applied, and %d others", key, len(applied))
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
