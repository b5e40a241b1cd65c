package stage_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

const (
	letterDoc = "0198a000-0000-7000-8000-000000000001"
	letterRun = "0198a000-0000-5000-8000-000000000002"
)

// rangeOf is a record about pages of one run.
func rangeOf(pages ...int) []byte {
	value, err := json.Marshal(map[string]any{"document_id": letterDoc, "run_id": letterRun, "pages": pages})
	if err != nil {
		panic(err)
	}
	return value
}

// badPages gives up, of each range, the pages given, or all of it where a page is 0.
func badPages(bad ...int) stage.Config {
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		var r struct{ Pages []int }
		if err := json.Unmarshal(in.Value, &r); err != nil || slices.Contains(bad, 0) {
			return stage.Fail(fault.Permanentf("bad-range", "no: %v", err))
		}
		var result stage.Result
		for _, page := range r.Pages {
			if slices.Contains(bad, page) {
				result.Failures = append(result.Failures, stage.Failure{
					Replay: stage.Out{Topic: "in", Key: strconv.Itoa(page), Value: rangeOf(page), Headers: map[string]string{"own": "1"}},
					About:  stage.About{DocumentID: letterDoc, RunID: letterRun, Page: page}, Err: fault.Permanentf("bad-page", "no"),
				})
			}
		}
		return result
	}))
	cfg.About = stage.AboutPage
	return cfg
}

func headersOf(r *kgo.Record) map[string]string {
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	return headers
}

// lettersOf gives, of the records sent to a stage, the headers of its letters by page.
func lettersOf(t *testing.T, cfg stage.Config, letters int, sent ...*kgo.Record) map[string]map[string]string {
	t.Helper()
	b := newBroker(t)
	for _, r := range sent {
		if err := b.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	b.start(cfg)
	b.waitCommitted("test", int64(len(sent)))
	byPage := map[string]map[string]string{}
	for _, r := range b.read(schemas.TopicDeadLetters, letters) {
		h := headersOf(r)
		byPage[h[schemas.HeaderPage]] = h
	}
	if n := b.ends(schemas.TopicDeadLetters); n != int64(letters) {
		t.Fatalf("%d dead letters, want %d", n, letters)
	}
	return byPage
}

func replayed(letter, replay string, value []byte) *kgo.Record {
	return &kgo.Record{Topic: "in", Key: []byte("k"), Value: value, Headers: []kgo.RecordHeader{
		{Key: schemas.HeaderLetter, Value: []byte(letter)}, {Key: schemas.HeaderReplay, Value: []byte(replay)}}}
}

// A record that was replayed and fails again is the same letter, whatever its new place in Kafka.
func TestAReplayedRecordKeepsItsLetter(t *testing.T) {
	first := lettersOf(t, badPages(0), 1, &kgo.Record{Topic: "in", Value: rangeOf(1, 2, 3)})[""]
	if first[schemas.HeaderLetter] != "" {
		t.Errorf("a record that nobody replayed says that it is letter %s", first[schemas.HeaderLetter])
	}
	id := schemas.LetterID(first)
	again := lettersOf(t, badPages(0), 1, replayed(id, "4", rangeOf(1, 2, 3)))[""]
	if schemas.LetterID(again) != id || again[schemas.HeaderReplay] != "4" {
		t.Errorf("replay 4 of letter %s fails as replay %q of letter %s", id, again[schemas.HeaderReplay], schemas.LetterID(again))
	}
}

// A single page is given up as a part of its record, with a replay of the handler's own making: it is its letter all the
// same. A page among others has a letter of its own, the same one however often the whole is replayed.
func TestAReplayedPageKeepsItsLetter(t *testing.T) {
	pages := lettersOf(t, badPages(2, 3), 2, &kgo.Record{Topic: "in", Value: rangeOf(1, 2, 3)})
	two, three := schemas.LetterID(pages["2"]), schemas.LetterID(pages["3"])
	if two == three {
		t.Error("two pages of one record are one letter")
	}
	again := lettersOf(t, badPages(2), 1, replayed(two, "1", rangeOf(2)))["2"]
	if schemas.LetterID(again) != two || again[schemas.HeaderReplay] != "1" || again["own"] != "1" {
		t.Errorf("letter %s fails again as %q", two, again)
	}

	const whole = "0198a000-0000-5000-8000-00000000000a"
	once := lettersOf(t, badPages(2, 3), 2, replayed(whole, "1", rangeOf(1, 2, 3)))
	twice := lettersOf(t, badPages(3), 1, replayed(whole, "2", rangeOf(1, 2, 3)))
	for _, page := range []string{"2", "3"} {
		if id := schemas.LetterID(once[page]); id == whole || once[page][schemas.HeaderReplay] != "" {
			t.Errorf("page %s of a replayed range is taken for all of it: %q", page, once[page])
		}
	}
	if schemas.LetterID(once["2"]) == schemas.LetterID(once["3"]) || schemas.LetterID(once["3"]) != schemas.LetterID(twice["3"]) {
		t.Errorf("pages of a replayed range: first %q, then %q", once, twice)
	}
	// And the page's own replay is that letter again.
	part := schemas.LetterID(once["3"])
	if last := lettersOf(t, badPages(3), 1, replayed(part, "1", rangeOf(3)))["3"]; schemas.LetterID(last) != part {
		t.Errorf("letter %s fails again as %q", part, last)
	}
}

// Nothing is dead-lettered from dead-letters: it would come back to where it failed.
func TestALetterIsNotDeadLettered(t *testing.T) {
	b := newBroker(t)
	cfg := badPages(0)
	cfg.Topics, cfg.Bulk = []string{schemas.TopicDeadLetters}, false
	b.produce(schemas.TopicDeadLetters, "a", "b")
	b.start(cfg)
	b.waitCommitted("test", 2)
	if n := b.ends(schemas.TopicDeadLetters); n != 2 {
		t.Errorf("%d letters, want the two that were there", n)
	}
}
