package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// modelFolder is a folder of models with the default one and some tiny ones of random weights, which find as many boxes
// on any page as they may keep.
type modelFolder string

func newModelFolder(t *testing.T) modelFolder {
	t.Helper()
	root := must(pipeline.Root())(t)
	f := modelFolder(t.TempDir())
	ok(t, os.Symlink(filepath.Join(root, "build", "models", "layout_cdla"), filepath.Join(string(f), "layout_cdla")))
	return f
}

// put makes a version of a tiny model the one that is there, which keeps so many boxes on a page.
func (f modelFolder) put(t *testing.T, name string, boxes int) {
	t.Helper()
	from := filepath.Join(must(pipeline.Root())(t), "stages", "detector", "testdata", "families", name)
	to := filepath.Join(string(f), name)
	var m map[string]any
	ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(from, "manifest.json")))(t), &m))
	m["version"], m["thresholds"] = fmt.Sprint(boxes), map[string]any{"*": 1}
	m["nms"].(map[string]any)["max_boxes"] = boxes
	ok(t, errors.Join(os.MkdirAll(to, 0o755),
		os.WriteFile(filepath.Join(to, "model.onnx"), must(os.ReadFile(filepath.Join(from, "model.onnx")))(t), 0o644),
		os.WriteFile(filepath.Join(to, "manifest.new"), must(json.Marshal(m))(t), 0o644),
		os.Rename(filepath.Join(to, "manifest.new"), filepath.Join(to, "manifest.json"))))
}

// served waits until a version of a model is announced.
func served(ctx context.Context, t *testing.T, p *pipeline.Pipeline, name, version string) (m api.Model) {
	t.Helper()
	eventually(ctx, t, "version "+version+" of "+name+" is served", func() (bool, error) {
		models, err := p.Client.Models(ctx)
		for _, known := range models {
			if known.Name == name && known.Version == version {
				m = known
				return true, nil
			}
		}
		return false, err
	})
	return m
}

// planned waits until runs are planned for a version: the planner follows announcements by itself, and may be behind the API.
func planned(ctx context.Context, t *testing.T, p *pipeline.Pipeline, m api.Model) {
	t.Helper()
	seed := 1000 * must(strconv.Atoi(m.Version))(t) // other documents than the test's
	eventually(ctx, t, "runs are planned for version "+m.Version+" of "+m.Name, func() (bool, error) {
		seed++
		f := corpus.File{Name: fmt.Sprintf("planned%d.pdf", seed), Data: corpus.Report(1, seed)}
		id := submit(ctx, t, p, f, client.Options{Models: []string{m.Name}})
		digest := ""
		eventually(ctx, t, "a run is planned", func() (bool, error) {
			d, err := p.Client.Get(ctx, id)
			if err != nil || len(d.Runs) == 0 {
				return false, err
			}
			digest = d.Runs[0].ModelDigest
			return digest != "", nil
		})
		return digest == m.Digest, nil
	})
}

// A model is changed twice while pages are queued for it, and memory holds one version at a time. Every page is done, by
// the version that its run was planned for.
func TestModelIsSwappedUnderLoad(t *testing.T) {
	t.Parallel()
	models := newModelFolder(t)
	models.put(t, "yolo", 3)
	p := pipeline.Own(t, "LEAFCUTTER_MODELS_DIR="+string(models), "LEAFCUTTER_MODELS=yolo", "LEAFCUTTER_DEFAULT_MODEL=yolo",
		"LEAFCUTTER_MODELS_REFRESH=200ms", "LEAFCUTTER_MODELS_MEMORY=1MiB")
	ctx := bounded(t, 2*patience)
	const documents, pages = 5, 48
	var ids []string
	keeps := map[string]int{} // boxes a page, by digest
	var since []time.Time     // when a version was announced
	for version := 3; version <= 5; version++ {
		models.put(t, "yolo", version)
		m := served(ctx, t, p, "yolo", fmt.Sprint(version))
		keeps[m.Digest], since = version, append(since, *m.AnnouncedAt)
		planned(ctx, t, p, m)
		for i := range documents {
			f := corpus.File{Name: fmt.Sprintf("v%d-%d.pdf", version, i), Data: corpus.Report(pages, 10*version+i)}
			ids = append(ids, submit(ctx, t, p, f, client.Options{Models: []string{"yolo"}}))
		}
		// Now, and not when the first page is done: where others take the processors its row may come when all are.
		for _, id := range ids[len(ids)-documents:] {
			eventually(ctx, t, "its run is planned", func() (bool, error) {
				d, err := p.Client.Get(ctx, id)
				return err == nil && len(d.Runs) == 1, err
			})
		}
	}
	byVersion := map[int]int{}
	for _, id := range ids {
		d := await(ctx, t, p, id, schemas.Completed)
		boxes := keeps[d.Runs[0].ModelDigest]
		if len(d.Runs) != 1 || boxes == 0 || d.PagesDone != pages || d.Boxes != boxes*pages {
			t.Errorf("%s: runs %+v, %d pages done, %d boxes; want %d and %d", d.Title, d.Runs, d.PagesDone, d.Boxes, pages, boxes*pages)
		}
		byVersion[boxes]++
	}
	if byVersion[3] == 0 || byVersion[4] == 0 || byVersion[5] != documents {
		t.Errorf("documents by the version of their run: %v", byVersion)
	}
	var pagesOf []struct {
		Boxes uint64 `ch:"boxes"`
		Pages uint64 `ch:"pages"`
		Late  uint64 `ch:"late"`
	}
	ok(t, p.Select(ctx, &pagesOf, `SELECT length(boxes.class) AS boxes, count() AS pages, countIf(boxes < 5 AND detected_at > if(boxes = 3, ?, ?)) AS late
		FROM page_results FINAL GROUP BY boxes ORDER BY boxes`, since[1], since[2]))
	late := uint64(0)
	for _, row := range pagesOf {
		late += row.Late
	}
	if len(pagesOf) != 3 || late == 0 {
		t.Errorf("by boxes a page, and done after the next version was announced: %+v", pagesOf)
	}
	if letters := records(ctx, t, p, schemas.TopicDeadLetters); len(letters) != 0 {
		t.Errorf("%d dead letters; the first: %s %s", len(letters), header(letters[0], schemas.HeaderCode), header(letters[0], schemas.HeaderError))
	}
	t.Logf("%d documents of %d pages; %d pages were done by a version after the next was announced", len(ids), pages, late)
}

// One detector serves two models; one of them is a shadow too, of which nothing but SQL tells.
func TestTwoModelsAndAShadow(t *testing.T) {
	t.Parallel()
	models := newModelFolder(t)
	models.put(t, "yolo", 3)
	p := pipeline.Own(t, "LEAFCUTTER_MODELS_DIR="+string(models), "LEAFCUTTER_MODELS=layout_cdla,yolo",
		"LEAFCUTTER_SHADOW_MODEL=yolo", "LEAFCUTTER_SHADOW_SHARE=1")
	ctx := within(t)
	served(ctx, t, p, "yolo", "3")
	both := submit(ctx, t, p, sample(t), client.Options{Models: []string{"layout_cdla", "yolo"}})
	tried := submit(ctx, t, p, sample(t), client.Options{})
	d := await(ctx, t, p, tried, schemas.Completed)
	if len(d.Runs) != 1 || d.Runs[0].Model != "layout_cdla" {
		t.Errorf("runs that the API tells of: %+v", d.Runs)
	}
	var runs []struct {
		Document string `ch:"document"`
		Model    string `ch:"model"`
		State    string `ch:"state"`
		Shadow   bool   `ch:"shadow"`
		Pages    uint32 `ch:"pages_done"`
	}
	eventually(ctx, t, "all four runs are completed", func() (bool, error) {
		runs = nil
		err := p.Select(ctx, &runs, "SELECT toString(document_id) AS document, model, state, shadow, pages_done FROM runs FINAL WHERE state = 'completed' ORDER BY document, model")
		return len(runs) == 4, err
	})
	for _, r := range runs {
		if r.Shadow != (r.Document == tried && r.Model == "yolo") || int(r.Pages) != d.PagesSelected {
			t.Errorf("run %+v", r)
		}
	}
	eventually(ctx, t, "three ends are said", func() (bool, error) {
		said := ends(ctx, t, p)
		return len(said[both])+len(said[tried]) >= 3, nil
	})
	if said := ends(ctx, t, p); len(said[tried]) != 1 || said[tried][0].Model != "layout_cdla" || len(said[both]) != 2 {
		t.Errorf("said %+v", said)
	}
	var status []struct {
		Boxes uint64 `ch:"boxes"`
		Own   uint64 `ch:"own"`
		Tried uint64 `ch:"tried"`
	}
	ok(t, p.Select(ctx, &status, `SELECT any(s.boxes) AS boxes, countIf(NOT shadow) AS own, countIf(shadow) AS tried FROM detections AS d
		INNER JOIN document_status AS s ON s.document_id = d.document_id WHERE d.document_id = toUUID(?)`, tried))
	if len(status) != 1 || status[0].Boxes != status[0].Own || int(status[0].Tried) != 3*d.PagesDone || int(status[0].Boxes) != d.Boxes {
		t.Errorf("boxes in document_status, and in detections %+v; the API says %d on %d pages", status, d.Boxes, d.PagesDone)
	}
}
