package web

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/gin-gonic/gin"

	"leafcutter/ingest-api/internal/deadletters"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas/api"
)

// onLetters is how many dead letters the list shows at once.
const onLetters = 50

type lettersData struct {
	Title    string
	Letters  []api.Letter
	Older    string // link to what comes next in the list
	State    string
	States   []string
	Code     string
	Document string
	Replayed string           // how many were, just now
	Refused  string           // code of one that was not
	Trouble  *problem.Problem // the list cannot be shown
}

// letters shows what the stages gave up.
func (p *pages) letters(c *gin.Context) {
	data := lettersData{Title: "Dead letters", State: c.Query("state"), Code: c.Query("code"), Document: c.Query("document"),
		Replayed: c.Query("replayed"), Refused: c.Query("refused"), States: []string{api.LetterOpen, api.LetterReplayed, api.LetterResolved}}
	list, err := p.Letters.List(c.Request.Context(), deadletters.Filter{State: data.State, Code: data.Code, DocumentID: data.Document, Limit: onLetters}, c.Query("cursor"))
	if err != nil {
		data.Trouble = problem.From(err, "Listing dead letters")
	}
	data.Letters = list.Letters
	if list.Next != "" {
		query := filterOf(c.Query)
		query.Set("cursor", list.Next)
		data.Older = "/dead-letters?" + query.Encode()
	}
	p.render(c, http.StatusOK, "letters", data)
}

// replay puts back the letter that the form names, or as many open ones as one request may that have its code, and shows
// the list again. The guard of the API refuses a form that the page of another site has sent.
func (p *pages) replay(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, 4<<10)
	request := api.ReplayRequest{Code: c.PostForm("all")}
	if letter := c.PostForm("letter"); letter != "" {
		request = api.ReplayRequest{Letters: []string{letter}}
	}
	answer, err := p.Letters.Replay(c.Request.Context(), request)
	if err != nil {
		p.fail(c, err)
		return
	}
	query := filterOf(c.PostForm)
	query.Set("replayed", strconv.Itoa(len(answer.Replayed)))
	if len(answer.Refused) > 0 {
		query.Set("refused", answer.Refused[0].Code)
	}
	c.Redirect(http.StatusSeeOther, "/dead-letters?"+query.Encode())
}

// filterOf is the filter of the list that a request carries.
func filterOf(value func(string) string) url.Values {
	query := url.Values{}
	for _, name := range []string{"state", "code", "document"} {
		if v := value(name); v != "" {
			query.Set(name, v)
		}
	}
	return query
}
