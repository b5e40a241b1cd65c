package query

import (
	"context"
	"time"

	"leafcutter/schemas/api"
)

// maxDeliveries is how many deliveries a document names: a few a run, of which most documents have one.
const maxDeliveries = 100

// deliveries are those of a document's webhooks, newest first.
func (r *Reader) deliveries(ctx context.Context, documentID string) ([]api.WebhookDelivery, error) {
	var rows []struct {
		EventID     string     `ch:"event"`
		RunID       string     `ch:"run"`
		URL         string     `ch:"url"`
		State       string     `ch:"state"`
		Attempts    uint32     `ch:"attempts"`
		StatusCode  uint16     `ch:"status_code"`
		Error       string     `ch:"error"`
		EventAt     time.Time  `ch:"event_at"`
		AttemptedAt *time.Time `ch:"attempted_at"`
		NextAt      *time.Time `ch:"next_at"`
		DeliveredAt *time.Time `ch:"delivered_at"`
	}
	err := r.DB.Select(ctx, &rows, `SELECT toString(event_id) AS event, toString(run_id) AS run, url, state, attempts, status_code,
			error, event_at, attempted_at, next_at, delivered_at
		FROM webhook_deliveries FINAL WHERE document_id = toUUID(?) ORDER BY event_at DESC, event LIMIT ?`, documentID, maxDeliveries)
	var all []api.WebhookDelivery
	for _, row := range rows {
		all = append(all, api.WebhookDelivery{
			EventID: row.EventID, RunID: row.RunID, URL: row.URL, State: row.State, Attempts: int(row.Attempts), StatusCode: int(row.StatusCode),
			Error: row.Error, EventAt: row.EventAt.UTC(), AttemptedAt: utc(row.AttemptedAt), NextAt: utc(row.NextAt), DeliveredAt: utc(row.DeliveredAt),
		})
	}
	return all, err
}
