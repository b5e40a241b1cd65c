package objectstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"leafcutter/pkg/fault"
)

// Codes of the permanent faults of this package.
const (
	CodeMissing    = "object-missing"
	CodeTooLarge   = "object-too-large"
	CodeKeyInvalid = "object-key-invalid"
	CodeSource     = "source-not-allowed"
	codeRefused    = "object-refused"
)

// classed gives err its class and says what was being done. ctx is the caller's: if that was cancelled, so was the
// request, whatever the SDK made of it.
func classed(ctx context.Context, doing string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	}
	err = fmt.Errorf("%s: %w", doing, err)
	var api smithy.APIError
	code := ""
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var response *awshttp.ResponseError
	status := 0
	if errors.As(err, &response) && response.Response != nil && response.Response.Response != nil {
		status = response.HTTPStatusCode()
	}
	switch code {
	case "NoSuchBucket":
		// Somebody has still to create it; no document is to blame.
		return fault.AsUnavailable(Dependency, err)
	case "NoSuchKey", "NotFound":
		return fault.AsPermanent(CodeMissing, err)
	case "EntityTooLarge":
		return fault.AsPermanent(CodeTooLarge, err)
	case "KeyTooLongError", "InvalidObjectState":
		return fault.AsPermanent(codeRefused, err)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
		"AuthorizationHeaderMalformed", "RequestTimeTooSkewed", "RequestTimeout", "SlowDown":
		return fault.AsUnavailable(Dependency, err)
	}
	switch {
	case status == http.StatusNotFound:
		return fault.AsPermanent(CodeMissing, err)
	case status == 0, status >= 500, status < 300,
		status == http.StatusUnauthorized, status == http.StatusForbidden,
		status == http.StatusRequestTimeout, status == http.StatusTooManyRequests,
		status >= 300 && status < 400: // another region or endpoint: the configuration's fault
		return fault.AsUnavailable(Dependency, err)
	}
	return fault.AsTransient("s3-error", err)
}

// IsDenied says whether an error is the server's word that these keys may not do that. Amazon says so of an object that is
// missing too, to keys that may not list the bucket. Keys that it does not accept at all are none of this, but where it
// answers without a text, to a Head.
func IsDenied(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && (api.ErrorCode() == "AccessDenied" || api.ErrorCode() == "Forbidden")
}

// checkKey refuses keys that name another object than they seem to: a server that keeps objects as files resolves ".".
func checkKey(key string) error {
	bad := key == "" || len(key) > 1024 || !utf8.ValidString(key) || strings.ContainsRune(key, 0)
	for segment := range strings.SplitSeq(key, "/") {
		bad = bad || segment == "" || segment == "." || segment == ".."
	}
	if bad {
		return fault.Permanentf(CodeKeyInvalid, "%q is not a key", key)
	}
	return nil
}
