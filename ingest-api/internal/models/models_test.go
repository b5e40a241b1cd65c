package models_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/ingest-api/internal/models"
	"leafcutter/schemas"
)

func announce(t *testing.T, r *models.Registry, name, version string) {
	t.Helper()
	value, err := schemas.Marshal(schemas.ModelAnnounced{Model: name, Version: version, Digest: "d", AnnouncedAt: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	r.Apply(name, value)
}

func TestRegistry(t *testing.T) {
	r := models.New("standard", slog.New(slog.DiscardHandler))
	if !r.Knows("standard") || r.Knows("other") || r.Complete() {
		t.Error("before anything was read")
	}
	announce(t, r, "zeta", "1")
	announce(t, r, "alpha", "1")
	announce(t, r, "alpha", "2")
	r.CaughtUp()
	for _, odd := range []string{"", "{", `{"type":"PageDone"}`, `{"model":"../x"}`, "null"} {
		r.Apply("odd", []byte(odd)) // nobody's models are lost by what cannot be read
	}
	if diff := cmp.Diff([]string{"alpha", "standard", "zeta"}, r.Names()); diff != "" || !r.Complete() {
		t.Error(diff)
	}
	list := r.List()
	if len(list) != 3 || list[0].Name != "standard" || !list[0].Default || list[0].Announced || list[0].AnnouncedAt != nil ||
		list[1].Name != "alpha" || list[1].Version != "2" || !list[1].Announced || list[1].AnnouncedAt == nil {
		t.Errorf("%+v", list)
	}
	r.Apply("alpha", nil)
	r.Apply("standard", nil)
	if r.Knows("alpha") || !r.Knows("standard") || !r.Knows("zeta") {
		t.Error("after two were taken away")
	}
}
