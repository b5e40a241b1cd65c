//go:build linux && !race

package detector

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"testing"
)

// Versions that take turns for as long as anybody likes leave nothing behind:
// what one is unloaded of, the next is loaded into. The race detector keeps a
// shadow of every address that was ever loaded to, which is not memory of ours;
// without it 400 loads were measured to end where the first ten did.
func TestMemoryStaysFlatWhileVersionsTakeTurns(t *testing.T) {
	// glibc reads what the command asks of its malloc before anything of a
	// process runs: this one asks for it and begins anew.
	const name, tunables = "GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1048576"
	if os.Getenv(name) != tunables {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), name+"="+tunables)
		said, err := child.CombinedOutput()
		if t.Logf("%s", said); err != nil {
			t.Error(err)
		}
		return
	}
	c := families(t, "yolo")
	c.Memory = 1
	c.Models, c.ModelsDir = []string{"layout_cdla"}, modelsDir(t, nil)
	m := openModels(t, c)
	first := m.digest("layout_cdla")
	c.ModelsDir = modelsDir(t, func(m map[string]any) { m["score_floor"] = 0.2 })
	m2 := openModels(t, c)
	second := m2.digest("layout_cdla")
	if first == second {
		t.Fatal("no second version")
	}
	m2.room.turn, m2.room.idle = 0, 0
	debug.SetGCPercent(25) // as the command does
	turns := func(n int) int {
		for range n {
			for _, digest := range []string{first, second} {
				if boxes, err := m2.detected(t, "layout_cdla", digest); err != nil || len(boxes) == 0 {
					t.Fatalf("%d boxes, %v", len(boxes), err)
				}
			}
		}
		return resident(t)
	}
	before := turns(5)
	after := turns(25)
	fmt.Printf("resident after 10 loads %d KiB, after 60 %d KiB\n", before, after)
	if float64(after) > 1.1*float64(before) {
		t.Errorf("resident memory grew from %d KiB after 10 loads to %d KiB after 60", before, after)
	}
}
