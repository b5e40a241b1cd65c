package schemas

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// namespace is the UUID under which every name of this project is derived (RFC 9562, version 5).
var namespace = [16]byte{0x6c, 0x65, 0x61, 0x66, 0x63, 0x75, 0x54, 0x74, 0x85, 0x72, 0xde, 0x7e, 0xc7, 0x10, 0x75, 0x01}

// nameUUID is the version 5 UUID (RFC 9562, section 5.5) of the parts. Each part is preceded by its length, so that
// ("ab", "c") and ("a", "bc") differ.
func nameUUID(parts ...string) string {
	h := sha1.New() //nolint:gosec // version 5 is defined on SHA-1; it names, it does not protect
	h.Write(namespace[:])
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	var u [16]byte
	copy(u[:], h.Sum(nil))
	return format(u, 5)
}

// NewDocumentID is a version 7 UUID (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then randomness, so that
// identities sort by time of submission.
func NewDocumentID(now time.Time) string {
	var u [16]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	_, _ = rand.Read(u[6:]) // crypto/rand.Read never fails: it ends the process instead
	return format(u, 7)
}

func format(u [16]byte, version byte) string {
	u[6] = u[6]&0x0f | version<<4
	u[8] = u[8]&0x3f | 0x80
	s := hex.EncodeToString(u[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// IsUUID reports whether s is a UUID in its canonical form of 36 lower-case characters.
func IsUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	bare := strings.ReplaceAll(s, "-", "")
	_, err := hex.DecodeString(bare)
	return err == nil && len(bare) == 32 && bare == strings.ToLower(bare)
}
