package stage

import (
	"context"
	"strconv"
	"unicode/utf8"

	"leafcutter/pkg/fault"
	"leafcutter/schemas"
)

// maxErrorText bounds the text of an error in bytes.
const maxErrorText = 4 << 10

// deadLetter is i as it came, with the reason. A value too large for the topic is kept by Config.StoreLarge, whose
// fault is returned.
func (r *Runner) deadLetter(ctx context.Context, i *item, err error) (Out, error) {
	letter := Out{Topic: schemas.TopicDeadLetters, Key: i.in.Key, Value: i.in.Value,
		Headers: r.reason(i, i.in.Headers, i.in.Topic, r.about(i.in), err)}
	if len(i.in.Value) > schemas.MaxDeadLetterValue && r.cfg.StoreLarge != nil {
		ref, err := r.cfg.StoreLarge(ctx, i.in)
		if err != nil {
			return Out{}, err
		}
		letter.Value, letter.Headers[schemas.HeaderValueRef] = nil, ref
	}
	return letter, nil
}

// deadLetterOfPart is the part of i that failed while the rest went on.
func (r *Runner) deadLetterOfPart(i *item, f Failure) Out {
	return Out{Topic: schemas.TopicDeadLetters, Key: f.Replay.Key, Value: f.Replay.Value,
		Headers: r.reason(i, f.Replay.Headers, f.Replay.Topic, f.About, f.Err)}
}

func (r *Runner) reason(i *item, original map[string]string, topic string, about About, err error) map[string]string {
	h := make(map[string]string, len(original)+10)
	for k, v := range original {
		h[k] = v
	}
	h[schemas.HeaderStage] = r.cfg.Name
	h[schemas.HeaderCode] = fault.CodeOf(err)
	h[schemas.HeaderError] = ErrorText(err)
	h[schemas.HeaderAttempts] = strconv.Itoa(max(i.attempts, 1))
	h[schemas.HeaderTopic] = r.kafka.Topic(topic)
	h[schemas.HeaderPartition] = strconv.Itoa(int(i.in.Partition))
	h[schemas.HeaderOffset] = strconv.FormatInt(i.in.Offset, 10)
	if letter := i.in.Headers[schemas.HeaderLetter]; letter != "" {
		// A replayed record that fails again is the letter that it was. So is its one page, where a stage gives that up as
		// a part of the record. A page among others has a letter of its own, which another replay of the whole finds again.
		if whole := r.about(i.in); about.RunID == whole.RunID && about.Page == whole.Page {
			h[schemas.HeaderLetter] = letter
			if replay := i.in.Headers[schemas.HeaderReplay]; replay != "" {
				h[schemas.HeaderReplay] = replay
			}
		} else {
			h[schemas.HeaderLetter] = schemas.PartLetterID(letter, about.RunID, about.Page)
		}
	}
	if about.DocumentID != "" {
		h[schemas.HeaderDocumentID] = about.DocumentID
	}
	if about.RunID != "" {
		h[schemas.HeaderRunID] = about.RunID
	}
	if about.Page != 0 {
		h[schemas.HeaderPage] = strconv.Itoa(about.Page)
	}
	return h
}

// cut shortens s to at most n bytes without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
