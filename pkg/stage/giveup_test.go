package stage_test

import (
	"context"
	"strings"
	"testing"

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
