package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
)

// switches are the flags of every binary that are not variables.
var switches = []struct {
	name, description string
	target            func(*Flags) *bool
}{
	{"config.verify", "validate the configuration, print it and exit", func(f *Flags) *bool { return &f.Verify }},
	{"config.list", "list every variable as JSON and exit", func(f *Flags) *bool { return &f.List }},
	{"health", "ask the running instance whether it is ready and exit with 0 or 1", func(f *Flags) *bool { return &f.Health }},
	{"version", "print name and version and exit", func(f *Flags) *bool { return &f.Version }},
	{"help", "print this table and exit", func(f *Flags) *bool { return &f.Help }},
}

// parseFlags gives the switches, and the values of the variables that were given as flags, by variable. The values are
// not parsed here: they take the same way as the environment's, so that both mean the same.
func parseFlags(name string, args []string, fields []field) (Flags, map[string]string, error) {
	var flags Flags
	given := map[string]string{}
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	for _, s := range switches {
		set.BoolVar(s.target(&flags), s.name, false, s.description)
	}
	for _, f := range fields {
		switch {
		case f.Flag == "":
		case set.Lookup(f.Flag) != nil:
			return flags, nil, fmt.Errorf("flag -%s of %s is taken", f.Flag, f.Name)
		case f.Type == "switch":
			set.BoolFunc(f.Flag, f.Description, func(value string) error {
				if _, err := strconv.ParseBool(value); err != nil {
					return fmt.Errorf("not true or false")
				}
				given[f.Name] = value
				return nil
			})
		default:
			set.Func(f.Flag, f.Description, func(value string) error {
				given[f.Name] = value
				return nil
			})
		}
	}
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.Help = true
		return flags, given, nil
	case err != nil:
		return flags, nil, fmt.Errorf("%w (see %s -help)", err, name)
	case set.NArg() > 0:
		return flags, nil, fmt.Errorf("unexpected argument %q (see %s -help)", set.Arg(0), name)
	}
	return flags, given, nil
}
