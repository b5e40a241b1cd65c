package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

type addOptions struct {
	name, version, family, classes, channels, size, output string
	threshold                                              float64
}

func (t *terminal) modelsAdd() *cobra.Command {
	var place modelPlace
	var o addOptions
	c := &cobra.Command{
		Use: "add FILE.onnx|DIR", Short: "make a model of an ONNX file, or take a folder that is one", Args: cobra.ExactArgs(1),
		Long: "Make a model of an ONNX file: find out what goes in and what comes out, run it on a page, and store the weights and then\n" +
			"the manifest, so that a detector finds either nothing or a whole model. Of a folder the manifest is taken as it is. A model\n" +
			"of the same name is replaced if --version is another. What does not fit is told with a code of docs/errors.md, and nothing\n" +
			"is stored. Where a pipeline on this machine takes its models from there, the model's topics are made as well.\n\n" +
			"The families are picodet, yolo, rt-detr, faster-rcnn and mask-rcnn; docs/models.md has scripts that export them.",
		Example: "  leafcutter models add best.onnx --family yolo --classes names.txt\n" +
			"  leafcutter models add headings.onnx --classes title --name headings --version 2\n" +
			"  leafcutter models add models/headings --to s3://leafcutter/models",
		RunE: func(c *cobra.Command, args []string) error {
			if o.output != "text" && o.output != "json" {
				return usageError{fmt.Errorf("-o %s: text or json", o.output)}
			}
			return t.modelAdd(c.Context(), place, o, args[0])
		},
	}
	place.flags(c, "to")
	f := c.Flags()
	f.StringVar(&o.classes, "classes", "", "its classes in the order of training: a,b,c, or a file with a name a line")
	f.StringVar(&o.family, "family", "", "what you take it for; found out where it is not given")
	f.StringVar(&o.name, "name", "", "its name; the file's, or the folder's of a model.onnx")
	f.StringVar(&o.version, "version", "", "its version, for people; 1 where nothing says another")
	f.StringVar(&o.channels, "channels", "", "rgb or bgr; what the family mostly has")
	f.StringVar(&o.size, "size", "", "size of its input where the file leaves it open: a side in pixels, or HEIGHTxWIDTH")
	f.Float64Var(&o.threshold, "threshold", 0, "score from which a box is cropped; 0 for 0.4")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	return c
}

// addedModel is what detector add-model says that it stored.
type addedModel struct {
	Location string   `json:"location"`
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Family   string   `json:"family"`
	Classes  []string `json:"classes"`
	Input    struct {
		Name     string `json:"name"`
		Width    int    `json:"width"`
		Height   int    `json:"height"`
		Shortest int    `json:"shortest_edge"`
		Longest  int    `json:"longest_edge"`
		Channels string `json:"channels"`
	} `json:"input"`
	Thresholds map[string]float64 `json:"thresholds"`
	File       string             `json:"file"`
	Drafted    bool               `json:"drafted"`
	Boxes      int                `json:"boxes"`
	Cropped    int                `json:"cropped"`
	InferMS    float64            `json:"infer_ms"`
}

func (t *terminal) modelAdd(ctx context.Context, place modelPlace, o addOptions, file string) error {
	flags := []string{"-classes", o.classes, "-family", o.family, "-name", o.name, "-version", o.version, "-channels", o.channels}
	if o.threshold != 0 {
		flags = append(flags, "-threshold", strconv.FormatFloat(o.threshold, 'g', -1, 64))
	}
	if o.size != "" {
		flags = append(flags, "-size", o.size)
	}
	var answer bytes.Buffer
	if err := t.askDetector(ctx, &answer, place, "add-model", flags, file); err != nil {
		return err
	}
	var m addedModel
	if err := json.Unmarshal(answer.Bytes(), &m); err != nil || m.Name == "" {
		return errors.Join(errors.New("what the detector's binary says cannot be read: is it of another version?"), err)
	}
	taken, err := t.modelTopics(ctx, place.data, m.Location, m.Name)
	if err != nil {
		t.say("the model is stored, and its topics are not made: %v\nmake them with leafcutter topics apply --model %s\n", err, m.Name)
	}
	if o.output == "json" {
		_, err := t.out.Write(answer.Bytes())
		return err
	}
	return t.tellAdded(m, taken)
}

// tellAdded says what was stored, and what to do with it. taken says that a pipeline here takes its models from there.
func (t *terminal) tellAdded(m addedModel, taken bool) error {
	size := fmt.Sprintf("%d x %d pixels (width x height)", m.Input.Width, m.Input.Height)
	if m.Input.Longest != 0 {
		size = fmt.Sprintf("%d to %d pixels", m.Input.Shortest, m.Input.Longest)
	}
	lines := []string{
		fmt.Sprintf("%s %s: family %s, %d classes, input %s of %s, %s", m.Name, m.Version, m.Family, len(m.Classes), m.Input.Name, size, m.Input.Channels),
		fmt.Sprintf("%d boxes on a sample page, %d of them above their class's threshold, %.0f ms of inference", m.Boxes, m.Cropped, m.InferMS),
		fmt.Sprintf("stored: %s/%s/manifest.json and %s", m.Location, m.Name, m.File),
	}
	if m.Drafted {
		lines = append(lines, fmt.Sprintf("assumed, since no file tells: channels %s, a crop from score %v on; the manifest has these and more", m.Input.Channels, m.Thresholds["*"]))
	}
	lines = append(lines, fmt.Sprintf("try it:   leafcutter models check %s --models %s --pdf FILE --out drawn.png", m.Name, m.Location))
	switch {
	case taken:
		lines = append(lines, "serve it: the pipeline that runs here does, within half a minute, if it was started with LEAFCUTTER_MODELS='*'; else start it anew with --model "+m.Name)
	case strings.HasPrefix(m.Location, "s3://"):
		lines = append(lines, fmt.Sprintf("serve it: leafcutter topics apply --model %s, then a detector with LEAFCUTTER_MODELS_DIR=%s LEAFCUTTER_MODEL=%[1]s", m.Name, m.Location))
	default:
		lines = append(lines, fmt.Sprintf("serve it: LEAFCUTTER_MODELS_DIR=%s leafcutter up --model %s", m.Location, m.Name))
	}
	return t.print("%s\n", strings.Join(lines, "\n"))
}
