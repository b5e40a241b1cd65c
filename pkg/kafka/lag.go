package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Lag is what waits for a consumer group.
type Lag struct {
	Members int              // of the group at this moment
	Waiting map[string]int64 // records not yet committed, by topic without the deployment's prefix
}

// LagOf asks for the lag of a group, given without the deployment's prefix. A group that nobody ever joined has no
// members and nothing waiting. client may be any of the deployment's.
func LagOf(ctx context.Context, client *kgo.Client, c Config, group string) (Lag, error) {
	name := c.Group(group)
	lags, err := kadm.NewClient(client).Lag(ctx, name)
	if err != nil {
		return Lag{}, fmt.Errorf("lag of group %s: %w", name, err)
	}
	g := lags[name]
	if errors.Is(g.DescribeErr, kerr.GroupIDNotFound) {
		return Lag{}, nil
	}
	if err := g.Error(); err != nil {
		return Lag{}, fmt.Errorf("lag of group %s: %w", name, err)
	}
	lag := Lag{Members: len(g.Members), Waiting: map[string]int64{}}
	for _, t := range g.Lag.TotalByTopic() {
		lag.Waiting[strings.TrimPrefix(t.Topic, c.TopicPrefix)] = t.Lag
	}
	return lag, nil
}
