package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Secret signs webhooks.
type Secret []byte

// secretPrefix marks a secret of the Standard Webhooks specification, so that one is not mistaken for another.
const secretPrefix = "whsec_"

// Bounds of a secret in bytes, by the same specification.
const (
	minSecret = 24
	maxSecret = 64
)

// ParseSecret reads whsec_ followed by 24 to 64 bytes in base64. Its error does not repeat the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(secret) < minSecret || len(secret) > maxSecret {
		return nil, errors.New("a secret is not whsec_ and 24 to 64 bytes in base64; `echo whsec_$(openssl rand -base64 32)` makes a good one")
	}
	return secret, nil
}

// Signature is the value of the header webhook-signature: for each secret v1, and HMAC-SHA256 in base64 of id, time of
// the post in seconds and body, joined by dots. A receiver takes what one of its secrets signed.
func Signature(secrets []Secret, id string, at time.Time, body []byte) string {
	var signed []string
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		signed = append(signed, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signed, " ")
}
