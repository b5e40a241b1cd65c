package recorder

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// about reads what a result is about. It is not stage.AboutPage because RunPlanned has pages of another form, and one
// field that does not fit must not hide the others.
func about(in stage.In) stage.About {
	var a struct {
		DocumentID string `json:"document_id"`
		RunID      string `json:"run_id"`
		Page       int    `json:"page"`
	}
	_ = json.Unmarshal(in.Value, &a) // what cannot be read is about nothing known
	return stage.About{DocumentID: a.DocumentID, RunID: a.RunID, Page: a.Page}
}

// last tells the page that ends its run, where pages come in their order: somebody may be waiting for it.
func last(in stage.In) bool {
	var a struct {
		Type          string `json:"type"`
		Position      int    `json:"position"`
		PagesSelected int    `json:"pages_selected"`
	}
	return json.Unmarshal(in.Value, &a) == nil && a.Type == "PageDone" && a.Position+1 == a.PagesSelected
}

// condemned says in the place of a result that was given up what can still be said: that its page or run has failed, so
// that the run ends, and of a document the least that makes it known, so that it shows and its runs' ends are said. What
// is said instead is small and plain; if that is given up too, there is nothing more to say.
func condemned(in stage.In, code string, err error) []stage.Out {
	record, uerr := schemas.UnmarshalResult(in.Value)
	if uerr != nil {
		return nil
	}
	// A time that no table holds condemns every record of the document: the record's own stands in for it.
	placed := func(of schemas.Run) schemas.Run {
		if !schemas.StorableTime(of.SubmittedAt) {
			of.SubmittedAt = in.Timestamp.UTC()
		}
		return of
	}
	var instead schemas.Result
	switch r := record.(type) {
	case schemas.DocumentAccepted:
		least, ok := leastOf(r)
		if !schemas.StorableTime(r.SubmittedAt) {
			least.SubmittedAt, ok = in.Timestamp.UTC(), true
		}
		if !ok {
			return nil
		}
		instead = least
	case schemas.PageDone:
		instead = schemas.PageFailed{Run: placed(r.Run), Page: r.Page, Stage: Name, Code: code, Error: stage.ErrorText(err), TraceID: r.TraceID, FailedAt: in.Timestamp.UTC()}
	case schemas.RunPlanned:
		instead = schemas.RunFailed{Run: placed(r.Run), Stage: Name, Code: code, Error: stage.ErrorText(err), FailedAt: in.Timestamp.UTC()}
	default:
		return nil
	}
	out, eerr := stage.Emit(schemas.TopicResults, instead.Document(), instead)
	if eerr != nil {
		return nil
	}
	return []stage.Out{out}
}

// Bounds of what is kept, in bytes.
const (
	leastTitle = 256
	leastURL   = 2048
)

// leastOf is of a document what users find it by and what its end needs: title, source and whom to tell. Size, digest
// and number of pages are left out, and their absence is what tells a document that was given up before: false.
func leastOf(r schemas.DocumentAccepted) (schemas.DocumentAccepted, bool) {
	least := schemas.DocumentAccepted{DocumentID: r.DocumentID, Title: cut(strings.ToValidUTF8(r.Title, ""), leastTitle),
		ContentType: cut(strings.ToValidUTF8(r.ContentType, ""), leastTitle), SubmittedAt: r.SubmittedAt}
	// An address that is cut is another address.
	if len(r.Source) <= leastURL {
		least.Source = r.Source
	}
	if len(r.WebhookURL) <= leastURL {
		least.WebhookURL = r.WebhookURL
	}
	return least, r.SHA256 != "" || r.Bytes != 0 || r.PageCount != 0
}

// cut shortens s to at most n bytes, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
