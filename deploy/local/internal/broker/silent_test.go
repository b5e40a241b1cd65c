package broker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/deploy/local/internal/broker"
)

// A member that dies while it waits to hear that it has joined is put out, and its share goes to those that live.
func TestMemberThatDiesAsItJoins(t *testing.T) {
	addr, _ := start(t, broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), MinGroupSession: 500 * time.Millisecond})
	ctx := testContext(t)
	admin := kadm.NewClient(client(t, addr))
	if _, err := admin.CreateTopic(ctx, 4, 1, nil, "work"); err != nil {
		t.Fatal(err)
	}
	var assigned, revoked atomic.Int32
	count := func(sign int32) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, p map[string][]int32) {
			assigned.Add(sign * int32(len(p["work"])))
			if sign < 0 {
				revoked.Add(int32(len(p["work"])))
			}
		}
	}
	// It hears of the newcomer with its next heartbeat: until then the newcomer's JoinGroup is not answered.
	client(t, addr, kgo.ConsumeTopics("work"), kgo.ConsumerGroup("group"), kgo.SessionTimeout(3*time.Second), kgo.HeartbeatInterval(time.Second),
		kgo.OnPartitionsAssigned(count(1)), kgo.OnPartitionsRevoked(count(-1)), kgo.OnPartitionsLost(count(-1)))
	eventually := func(what string, holds func() bool) {
		t.Helper()
		for !holds() {
			if ctx.Err() != nil {
				t.Fatalf("%s: not so; the living member has %d partitions", what, assigned.Load())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	eventually("the first member has all", func() bool { return assigned.Load() == 4 })

	newcomer, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	subscription := kmsg.NewConsumerMemberMetadata()
	subscription.Version, subscription.Topics = 1, []string{"work"}
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType = "group", "consumer"
	join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 3000, 10000
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = "cooperative-sticky", subscription.AppendTo(nil)
	join.Protocols = append(join.Protocols, protocol)
	named, err := join.RequestWith(ctx, newcomer)
	if err != nil {
		t.Fatal(err)
	}
	join.MemberID = named.MemberID
	answered := make(chan error, 1)
	go func() {
		_, err := join.RequestWith(ctx, newcomer)
		answered <- err
	}()
	eventually("the newcomer is joining", func() bool {
		groups, err := admin.DescribeGroups(ctx, "group")
		return err == nil && groups["group"].State == "PreparingRebalance"
	})
	newcomer.Close()
	if err := <-answered; err == nil {
		t.Fatal("the newcomer was answered before it died")
	}
	eventually("the newcomer gets its share", func() bool { return revoked.Load() > 0 })
	eventually("the living member has all again", func() bool { return assigned.Load() == 4 })
}
