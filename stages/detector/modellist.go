package detector

import (
	"context"
	"fmt"

	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/repository"
)

// listed is a model as list-models tells it.
type listed struct {
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	Digest   string   `json:"digest,omitempty"`
	Family   string   `json:"family,omitempty"`
	Classes  []string `json:"classes,omitempty"`
	Provider string   `json:"provider,omitempty"`
	Code     string   `json:"code,omitempty"` // with Error: why it cannot be served
	Error    string   `json:"error,omitempty"`
}

// list tells what lies among the models, broken or not. Weights are not read.
func (t *modelTool) list(ctx context.Context) error {
	models, err := t.repository(ctx, "")
	if err != nil {
		return err
	}
	defer models.Close()
	held, err := models.List(ctx)
	if err != nil {
		return err
	}
	told := struct {
		Location string   `json:"location"`
		Models   []listed `json:"models"`
	}{models.Location(), []listed{}}
	for _, m := range held {
		told.Models = append(told.Models, describe(m))
	}
	return t.tell(told)
}

func describe(m repository.Model) listed {
	err := m.Err
	if err == nil {
		if _, e := family.New(m.Manifest); e != nil {
			err = fmt.Errorf("%w: %w", repository.ErrInvalid, e)
		}
	}
	l := listed{Name: m.Name, Version: m.Manifest.Version, Digest: m.Digest, Family: m.Manifest.Family, Classes: m.Manifest.Classes, Provider: m.Manifest.Provider}
	if err != nil {
		l.Code, _ = coded(err)
		l.Error = err.Error()
	}
	return l
}
