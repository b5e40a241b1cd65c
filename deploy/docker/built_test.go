package docker_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"leafcutter/deploy/docker/internal/binary"
	"leafcutter/deploy/docker/internal/dockerfile"
)

const recipe = "deploy/docker/Dockerfile"

// root is the root of the repository.
func root(t testing.TB) string {
	t.Helper()
	dir, err := binary.Root(".")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func stages(t testing.TB) []dockerfile.Stage {
	t.Helper()
	all, err := dockerfile.Parse(readFile(t, recipe))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func stage(t testing.TB, name string) dockerfile.Stage {
	t.Helper()
	all := stages(t)
	i := slices.IndexFunc(all, func(s dockerfile.Stage) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("%s has no stage %s", recipe, name)
	}
	return all[i]
}

// lineage is a stage and those that it begins from, itself last.
func lineage(t testing.TB, name string) []dockerfile.Stage {
	t.Helper()
	all := stages(t)
	var line []dockerfile.Stage
	for {
		i := slices.IndexFunc(all, func(s dockerfile.Stage) bool { return s.Name == name })
		if i < 0 {
			slices.Reverse(line)
			return line
		}
		line = append(line, all[i])
		name = all[i].From
	}
}

// environment is what ENV sets in a stage and those before it.
func environment(t testing.TB, name string) map[string]string {
	t.Helper()
	set := map[string]string{}
	for _, s := range lineage(t, name) {
		for _, i := range s.Instructions {
			if i.Command != "ENV" {
				continue
			}
			for _, pair := range strings.Fields(i.Args) {
				variable, value, ok := strings.Cut(pair, "=")
				if !ok {
					t.Fatalf("line %d: ENV %s is not NAME=value", i.Line, pair)
				}
				set[variable] = value
			}
		}
	}
	return set
}

// sent are the files below a folder of the repository that .dockerignore lets through.
func sent(t testing.TB, source string) []string {
	t.Helper()
	patterns, err := ignorefile.ReadAll(strings.NewReader(readFile(t, ".dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	err = filepath.WalkDir(filepath.Join(root(t), source), func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err = filepath.Rel(root(t), name)
		if err != nil {
			return err
		}
		is, err := ignored.MatchesOrParentMatches(name)
		if err == nil && !is {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// copies gives source and destination of a COPY of one source.
func copies(t testing.TB, i dockerfile.Instruction) (source, destination string) {
	t.Helper()
	words := strings.Fields(i.Args)
	if len(words) != 2 {
		t.Fatalf("line %d: COPY %s has not one source and one destination", i.Line, i.Args)
	}
	return words[0], words[1]
}

// buildStage does what a build stage does, with only the files that it copies, and gives the executable.
func buildStage(t testing.TB, b binary.Binary, dir string) string {
	t.Helper()
	src, out := filepath.Join(dir, "src", b.Name), filepath.Join(dir, "out")
	environ := os.Environ()
	for variable, value := range environment(t, "build-"+b.Name) {
		environ = append(environ, variable+"="+value)
	}
	environ = append(environ, "VERSION=v0-"+b.Name)
	built := false
	for _, i := range stage(t, "build-"+b.Name).Instructions {
		switch i.Command {
		case "COPY":
			source, destination := copies(t, i)
			for _, name := range sent(t, source) {
				to := filepath.Join(src, destination, strings.TrimPrefix(name, source))
				if strings.HasSuffix(destination, "/") {
					to = filepath.Join(src, destination, filepath.Base(name))
				}
				text, err := os.ReadFile(filepath.Join(root(t), name))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(to, text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		case "RUN":
			built = true
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", strings.ReplaceAll(i.Args, " /out/", " "+out+"/"))
			cmd.Dir, cmd.Env = src, environ
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("line %d: RUN %s: %v\n%s", i.Line, i.Args, err, said)
			}
		default:
			t.Fatalf("line %d: this test does not know what %s does in a build", i.Line, i.Command)
		}
	}
	if !built {
		t.Fatalf("stage build-%s builds nothing", b.Name)
	}
	return filepath.Join(out, b.Name)
}

// images are the executables of the images, each built once: that takes a minute, so the tests of the package share them.
type images struct {
	mu          sync.Mutex
	dir         string
	executables map[string]string
}

var built images

func (i *images) executable(t testing.TB, b binary.Binary) string {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.executables == nil {
		i.executables = map[string]string{}
	}
	if i.executables[b.Name] == "" {
		i.executables[b.Name] = buildStage(t, b, i.dir)
	}
	return i.executables[b.Name]
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "leafcutter-images")
	if err != nil {
		panic(err)
	}
	built.dir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
