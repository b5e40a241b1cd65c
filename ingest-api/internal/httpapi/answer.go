package httpapi

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/problem"
)

const (
	requestKey = "leafcutter.request" // of gin's context: the request's id
	loggerKey  = "leafcutter.logger"
)

// envelope is the outermost middleware: a request id, headers that every answer has, the access log, and an answer where
// a handler panics.
func envelope(log *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		began := time.Now()
		id := requestID(c.GetHeader("X-Request-Id"))
		logger := log.With(slog.String("request_id", id))
		c.Set(requestKey, id)
		c.Set(loggerKey, logger)
		h := c.Writer.Header()
		h.Set("X-Request-Id", id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		// Nothing from outside, and nothing inline: what a document's title or text says is never run.
		h.Set("Content-Security-Policy", "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		defer func() {
			if fault := recover(); fault != nil {
				if err, ok := fault.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(fault) // the server's own way to break a connection
				}
				logger.ErrorContext(c.Request.Context(), "handler panicked", slog.Any("fault", fault), slog.String("stack", string(debug.Stack())))
				if c.Writer.Written() {
					panic(http.ErrAbortHandler) // half an answer must not look like a whole one
				}
				refuse(c, problem.New(problem.Internal, "The request could not be handled"))
			}
			logger.DebugContext(c.Request.Context(), "request", slog.String("method", c.Request.Method), slog.String("path", c.Request.URL.Path),
				slog.Int("status", c.Writer.Status()), slog.Int("bytes", c.Writer.Size()), slog.Duration("took", time.Since(began)))
		}()
		c.Next()
	}
}

// requestID is the client's own id of the request where it has a sane one, else a new one.
func requestID(given string) string {
	sane := given != "" && len(given) <= 128
	for _, b := range []byte(given) {
		sane = sane && (b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.' || b == ':')
	}
	if sane {
		return given
	}
	var random [12]byte
	_, _ = rand.Read(random[:]) // crypto/rand.Read never fails: it ends the process instead
	return hex.EncodeToString(random[:])
}

// refuse answers with the problem that err amounts to and ends the chain.
func refuse(c *gin.Context, err error) {
	p := finish(c, err)
	for name, values := range p.GetHeaders() {
		c.Writer.Header()[name] = values
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic("httpapi: a problem cannot fail to marshal: " + err.Error()) // strings and numbers alone
	}
	c.Header("Content-Type", p.ContentType(""))
	c.Header("Content-Length", strconv.Itoa(len(body)))
	c.Header("Cache-Control", "no-store")
	c.Status(p.Status)
	_, _ = c.Writer.Write(body) // a client that has hung up needs no answer
	c.Abort()
}

// finish adds what the request knows to the problem of err, and logs what is not the client's fault.
func finish(c *gin.Context, err error) *problem.Problem {
	found := problem.From(err, "The request")
	p := *found // problems may be shared: the id is this request's
	p.RequestID = c.GetString(requestKey)
	if p.Status >= http.StatusInternalServerError && c.Request.Context().Err() == nil {
		loggerOf(c).WarnContext(c.Request.Context(), "request failed", slog.String("code", p.Code), slog.String("path", c.Request.URL.Path), slog.Any("error", p.Err))
	}
	return &p
}

func loggerOf(c *gin.Context) *slog.Logger {
	if l, ok := c.Get(loggerKey); ok {
		if l, ok := l.(*slog.Logger); ok {
			return l
		}
	}
	panic(fmt.Sprintf("httpapi: %s is served without its envelope", c.FullPath()))
}
