package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"sort"
	"strings"
)

// UsageError is a mistake in how the program was called: exit status 2, with
// the usage after the text.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// ErrHelp and ErrVersion report that the operator asked for a text.
var (
	ErrHelp    = errors.New("help requested")
	ErrVersion = errors.New("version requested")
)

// Parse reads a command line (without the program's name), then the
// environment, as etcd does: one dash or two, ETCD_ variables for what no flag
// gives, the file alone when there is one. The result is not validated yet.
func Parse(args, environ []string, readFile func(string) ([]byte, error)) (*Config, error) {
	c := New()
	var file string
	var showVersion bool
	set := flag.NewFlagSet("etcd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	byName := map[string]field{}
	for _, f := range c.fields() {
		byName[f.name] = f
		set.Var(f.value, f.name, f.help)
	}
	set.StringVar(&file, "config-file", "", "Path to the server configuration file.")
	set.BoolVar(&showVersion, "version", false, "Print the version and exit.")
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, ErrHelp
		}
		return nil, &UsageError{err}
	}
	if showVersion {
		return nil, ErrVersion
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a valid flag", set.Arg(0))
	}
	if err := c.noteFlags(set, byName); err != nil {
		return nil, err
	}
	if file == "" {
		file = lookup(environ, "ETCD_CONFIG_FILE")
	}
	if file != "" {
		return fromFile(file, readFile)
	}
	if err := c.fromEnvironment(environ, set, byName); err != nil {
		return nil, err
	}
	return c, nil
}

// noteFlags records which flags were given and refuses those of etcd that this
// build does not serve.
func (c *Config) noteFlags(set *flag.FlagSet, byName map[string]field) error {
	var err error
	set.Visit(func(f *flag.Flag) {
		c.set[f.Name] = true
		if byName[f.Name].status == refused && err == nil {
			err = notBuilt("--" + f.Name)
		}
	})
	return err
}

func notBuilt(what string) error {
	return fmt.Errorf("%s is a flag of etcd that this build of Theseus does not serve: leave it out, or configure --initial-cluster instead", what)
}

func lookup(environ []string, name string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// notFlags are ETCD_ variables that are no flags.
var notFlags = map[string]bool{"ETCD_UNSUPPORTED_ARCH": true, "ETCD_VERIFY": true, "ETCD_CONFIG_FILE": true, "ETCD_VERSION": false}

// fromEnvironment takes ETCD_<FLAG> for every flag that was not given.
func (c *Config) fromEnvironment(environ []string, set *flag.FlagSet, byName map[string]field) error {
	known := map[string]string{}
	set.VisitAll(func(f *flag.Flag) {
		known["ETCD_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))] = f.Name
	})
	sorted := append([]string(nil), environ...)
	sort.Strings(sorted)
	for _, kv := range sorted {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || !strings.HasPrefix(name, "ETCD_") || notFlags[name] || value == "" {
			continue
		}
		flagName, isFlag := known[name]
		switch {
		case !isFlag:
			c.Warnings = append(c.Warnings, Warning{Message: "unrecognized environment variable", Fields: []string{"environment-variable", kv}})
		case c.set[flagName]:
			return fmt.Errorf("conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)): %s", name)
		case byName[flagName].status == refused:
			return notBuilt(name)
		default:
			if err := set.Set(flagName, value); err != nil {
				return fmt.Errorf("invalid value %q for %s: %w", value, name, err)
			}
			c.set[flagName] = true
			c.Warnings = append(c.Warnings, Warning{Info: true, Message: "recognized and used environment variable", Fields: []string{"variable-name", name, "variable-value", value}})
		}
	}
	return nil
}

// Usage is the text of --help.
func Usage() string {
	var b strings.Builder
	b.WriteString(usageHead)
	group := ""
	for _, f := range New().fields() {
		if f.status == ignored {
			continue
		}
		if f.group != group {
			group = f.group
			fmt.Fprintf(&b, "\n%s:\n", group)
		}
		fmt.Fprintf(&b, "  --%s '%s'\n    \t%s\n", f.name, f.value.String(), helpOf(f))
	}
	return b.String()
}

func helpOf(f field) string {
	if f.status == refused {
		return "Refused: not built yet."
	}
	return f.help
}

const usageHead = `Usage:

  theseus serve [flags]
    Start a member. Every flag is etcd's, with etcd's default.

  theseus serve --version
    Show the version.

  theseus serve -h | --help
    Show this text.

  theseus serve --config-file FILE
    Read the settings from a YAML file; flags and environment are then ignored.

A flag may be given in the environment too: --data-dir is ETCD_DATA_DIR.

Examples:

  theseus serve --data-dir /var/lib/etcd
  theseus serve --name s1 --listen-client-urls http://10.0.0.1:2379 \
    --advertise-client-urls http://10.0.0.1:2379 --listen-peer-urls http://10.0.0.1:2380 \
    --initial-advertise-peer-urls http://10.0.0.1:2380 --initial-cluster s1=http://10.0.0.1:2380
`
