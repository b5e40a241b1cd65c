package web

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/gin-gonic/gin"

	"leafcutter/schemas/api"
)

// onDocument is how many pages a document's page shows at once: a book is looked at in parts.
const onDocument = 10

type documentData struct {
	Title    string
	Document *api.Document
	Run      *api.Run // the one that is shown; nil until there is one
	Pages    []shownPage
	More     string // link to the next pages
	First    string // link to the first ones, where others are shown
	Class    string
	MinScore string
	Classes  []string
}

type shownPage struct {
	api.Page
	Shown  []api.Box
	Hidden int // boxes below the threshold or of other classes
}

func (p *pages) document(c *gin.Context) {
	ctx := c.Request.Context()
	id, runID, cursor := c.Param("id"), c.Query("run"), c.Query("cursor")
	d, err := p.Catalogue.Document(ctx, id)
	if err != nil {
		p.fail(c, err)
		return
	}
	data := documentData{Title: d.Title, Document: d, Class: c.Query("class"), MinScore: c.Query("min_score")}
	for i := range d.Runs {
		if runID == "" || d.Runs[i].RunID == runID {
			data.Run = &d.Runs[i]
			break
		}
	}
	list, err := p.Catalogue.Pages(ctx, id, runID, cursor, onDocument)
	if err != nil {
		p.fail(c, err)
		return
	}
	classes := map[string]bool{}
	for _, page := range list.Pages {
		for _, b := range page.Boxes {
			classes[b.Class] = true
		}
		data.Pages = append(data.Pages, show(page, data.Run, data.Class, data.MinScore))
	}
	data.Classes = slices.Sorted(maps.Keys(classes))
	link := func(cursor string) string {
		query := url.Values{}
		for name, value := range map[string]string{"run": runID, "class": data.Class, "min_score": data.MinScore, "cursor": cursor} {
			if value != "" {
				query.Set(name, value)
			}
		}
		return "/documents/" + id + "?" + query.Encode()
	}
	if list.Next != "" {
		data.More = link(list.Next)
	}
	if cursor != "" {
		data.First = link("")
	}
	p.render(c, http.StatusOK, "document", data)
}

// show picks the boxes of a page that are of the class and from the score on; where no score is asked for, from the
// run's own threshold of the class.
func show(page api.Page, run *api.Run, class, minScore string) shownPage {
	s := shownPage{Page: page}
	score, err := strconv.ParseFloat(minScore, 64)
	asked := err == nil
	for _, b := range page.Boxes {
		from := score
		if !asked && run != nil && run.Options != nil {
			from = run.Options.Threshold(b.Class)
		}
		if b.Score >= from && (class == "" || b.Class == class) {
			s.Shown = append(s.Shown, b)
		}
	}
	s.Hidden = len(page.Boxes) - len(s.Shown)
	return s
}
