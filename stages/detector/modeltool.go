package detector

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"leafcutter/pkg/config"
	"leafcutter/pkg/objectstore"
	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/repository"
	"leafcutter/stages/detector/internal/session"
)

// Whoever adds a model wants to know what its file takes for granted, whether
// the manifest fits, and what it finds. Only this binary has ONNX Runtime, so
// it answers, by commands of its own; leafcutter models passes them on.
const (
	listCommand  = "list-models"
	draftCommand = "draft-manifest"
	addCommand   = "add-model"
	checkCommand = "check-model"
)

// s3Scheme begins a location of models that is not a folder.
const s3Scheme = "s3://"

// IsModelTool says whether a process with these arguments is to answer
// questions about models, and not to be a stage.
func IsModelTool(args []string) bool {
	if len(args) < 2 {
		return false
	}
	switch args[1] {
	case listCommand, draftCommand, addCommand, checkCommand:
		return true
	}
	return false
}

// ModelTool answers, and gives the exit code: 0, 1 for a model at fault, 2 for
// a command used wrongly. A complaint begins with a code of docs/errors.md.
//
//	detector list-models [flags]                what lies in the folder of models, as JSON
//	detector draft-manifest [flags] FILE.onnx   writes the manifest that the file tells
//	detector add-model [flags] FILE.onnx|DIR    drafts it, or takes a folder's, tries the model on a page, stores both and tells so as JSON
//	detector check-model [flags] NAME|DIR       says in what a model is not what its manifest says, and tries it on a page
func ModelTool(ctx context.Context, args []string, out, complaints io.Writer) int {
	// Interrupted it removes the model that it prepared to try.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := args[1]
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	t := modelTool{out: out}
	flags.StringVar(&t.library, "library", os.Getenv("LEAFCUTTER_ONNXRUNTIME_LIB"), "ONNX Runtime's shared library; empty for the one in ../lib")
	if command != draftCommand {
		flags.StringVar(&t.models, "models", os.Getenv("LEAFCUTTER_MODELS_DIR"), "folder of models, or s3://bucket/prefix; empty for ../models")
	}
	var run func(context.Context, string) error
	switch command {
	case listCommand:
		run = func(ctx context.Context, _ string) error { return t.list(ctx) }
	case draftCommand:
		run = t.draft
		t.draftFlags(flags)
	case addCommand:
		run = t.add
		t.draftFlags(flags)
	case checkCommand:
		run = t.check
		flags.StringVar(&t.image, "image", "", "page image to try it on, PNG or JPEG; empty for a page that comes with this binary")
		flags.StringVar(&t.drawing, "out", "", "where to draw what is found, PNG")
	}
	if err := flags.Parse(args[2:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(out)
			flags.PrintDefaults()
			return 0
		}
		fmt.Fprintf(complaints, "%s: %v\n", command, err)
		return 2
	}
	if want := map[bool]int{true: 0, false: 1}[command == listCommand]; flags.NArg() != want {
		fmt.Fprintf(complaints, "%s: %d arguments, want %d; flags come first\n", command, flags.NArg(), want)
		return 2
	}
	if err := run(ctx, flags.Arg(0)); err != nil {
		fmt.Fprintln(complaints, explain(err))
		return 1
	}
	return 0
}

type modelTool struct {
	out             io.Writer
	library, models string

	name, version, family, classes, channels string
	height, width                            int
	threshold                                float64

	image, drawing string
}

func (t *modelTool) draftFlags(flags *flag.FlagSet) {
	flags.StringVar(&t.name, "name", "", "the model's name; empty for the file's, or the folder's where the file is called model.onnx")
	flags.StringVar(&t.version, "version", "", "the model's version, for people; 1 where nothing says another")
	flags.StringVar(&t.family, "family", "", "what you take it for: "+strings.Join(family.Names(), ", "))
	flags.StringVar(&t.classes, "classes", "", "its classes, comma-separated, or a file with a name a line")
	flags.StringVar(&t.channels, "channels", "", "order in which it was trained: rgb or bgr; empty for what its family mostly has")
	flags.Float64Var(&t.threshold, "threshold", 0, "score from which a box is cropped; 0 for 0.4")
	flags.Func("size", "of its input, where the file leaves it open: a side in pixels, or HEIGHTxWIDTH", func(given string) (err error) {
		high, wide, both := strings.Cut(given, "x")
		if t.height, err = strconv.Atoi(high); err != nil {
			return errors.New("want 1024, or 1024x768 for a height and a width")
		}
		if t.width = t.height; both {
			if t.width, err = strconv.Atoi(wide); err != nil {
				return errors.New("want 1024, or 1024x768 for a height and a width")
			}
		}
		return nil
	})
}

// places are where the library and the models are, and what is kept.
func (t *modelTool) places() (Config, error) {
	return Config{Model: "any", ModelsDir: t.models, Library: t.library, CacheDir: os.Getenv("LEAFCUTTER_CACHE_DIR"), Provider: os.Getenv("LEAFCUTTER_INFERENCE_PROVIDER"), MaxPixels: 1 << 26, MaxBytes: 1 << 26}.resolve()
}

// repository opens that of the models, or of another location.
func (t *modelTool) repository(ctx context.Context, location string) (*repository.Repository, error) {
	c, err := t.places()
	if err != nil {
		return nil, err
	}
	location = cmp.Or(location, c.ModelsDir)
	var s3 objectstore.Config
	if strings.HasPrefix(location, s3Scheme) {
		if _, err := config.Load("detector", nil, os.Environ(), &s3); err != nil {
			return nil, err
		}
	}
	return repository.Open(ctx, location, s3, c.CacheDir)
}

// loaded calls use with the library.
func (t *modelTool) loaded(use func(r *session.Runtime) error) (err error) {
	c, err := t.places()
	if err != nil {
		return err
	}
	r, err := session.Load(c.Library)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return use(r)
}

// graph is what a model file says of itself.
func (t *modelTool) graph(file string) (family.Graph, error) {
	var g family.Graph
	err := t.loaded(func(r *session.Runtime) error {
		inputs, outputs, err := r.Ports(file)
		for _, p := range inputs {
			g.Inputs = append(g.Inputs, family.Port(p))
		}
		for _, p := range outputs {
			g.Outputs = append(g.Outputs, family.Port(p))
		}
		return err
	})
	return g, err
}

// fits says in what a file is not what a manifest says.
func (t *modelTool) fits(m manifest.Manifest, file string) error {
	g, err := t.graph(file)
	if err != nil {
		return err
	}
	if err := family.Check(m, g); err != nil {
		return complain(CodeModelMismatch, remedyMismatch, "%s does not fit its manifest:\n%w", filepath.Base(file), err)
	}
	return nil
}
