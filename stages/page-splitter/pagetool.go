package pagesplitter

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"leafcutter/pkg/config"
	"leafcutter/pkg/fault"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/render"
)

// renderCommand renders one page for people, in particular for
// leafcutter models check, with the pixels that a model is served in production.
const renderCommand = "render-page"

// IsPageTool says whether a process with these arguments is to render one page,
// and not to be a stage.
func IsPageTool(args []string) bool { return len(args) > 1 && args[1] == renderCommand }

// PageTool renders it, in a child as always, and gives the exit code: 0, 1 for a
// document at fault, 2 for a command used wrongly. A complaint begins with a code
// of docs/errors.md.
//
//	page-splitter render-page [flags] FILE > PAGE.png
func PageTool(ctx context.Context, args []string, out, complaints io.Writer) int {
	flags := flag.NewFlagSet(renderCommand, flag.ContinueOnError)
	flags.SetOutput(complaints)
	page := flags.Int("page", 1, "number of the page, from 1")
	dpi := flags.Int("dpi", schemas.DefaultDPI, fmt.Sprintf("resolution, %d to %d", schemas.MinDPI, schemas.MaxDPI))
	if err := flags.Parse(args[2:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() != 1 || *dpi < schemas.MinDPI || *dpi > schemas.MaxDPI {
		fmt.Fprintf(complaints, "%s: want one file, and a resolution of %d to %d; flags come first\n", renderCommand, schemas.MinDPI, schemas.MaxDPI)
		return 2
	}
	png, err := renderOne(ctx, flags.Arg(0), *page, *dpi)
	if err == nil {
		_, err = out.Write(png)
	}
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) {
			err = fmt.Errorf("%s: %w", f.Code, err)
		}
		fmt.Fprintln(complaints, err)
		return 1
	}
	return 0
}

func renderOne(ctx context.Context, file string, page, dpi int) ([]byte, error) {
	var cfg render.Config
	if _, err := config.Load("page-splitter", nil, os.Environ(), &cfg); err != nil {
		return nil, err
	}
	pool, err := render.NewPool(ctx, 1, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	document, err := pool.Open(ctx, file)
	if err != nil {
		return nil, err
	}
	defer document.Close()
	rendered, err := document.Page(ctx, page, dpi)
	if err != nil {
		return nil, err
	}
	return rendered.PNG, nil
}
