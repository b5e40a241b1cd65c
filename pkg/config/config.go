// Package config reads a program's configuration: defaults, then environment, then flags, then validation that reports
// every fault at once. There is no configuration file. [leafcutter/pkg/program] calls it for every binary; the reference
// in docs/configuration.md and the test of docker-compose.yml ask each binary by -config.list which variables it reads.
//
// A configuration is a struct. Each exported field with an `env` tag is one variable; structs without one are walked
// into. Tags:
//
//	env:"NAME"           the variable; env:"NAME,required" must be given (caarlos0/env v11 defines the other options)
//	envDefault:"value"   used where neither environment nor flag gives one and the field is zero
//	envSeparator:","     between the items of a list
//	envPrefix:"P_"       on a nested struct: put before the names in it
//	flag:"name"          the flag; derived from NAME where it is missing, none for flag:"-" and for secrets
//	desc:"what it does"  for -help and docs/configuration.md
//	secret:"true"        never printed, and not a flag: a command line is readable by every user of the machine
//
// An empty variable counts as one that is not set, as in the OpenTelemetry specification: compose files and charts pass
// empty ones through. An empty flag does set an empty value.
package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// Flags are the switches that every binary has beside its configuration.
type Flags struct {
	Verify  bool // -config.verify: validate the configuration, print it and exit
	List    bool // -config.list: list every variable as JSON and exit
	Health  bool // -health: ask the running instance whether it is ready and exit
	Version bool // -version: print name and version and exit
	Help    bool // -help: print the table of knobs and exit
}

// Validator is implemented by a configuration, or any struct nested in it, that can tell what is wrong with itself.
type Validator interface {
	Validate() error
}

// Load fills cfg, a pointer to a struct, for the program called name from args (without the program's own name) and
// environ (as os.Environ gives it), and validates it and every struct nested in it.
//
// A field that is not zero on entry keeps its value as the default. The error joins every fault: unknown flags, values
// that don't parse, required variables that are missing and what each Validate says. Nothing is validated when one of
// the flags asks for something else than a run or a verification.
func Load(name string, args []string, environ []string, cfg any) (Flags, error) {
	fields, err := fieldsOf(cfg)
	if err != nil {
		return Flags{}, err
	}
	flags, given, err := parseFlags(name, args, fields)
	if err != nil {
		return flags, err
	}
	if flags.Help || flags.Version || flags.List {
		return flags, nil
	}
	values := environment(environ)
	var faults []error
	for _, f := range fields {
		if err := f.set(values, given); err != nil {
			faults = append(faults, err)
		}
	}
	// A value that did not parse left its default behind; validating that would accuse the user of a second fault.
	if len(faults) == 0 && !flags.Health {
		faults = append(faults, validate(reflect.ValueOf(cfg))...)
	}
	return flags, errors.Join(faults...)
}

// environment indexes environ by name and drops empty values.
func environment(environ []string) map[string]string {
	values := make(map[string]string, len(environ))
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && value != "" {
			values[name] = value
		}
	}
	return values
}

// field is one variable of a configuration.
type field struct {
	Variable
	value  reflect.Value
	def    reflect.StructField
	preset bool // not zero before loading
}

// fieldsOf walks cfg in the order of its declaration. Two fields of one name are a mistake in the program.
func fieldsOf(cfg any) ([]field, error) {
	root := reflect.ValueOf(cfg)
	if root.Kind() != reflect.Pointer || root.IsNil() || root.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("configuration must be a pointer to a struct, not %T", cfg)
	}
	var fields []field
	if err := walk(root.Elem(), "", &fields); err != nil {
		return nil, err
	}
	names, flags := map[string]bool{}, map[string]bool{}
	for _, f := range fields {
		if names[f.Name] || f.Flag != "" && flags[f.Flag] {
			return nil, fmt.Errorf("configuration %T reads %s (flag %q) twice", cfg, f.Name, f.Flag)
		}
		names[f.Name], flags[f.Flag] = true, true
	}
	return fields, nil
}

func walk(v reflect.Value, prefix string, out *[]field) error {
	for i := range v.NumField() {
		sf, fv := v.Type().Field(i), v.Field(i)
		if !sf.IsExported() {
			continue
		}
		tag, tagged := sf.Tag.Lookup("env")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case tagged && name == "-":
		case tagged && name != "":
			f, err := newField(sf, fv, prefix+name, options)
			if err != nil {
				return err
			}
			*out = append(*out, f)
		case fv.Kind() == reflect.Struct:
			if err := walk(fv, prefix+sf.Tag.Get("envPrefix"), out); err != nil {
				return err
			}
		case fv.Kind() == reflect.Pointer && fv.Type().Elem().Kind() == reflect.Struct && !fv.IsNil():
			if err := walk(fv.Elem(), prefix+sf.Tag.Get("envPrefix"), out); err != nil {
				return err
			}
		}
	}
	return nil
}

// set gives the field its value: that of the flag, else of the environment, else what it was preset to, else the
// default of its tag. env parses it, one field at a time, so that each fault is told under the variable's full name.
func (f field) set(environ, flags map[string]string) error {
	value, fromFlag := flags[f.Name]
	inEnviron := false
	if !fromFlag {
		value, inEnviron = environ[f.Name]
	}
	if !fromFlag && !inEnviron && f.preset {
		return nil
	}
	if fromFlag && value == "" {
		f.value.SetZero()
		return nil
	}
	scratch := reflect.New(reflect.StructOf([]reflect.StructField{f.def}))
	values := map[string]string{}
	if fromFlag || inEnviron {
		values[f.Name] = value
	}
	if err := env.ParseWithOptions(scratch.Interface(), env.Options{Environment: values}); err != nil {
		return f.fault(err, value, fromFlag)
	}
	f.value.Set(scratch.Elem().Field(0))
	return nil
}

// fault names the variable, and the flag if that is where the value came from. A secret's value is not repeated.
func (f field) fault(err error, value string, fromFlag bool) error {
	origin := f.Name
	if fromFlag {
		origin = "-" + f.Flag
	}
	var missing env.VarIsNotSetError
	var empty env.EmptyVarError
	if errors.As(err, &missing) || errors.As(err, &empty) {
		return fmt.Errorf("%s: required, but not set", origin)
	}
	if f.Secret {
		return fmt.Errorf("%s: not a valid %s", origin, f.Type)
	}
	var parse env.ParseError
	if errors.As(err, &parse) {
		err = parse.Err
	}
	if value == "" {
		return fmt.Errorf("%s: %w", origin, err)
	}
	return fmt.Errorf("%s: %q is not a valid %s: %w", origin, value, f.Type, err)
}

// validate asks v and every struct below it, outermost first, what is wrong.
func validate(v reflect.Value) []error {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	var faults []error
	if check, ok := validatorOf(v); ok {
		if err := check.Validate(); err != nil {
			faults = append(faults, err)
		}
	}
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		if name, _, _ := strings.Cut(sf.Tag.Get("env"), ","); name != "" || !sf.IsExported() {
			continue
		}
		for _, fault := range validate(v.Field(i)) {
			// An embedded struct's Validate is promoted, so it has spoken already through the outer one.
			said := slices.ContainsFunc(faults, func(f error) bool { return f.Error() == fault.Error() })
			if !said {
				faults = append(faults, fault)
			}
		}
	}
	return faults
}

func validatorOf(v reflect.Value) (Validator, bool) {
	if v.CanAddr() {
		if check, ok := v.Addr().Interface().(Validator); ok {
			return check, true
		}
	}
	check, ok := v.Interface().(Validator)
	return check, ok
}
