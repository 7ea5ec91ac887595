package upgrade

import (
	"slices"
	"strings"

	"theseus/upgrade/plan"
)

// stays says of a flag why it cannot go along to a scratch cluster; empty: it can.
func stays(name string) string {
	for _, f := range []struct{ why, names string }{
		{"the scratch cluster has its own", "name data-dir wal-dir listen-client-urls listen-client-http-urls listen-peer-urls advertise-client-urls " +
			"initial-advertise-peer-urls initial-cluster initial-cluster-state initial-cluster-token listen-metrics-urls"},
		{"TLS is of the members' addresses", "cert-file key-file client-cert-auth trusted-ca-file auto-tls client-crl-file client-cert-allowed-hostname client-cert-file " +
			"client-key-file ca-file peer-ca-file peer-cert-file peer-key-file peer-client-cert-auth peer-trusted-ca-file peer-auto-tls peer-crl-file " +
			"peer-cert-allowed-cn peer-cert-allowed-hostname peer-client-cert-file peer-client-key-file peer-skip-client-san-verification " +
			"experimental-peer-skip-client-san-verification self-signed-cert-validity cipher-suites tls-min-version tls-max-version"},
		{"it leads out of the scratch cluster", "discovery discovery-srv discovery-srv-name discovery-fallback discovery-proxy discovery-endpoints discovery-token " +
			"proxy cors host-whitelist log-output log-outputs enable-log-rotation log-rotation-config-json socket-reuse-port socket-reuse-address " +
			"experimental-distributed-tracing-address enable-distributed-tracing experimental-enable-distributed-tracing birth-record birth-archive"},
		{"its keys are on the member's host", "auth-token"},
		{"it is for disasters", "force-new-cluster unsafe-no-fsync on-data-loss"},
		{"a file is read instead of flags", "config-file"},
	} {
		if slices.Contains(strings.Fields(f.names), name) {
			return f.why
		}
	}
	for _, prefix := range []string{"discovery-", "proxy-"} {
		if strings.HasPrefix(name, prefix) {
			return "it leads out of the scratch cluster"
		}
	}
	return ""
}

// transfer splits a member's arguments and environment into what its copy is started
// with and what is left out, each with why.
func transfer(args []string, env map[string]string) (flags, environ, left []string) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if !strings.HasPrefix(a, "-") {
			flags = append(flags, a) // no flag: etcd refuses it, and so will the copy
			continue
		}
		name, _, whole := strings.Cut(strings.TrimLeft(a, "-"), "=")
		words := []string{a}
		if f := plan.Flags[name]; !whole && f.Kind != "bool" && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			words = append(words, args[i])
		}
		if why := stays(name); why != "" {
			left = append(left, "--"+name+": "+why)
			continue
		}
		flags = append(flags, words...)
	}
	for _, name := range sortedKeys(env) {
		flag, ours := strings.CutPrefix(name, "ETCD_")
		why := stays(strings.ToLower(strings.ReplaceAll(flag, "_", "-")))
		switch {
		case !ours && !slices.Contains([]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"}, name):
			continue // of the machine, not of the member
		case ours && why != "":
			left = append(left, name+": "+why)
			continue
		}
		environ = append(environ, name+"="+env[name])
	}
	return flags, environ, left
}

func sortedKeys(m map[string]string) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}
