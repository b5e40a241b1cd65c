package stage_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// cancelling is a stage to which records whose value begins with "no" are unwanted, and which says so.
func cancelling(handled *atomic.Int64) stage.Config {
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		handled.Add(1)
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.About = func(in stage.In) stage.About { return stage.About{DocumentID: string(in.Value)} }
	cfg.Cancelled = func(about stage.About) bool { return strings.HasPrefix(about.DocumentID, "no") }
	cfg.Dropped = func(in stage.In) []stage.Out {
		if in.Key == "no, silently" {
			return nil
		}
		return []stage.Out{{Topic: "out", Key: in.Key, Value: []byte("dropped " + string(in.Value))}}
	}
	return cfg
}

func TestUnwantedRecordsAreDroppedAndSaidSo(t *testing.T) {
	b := newBroker(t)
	b.produce("in", "yes", "no", "no, silently", "yes too")
	b.produce("in.bulk", "no more")
	var handled atomic.Int64
	b.start(cancelling(&handled))
	b.waitCommitted("test", 5)
	if got := strings.Join(b.values("out", 4), "; "); got != "dropped no; dropped no more; yes; yes too" {
		t.Error(got)
	}
	if handled.Load() != 2 || b.ends("out") != 4 || b.ends(schemas.TopicDeadLetters) != 0 {
		t.Errorf("%d handled, %d said, %d dead-lettered", handled.Load(), b.ends("out"), b.ends(schemas.TopicDeadLetters))
	}
}

// A record is dropped only when that has been said: what Kafka does not take, it is asked to take again.
func TestADroppedRecordWaitsUntilItIsSaid(t *testing.T) {
	b := newBroker(t)
	b.produce("in", "no")
	var refused atomic.Int64
	b.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		produce := request.(*kmsg.ProduceRequest)
		if refused.Load() >= 3 {
			return nil, nil, false
		}
		refused.Add(1)
		response := produce.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range produce.Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
			for _, partition := range topic.Partitions {
				refusal := kmsg.NewProduceResponseTopicPartition()
				refusal.Partition, refusal.ErrorCode = partition.Partition, kerr.TopicAuthorizationFailed.Code
				answer.Partitions = append(answer.Partitions, refusal)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
	var handled atomic.Int64
	cfg := cancelling(&handled)
	cfg.Probes = map[string]func(context.Context) error{"kafka": func(context.Context) error { return nil }} // it answers
	b.start(cfg)
	b.waitCommitted("test", 1)
	if got := b.values("out", 1)[0]; got != "dropped no" || handled.Load() != 0 || b.ends(schemas.TopicDeadLetters) != 0 {
		t.Errorf("%s; %d handled, %d dead-lettered", got, handled.Load(), b.ends(schemas.TopicDeadLetters))
	}
	if refused.Load() < 3 {
		t.Errorf("refused %d times", refused.Load())
	}
}
