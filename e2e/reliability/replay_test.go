package reliability

import (
	"testing"
	"time"

	"leafcutter/e2e/pipeline"
	"leafcutter/schemas"
)

// Every topic read again from offset 0 by every stage, all at once, changes no row and no object.
func TestReplayOfAllTopics(t *testing.T) {
	items, o := undisturbed(t)
	// What the undisturbed run made is what must not change.
	p, l := suite.calm.Get(t), suite.load
	ctx := bounded(t, 20*time.Minute)
	if full {
		for copy := range 5 {
			ok(t, l.put(ctx, 100+copy, items))
		}
		ok(t, l.settle(ctx))
	}
	const prefix = "again-"
	var again []*pipeline.Stage
	defer func() {
		for _, s := range again {
			ok(t, s.Stop())
		}
	}()
	for _, name := range pipeline.Names()[4:] {
		s, err := p.StartStage(name, "LEAFCUTTER_GROUP_PREFIX="+prefix)
		ok(t, err)
		again = append(again, s)
	}
	// In the order of the flow: what each makes again is there to be done again by the next, by two groups.
	ok(t, l.drained(ctx, prefix+"planner", prefix+"splitter", "splitter", prefix+schemas.DetectorGroup(p.Model), schemas.DetectorGroup(p.Model),
		prefix+"annotator", "annotator", prefix+"recorder", "recorder"))
	judge(ctx, t, l, o, result{fault: "every topic is read again from offset 0", times: 1})
}
