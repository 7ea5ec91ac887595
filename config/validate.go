package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

const maxElectionMs = 50_000

// Validate checks everything that can be checked without the network or the
// disk, in etcd's words, and names what to change.
func (c *Config) Validate() error {
	for _, check := range []func() error{
		c.checkAddresses, c.checkCluster, c.checkClocks, c.checkCompaction, c.checkTLS, c.checkLogging, c.checkLimits,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	_, err := c.Gates()
	return err
}

func (c *Config) checkAddresses() error {
	if c.set["listen-client-urls"] && !c.set["advertise-client-urls"] {
		return errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	}
	for _, all := range [][]url.URL{c.ListenPeerURLs, c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs} {
		for _, u := range all {
			if err := bindable(u); err != nil {
				return err
			}
		}
	}
	for _, u := range c.AdvertiseClientURLs {
		if err := hostNamed("advertise-client-urls", u); err != nil {
			return err
		}
	}
	for _, u := range c.AdvertisePeerURLs {
		if err := hostNamed("initial-advertise-peer-urls", u); err != nil {
			return err
		}
	}
	for _, u := range c.ListenClientHTTPURLs {
		if slices.Contains(c.ListenClientURLs, u) {
			return fmt.Errorf("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url %s", u.String())
		}
	}
	return nil
}

// bindable wants an address rather than a name to listen on.
func bindable(u url.URL) error {
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		return nil
	}
	host, _, err := net.SplitHostPort(u.Host)
	if err != nil {
		return fmt.Errorf("missing port in given url to listen (%s)", u.String())
	}
	if host == "" || host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil {
		return nil
	}
	return fmt.Errorf("expected IP in URL for binding (%s)", u.String())
}

func hostNamed(flag string, u url.URL) error {
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		return nil
	}
	if host, _, _ := net.SplitHostPort(u.Host); host == "" {
		return fmt.Errorf(`--%s "%s" must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host (%s))`, flag, u.String(), u.String())
	}
	return nil
}

func (c *Config) checkCluster() error {
	if c.ClusterState != "new" && c.ClusterState != "existing" {
		return &UsageError{fmt.Errorf("invalid value %q for flag -initial-cluster-state: expected \"new\" or \"existing\"", c.ClusterState)}
	}
	if !slices.Contains([]string{"refuse", "replace", "exit"}, c.OnDataLoss) {
		return &UsageError{fmt.Errorf("invalid value %q for flag -on-data-loss: expected \"refuse\", \"replace\" or \"exit\"", c.OnDataLoss)}
	}
	if c.BirthArchive != "" && len(c.BirthArchive) <= len("dir:") || c.BirthArchive != "" && !strings.HasPrefix(c.BirthArchive, "dir:") {
		return &UsageError{fmt.Errorf("invalid value %q for flag -birth-archive: expected dir: and a path, such as dir:/var/backups/etcd", c.BirthArchive)}
	}
	cluster, err := c.PeerMap()
	if err != nil {
		return fmt.Errorf("error setting up initial cluster: %w", err)
	}
	mine, ok := cluster[c.Name]
	if !ok {
		return fmt.Errorf("couldn't find local name %q in the initial cluster configuration", c.Name)
	}
	advertised := strings.Split(JoinURLs(c.AdvertisePeerURLs), ",")
	for _, u := range mine {
		if !slices.Contains(advertised, u) {
			return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s: give both the same URLs", u, strings.Join(advertised, ","))
		}
	}
	for _, u := range advertised {
		if !slices.Contains(mine, u) {
			return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s: give both the same URLs", u, c.ResolvedInitialCluster())
		}
	}
	seen := map[string]bool{}
	for _, all := range cluster {
		for _, u := range all {
			if seen[u] {
				return fmt.Errorf("initial cluster %s has duplicate url", c.ResolvedInitialCluster())
			}
			seen[u] = true
		}
	}
	return nil
}

// PeerMap is --initial-cluster by member name; URLs are sorted.
func (c *Config) PeerMap() (map[string][]string, error) {
	cluster := map[string][]string{}
	for _, part := range strings.Split(c.ResolvedInitialCluster(), ",") {
		name, u, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || u == "" {
			return nil, fmt.Errorf("%q is not of the form name=url", part)
		}
		parsed, err := types.NewURLs([]string{u})
		if err != nil {
			return nil, err
		}
		cluster[name] = append(cluster[name], parsed[0].String())
	}
	for _, all := range cluster {
		slices.Sort(all)
	}
	return cluster, nil
}

func (c *Config) checkClocks() error {
	switch {
	case c.TickMs == 0:
		return errors.New("--heartbeat-interval must be >0 (set to 0ms)")
	case c.ElectionMs == 0:
		return errors.New("--election-timeout must be >0 (set to 0ms)")
	case 5*c.TickMs > c.ElectionMs:
		return fmt.Errorf("--election-timeout[%dms] should be at least as 5 times as --heartbeat-interval[%dms]", c.ElectionMs, c.TickMs)
	case c.ElectionMs > maxElectionMs:
		return fmt.Errorf("--election-timeout[%dms] is too long, and should be set less than %dms", c.ElectionMs, maxElectionMs)
	case c.CompactHashCheckTime <= 0:
		return fmt.Errorf("--compact-hash-check-time must be >0 (set to %s)", c.CompactHashCheckTime)
	}
	return nil
}

// Retention is auto-compaction-retention as a time (periodic) or as a number
// of revisions (revision); zero of both is off.
func (c *Config) Retention() (period time.Duration, revisions int64, err error) {
	n, numErr := strconv.ParseInt(c.CompactionRetention, 10, 64)
	switch c.CompactionMode {
	case "periodic":
		if numErr == nil {
			return time.Duration(n) * time.Hour, 0, nil
		}
		period, err = time.ParseDuration(c.CompactionRetention)
		if err != nil {
			return 0, 0, fmt.Errorf("error parsing CompactionRetention: %w", err)
		}
		return period, 0, nil
	case "revision":
		if numErr == nil {
			return 0, n, nil
		}
		period, err = time.ParseDuration(c.CompactionRetention)
		if err != nil {
			return 0, 0, fmt.Errorf("error parsing CompactionRetention: %w", err)
		}
		return 0, int64(period), nil
	case "":
		return 0, 0, errors.New("undefined auto-compaction-mode")
	}
	return 0, 0, fmt.Errorf("unknown auto-compaction-mode %q", c.CompactionMode)
}

func (c *Config) checkCompaction() error {
	_, _, err := c.Retention()
	return err
}

func (c *Config) checkTLS() error {
	for _, v := range []string{c.TLSMinVersion, c.TLSMaxVersion} {
		if v != "" && v != "TLS1.2" && v != "TLS1.3" {
			return fmt.Errorf("unexpected TLS version %q (must be one of: TLS1.2, TLS1.3)", v)
		}
	}
	if c.TLSMinVersion == "TLS1.3" && c.TLSMaxVersion == "TLS1.2" {
		return fmt.Errorf("min version (%s) is greater than max version (%s)", c.TLSMinVersion, c.TLSMaxVersion)
	}
	if c.TLSMinVersion == "TLS1.3" && len(c.CipherSuites) > 0 {
		return errors.New("cipher suites cannot be configured when only TLS1.3 is enabled")
	}
	for _, u := range append(slices.Clone(c.ListenClientURLs), c.ListenClientHTTPURLs...) {
		if secure(u) && !c.ClientTLS.Auto && (c.ClientTLS.Cert == "" || c.ClientTLS.Key == "") {
			return fmt.Errorf("TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme", u.String())
		}
	}
	for _, u := range c.ListenPeerURLs {
		if secure(u) && !c.PeerTLS.Auto && (c.PeerTLS.Cert == "" || c.PeerTLS.Key == "") {
			return fmt.Errorf("TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url %s with HTTPS scheme", u.String())
		}
	}
	if len(c.PeerAllowedCN) > 0 && len(c.PeerAllowedHost) > 0 {
		return fmt.Errorf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)", c.PeerAllowedCN, c.PeerAllowedHost)
	}
	return nil
}

func secure(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

func (c *Config) checkLogging() error {
	switch {
	case c.LogFormat != "json" && c.LogFormat != "console":
		return fmt.Errorf("unknown log format: %s, supported values json, console", c.LogFormat)
	case !slices.Contains([]string{"debug", "info", "warn", "error", "panic", "fatal", "dpanic"}, c.LogLevel):
		return &UsageError{fmt.Errorf("unrecognized log level %q: use debug, info, warn, error, panic or fatal", c.LogLevel)}
	case len(c.LogOutputs) > 1 && slices.Contains(c.LogOutputs, "default"):
		return errors.New(`multi logoutput for "default" is not supported yet`)
	case slices.Contains(c.LogOutputs, "systemd/journal"):
		return errors.New("--log-outputs=systemd/journal is not served by this build of Theseus: use stderr, which systemd takes into the journal")
	case c.RotateLogs && (len(c.LogOutputs) != 1 || slices.Contains([]string{"default", "stderr", "stdout"}, c.LogOutputs[0])):
		return errors.New("--log-outputs requires a single file path when --log-rotate-config-json is defined")
	case c.Metrics != "basic" && c.Metrics != "extensive":
		return fmt.Errorf("unknown --metrics %q: use basic or extensive", c.Metrics)
	}
	return nil
}

func (c *Config) checkLimits() error {
	switch {
	case c.FreelistType != "map" && c.FreelistType != "array":
		return fmt.Errorf("unknown --backend-bbolt-freelist-type %q: use map or array", c.FreelistType)
	case c.MaxLearners < 1:
		return fmt.Errorf("--max-learners must be >0 (set to %d)", c.MaxLearners)
	case c.BcryptCost < 4 || c.BcryptCost > 31:
		return fmt.Errorf("--bcrypt-cost must be 4 to 31 (set to %d)", c.BcryptCost)
	}
	return nil
}

// gateDefaults are the feature gates of etcd 3.7.
var gateDefaults = map[string]bool{
	"AllAlpha": false, "AllBeta": false, "StopGRPCServiceOnDefrag": false, "InitialCorruptCheck": false,
	"CompactHashCheck": false, "LeaseCheckpoint": false, "LeaseCheckpointPersist": false,
	"SetMemberLocalAddr": false, "TxnModeWriteWithSharedBuffer": true, "FastLeaseKeepAlive": true, "PriorityRequest": false,
}

// Gates returns every feature gate with its value.
func (c *Config) Gates() (map[string]bool, error) {
	gates := map[string]bool{}
	for k, v := range gateDefaults {
		gates[k] = v
	}
	for _, part := range strings.Split(c.FeatureGates, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("missing bool value for %s", part)
		}
		if _, known := gates[name]; !known {
			return nil, fmt.Errorf("unrecognized feature gate: %s", name)
		}
		b, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
		gates[name] = b
	}
	if gates["LeaseCheckpointPersist"] && !gates["LeaseCheckpoint"] {
		return nil, errors.New("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
	}
	return gates, nil
}
