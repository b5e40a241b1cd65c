package api

import "time"

// WebhookDelivery is how far the telling of one end of a run has come to the webhook_url.
type WebhookDelivery struct {
	EventID     string     `json:"event_id" format:"uuid" doc:"the header webhook-id of each try"`
	RunID       string     `json:"run_id" format:"uuid"`
	URL         string     `json:"url"`
	State       string     `json:"state" doc:"pending, delivered or failed"`
	Attempts    int        `json:"attempts" doc:"posts so far"`
	StatusCode  int        `json:"status_code,omitempty" doc:"of the last answer; absent where there was none"`
	Error       string     `json:"error,omitempty" doc:"why the last try failed"`
	EventAt     time.Time  `json:"event_at" doc:"when the run ended"`
	AttemptedAt *time.Time `json:"attempted_at,omitempty" doc:"when the last try was made"`
	NextAt      *time.Time `json:"next_at,omitempty" doc:"when the next try is due; absent where there is none"`
	DeliveredAt *time.Time `json:"delivered_at,omitempty"`
}
