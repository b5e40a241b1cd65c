package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Variable is one knob of a program.
type Variable struct {
	Name        string `json:"name"`              // the environment variable
	Flag        string `json:"flag,omitempty"`    // without the dash; "" if there is none
	Type        string `json:"type"`              // text, list, map, number, bytes, switch, duration
	Default     string `json:"default,omitempty"` // "" if there is none; never that of a secret
	Description string `json:"description,omitempty"`
	Required    bool   `json:"required,omitempty"`
	Secret      bool   `json:"secret,omitempty"`
}

// Setting is the value of one variable after loading.
type Setting struct {
	Name  string
	Value string // "(set)" or "(not set)" for a secret
}

// Variables lists what a program reads, in the order of declaration. cfg is a pointer to the configuration as [Load]
// is given it, before loading: what is not zero in it is a default. It panics if cfg is not such a pointer.
func Variables(cfg any) []Variable {
	fields, err := fieldsOf(cfg)
	if err != nil {
		panic(err)
	}
	variables := make([]Variable, 0, len(fields))
	for _, f := range fields {
		variables = append(variables, f.Variable)
	}
	return variables
}

// List writes what [Variables] gives as a JSON array, for tools: a binary's variables are told by the binary itself.
func List(w io.Writer, cfg any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(Variables(cfg)); err != nil {
		return fmt.Errorf("write the list of variables: %w", err)
	}
	return nil
}

// Settings lists the values of a configuration that has been loaded, secrets withheld. It panics where [Variables] does.
func Settings(cfg any) []Setting {
	fields, err := fieldsOf(cfg)
	if err != nil {
		panic(err)
	}
	settings := make([]Setting, 0, len(fields))
	for _, f := range fields {
		value := render(f.value, f.def.Tag)
		switch {
		case f.Secret && f.value.IsZero():
			value = "(not set)"
		case f.Secret:
			value = "(set)"
		}
		settings = append(settings, Setting{Name: f.Name, Value: value})
	}
	return settings
}

// Help writes how to run the program called name: its switches, then a table of its variables.
func Help(w io.Writer, name, purpose string, cfg any) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s\n\nusage: %s [flags]\n\n", name, purpose, name)
	text.WriteString("Every variable below is read from the environment, and most can be given as a flag, which wins.\n\n")
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FLAG\tVARIABLE\tDEFAULT\tWHAT IT DOES")
	for _, s := range switches {
		fmt.Fprintf(table, "-%s\t\t\t%s\n", s.name, s.description)
	}
	for _, v := range Variables(cfg) {
		flagName := ""
		if v.Flag != "" {
			flagName = "-" + v.Flag
		}
		def := v.Default
		if v.Required {
			def = "(required)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", flagName, v.Name, def, v.Description)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write help: %w", err)
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write help: %w", err)
	}
	return nil
}

func newField(sf reflect.StructField, value reflect.Value, name, options string) (field, error) {
	secret := sf.Tag.Get("secret") == "true"
	f := field{
		Variable: Variable{
			Name:        name,
			Flag:        flagName(sf, name, secret),
			Type:        typeName(sf.Type),
			Default:     sf.Tag.Get("envDefault"),
			Description: sf.Tag.Get("desc"),
			Required:    slices.Contains(strings.Split(options, ","), "required"),
			Secret:      secret,
		},
		value:  value,
		preset: !value.IsZero(),
	}
	if f.preset {
		f.Default = render(value, sf.Tag)
	}
	if secret {
		f.Default = ""
	}
	// The scratch struct that env parses has this field alone, under its full name: prefixes are resolved here.
	f.def = sf
	f.def.Anonymous = false
	f.def.Offset, f.def.Index = 0, nil
	f.def.Tag = withName(sf.Tag, name)
	switch sf.Type.Kind() {
	case reflect.Chan, reflect.Func, reflect.Interface, reflect.UnsafePointer:
		return field{}, fmt.Errorf("configuration field %s of type %s cannot be read from %s", sf.Name, sf.Type, name)
	}
	return f, nil
}

// withName is tag with the name in its env part replaced.
func withName(tag reflect.StructTag, name string) reflect.StructTag {
	old := tag.Get("env")
	_, options, has := strings.Cut(old, ",")
	if has {
		name += "," + options
	}
	return reflect.StructTag(strings.Replace(string(tag), fmt.Sprintf("env:%q", old), fmt.Sprintf("env:%q", name), 1))
}

// flagName derives admin-addr from LEAFCUTTER_ADMIN_ADDR and kafka-brokers from KAFKA_BROKERS.
func flagName(sf reflect.StructField, name string, secret bool) string {
	given, ok := sf.Tag.Lookup("flag")
	switch {
	case given == "-" || secret:
		return ""
	case ok && given != "":
		return given
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "LEAFCUTTER_")), "_", "-")
}

func typeName(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return strings.ToLower(t.Name())
	}
	switch t.Kind() {
	case reflect.Bool:
		return "switch"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "map"
	case reflect.String:
		return "text"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return "number"
	default:
		return t.String()
	}
}

// render writes a value as it would be given in the environment.
func render(v reflect.Value, tag reflect.StructTag) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	if text, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := text.MarshalText(); err == nil {
			return string(b)
		}
	}
	separator := tag.Get("envSeparator")
	if separator == "" {
		separator = ","
	}
	switch v.Kind() {
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return strings.Join(items, separator)
	case reflect.Map:
		between := tag.Get("envKeyValSeparator")
		if between == "" {
			between = ":"
		}
		items := make([]string, 0, v.Len())
		for key, value := range v.Seq2() {
			items = append(items, fmt.Sprint(key.Interface())+between+fmt.Sprint(value.Interface()))
		}
		slices.Sort(items)
		return strings.Join(items, separator)
	default:
		return fmt.Sprint(v.Interface())
	}
}
