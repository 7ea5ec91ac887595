package ctl

import (
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"theseus/printer"
)

// envPrefix begins the variables that stand for global flags.
const envPrefix = "ETCDCTL_"

// Variables that only watch reads.
const (
	envWatchKey = "ETCDCTL_WATCH_KEY"
	envWatchEnd = "ETCDCTL_WATCH_RANGE_END"
)

// globals are the flags of every command.
type globals struct {
	endpoints             []string
	dialTimeout           time.Duration
	commandTimeout        time.Duration
	keepaliveTime         time.Duration
	keepaliveTimeout      time.Duration
	maxRequestBytes       int
	maxRecvBytes          int
	insecureTransport     bool
	insecureSkipVerify    bool
	insecureDiscovery     bool
	cert, key, cacert     string
	user, password, token string
	srvDomain, srvName    string
	format                string
	hex, debug            bool
}

// define adds the flags to every command below root. They are hidden, since
// etcdctl shows them only in `options`.
func (g *globals) define(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringSliceVar(&g.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "gRPC endpoints")
	f.BoolVar(&g.debug, "debug", false, "enable client-side debug logging")
	f.StringVarP(&g.format, "write-out", "w", "simple", "set the output format (fields, json, protobuf, simple, table)")
	f.BoolVar(&g.hex, "hex", false, "print byte strings as hex encoded strings")
	f.DurationVar(&g.dialTimeout, "dial-timeout", 2*time.Second, "dial timeout for client connections")
	f.DurationVar(&g.commandTimeout, "command-timeout", 5*time.Second, "timeout for short running command (excluding dial timeout)")
	f.DurationVar(&g.keepaliveTime, "keepalive-time", 2*time.Second, "keepalive time for client connections")
	f.DurationVar(&g.keepaliveTimeout, "keepalive-timeout", 6*time.Second, "keepalive timeout for client connections")
	f.IntVar(&g.maxRequestBytes, "max-request-bytes", 0, "client-side request send limit in bytes (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)")
	f.IntVar(&g.maxRecvBytes, "max-recv-bytes", 0, "client-side response receive limit in bytes (if 0, it defaults to \"math.MaxInt32\")")
	f.BoolVar(&g.insecureTransport, "insecure-transport", true, "disable transport security for client connections")
	f.BoolVar(&g.insecureDiscovery, "insecure-discovery", true, "accept insecure SRV records describing cluster endpoints")
	f.BoolVar(&g.insecureSkipVerify, "insecure-skip-tls-verify", false, "skip server certificate verification (CAUTION: this option should be enabled only for testing purposes)")
	f.StringVar(&g.cert, "cert", "", "identify secure client using this TLS certificate file")
	f.StringVar(&g.key, "key", "", "identify secure client using this TLS key file")
	f.StringVar(&g.cacert, "cacert", "", "verify certificates of TLS-enabled secure servers using this CA bundle")
	f.StringVar(&g.token, "auth-jwt-token", "", "JWT token used for authentication (if this option is used, --user and --password should not be set)")
	f.StringVar(&g.user, "user", "", "username[:password] for authentication (prompt if password is not supplied)")
	f.StringVar(&g.password, "password", "", "password for authentication (if this option is used, --user option shouldn't include password)")
	f.StringVarP(&g.srvDomain, "discovery-srv", "d", "", "domain name to query for SRV records describing cluster endpoints")
	f.StringVar(&g.srvName, "discovery-srv-name", "", "service name to query when using DNS discovery")
	f.VisitAll(func(fl *pflag.Flag) { fl.Hidden = true })
	complete(root, "write-out", printer.Formats...)
}

// complete offers words for a flag. It fails only for a flag that is not there.
func complete(cmd *cobra.Command, flag string, words ...string) {
	fixed := cobra.FixedCompletions(words, cobra.ShellCompDirectiveDefault)
	if err := cmd.RegisterFlagCompletionFunc(flag, fixed); err != nil {
		panic(err)
	}
}

// begin reads the environment into the flags that were not given, and makes the
// printer. Every command that talks to a server calls it before anything else.
func (a *app) begin(cmd *cobra.Command) error { return a.beginValueOnly(cmd, false) }

func (a *app) beginValueOnly(cmd *cobra.Command, valueOnly bool) error {
	if err := a.readEnv(cmd.InheritedFlags()); err != nil {
		return err
	}
	if a.g.debug {
		a.showFlags(cmd.InheritedFlags())
	}
	p, err := printer.New(a.g.format, printer.Options{Out: a.o.Stdout, Hex: a.g.hex, ValueOnly: valueOnly})
	if err != nil {
		return fail(exitBadFeature, err)
	}
	a.print = p
	return nil
}

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readEnv sets flags from the environment. A flag given both ways is an error;
// a variable of an unknown name draws a warning, and one whose value makes no
// sense is passed over, as etcdctl does.
func (a *app) readEnv(flags *pflag.FlagSet) error {
	known, given := map[string]*pflag.Flag{}, map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) {
		known[envName(f.Name)] = f
		given[envName(f.Name)] = f.Changed
	})
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || name == envWatchKey || name == envWatchEnd {
			continue
		}
		f := known[name]
		switch {
		case f == nil:
			a.warnUnknown(kv)
		case given[name] && (value != "" || a.exact): // etcdctl minds even an empty value
			return a.conflict(name, f.Name)
		case value == "":
		default:
			if err := flags.Set(f.Name, value); err != nil && !a.exact {
				return badArgs("%s=%q: %w", name, value, err)
			}
		}
	}
	return nil
}

func (a *app) warnUnknown(kv string) {
	if a.exact {
		a.logger("").Warn("unrecognized environment variable", zap.String("environment-variable", kv))
		return
	}
	name, _, _ := strings.Cut(kv, "=")
	a.errorf("Warning: environment variable %s stands for no flag; `%s options` lists the flags\n", name, a.name)
}

func (a *app) conflict(env, flag string) error {
	if !a.exact {
		return badArgs("--%s, %s: %w", flag, env, errGivenTwice)
	}
	a.logger("").Fatal("conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))",
		zap.String("environment-variable", env))
	return reported(exitError)
}

// errGivenTwice refuses a flag that is also in the environment.
var errGivenTwice = errors.New("given both as a flag and in the environment")

// showFlags writes what --debug asks for: the flags as variables.
func (a *app) showFlags(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		value := f.Value.String()
		if f.Name == "password" && value != "" && !a.exact {
			value = "(set)"
		}
		a.errorf("%s=%s\n", envName(f.Name), value)
	})
}
