package stage_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// What is to be told of a condemned record may itself be refused. The record is done all the same, with a letter.
func TestARefusedDeadLetterIsNotSentForEver(t *testing.T) {
	b := newBroker(t)
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		if in.Key == "bad" {
			return stage.Fail(fault.Permanentf("bad-page", "no"))
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Condemned = func(in stage.In, code string, _ error) []stage.Out {
		return []stage.Out{
			{Topic: "out", Key: in.Key, Value: []byte(strings.Repeat("far too large ", 1<<20))},
			{Topic: "out", Key: in.Key, Value: []byte("condemned: " + code)},
		}
	}
	b.produce("in", "bad", "good")
	b.start(cfg)
	b.waitCommitted("test", 2)
	brief := 0
	for _, r := range b.read(schemas.TopicDeadLetters, 1) {
		if len(r.Value) == 0 {
			brief++
		}
	}
	told := false
	for _, v := range b.values("out", 2) {
		told = told || v == "condemned: record-too-large"
	}
	if brief == 0 || !told {
		t.Errorf("%d brief letters, the rest of the pipeline told: %v", brief, told)
	}
	if n := b.ends(schemas.TopicDeadLetters); n > 2 {
		t.Errorf("%d dead letters of one record", n)
	}
}

func TestOutputsOfATopicThatIsMissingWait(t *testing.T) {
	b := newBroker(t)
	b.produce("in", "early")
	b.start(config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{{Topic: "late", Key: in.Key, Value: in.Value}}}
	})))
	eventually(t, "the group has members", func() bool { return b.members("test") == 1 })
	b.create("late")
	if got := b.values("late", 1); got[0] != "early" {
		t.Fatal(got)
	}
	b.waitCommitted("test", 1)
	if n := b.ends(schemas.TopicDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// A broker that answers and takes no writes, as one without room on its disk, is no fault of the records.
func TestRecordsWaitForABrokerThatTakesNoWrites(t *testing.T) {
	b := newBroker(t)
	b.produce("in", numbers(0, 8)...)
	const refusals = 40 // far more than a record has tries
	var refused atomic.Int64
	b.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if refused.Add(1) > refusals {
			return nil, nil, false
		}
		asked := request.(*kmsg.ProduceRequest)
		answer := asked.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range asked.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.UnknownServerError.Code
				topic.Partitions = append(topic.Partitions, partition)
			}
			answer.Topics = append(answer.Topics, topic)
		}
		return answer, nil, true
	})
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		if in.Key == "00003" {
			return stage.Fail(fault.Permanentf("bad-page", "no"))
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Probes = map[string]func(context.Context) error{"kafka": func(context.Context) error { return nil }}
	b.start(cfg)
	b.waitCommitted("test", 8)
	if n := refused.Load(); n <= refusals {
		t.Errorf("only %d writes were tried", n)
	}
	if n := b.ends(schemas.TopicDeadLetters); n != 1 {
		t.Errorf("%d dead letters, want the one of the record that is at fault", n)
	}
	if n := b.ends("out"); n != 7 {
		t.Errorf("%d outputs, want 7", n)
	}
}
