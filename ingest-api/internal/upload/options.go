package upload

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// Bounds of thresholds.
const (
	maxClasses   = 256
	maxClassName = 64
)

// fields are those of the form besides the file, and what each does to a submission.
var fields = map[string]func(d *schemas.DocumentSubmitted, value string) error{
	"title": func(d *schemas.DocumentSubmitted, value string) error { d.Title = strings.TrimSpace(value); return nil },
	"model": func(d *schemas.DocumentSubmitted, value string) error { d.Models = append(d.Models, value); return nil },
	"dpi": func(d *schemas.DocumentSubmitted, value string) (err error) {
		d.DPI, err = wholeNumber(value)
		return err
	},
	"pages": func(d *schemas.DocumentSubmitted, value string) error { d.Pages = strings.TrimSpace(value); return nil },
	"thresholds": func(d *schemas.DocumentSubmitted, value string) (err error) {
		d.Thresholds, err = ParseThresholds(value)
		return err
	},
	"crop_padding": func(d *schemas.DocumentSubmitted, value string) error {
		n, err := wholeNumber(value)
		d.CropPadding = &n
		return err
	},
	"webhook_url": func(d *schemas.DocumentSubmitted, value string) error {
		d.WebhookURL = strings.TrimSpace(value)
		return nil
	},
}

// Options are the fields of the form as a submission, still without source and identity. Every fault is named, as one
// problem; a field that nobody knows is one too, for it is a misspelt wish. Empty fields count as absent: browsers send
// them.
func (f *Form) Options() (schemas.DocumentSubmitted, error) {
	var d schemas.DocumentSubmitted
	var faults []api.ProblemFault
	fault := func(name, message string) {
		faults = append(faults, api.ProblemFault{Location: "form." + name, Message: message})
	}
	for _, name := range slices.Sorted(maps.Keys(f.Fields)) {
		set, known := fields[name]
		if !known {
			fault(clip(name), "no such field; there are file, "+strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			continue
		}
		values := slices.DeleteFunc(slices.Clone(f.Fields[name]), func(v string) bool { return v == "" })
		if len(values) > 1 && name != "model" {
			fault(name, "given more than once")
			continue
		}
		for _, value := range values {
			if err := set(&d, value); err != nil {
				fault(name, err.Error())
			}
		}
	}
	if len(faults) > 0 {
		return d, problem.Invalid(faults...)
	}
	d.FileName = f.FileName
	return d, Validate(d, "form.")
}

// Validate checks a submission; one without a source is about to get it. Each fault's place begins with prefix.
func Validate(d schemas.DocumentSubmitted, prefix string) error {
	if d.Source == "" {
		d.Source = "s3://bucket/key"
	}
	err := d.Validate()
	if err == nil {
		return nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var faults []api.ProblemFault
	for _, e := range all {
		place, message, ok := strings.Cut(e.Error(), ": ")
		if !ok {
			place, message = "", e.Error()
		}
		faults = append(faults, api.ProblemFault{Location: prefix + place, Message: message})
	}
	return problem.Invalid(faults...)
}

// ParseThresholds reads scores by class: a JSON object {"title": 0.5, "*": 0.4}, a list title=0.5,*=0.4, or one number
// for every class. Scores lie between 0 and 1.
func ParseThresholds(s string) (map[string]float64, error) {
	s = strings.TrimSpace(s)
	thresholds := map[string]float64{}
	switch {
	case s == "":
		return nil, nil
	case strings.HasPrefix(s, "{"):
		if err := json.Unmarshal([]byte(s), &thresholds); err != nil {
			return nil, errors.New(`not a JSON object of numbers such as {"title": 0.5}`)
		}
	case !strings.Contains(s, "="):
		score, err := parseScore(s)
		if err != nil {
			return nil, err
		}
		thresholds[schemas.AllClasses] = score
	default:
		for part := range strings.SplitSeq(s, ",") {
			class, number, ok := strings.Cut(part, "=")
			class = strings.TrimSpace(class)
			if !ok {
				return nil, fmt.Errorf("%q is not class=score", clip(part))
			}
			score, err := parseScore(number)
			if err != nil {
				return nil, err
			}
			if _, twice := thresholds[class]; twice {
				return nil, fmt.Errorf("class %q is given twice", clip(class))
			}
			thresholds[class] = score
		}
	}
	if len(thresholds) > maxClasses {
		return nil, fmt.Errorf("%d classes, at most %d", len(thresholds), maxClasses)
	}
	for class, score := range thresholds {
		if class == "" || len(class) > maxClassName {
			return nil, fmt.Errorf("%q is not the name of a class", clip(class))
		}
		if !(score >= 0 && score <= 1) {
			return nil, fmt.Errorf("%q: %v is outside 0 to 1", class, score)
		}
	}
	return thresholds, nil
}

func parseScore(s string) (float64, error) {
	score, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || math.IsNaN(score) || score < 0 || score > 1 {
		return 0, fmt.Errorf("%q is not a score from 0 to 1", clip(s))
	}
	return score, nil
}

func wholeNumber(s string) (int, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", clip(s))
	}
	return int(n), nil
}

// clip shortens what a client sent for a message about it.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
