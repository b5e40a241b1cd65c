package docker_test

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"leafcutter/deploy/docker/internal/binary"
	"leafcutter/deploy/docker/internal/dockerfile"
	"leafcutter/deploy/docker/internal/reference"
)

// TestImagesBuild runs each build stage's commands on the folders that it copies and on nothing else, and asks the
// result for its version, which the commands are to link in.
func TestImagesBuild(t *testing.T) {
	for _, b := range binary.All() {
		t.Run(b.Name, func(t *testing.T) {
			args := []string{"-version"}
			if b.Name == "leafcutter" {
				args = []string{"version"}
			}
			said, err := exec.CommandContext(t.Context(), built.executable(t, b), args...).Output()
			if err != nil || strings.TrimSpace(string(said)) != b.Name+" v0-"+b.Name {
				t.Errorf("says %q, %v", said, err)
			}
		})
	}
}

// TestReferenceIsWhatProgramsRead compares docs/configuration.md with the programs of the images.
func TestReferenceIsWhatProgramsRead(t *testing.T) {
	var programs []reference.Program
	for _, b := range binary.All() {
		programs = append(programs, reference.Program{Name: b.Name, Variables: variables(t, b)})
	}
	page := readFile(t, "docs/configuration.md")
	want, err := reference.Replace(page, programs)
	if err != nil {
		t.Fatal(err)
	}
	if page != want {
		t.Errorf("docs/configuration.md is not what the programs read: run `make generate`, look at the difference and commit it")
	}
	for _, p := range programs {
		for _, v := range p.Variables {
			if v.Description == "" {
				t.Errorf("%s reads %s and does not say what for", p.Name, v.Name)
			}
		}
	}
}

func variables(t testing.TB, b binary.Binary) []binary.Variable {
	t.Helper()
	list, err := b.Variables(t.Context(), built.executable(t, b))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestCopiedFilesAreThere(t *testing.T) {
	var known []string
	for _, s := range stages(t) {
		for _, i := range s.Instructions {
			if i.Command != "COPY" {
				continue
			}
			source, _ := copies(t, i)
			switch from := i.Flag("from"); {
			case from != "" && !slices.Contains(known, from):
				t.Errorf("line %d: copies from %s, which is no stage before %s", i.Line, from, s.Name)
			case from != "" && !path.IsAbs(source):
				t.Errorf("line %d: %s in %s is not absolute", i.Line, source, from)
			case from == "" && len(sent(t, source)) == 0:
				t.Errorf("line %d: nothing of %s gets past .dockerignore", i.Line, source)
			}
		}
		known = append(known, s.Name)
	}
}

// TestOnlyTheNeedful holds the context to what is copied: tests, fixtures and what was built stay out.
func TestOnlyTheNeedful(t *testing.T) {
	for _, name := range []string{"go.work", "README.md", "Makefile", "docker-compose.yml", "build", "docs", "e2e", "deploy/docker/doc.go", ".git"} {
		if _, err := os.Stat(filepath.Join(root(t), name)); err == nil && len(sent(t, name)) > 0 {
			t.Errorf("%s is sent to the builder", name)
		}
	}
	for _, name := range sent(t, "stages") {
		if strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata") {
			t.Errorf("%s is sent to the builder", name)
		}
	}
}

func TestEachProgramHasItsImage(t *testing.T) {
	for _, b := range binary.All() {
		var user, entrypoint, health string
		for _, s := range lineage(t, b.Name) {
			for _, i := range s.Instructions {
				switch i.Command {
				case "USER":
					user = i.Args
				case "ENTRYPOINT":
					entrypoint = i.Args
				case "HEALTHCHECK":
					health = i.Args
				}
			}
		}
		executable := "/app/bin/" + b.Name
		if entrypoint != `["`+executable+`"]` {
			t.Errorf("%s: starts %s", b.Name, entrypoint)
		}
		if !regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`).MatchString(user) {
			t.Errorf("%s: runs as %q, which an orchestrator cannot tell from root", b.Name, user)
		}
		want := `CMD ["` + executable + `", "-health"]`
		if b.Name == "leafcutter" {
			want = "NONE"
		}
		if health != want {
			t.Errorf("%s: HEALTHCHECK %s, want %s", b.Name, health, want)
		}
		if first := lineage(t, b.Name)[0].From; first != "scratch" {
			t.Errorf("%s: begins from %s, which brings a shell", b.Name, first)
		}
		if last := stage(t, b.Name); !slices.ContainsFunc(last.Instructions, func(i dockerfile.Instruction) bool {
			return i.Command == "COPY" && i.Flag("from") == "build-"+b.Name && i.Args == "/out/"+b.Name+" /app/bin/"
		}) {
			t.Errorf("%s: does not copy its own binary to %s", b.Name, executable)
		}
		read := variables(t, b)
		for name := range environment(t, b.Name) {
			if !slices.ContainsFunc(read, func(v binary.Variable) bool { return v.Name == name }) {
				t.Errorf("%s: ENV sets %s, which it does not read", b.Name, name)
			}
		}
	}
}

// TestLibrariesAreCollected compares what the loader will look for with what rootfs.sh collects: from scratch there is
// nothing else.
func TestLibrariesAreCollected(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Logf("built for %s: what Linux binaries are linked to is seen on Linux", runtime.GOOS)
		return
	}
	script := readFile(t, "deploy/docker/rootfs.sh")
	files := map[string]string{"libonnxruntime": filepath.Join(root(t), "build", "lib", "libonnxruntime.so.1.32.0")}
	for _, b := range binary.All() {
		files[b.Name] = built.executable(t, b)
	}
	for name, at := range files {
		file, err := elf.Open(at)
		if err != nil {
			t.Errorf("%v: run `make deps`", err)
			continue
		}
		needed, err := file.ImportedLibraries()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		for _, library := range needed {
			if !strings.HasPrefix(library, "ld-linux") && !strings.Contains(script, " "+library) {
				t.Errorf("%s needs %s, which rootfs.sh does not collect", name, library)
			}
		}
	}
}

// TestBaseImagesArePinned: a build next year is the build of today.
func TestBaseImagesArePinned(t *testing.T) {
	var known []string
	for _, s := range stages(t) {
		if !slices.Contains(known, s.From) && s.From != "scratch" && !pinned.MatchString(s.From) {
			t.Errorf("stage %s begins from %s, which names no version", s.Name, s.From)
		}
		known = append(known, s.Name)
	}
	var module struct{ Go string }
	said, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", filepath.Join(root(t), "pkg", "go.mod")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(said, &module); err != nil {
		t.Fatal(err)
	}
	minor := strings.Join(strings.Split(module.Go, ".")[:2], ".")
	if from := stage(t, "go").From; !strings.HasPrefix(from, "golang:"+minor+"-") && !strings.HasPrefix(from, "golang:"+minor+".") {
		t.Errorf("images are built by %s, the modules ask for Go %s", from, module.Go)
	}
}

// pinned is an image with a tag that begins with a version.
var pinned = regexp.MustCompile(`^[a-z0-9./-]+:v?[0-9]+\.[0-9]+[A-Za-z0-9._-]*$`)
