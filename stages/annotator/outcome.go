package annotator

import (
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// condemned is the PageFailed of a record that was given up. A record that does not name its page fails no page: its
// dead letter is all there is to say.
func condemned(in stage.In, code string, cause error) []stage.Out {
	page, err := schemas.Unmarshal[schemas.PageDetected](in.Value)
	if err != nil {
		return nil
	}
	out, err := stage.PageFailed(in, page.Run, page.Page, Name, code, cause)
	if err != nil {
		return nil // it was read from JSON, so it can be written as JSON
	}
	return []stage.Out{out}
}
