package realservers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"leafcutter/pkg/kafka"
)

// KafkaOptions say how a cluster is to be.
type KafkaOptions struct {
	Dir     string // data, logs and certificates
	Brokers int    // 1 where 0; each is a controller too
	// Secure has clients speak TLS with a certificate of their own and log in by SCRAM-SHA-512.
	Secure bool
	// Doors are further listeners of a cluster of one broker, by name: whoever comes in by one is told that the broker is at
	// the address given, which may be that of a proxy before it.
	Doors map[string]string
}

// Kafka is a cluster of Apache Kafka in KRaft mode.
type Kafka struct {
	Brokers []*Process

	o       KafkaOptions
	clients []int          // ports of the listener for clients, by broker
	doors   map[string]int // ports of the further ones
	inside  []int          // ports that brokers and controllers use among themselves: two each
	jars    string
}

// What clients log in with, where they have to. The password is for the life of a test on this machine.
const (
	kafkaUser     = "leafcutter"
	kafkaPassword = "cut-and-carried"
)

// NewKafka formats the data directories of a cluster that is not yet started.
func NewKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	jars, err := fetched("kafka")
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("java"); err != nil {
		return nil, fmt.Errorf("%w: run make deps-real", err)
	}
	o.Brokers = max(o.Brokers, 1)
	if o.Brokers > 1 && len(o.Doors) > 0 {
		return nil, errors.New("doors are for a cluster of one broker")
	}
	ports, err := Ports(3*o.Brokers + len(o.Doors))
	if err != nil {
		return nil, err
	}
	k := &Kafka{o: o, jars: jars, clients: ports[:o.Brokers], inside: ports[o.Brokers : 3*o.Brokers], doors: map[string]int{}}
	for name := range o.Doors {
		k.doors[name] = ports[3*o.Brokers+len(k.doors)]
	}
	if o.Secure {
		if err := writeCertificates(filepath.Join(o.Dir, "tls")); err != nil {
			return nil, err
		}
	}
	for n := range o.Brokers {
		if err := k.format(ctx, n); err != nil {
			return nil, err
		}
		k.Brokers = append(k.Brokers, newProcess(k.name(n), filepath.Join(o.Dir, "logs", k.name(n)+".log"), func() *exec.Cmd {
			return k.java("384m", "kafka.Kafka", k.properties(n))
		}))
	}
	return k, nil
}

// Start starts all brokers and returns once each answers and leads or follows every partition that it should.
func (k *Kafka) Start(ctx context.Context) error {
	for _, b := range k.Brokers {
		if err := b.Start(); err != nil {
			return err
		}
	}
	for n := range k.Brokers {
		if err := k.Await(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// Await waits until broker n answers clients.
func (k *Kafka) Await(ctx context.Context, n int) error {
	c := k.Config()
	c.Brokers = []string{local(k.clients[n])}
	return k.Brokers[n].await(ctx, kafka.Probe(c))
}

// AwaitInSync waits until every broker follows every partition that it should: another one may go then.
func (k *Kafka) AwaitInSync(ctx context.Context) error {
	client, err := kafka.NewClient(k.Config())
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for n, b := range k.Brokers {
		if err := k.Await(ctx, n); err != nil {
			return err
		}
		if err := b.await(ctx, func(ctx context.Context) error { return inSync(ctx, admin) }); err != nil {
			return err
		}
	}
	return nil
}

func inSync(ctx context.Context, admin *kadm.Client) error {
	topics, err := admin.ListTopicsWithInternal(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	for _, topic := range topics {
		for _, p := range topic.Partitions {
			if p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
				return fmt.Errorf("%s partition %d: replicas %v, in sync %v", topic.Topic, p.Partition, p.Replicas, p.ISR)
			}
		}
	}
	return nil
}

// Kill ends every broker as kill -9 does.
func (k *Kafka) Kill() error {
	var faults []error
	for _, b := range k.Brokers {
		faults = append(faults, b.Kill())
	}
	return errors.Join(faults...)
}

// Config is how a client reaches the cluster.
func (k *Kafka) Config() kafka.Config {
	c := kafka.Config{SessionTimeout: sessionTimeout}
	for _, port := range k.clients {
		c.Brokers = append(c.Brokers, local(port))
	}
	if k.o.Secure {
		tls := func(name string) string { return filepath.Join(k.o.Dir, "tls", name) }
		c.TLS, c.TLSCA, c.TLSCert, c.TLSKey = true, tls("ca.pem"), tls("client.pem"), tls("client.key")
		c.SASLMechanism, c.SASLUser, c.SASLPassword = "SCRAM-SHA-512", kafkaUser, kafkaPassword
	}
	return c
}

// Door is the address behind a door: what the proxy before it has to lead to.
func (k *Kafka) Door(name string) string { return local(k.doors[name]) }

func (k *Kafka) name(n int) string { return "kafka-" + strconv.Itoa(n+1) }

func (k *Kafka) java(heap string, args ...string) *exec.Cmd {
	return exec.Command("java", append([]string{"-Xmx" + heap, "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-Dlog4j2.configurationFile=" + filepath.Join(k.o.Dir, "log4j2.properties"), "-cp", k.jars + "/*"}, args...)...)
}

func (k *Kafka) properties(n int) string { return filepath.Join(k.o.Dir, k.name(n)+".properties") }

// format writes a broker's configuration and makes its data directory.
func (k *Kafka) format(ctx context.Context, n int) error {
	if err := os.MkdirAll(k.o.Dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of Kafka: %w", err)
	}
	for path, text := range map[string]string{filepath.Join(k.o.Dir, "log4j2.properties"): log4j, k.properties(n): k.configuration(n)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("configure Kafka: %w", err)
		}
	}
	args := []string{"kafka.tools.StorageTool", "format", "--cluster-id", "bGVhZmN1dHRlcmNsdXN0ZQ", "--config", k.properties(n)}
	if k.o.Secure {
		args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", kafkaUser, kafkaPassword))
	}
	made := k.java("128m", args...)
	cmd := exec.CommandContext(ctx, made.Path, made.Args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format the data directory of Kafka: %w\n%s", err, out)
	}
	return nil
}

const log4j = `rootLogger.level = WARN
rootLogger.appenderRefs = out
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c)%n
`

// configuration is that of an operator's cluster, as small as it goes: topics are never made by asking for them, and with
// three brokers a record is acknowledged by two.
func (k *Kafka) configuration(n int) string {
	var b strings.Builder
	set := func(name string, value any) { fmt.Fprintf(&b, "%s=%v\n", name, value) }
	var voters []string
	for i := range k.o.Brokers {
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, local(k.inside[2*i])))
	}
	protocol := "PLAINTEXT"
	if k.o.Secure {
		protocol = "SASL_SSL"
	}
	listeners := []string{"CONTROLLER://" + local(k.inside[2*n]), "INSIDE://" + local(k.inside[2*n+1]), "CLIENT://" + local(k.clients[n])}
	advertised := []string{"INSIDE://" + local(k.inside[2*n+1]), "CLIENT://" + local(k.clients[n])}
	protocols := []string{"CONTROLLER:PLAINTEXT", "INSIDE:PLAINTEXT", "CLIENT:" + protocol}
	for name, port := range k.doors {
		name = door(name)
		listeners = append(listeners, name+"://"+local(port))
		protocols = append(protocols, name+":"+protocol)
	}
	for name, at := range k.o.Doors {
		advertised = append(advertised, door(name)+"://"+at)
	}
	set("process.roles", "broker,controller")
	set("node.id", n+1)
	set("controller.quorum.voters", strings.Join(voters, ","))
	set("controller.listener.names", "CONTROLLER")
	set("inter.broker.listener.name", "INSIDE")
	set("listeners", strings.Join(listeners, ","))
	set("advertised.listeners", strings.Join(advertised, ","))
	set("listener.security.protocol.map", strings.Join(protocols, ","))
	set("log.dirs", filepath.Join(k.o.Dir, k.name(n)))
	set("auto.create.topics.enable", false)
	set("group.initial.rebalance.delay.ms", 0)
	copies := min(3, k.o.Brokers)
	set("default.replication.factor", copies)
	set("min.insync.replicas", max(1, copies-1))
	for _, topic := range []string{"offsets.topic", "transaction.state.log", "share.coordinator.state.topic"} {
		set(topic+".replication.factor", copies)
		set(topic+".num.partitions", 4)
	}
	set("transaction.state.log.min.isr", max(1, copies-1))
	set("share.coordinator.state.topic.min.isr", max(1, copies-1))
	set("log.retention.check.interval.ms", 1000)
	set("log.cleaner.dedupe.buffer.size", 8<<20)
	set("num.network.threads", 2)
	set("num.io.threads", 4)
	if k.o.Secure {
		set("sasl.enabled.mechanisms", "SCRAM-SHA-512")
		for name, file := range map[string]string{"keystore": "broker-with-key.pem", "truststore": "ca.pem"} {
			set("ssl."+name+".type", "PEM")
			set("ssl."+name+".location", filepath.Join(k.o.Dir, "tls", file))
		}
		for _, listener := range slices.Concat([]string{"CLIENT"}, doorNames(k.doors)) {
			prefix := "listener.name." + strings.ToLower(listener) + "."
			set(prefix+"ssl.client.auth", "required")
			set(prefix+"scram-sha-512.sasl.jaas.config", "org.apache.kafka.common.security.scram.ScramLoginModule required;")
		}
	}
	return b.String()
}

// door is a listener's name: Kafka wants letters, digits and no more.
func door(name string) string { return "DOOR" + strings.ToUpper(strings.ReplaceAll(name, "-", "")) }

func doorNames(doors map[string]int) []string {
	var names []string
	for name := range doors {
		names = append(names, door(name))
	}
	return names
}

// listening is an error while nobody listens at an address.
func listening(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
