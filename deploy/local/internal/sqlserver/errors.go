package sqlserver

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// exception is a refusal as ClickHouse words it.
type exception struct {
	code int
	text string // "Code: 60. DB::Exception: … (UNKNOWN_TABLE) (version …)"
}

func (e *exception) Error() string { return e.text }

// Codes of ClickHouse (src/Common/ErrorCodes.cpp) that this server itself gives.
const (
	codeSyntaxError          = 62
	codeUnknownFormat        = 73
	codeCannotWrite          = 75
	codeReadonly             = 164
	codeRequiredPassword     = 194
	codeNotEnoughSpace       = 243
	codeSettingBounds        = 452
	codeAccessDenied         = 497
	codeAuthenticationFailed = 516
	codeTooLarge             = 1009
	codeInvalidCompression   = 271
	codeNotImplemented       = 48
	codeCancelled            = 394
	codeUnknown              = 1002
)

// refuse words a refusal of this server's own.
func (s *Server) refuse(code int, name, format string, args ...any) *exception {
	return &exception{code: code, text: fmt.Sprintf("Code: %d. DB::Exception: %s. (%s) (version %s)", code, fmt.Sprintf(format, args...), name, s.identity.version)}
}

// wrapped is a server's error inside that of libchdb's client, which repeats its code and name.
var wrapped = regexp.MustCompile(`(?s)^Code: (\d+)\. DB::Exception: (Code: \d+\. .*\(version [^)]*\))\. \([A-Z_]+\)(?: \(version [^)]*\))?$`)

var codeOf = regexp.MustCompile(`Code: (\d+)\. `)

// exceptionOf takes the engine's text and completes it as the server would send it.
func (s *Server) exceptionOf(text string) *exception {
	text = strings.TrimSpace(strings.TrimPrefix(text, "Error: "))
	for inner := wrapped.FindStringSubmatch(text); inner != nil; inner = wrapped.FindStringSubmatch(text) {
		text = inner[2]
	}
	match := codeOf.FindStringSubmatchIndex(text)
	if match == nil {
		return s.refuse(codeUnknown, "UNKNOWN_EXCEPTION", "%s", text)
	}
	code, err := strconv.Atoi(text[match[2]:match[3]])
	if err != nil {
		code = codeUnknown
	}
	text = text[match[0]:]
	if !strings.HasSuffix(text, ")") || !strings.Contains(text, "(version ") {
		text += fmt.Sprintf(" (version %s)", s.identity.version)
	}
	return &exception{code: code, text: text}
}

// httpStatus is ClickHouse's own mapping of its codes (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp).
func httpStatus(code int) int {
	switch code {
	case codeRequiredPassword:
		return http.StatusUnauthorized
	case 192, 193, codeAuthenticationFailed, codeAccessDenied, codeReadonly:
		return http.StatusForbidden
	case 36, 427, 456, 6, 26, 27, 38, 41, 42, 53, 56, 62, 67, 69, 70, 117, 120, 130, 131, 321, 457, codeSettingBounds, codeInvalidCompression:
		return http.StatusBadRequest
	case 60, 46, 47, 50, 67_000, 81, 115, 63, 73, 78, 336, 511:
		return http.StatusNotFound
	case 159:
		return http.StatusRequestTimeout
	case codeTooLarge, 307:
		return http.StatusRequestEntityTooLarge
	case codeNotImplemented:
		return http.StatusNotImplemented
	case 209, 76:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
