package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// modelPlace is where models lie, as the commands about them are told.
type modelPlace struct{ location, data string }

func (p *modelPlace) flags(c *cobra.Command, name string) {
	c.Flags().StringVar(&p.location, name, "", "folder of models, or s3://bucket/prefix (LEAFCUTTER_MODELS_DIR; that of the running pipeline; ../models)")
	c.Flags().StringVar(&p.data, "data-dir", "", "data directory of the pipeline that runs on this machine")
}

// models are the commands about models.
func (t *terminal) models() *cobra.Command {
	group := &cobra.Command{
		Use: "models", Short: "list, add and try models",
		Long: "A model is a folder with manifest.json and the weights that it names, in a folder of such folders or below a prefix of S3.\n" +
			"list says which there are and which are served, add makes one of an ONNX file, check tries one on a page. docs/models.md\n" +
			"goes from a checkpoint to the first box.",
	}
	group.AddCommand(t.modelsList(), t.modelsAdd(), t.modelsCheck())
	return group
}

func (t *terminal) modelsCheck() *cobra.Command {
	var place modelPlace
	var o checkOptions
	c := &cobra.Command{
		Use: "check NAME|DIR", Short: "try a model on a page and draw what it finds", Args: cobra.ExactArgs(1),
		Long: "Say in what a model is not what its manifest says, and run it on a page: a line a box with class, score and corners in\n" +
			"pixels, drawn with --out in colour from the class's threshold on and grey below. Without --image and --pdf the page is one\n" +
			"that comes with the detector. A page of a PDF is rendered as the pipeline does.",
		Example: "  leafcutter models check headings --out drawn.png\n  leafcutter models check ./models/headings --pdf report.pdf --page 3 --out drawn.png",
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case o.image != "" && o.pdf != "":
				return usageError{errors.New("--image and --pdf are both pages: give one")}
			case o.pdf == "" && (c.Flags().Changed("page") || c.Flags().Changed("dpi")):
				return usageError{errors.New("--page and --dpi say which page of --pdf, which is missing")}
			}
			return t.modelCheck(c.Context(), place, o, args[0])
		},
	}
	place.flags(c, "models")
	f := c.Flags()
	f.StringVar(&o.image, "image", "", "page image, PNG or JPEG")
	f.StringVar(&o.pdf, "pdf", "", "document to take a page of")
	f.IntVar(&o.page, "page", 1, "page of --pdf, from 1")
	f.IntVar(&o.dpi, "dpi", 0, "resolution at which it is rendered; the pipeline's where it is not given")
	f.StringVar(&o.out, "out", "", "file to draw the page and its boxes in, PNG")
	return c
}

type checkOptions struct {
	image, pdf, out string
	page, dpi       int
}

func (t *terminal) modelCheck(ctx context.Context, place modelPlace, o checkOptions, model string) (err error) {
	if o.pdf != "" {
		dir, err := os.MkdirTemp("", "leafcutter-page-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		o.image = filepath.Join(dir, fmt.Sprintf("page %d of %s", o.page, filepath.Base(o.pdf)))
		if err := t.renderPage(ctx, o); err != nil {
			return err
		}
	}
	if i := strings.LastIndexByte(model, '/'); strings.HasPrefix(model, "s3://") {
		place.location, model = model[:i], model[i+1:]
	}
	return t.askDetector(ctx, t.out, place, "check-model", []string{"-image", o.image, "-out", o.out}, model)
}

// renderPage has the page-splitter draw the page into o.image.
func (t *terminal) renderPage(ctx context.Context, o checkOptions) (err error) {
	f, err := os.Create(o.image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	args := []string{"render-page", "-page", strconv.Itoa(o.page)}
	if o.dpi != 0 {
		args = append(args, "-dpi", strconv.Itoa(o.dpi))
	}
	if err := t.tool(ctx, f, t.environ, "page-splitter", append(args, "--", o.pdf)...); err != nil {
		return fmt.Errorf("%s: %w", o.pdf, err)
	}
	return nil
}

// askDetector passes a command on to the detector's binary: it alone has ONNX Runtime.
func (t *terminal) askDetector(ctx context.Context, out io.Writer, place modelPlace, command string, flags []string, args ...string) error {
	location, environ, err := t.modelsAt(place)
	if err != nil {
		return err
	}
	all := append(append([]string{command, "-models", location}, flags...), "--")
	return t.tool(ctx, out, environ, "detector", append(all, args...)...)
}
