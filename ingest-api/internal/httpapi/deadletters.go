package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"leafcutter/ingest-api/internal/deadletters"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas/api"
)

type lettersInput struct {
	State    string `query:"state" enum:"open,replayed,resolved" doc:"only letters in this state"`
	Code     string `query:"code" maxLength:"128" doc:"only letters with this code"`
	Stage    string `query:"stage" maxLength:"128" doc:"only what this stage gave up"`
	Document string `query:"document" maxLength:"64" doc:"only letters of this document"`
	Limit    int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"letters at most"`
	Cursor   string `query:"cursor" doc:"next of the previous answer"`
}

type letterInput struct {
	ID string `path:"id" doc:"id of the letter, a UUID"`
}

type replayInput struct {
	Body api.ReplayRequest
}

func (a *API) letterRoutes() {
	get(a, "list-dead-letters", "/v1/dead-letters", "List what the stages gave up, what failed last first",
		"Each letter is listed once, however often its record has failed.",
		func(ctx context.Context, in *lettersInput) (api.LetterList, error) {
			return a.Letters.List(ctx, deadletters.Filter{State: in.State, Code: in.Code, Stage: in.Stage, DocumentID: in.Document, Limit: in.Limit}, in.Cursor)
		})
	get(a, "get-dead-letter", "/v1/dead-letters/{id}", "A dead letter with its record", "",
		func(ctx context.Context, in *letterInput) (*api.LetterContent, error) {
			return a.Letters.Show(ctx, in.ID)
		})
	summary := "Replay dead letters"
	huma.Register(a.huma, huma.Operation{
		OperationID: "replay-dead-letters", Method: http.MethodPost, Path: "/v1/dead-letters/replay", Summary: summary,
		Description: "Puts the records back onto the topics that they came by, as they were. The answer comes once Kafka has acknowledged them. Doing a page twice changes nothing, so neither does a replay too many.",
		Responses:   map[string]*huma.Response{"200": {Description: "What was replayed, and what could not be and why"}, "default": a.problemResponse()},
	}, func(ctx context.Context, in *replayInput) (*answer[api.ReplayAnswer], error) {
		body, err := a.Letters.Replay(ctx, in.Body)
		if err != nil {
			return nil, problem.From(err, summary)
		}
		return &answer[api.ReplayAnswer]{Body: body}, nil
	})
}
