// Package dockerfile reads as much of a Dockerfile as the tests of the images ask about: stages, what they begin from,
// and their instructions in order. Heredocs and the escape directive are not in it, nor in our Dockerfile.
package dockerfile

import (
	"fmt"
	"strings"
)

// Stage is one FROM and what follows it.
type Stage struct {
	Name         string // after AS
	From         string // an image, or the name of an earlier stage
	Instructions []Instruction
}

// Instruction is one line, continuations joined.
type Instruction struct {
	Command string   // in capitals
	Flags   []string // --from=…, --mount=…
	Args    string   // the rest
	Line    int      // counted from 1
}

// Flag is the value of a flag, "" if it is not given.
func (i Instruction) Flag(name string) string {
	for _, flag := range i.Flags {
		if value, ok := strings.CutPrefix(flag, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// Parse reads a Dockerfile. ARGs before the first FROM are refused: nothing here needs them.
func Parse(text string) ([]Stage, error) {
	var stages []Stage
	lines := strings.Split(text, "\n")
	for at := 0; at < len(lines); at++ {
		first := at
		line := strings.TrimSpace(lines[at])
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for strings.HasSuffix(line, `\`) {
			if at++; at == len(lines) {
				return nil, fmt.Errorf("line %d: nothing follows the backslash", first+1)
			}
			if next := strings.TrimSpace(lines[at]); !strings.HasPrefix(next, "#") {
				line = strings.TrimSpace(strings.TrimSuffix(line, `\`)) + " " + next
			}
		}
		instruction := read(line)
		instruction.Line = first + 1
		if instruction.Command == "FROM" {
			words := strings.Fields(instruction.Args)
			if len(words) != 3 || !strings.EqualFold(words[1], "AS") {
				return nil, fmt.Errorf("line %d: a stage without a name: FROM %s", first+1, instruction.Args)
			}
			stages = append(stages, Stage{From: words[0], Name: words[2]})
			continue
		}
		if len(stages) == 0 {
			return nil, fmt.Errorf("line %d: %s before the first FROM", first+1, instruction.Command)
		}
		last := &stages[len(stages)-1]
		last.Instructions = append(last.Instructions, instruction)
	}
	return stages, nil
}

func read(line string) Instruction {
	command, rest, _ := strings.Cut(line, " ")
	i := Instruction{Command: strings.ToUpper(command), Args: strings.TrimSpace(rest)}
	for strings.HasPrefix(i.Args, "--") {
		flag, rest, _ := strings.Cut(i.Args, " ")
		i.Flags, i.Args = append(i.Flags, flag), strings.TrimSpace(rest)
	}
	return i
}
