package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/outbound"
)

// Sender posts. Its client must not follow redirects: a receiver could lead on to where it may not be asked to post.
type Sender struct {
	Client  *http.Client
	Agent   string
	Secrets []Secret
	Timeout time.Duration
	Now     func() time.Time
}

// Answer is what a receiver said.
type Answer struct {
	Status int           // 0 where there was none
	Wait   time.Duration // that it asked for, 0 where it did not
}

// maxWait bounds what a receiver may ask to wait for.
const maxWait = time.Hour

// maxAnswer is how much of an answer is read, in bytes, so that the connection can be used again. Nothing of it is kept:
// what a server says whose address a submitter chose is not for the submitter to read.
const maxAnswer = 16 << 10

// Post posts an event to target. A status from 200 to 299 is nil; every other end is classed: permanent where the same
// post would end so again, else transient.
func (s *Sender) Post(ctx context.Context, target, id string, body []byte) (Answer, error) {
	bounded, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(bounded, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return Answer{}, fault.Permanentf(CodeUndelivered, "the URL cannot be read")
	}
	now := s.Now()
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", s.Agent)
	request.Header.Set("webhook-id", id)
	request.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	request.Header.Set("webhook-signature", Signature(s.Secrets, id, now, body))
	response, err := s.Client.Do(request)
	if err != nil {
		return Answer{}, s.unanswered(ctx, bounded, err)
	}
	// What is wrong with the rest of an answer whose status is known changes nothing.
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer)
	_ = response.Body.Close()
	return judge(response.StatusCode, response.Header.Get("Retry-After"), now)
}

// unanswered classes the lack of an answer. The URL, which may hold a secret, is left out.
func (s *Sender) unanswered(ctx, bounded context.Context, err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // we stop
	case errors.Is(err, outbound.ErrRefused):
		return fault.AsPermanent(CodeUndelivered, fmt.Errorf("%w; LEAFCUTTER_WEBHOOK_ALLOW_NETWORKS allows networks", err))
	case bounded.Err() != nil:
		return fault.AsTransient(CodeUndelivered, fmt.Errorf("no answer within %s", s.Timeout))
	default:
		return fault.AsTransient(CodeUndelivered, err)
	}
}

// judge says what a status means.
func judge(status int, retryAfter string, now time.Time) (Answer, error) {
	a := Answer{Status: status}
	err := fmt.Errorf("the receiver answered %d %s", status, http.StatusText(status))
	switch {
	case status >= 200 && status <= 299:
		return a, nil
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500:
		a.Wait = parseWait(retryAfter, now)
		return a, fault.AsTransient(CodeUndelivered, err)
	case status >= 300 && status <= 399:
		return a, fault.AsPermanent(CodeUndelivered, fmt.Errorf("%w: redirects are not followed, name the URL that it leads to", err))
	default:
		return a, fault.AsPermanent(CodeUndelivered, err)
	}
}

// parseWait reads Retry-After: seconds, or a date. What cannot be read asks for nothing.
func parseWait(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxWait)
}
