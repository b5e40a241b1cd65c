package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"leafcutter/schemas"
)

// Apply makes the topics that are missing and sets the configuration of those that are there; it never removes one and
// never takes partitions away. partitions, where above 0, replaces the table's count for work topics. It returns the
// names that it made.
func Apply(ctx context.Context, c Config, topics []schemas.Topic, partitions int32) (created []string, err error) {
	client, err := NewClient(c)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for _, t := range topics {
		n := t.Partitions
		if partitions > 0 && !t.Compacted {
			n = partitions
		}
		settings := settings(t)
		answer, err := admin.CreateTopic(ctx, n, -1, settings, c.Topic(t.Name))
		switch {
		case err == nil && answer.Err == nil:
			created = append(created, c.Topic(t.Name))
		case errors.Is(err, kerr.TopicAlreadyExists) || errors.Is(answer.Err, kerr.TopicAlreadyExists):
			if err := alter(ctx, admin, c.Topic(t.Name), settings); err != nil {
				return created, err
			}
		default:
			return created, fmt.Errorf("create topic %s: %w", c.Topic(t.Name), errors.Join(err, answer.Err))
		}
	}
	return created, nil
}

func settings(t schemas.Topic) map[string]*string {
	s := map[string]*string{"max.message.bytes": text(strconv.Itoa(int(t.MaxBytes)))}
	if t.Compacted {
		s["cleanup.policy"] = text("compact")
	} else {
		s["cleanup.policy"] = text("delete")
		s["retention.ms"] = text(strconv.FormatInt(t.Retention.Milliseconds(), 10))
	}
	return s
}

func text(s string) *string { return &s }

func alter(ctx context.Context, admin *kadm.Client, topic string, settings map[string]*string) error {
	var changes []kadm.AlterConfig
	for name, value := range settings {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: value})
	}
	answers, err := admin.AlterTopicConfigs(ctx, changes, topic)
	if err != nil {
		return fmt.Errorf("configure topic %s: %w", topic, err)
	}
	for _, a := range answers {
		if a.Err != nil {
			return fmt.Errorf("configure topic %s: %w", topic, a.Err)
		}
	}
	return nil
}

// Missing names those of the topics, without their prefix, that do not exist. It makes none.
func Missing(ctx context.Context, c Config, topics ...string) (missing []string, err error) {
	client, err := NewClient(c)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = c.Topic(t)
	}
	known, err := kadm.NewClient(client).ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("ask Kafka for topics: %w", err)
	}
	for _, t := range topics {
		switch err := known[c.Topic(t)].Err; {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			missing = append(missing, t)
		case err != nil:
			return nil, fmt.Errorf("ask Kafka for topic %s: %w", c.Topic(t), err)
		}
	}
	return missing, nil
}

// Probe asks a broker for its metadata on a connection of its own.
func Probe(c Config) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		client, err := NewClient(c)
		if err != nil {
			return err
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := client.Ping(ctx); err != nil {
			return fmt.Errorf("ask Kafka at %v: %w", c.Brokers, err)
		}
		return nil
	}
}

// Members is how many members a consumer group has at this moment.
func Members(ctx context.Context, c Config, group string) (int, error) {
	client, err := NewClient(c)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	groups, err := kadm.NewClient(client).DescribeGroups(ctx, c.Group(group))
	if err != nil {
		return 0, fmt.Errorf("describe group %s: %w", c.Group(group), err)
	}
	g := groups[c.Group(group)]
	if g.Err != nil && !errors.Is(g.Err, kerr.GroupIDNotFound) {
		return 0, fmt.Errorf("describe group %s: %w", c.Group(group), g.Err)
	}
	return len(g.Members), nil
}
