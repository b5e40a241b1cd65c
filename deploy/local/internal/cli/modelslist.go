package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"leafcutter/ingest-api/client"
	"leafcutter/pkg/config"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// modelLine is what models list tells of a model.
type modelLine struct {
	Name    string   `json:"name"`
	Default bool     `json:"default,omitempty"`
	State   string   `json:"state"`
	Version string   `json:"version,omitempty"` // these four as announced, else as they lie
	Digest  string   `json:"digest,omitempty"`
	Family  string   `json:"family,omitempty"`
	Classes []string `json:"classes,omitempty"`
	// Detectors serve it at this moment; absent where Kafka cannot be asked.
	Detectors *int        `json:"detectors,omitempty"`
	Announced bool        `json:"announced"`        // a detector has served it at some time
	Stored    *modelStore `json:"stored,omitempty"` // what lies in the repository
}

// modelStore is a model as it lies, by detector list-models.
type modelStore struct {
	Name    string   `json:"name"`
	Version string   `json:"version,omitempty"`
	Digest  string   `json:"digest,omitempty"`
	Family  string   `json:"family,omitempty"`
	Classes []string `json:"classes,omitempty"`
	Code    string   `json:"code,omitempty"` // with Error: why it cannot be served
	Error   string   `json:"error,omitempty"`
}

// What a model can be.
const (
	modelServed    = "served"     // by a detector, now
	modelAnnounced = "announced"  // a detector has served it; whether one does cannot be said without Kafka
	modelUnserved  = "not served" // by nobody, now
	modelBroken    = "broken"     // and served by nobody
)

func (t *terminal) modelsList() *cobra.Command {
	var w where
	var place modelPlace
	var output string
	c := &cobra.Command{
		Use: "list", Short: "say which models there are, and which are served", Args: cobra.NoArgs,
		Long: "List the models that detectors have announced, by the API, and those that lie in the folder of models. How many detectors\n" +
			"serve one is asked of Kafka: of the pipeline that runs here, else of KAFKA_BROKERS. What cannot be asked is said and left\n" +
			"out. A model is served, not served, broken (and why), or announced where Kafka cannot be asked.",
		Example: "  leafcutter models list\n  leafcutter models list -o json --models s3://leafcutter/models",
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("-o %s: text or json", output)}
			}
			w.data = place.data
			return t.listModels(c.Context(), w, place, output)
		},
	}
	place.flags(c, "models")
	c.Flags().StringVar(&w.api, "api", "", "URL of the API (LEAFCUTTER_API; http://127.0.0.1:8090)")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// modelPatience is how long models list waits for a server that may be away.
const modelPatience = 5 * time.Second

func (t *terminal) listModels(ctx context.Context, w where, place modelPlace, output string) error {
	announced, errAPI := t.announced(ctx, w)
	if errAPI != nil {
		t.say("which models are announced is not known: %v\n", errAPI)
	}
	location, stored, errStore := t.storedModels(ctx, place)
	if errStore != nil {
		t.say("which models lie there is not known: %v\n", errStore)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errAPI != nil && errStore != nil {
		return fmt.Errorf("neither the API nor the models can be asked: start a pipeline with leafcutter up, or say where they are with --api and --models")
	}
	lines := joined(announced, stored)
	t.count(ctx, w, lines)
	for _, l := range lines {
		l.State = l.state()
	}
	if output == "json" {
		return t.printJSON(map[string]any{"location": location, "models": lines})
	}
	return t.tellModels(location, lines)
}

// announced are the models that a submission may name.
func (t *terminal) announced(ctx context.Context, w where) ([]api.Model, error) {
	w, err := t.resolve(w, theAPI)
	if err != nil {
		return nil, err
	}
	a, err := client.New(w.api, client.WithAPIKey(t.getenv("LEAFCUTTER_API_KEY")), client.WithUserAgent("leafcutter/"+t.version))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, modelPatience)
	defer cancel()
	return a.Models(ctx)
}

// storedModels are those that lie in the repository.
func (t *terminal) storedModels(ctx context.Context, place modelPlace) (location string, models []*modelStore, err error) {
	at, environ, err := t.modelsAt(place)
	if err != nil {
		return "", nil, err
	}
	var answer bytes.Buffer
	if err := t.tool(ctx, &answer, environ, "detector", "list-models", "-models", at); err != nil {
		return "", nil, err
	}
	var told struct {
		Location string        `json:"location"`
		Models   []*modelStore `json:"models"`
	}
	if err := json.Unmarshal(answer.Bytes(), &told); err != nil {
		return "", nil, fmt.Errorf("read what the detector's binary says: %w: is it of another version?", err)
	}
	return told.Location, told.Models, nil
}

// joined makes a line of each model that is announced or lies there; the default one is the first.
func joined(announced []api.Model, stored []*modelStore) []*modelLine {
	lines := make(map[string]*modelLine)
	for _, s := range stored {
		lines[s.Name] = &modelLine{Name: s.Name, Version: s.Version, Digest: s.Digest, Family: s.Family, Classes: s.Classes, Stored: s}
	}
	for _, a := range announced {
		l := lines[a.Name]
		if l == nil {
			l = &modelLine{Name: a.Name}
			lines[a.Name] = l
		}
		l.Default, l.Announced = a.Default, a.Announced
		if a.Announced {
			l.Version, l.Digest, l.Family, l.Classes = a.Version, a.Digest, a.Family, a.Classes
		}
	}
	return slices.SortedFunc(maps.Values(lines), func(a, b *modelLine) int {
		if a.Default != b.Default {
			return map[bool]int{true: -1, false: 1}[a.Default]
		}
		return cmp.Compare(a.Name, b.Name)
	})
}

// count asks Kafka how many detectors serve each model.
func (t *terminal) count(ctx context.Context, w where, lines []*modelLine) {
	// An API that was named is of a deployment whose Kafka need not be the one that this machine would find.
	_, running := t.running(w.data)
	if elsewhere := w.api != "" || t.getenv(theAPI.variable) != ""; t.getenv(kafkaVariable) == "" && (elsewhere || !running) {
		return
	}
	environ, err := t.clusterEnviron(w.data, kafkaVariable)
	var cfg kafka.Config
	if err == nil {
		_, err = config.Load("leafcutter", nil, environ, &cfg)
	}
	ctx, cancel := context.WithTimeout(ctx, modelPatience)
	defer cancel()
	for _, l := range lines {
		if err == nil && schemas.IsModelName(l.Name) {
			var n int
			if n, err = kafka.Members(ctx, cfg, schemas.DetectorGroup(l.Name)); err == nil {
				l.Detectors = &n
			}
		}
	}
	if err != nil {
		t.say("how many detectors serve a model is not known: %v\n", err)
	}
}

func (l *modelLine) state() string {
	switch {
	case l.Detectors != nil && *l.Detectors > 0:
		return modelServed
	case l.Stored != nil && l.Stored.Code+l.Stored.Error != "":
		return modelBroken
	case l.Detectors == nil && l.Announced:
		return modelAnnounced
	}
	return modelUnserved
}

func (t *terminal) tellModels(location string, lines []*modelLine) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "MODEL\tVERSION\tDIGEST\tFAMILY\tCLASSES\tDETECTORS\tSTATE")
	for _, l := range lines {
		detectors := "?"
		if l.Detectors != nil {
			detectors = strconv.Itoa(*l.Detectors)
		}
		name := l.Name
		if l.Default {
			name += " (default)"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%.12s\t%s\t%s\t%s\t%s\n", name, l.Version, l.Digest, l.Family, classesOf(l.Classes), detectors, l.note())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if location != "" {
		t.say("models lie in %s\n", location)
	}
	return nil
}

// note is the state, and what there is to say about it.
func (l *modelLine) note() string {
	s := l.Stored
	switch {
	case s != nil && s.Error != "":
		return l.State + ": " + cmp.Or(s.Code, "unreadable") + ": " + strings.ReplaceAll(s.Error, "\n", "; ")
	case s != nil && l.Announced && s.Digest != l.Digest:
		return fmt.Sprintf("%s; version %s with digest %.12s lies there", l.State, s.Version, s.Digest)
	case s == nil && !l.Announced:
		return l.State + ": no detector has announced it"
	}
	return l.State
}

// classesOf is a few of the names, and how many there are.
func classesOf(classes []string) string {
	if len(classes) == 0 {
		return ""
	}
	const few = 3
	names := strings.Join(classes[:min(few, len(classes))], ",")
	if len(classes) > few {
		names += ",…"
	}
	return fmt.Sprintf("%d: %s", len(classes), names)
}
