package reliability

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/schemas"
)

// What an older version of a binary writes, and what a newer one does, is read as this version's own: every record of a
// run is put again with only those fields that its golden record of version 1 has, and with one that nobody knows.
func TestVersionsSideBySide(t *testing.T) {
	items, o := undisturbed(t)
	p, l := suite.calm.Get(t), suite.load
	ctx := bounded(t, 15*time.Minute)
	models := []string{p.Model}
	rewritten := 0
	for _, topic := range schemas.Topics(models...) {
		switch topic.Name {
		case schemas.TopicDocuments, schemas.TopicDocumentEvents, schemas.TopicControls, schemas.TopicModels, schemas.TopicDeadLetters:
			continue // users' own, read by users, compacted, and what nothing is read from
		}
		all, err := records(ctx, p, topic.Name)
		ok(t, err)
		for _, r := range all {
			value, err := asVersion1(p.Root, r.Value)
			ok(t, err)
			ok(t, l.kafka.ProduceSync(ctx, &kgo.Record{Topic: topic.Name, Key: r.Key, Value: value, Headers: r.Headers}).FirstErr())
			rewritten++
		}
	}
	ok(t, l.put(ctx, 200, items)) // and beside them those of this version
	judge(ctx, t, l, o, result{fault: "records of version 1 and of a later one, side by side", times: rewritten})
}

// asVersion1 is a record as version 1 wrote it, with a field of a later version.
func asVersion1(root string, value []byte) ([]byte, error) {
	var r map[string]json.RawMessage
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	var kind string
	if err := json.Unmarshal(r["type"], &kind); err != nil {
		return nil, err
	}
	golden, err := os.ReadFile(filepath.Join(root, "schemas", "testdata", kind+".v1.json"))
	if err != nil {
		return nil, err
	}
	var known map[string]json.RawMessage
	if err := json.Unmarshal(golden, &known); err != nil {
		return nil, err
	}
	for field := range r {
		if _, ok := known[field]; !ok {
			delete(r, field)
		}
	}
	r["of_a_later_version"] = json.RawMessage(`{"nested":[1,2,3]}`)
	return json.Marshal(r)
}
