package httpapi

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// Bounds of reading on after a refusal.
const (
	lingerTime  = 5 * time.Second
	lingerBytes = 64 << 20
)

// paceBody gives a request's body a deadline that moves with its progress, and an end: a client that drips bytes holds
// its place for a bounded time. After a refusal it reads on for a while, because a connection that is closed on unread
// bytes takes the answer with it, and many clients read no answer before they have sent everything.
func (a *API) paceBody(c *gin.Context) {
	if c.Request.Body == nil || c.Request.Body == http.NoBody {
		c.Next()
		return
	}
	conn := http.NewResponseController(c.Writer)
	body := &pacedBody{
		ReadCloser: c.Request.Body, conn: conn, stall: a.cfg.StallTimeout, until: time.Now().Add(a.cfg.UploadTimeout),
		expects: c.GetHeader("Expect") != "",
	}
	c.Request.Body = body
	// Otherwise the server itself reads or gives up the rest of the body before it writes the answer.
	fullDuplex := conn.EnableFullDuplex() == nil
	c.Next()
	if fullDuplex && c.Writer.Status() >= http.StatusBadRequest && !body.ended && !(body.expects && !body.begun) {
		c.Header("Connection", "close")
		if conn.Flush() == nil {
			body.linger()
		}
	}
}

type pacedBody struct {
	io.ReadCloser
	conn    *http.ResponseController
	stall   time.Duration
	until   time.Time
	expects bool // the client waits for leave to send
	begun   bool
	ended   bool
}

// Read reads within the stall time, and never past the end of the upload's time.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.begun = true
	deadline := time.Now().Add(b.stall)
	if deadline.After(b.until) {
		deadline = b.until
	}
	if err := b.conn.SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended = true
		b.done()
	}
	return n, err
}

// done lifts the deadline: the server goes on reading the connection to see whether the client hangs up, and a deadline
// would look like that in the middle of the handler's work.
func (b *pacedBody) done() { _ = b.conn.SetReadDeadline(time.Time{}) } // a connection without deadlines has none to lift

func (b *pacedBody) linger() {
	b.stall, b.until = lingerTime, time.Now().Add(lingerTime)
	_, _ = io.Copy(io.Discard, io.LimitReader(b, lingerBytes)) // what is read is thrown away, and so is why it ended
}
