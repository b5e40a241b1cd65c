// Package webhook tells the URLs that submissions named how their runs ended. It is the handler of a stage on the topic
// document-events, which package ingestapi runs: each RunEnded with a webhook_url is posted there as JSON, signed as the
// Standard Webhooks specification says. docs/webhooks.md tells receivers what they get.
//
// An event is told once to a URL: what was delivered stands in the table webhook_deliveries, which is asked before each
// post and written after it. A process that dies between the post and the row posts again, under the same webhook-id.
//
// What a receiver does to others is bounded. It gets a few posts at a time and holds no more workers than that; while it
// fails, its events are tried without asking it, but for one now and then. So the events of a receiver that is gone
// leave after the time that all tries take, however many they are.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/outbound"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Name of the stage, which is also its consumer group.
const Name = "webhooks"

// Codes of the faults of this package.
const (
	CodeRecord      = "record-invalid"      // the value is no RunEnded
	CodeUndelivered = "webhook-undelivered" // the receiver did not take it, or may not be asked
)

// Config is what an operator may say about webhooks.
type Config struct {
	Secrets  []string        `env:"LEAFCUTTER_WEBHOOK_SECRET" secret:"true" desc:"signs webhooks: whsec_ and 24 to 64 bytes in base64; several, separated by commas, all sign while they are exchanged; empty: no webhook is sent, and a submission that wants one is refused"`
	Networks []string        `env:"LEAFCUTTER_WEBHOOK_ALLOW_NETWORKS" desc:"networks in CIDR notation that webhooks may go to besides the public internet, such as 10.1.0.0/16, separated by commas"`
	Timeout  time.Duration   `env:"LEAFCUTTER_WEBHOOK_TIMEOUT" envDefault:"10s" desc:"how long a receiver may take to answer a webhook"`
	Retries  []time.Duration `env:"LEAFCUTTER_WEBHOOK_RETRIES" envDefault:"5s,30s,2m,10m,20m" desc:"pauses between the tries of a webhook, separated by commas; one try more than there are pauses"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	_, faults := c.secrets()
	_, err := c.guard()
	faults = errors.Join(faults, err)
	if c.Timeout <= 0 || c.Timeout > maxTimeout {
		faults = errors.Join(faults, fmt.Errorf("LEAFCUTTER_WEBHOOK_TIMEOUT: %s, must be above zero and %s at most", c.Timeout, maxTimeout))
	}
	for _, pause := range c.Retries {
		if pause <= 0 || pause > maxPause {
			faults = errors.Join(faults, fmt.Errorf("LEAFCUTTER_WEBHOOK_RETRIES: %s, must be above zero and %s at most", pause, maxPause))
		}
	}
	return faults
}

const (
	maxTimeout = time.Minute
	maxPause   = 6 * time.Hour
)

func (c Config) secrets() (secrets []Secret, faults error) {
	for _, text := range c.Secrets {
		s, err := ParseSecret(strings.TrimSpace(text))
		if err != nil {
			faults = errors.Join(faults, fmt.Errorf("LEAFCUTTER_WEBHOOK_SECRET: %w", err))
		}
		secrets = append(secrets, s)
	}
	return secrets, faults
}

func (c Config) guard() (outbound.Guard, error) {
	var g outbound.Guard
	var faults error
	for _, text := range c.Networks {
		network, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			faults = errors.Join(faults, fmt.Errorf("LEAFCUTTER_WEBHOOK_ALLOW_NETWORKS: %q is not a network such as 10.1.0.0/16", text))
			continue
		}
		g.Allow = append(g.Allow, network)
	}
	return g, faults
}

// Enabled reports whether there is a secret, and so whether webhooks are sent at all.
func (c Config) Enabled() bool { return len(c.Secrets) > 0 }

// Refuses says why a URL cannot be told anything, nil where it can be as far as its text goes: names are only resolved
// when there is something to tell.
func (c Config) Refuses(target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return errors.New("it cannot be read")
	}
	guard, err := c.guard()
	if err != nil {
		return err
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	addr, err := netip.ParseAddr(host)
	if err != nil {
		if host != "localhost" && !strings.HasSuffix(host, ".localhost") {
			return nil
		}
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return guard.Check(addr)
}

// Limits of the stage. A record in hand is an event: half a kilobyte, most of them, and 1.5 KB with what is kept of it. Those
// of a receiver that is away are put off, of which the runtime takes sixteen for each in flight (see [stage.Config]): were they
// more, the memory of ingest-api would follow that receiver's backlog.
const (
	atOnce      = 32               // posts
	maxInFlight = 256              // events that are not put off
	maxInHand   = 16 * maxInFlight // events that are
	maxBytes    = 8 << 20
	firstRetry  = time.Second // of the runtime's own retries: the pauses of Config come on top, by Hold
	commitEvery = time.Second
	grace       = 12 * time.Second // a post in flight may end
	watchdog    = 2 * time.Minute
)

// Runtime is what the stage runs on.
type Runtime struct {
	// Ended is told of each run that has ended, whether there is a webhook for it or not.
	Ended func()

	Kafka   kafka.Config
	DB      *clickhouse.DB
	Asked   *controls.Set // of documents: of one that is deleted nothing is told any more. Nil: of none
	Version string        // of the program, for User-Agent

	Logger  *slog.Logger
	Tracers trace.TracerProvider
	Meters  metric.MeterProvider
}

// New makes the stage. close gives back its connections after the stage has ended.
func New(rt Runtime, cfg Config) (runner *stage.Runner, closeAll func(), err error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	secrets, _ := cfg.secrets() // validated
	guard, _ := cfg.guard()     // validated
	transport := outbound.New(outbound.Settings{Guard: &guard, Stall: cfg.Timeout, DialTimeout: cfg.Timeout, Tracers: rt.Tracers, Meters: rt.Meters})
	sender := &Sender{
		Client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Agent:  "leafcutter/" + rt.Version, Secrets: secrets, Timeout: cfg.Timeout, Now: time.Now,
	}
	runner, err = runs(rt, NewCourier(sender, NewLedger(rt.DB), cfg, time.Now))
	if err != nil {
		return nil, nil, fmt.Errorf("make the stage %s: %w", Name, err)
	}
	return runner, transport.CloseIdleConnections, nil
}

// runs makes the stage whose handler is a courier.
func runs(rt Runtime, d *Courier) (*stage.Runner, error) {
	return stage.New(rt.Kafka, stage.Config{
		Name: Name, Group: Name, Topics: []string{schemas.TopicDocumentEvents},
		Limits: stage.Limits{Workers: atOnce, BatchSize: 1, MaxInFlight: maxInFlight, MaxBytes: maxBytes, MaxAttempts: 1 << 30,
			RetryBackoff: firstRetry, CommitEvery: commitEvery, Grace: grace, Watchdog: watchdog},
		Handler: stage.Each(func(ctx context.Context, in stage.In) stage.Result {
			rt.Ended()
			return d.Handle(ctx, in)
		}), Hold: d.Hold, About: about,
		// The row that says what was delivered is deleted with the document: a replay would deliver it again.
		Cancelled: func(about stage.About) bool {
			_, deleted := rt.Asked.Deleted(about.DocumentID)
			return deleted
		},
		Probes: map[string]func(context.Context) error{clickhouse.Dependency: rt.DB.Probe},
		Logger: rt.Logger, TracerProvider: rt.Tracers, MeterProvider: rt.Meters,
	})
}

func about(in stage.In) stage.About {
	e, err := read(in)
	if err != nil {
		return stage.About{}
	}
	return stage.About{DocumentID: e.DocumentID, RunID: e.RunID}
}

// read is the event of a record.
func read(in stage.In) (schemas.RunEnded, error) {
	e, err := schemas.Unmarshal[schemas.RunEnded](in.Value)
	if err != nil {
		return e, fault.AsPermanent(CodeRecord, err)
	}
	if !schemas.IsUUID(e.DocumentID) || !schemas.IsUUID(e.RunID) {
		return e, fault.Permanentf(CodeRecord, "document_id or run_id is not a lower-case UUID")
	}
	e.ID = e.EventID() // whatever the record says: by it two tellings of one end are known to be one
	return e, nil
}
