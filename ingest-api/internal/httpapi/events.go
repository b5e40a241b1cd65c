package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas/api"
)

// keepAlive is how often a silent stream sends a comment, so that proxies and clients see that it lives.
const keepAlive = 15 * time.Second

// lookAgain is how often a stream looks whether its document has been deleted.
const lookAgain = time.Second

func (a *API) eventRoutes() {
	a.engine.GET("/v1/documents/:id/events", a.events)
	a.documentEvents()
}

// events streams a document's progress as server-sent events: "progress" at once and at every change, "end" with the
// final state, after which the stream ends.
func (a *API) events(c *gin.Context) {
	id := c.Param("id")
	ctx := c.Request.Context()
	// Watching begins before the first look: a change between the two is told twice, never lost.
	news, done, err := a.Feed.Watch(id)
	if err != nil {
		refuse(c, err)
		return
	}
	defer done()
	now, err := a.Catalogue.Summary(ctx, id)
	if err != nil {
		refuse(c, err)
		return
	}
	c.Header("Content-Type", "text/event-stream")
	c.Header("Cache-Control", "no-store")
	c.Header("X-Accel-Buffering", "no")
	c.Status(http.StatusOK)
	stream := &eventStream{c: c, conn: http.NewResponseController(c.Writer)}
	last := now.Progress()
	if stream.tell(last) != nil || last.State.Final() {
		return
	}
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	deleted := time.NewTicker(lookAgain)
	defer deleted.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-a.stop:
			return
		case <-deleted.C:
			// A deleted document has no rows any more that could change: the stream ends, and asking again says why.
			if a.Catalogue.Known(id) != nil {
				return
			}
			continue
		case <-ticker.C:
			err = stream.write(": still here\n\n")
		case p := <-news:
			if p == last {
				continue
			}
			last = p
			err = stream.tell(p)
		}
		if err != nil || last.State.Final() {
			return
		}
	}
}

type eventStream struct {
	c    *gin.Context
	conn *http.ResponseController
}

// tell sends one event. Its error means that the client is gone.
func (s *eventStream) tell(p api.Progress) error {
	data, err := json.Marshal(p)
	if err != nil {
		return problem.From(err, "Describing progress")
	}
	name := "progress"
	if p.State.Final() {
		name = "end"
	}
	return s.write(fmt.Sprintf("event: %s\ndata: %s\n\n", name, data))
}

func (s *eventStream) write(text string) error {
	if _, err := s.c.Writer.WriteString(text); err != nil {
		return err
	}
	return s.conn.Flush()
}
