package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"

	"leafcutter/schemas/api"
)

// LetterFilter narrows the list of dead letters. Zero fields narrow nothing.
type LetterFilter struct {
	State      string // api.LetterOpen, api.LetterReplayed or api.LetterResolved
	Code       string
	Stage      string
	DocumentID string
}

// Letters gives what the stages gave up, what failed last first, asking for more as it is taken. It ends after the first
// error.
func (c *Client) Letters(ctx context.Context, f LetterFilter) iter.Seq2[api.Letter, error] {
	query := url.Values{}
	add(query, "state", f.State)
	add(query, "code", f.Code)
	add(query, "stage", f.Stage)
	add(query, "document", f.DocumentID)
	return parts(query, func(path string) ([]api.Letter, string, error) {
		list, err := get[api.LetterList](ctx, c, "/v1/dead-letters?"+path)
		return list.Letters, list.Next, err
	})
}

// Letter is a dead letter with its record.
func (c *Client) Letter(ctx context.Context, letterID string) (*api.LetterContent, error) {
	l, err := get[api.LetterContent](ctx, c, api.LetterLink(url.PathEscape(letterID)))
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// maxNamed is how many letters one request names.
const maxNamed = 200

// Replay puts the records of letters back onto their topics. It gives answer after answer, each of which says what was
// replayed and is durable, and what could not be; it ends when all that the request is about has been told, or after the
// first error. A request is not repeated by itself: what it has done before it failed is not known.
func (c *Client) Replay(ctx context.Context, request api.ReplayRequest) iter.Seq2[api.ReplayAnswer, error] {
	return func(yield func(api.ReplayAnswer, error) bool) {
		named := request.Letters
		for {
			request.Letters = named[:min(len(named), maxNamed)]
			named = named[len(request.Letters):]
			answer, err := c.replay(ctx, request)
			if !yield(answer, err) || err != nil || answer.Next == "" && len(named) == 0 {
				return
			}
			request.Cursor = answer.Next
		}
	}
}

func (c *Client) replay(ctx context.Context, request api.ReplayRequest) (answer api.ReplayAnswer, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return answer, fmt.Errorf("make the request: %w", err)
	}
	r, err := c.request(ctx, http.MethodPost, "/v1/dead-letters/replay", bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	r.Header.Set("Content-Type", "application/json")
	return answer, plain(c.do(r, &answer))
}
