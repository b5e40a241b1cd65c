package reconcile

import (
	"fmt"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Ranges asks for the pages of a run that are missing. selected are all the pages of the run, ascending. Pages stay in the
// ranges in which the planner put them, so that a range of which nothing was done is the planner's own record, with its
// identity, and goes by its topic; one of which a part was done falls into the stretches that are left.
func Ranges(run schemas.Run, selected []int, done func(page int) bool) []schemas.PageRange {
	var ranges []schemas.PageRange
	for i, page := range selected {
		if done(page) {
			continue
		}
		if last := len(ranges) - 1; last >= 0 && i%schemas.FirstPages != 0 && ranges[last].Position+len(ranges[last].Pages) == i {
			ranges[last].Pages = append(ranges[last].Pages, page)
			continue
		}
		ranges = append(ranges, schemas.PageRange{Run: run, Pages: []int{page}, Position: i})
	}
	return ranges
}

// Records are ranges as the planner emits them. control is the sequence of the control that asks for them, 0 for none: an
// older cancellation does not stop them then.
func Records(ranges []schemas.PageRange, control int64) ([]stage.Out, error) {
	outs := make([]stage.Out, 0, len(ranges))
	for _, r := range ranges {
		r.Control = control
		out, err := stage.Emit(schemas.Lane(schemas.TopicPageRanges, r.Bulk()), r.Key(), r)
		if err != nil {
			return nil, fmt.Errorf("ask for pages of run %s again: %w", r.RunID, err)
		}
		out.OwnTrace = r.Bulk()
		outs = append(outs, out)
	}
	return outs, nil
}
