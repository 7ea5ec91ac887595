package config

import "flag"

// status says what this build does with a flag that etcd has.
type status int

const (
	served  status = iota
	refused        // known, not built: giving it is an error that names it
	ignored        // accepted and without effect, as in etcd
)

// field is one setting: a row of etcd's flag table.
type field struct {
	name   string
	value  flag.Value
	help   string
	group  string
	status status
}

// fields is the table of every flag, bound to c. The order is that of --help.
func (c *Config) fields() []field {
	var all []field
	group := func(name string, fs ...field) {
		for _, f := range fs {
			f.group = name
			all = append(all, f)
		}
	}
	group("Member", c.memberFields()...)
	group("Clustering", c.clusterFields()...)
	group("Compaction", c.compactionFields()...)
	group("Security", c.securityFields()...)
	group("Logging and profiling", c.loggingFields()...)
	group("Checks and tuning", c.checkFields()...)
	group("Known to etcd, not served by this build", notServed()...)
	for _, name := range noLongerSupported {
		all = append(all, field{name: name, value: &discard{}, status: ignored})
	}
	return all
}

func on(name string, v flag.Value, help string) field { return field{name: name, value: v, help: help} }

func (c *Config) memberFields() []field {
	return []field{
		on("name", text{&c.Name}, "Human-readable name for this member."),
		on("data-dir", text{&c.DataDir}, "Path to the data directory; empty means <name>.etcd."),
		on("wal-dir", text{&c.WALDir}, "Path to the dedicated wal directory."),
		on("snapshot-count", num[uint64]{&c.SnapshotCount}, "Committed transactions that trigger a snapshot to disk."),
		on("snapshot-catchup-entries", num[uint64]{&c.CatchUpEntries}, "Entries kept in memory for a slow follower to catch up."),
		on("heartbeat-interval", num[uint]{&c.TickMs}, "Time (in milliseconds) of a heartbeat interval."),
		on("election-timeout", num[uint]{&c.ElectionMs}, "Time (in milliseconds) for an election to time out."),
		on("initial-election-tick-advance", yes{&c.TickAdvance}, "Whether to fast-forward initial election ticks on boot."),
		on("listen-peer-urls", urls{&c.ListenPeerURLs}, "URLs to listen on for peer traffic."),
		on("listen-client-urls", urls{&c.ListenClientURLs}, "URLs to listen on for client gRPC and HTTP traffic."),
		on("listen-client-http-urls", urls{&c.ListenClientHTTPURLs}, "URLs to listen on for HTTP only client traffic."),
		on("max-snapshots", num[uint]{&c.MaxSnapshots}, "Snapshot files to retain (0 is unlimited)."),
		on("max-wals", num[uint]{&c.MaxWALs}, "Wal files to retain (0 is unlimited)."),
		on("memory-mlock", refusedBool(), "Keep the backend's pages in RAM."),
		on("quota-backend-bytes", num[int64]{&c.QuotaBytes}, "Alarm when the backend exceeds this size; 0 means 2 GiB, negative no limit."),
		on("backend-bbolt-freelist-type", text{&c.FreelistType}, "Freelist of the backend: array or map."),
		on("backend-batch-interval", dur{&c.BatchInterval}, "Longest time between two flushes of the backend; 0 means 100ms."),
		on("backend-batch-limit", num[int]{&c.BatchLimit}, "Most operations between two flushes of the backend; 0 means 10000."),
		on("max-txn-ops", num[uint]{&c.MaxTxnOps}, "Most operations permitted in a transaction."),
		on("max-request-bytes", num[uint]{&c.MaxRequestBytes}, "Largest client request the server accepts, in bytes."),
		on("max-concurrent-streams", num[uint32]{&c.MaxStreams}, "Most concurrent streams a client connection may open."),
		on("grpc-keepalive-min-time", dur{&c.KeepAliveMinTime}, "Shortest interval a client may ping at."),
		on("grpc-keepalive-interval", dur{&c.KeepAliveInterval}, "How often the server pings an idle client (0 to disable)."),
		on("grpc-keepalive-timeout", dur{&c.KeepAliveTimeout}, "Wait before closing a connection that does not answer (0 to disable)."),
		on("socket-reuse-port", yes{&c.ReusePort}, "Set SO_REUSEPORT on listeners."),
		on("socket-reuse-address", yes{&c.ReuseAddress}, "Set SO_REUSEADDR on listeners."),
		on("raft-read-timeout", dur{&c.RaftReadTimeout}, "Read timeout of peer connections; values below 5s are raised."),
		on("raft-write-timeout", dur{&c.RaftWriteTimeout}, "Write timeout of peer connections; values below 5s are raised."),
		on("enable-grpc-gateway", yes{&c.EnableGateway}, "Serve the gRPC API as JSON under /v3."),
	}
}

func (c *Config) clusterFields() []field {
	return []field{
		on("initial-advertise-peer-urls", urls{&c.AdvertisePeerURLs}, "This member's peer URLs to advertise to the rest of the cluster."),
		on("initial-cluster", text{&c.InitialCluster}, "Initial cluster configuration for bootstrapping."),
		on("initial-cluster-state", text{&c.ClusterState}, "Initial cluster state ('new' when bootstrapping, 'existing' when joining)."),
		on("initial-cluster-token", text{&c.ClusterToken}, "Initial cluster token; it keeps clusters of the same URLs apart."),
		on("advertise-client-urls", urls{&c.AdvertiseClientURLs}, "This member's client URLs to advertise to the public."),
		on("strict-reconfig-check", yes{&c.StrictReconfigCheck}, "Reject reconfiguration requests that would cause quorum loss."),
		on("pre-vote", yes{&c.PreVote}, "Enable the raft Pre-Vote algorithm."),
		on("force-new-cluster", yes{&c.ForceNewCluster}, "Make a one-member cluster of this member's data."),
		on("on-data-loss", text{&c.OnDataLoss}, "What to do without data that the cluster knows of: 'refuse' (serve not ready), 'replace' (come back as a learner, be promoted) or 'exit'. Theseus only."),
		on("birth-record", text{&c.BirthRecord}, "File outside the data directory that tells a wiped member from a new one; 'auto' is <data-dir>.birth, empty is none. Theseus only."),
		on("birth-archive", text{&c.BirthArchive}, "Archive of backups (dir:PATH): a cluster that has one there is not founded again. Theseus only."),
		on("max-learners", num[int]{&c.MaxLearners}, "Most learners a cluster may have."),
		on("discovery-fallback", &discard{}, "Deprecated: v2 discovery is gone."),
	}
}

func (c *Config) compactionFields() []field {
	return []field{
		on("auto-compaction-retention", text{&c.CompactionRetention}, "Auto compaction retention: '0' disables, a bare number is hours or revisions."),
		on("auto-compaction-mode", text{&c.CompactionMode}, "Interpret retention as 'periodic' or 'revision'."),
		on("compaction-batch-limit", num[int]{&c.CompactionBatch}, "Most revisions deleted in one step; 0 means 1000."),
		on("compaction-sleep-interval", dur{&c.CompactionSleep}, "Pause between two steps; 0 means 10ms."),
	}
}

func (c *Config) securityFields() []field {
	return []field{
		on("cert-file", text{&c.ClientTLS.Cert}, "Path to the client server TLS cert file."),
		on("key-file", text{&c.ClientTLS.Key}, "Path to the client server TLS key file."),
		on("client-cert-file", text{&c.ClientTLS.ClientCert}, "Path to the cert that outgoing client connections show."),
		on("client-key-file", text{&c.ClientTLS.ClientKey}, "Path to the key that outgoing client connections use."),
		on("client-cert-auth", yes{&c.ClientTLS.ClientCertAuth}, "Enable client cert authentication."),
		on("client-crl-file", text{&c.ClientTLS.CRL}, "Path to the client certificate revocation list file."),
		on("client-cert-allowed-hostname", list{&c.ClientAllowedHost}, "Allowed SAN host names for client cert authentication."),
		on("trusted-ca-file", text{&c.ClientTLS.TrustedCA}, "Path to the client server TLS trusted CA cert file."),
		on("auto-tls", yes{&c.ClientTLS.Auto}, "Client TLS using generated certificates."),
		on("peer-cert-file", text{&c.PeerTLS.Cert}, "Path to the peer server TLS cert file."),
		on("peer-key-file", text{&c.PeerTLS.Key}, "Path to the peer server TLS key file."),
		on("peer-client-cert-file", text{&c.PeerTLS.ClientCert}, "Path to the cert that outgoing peer connections show."),
		on("peer-client-key-file", text{&c.PeerTLS.ClientKey}, "Path to the key that outgoing peer connections use."),
		on("peer-client-cert-auth", yes{&c.PeerTLS.ClientCertAuth}, "Enable peer client cert authentication."),
		on("peer-trusted-ca-file", text{&c.PeerTLS.TrustedCA}, "Path to the peer server TLS trusted CA file."),
		on("peer-crl-file", text{&c.PeerTLS.CRL}, "Path to the peer certificate revocation list file."),
		on("peer-cert-allowed-cn", list{&c.PeerAllowedCN}, "Allowed CNs for inter-peer authentication."),
		on("peer-cert-allowed-hostname", list{&c.PeerAllowedHost}, "Allowed SAN host names for inter-peer authentication."),
		on("peer-skip-client-san-verification", yes{&c.PeerSkipSAN}, "Skip verification of the SAN of incoming peer certificates."),
		on("peer-auto-tls", yes{&c.PeerTLS.Auto}, "Peer TLS using generated certificates."),
		on("self-signed-cert-validity", num[uint]{&c.SelfSignedYears}, "Validity of generated certificates, in years."),
		on("cipher-suites", list{&c.CipherSuites}, "Supported TLS cipher suites between client/server and peers."),
		on("tls-min-version", text{&c.TLSMinVersion}, "Lowest TLS version: TLS1.2 or TLS1.3."),
		on("tls-max-version", text{&c.TLSMaxVersion}, "Highest TLS version; empty leaves it to Go."),
		on("cors", list{&c.CORS}, "Origins for CORS; * allows all."),
		on("host-whitelist", list{&c.HostWhitelist}, "Acceptable host names of HTTP client requests on plain ports."),
		on("auth-token", text{&c.AuthToken}, "'simple', or 'jwt' with its options."),
		on("bcrypt-cost", num[uint]{&c.BcryptCost}, "Cost of the bcrypt algorithm for passwords: 4 to 31."),
		on("auth-token-ttl", num[uint]{&c.AuthTokenTTL}, "Life of a simple token, in seconds."),
	}
}

func (c *Config) loggingFields() []field {
	return []field{
		on("logger", logger{}, "Only 'zap' is there."),
		on("log-outputs", list{&c.LogOutputs}, "'stdout', 'stderr', 'default' or file paths."),
		on("log-level", text{&c.LogLevel}, "debug, info, warn, error, panic or fatal."),
		on("log-format", text{&c.LogFormat}, "json or console."),
		on("enable-log-rotation", yes{&c.RotateLogs}, "Rotate a single log output file."),
		on("log-rotation-config-json", text{&c.RotateConfig}, "Log rotation: maxsize (MB), maxage (days), maxbackups, localtime, compress."),
		on("enable-pprof", yes{&c.EnablePprof}, "Serve runtime profiles at /debug/pprof/."),
		on("metrics", text{&c.Metrics}, "'basic', or 'extensive' with request histograms."),
		on("listen-metrics-urls", urls{&c.ListenMetricsURLs}, "URLs to listen on for /metrics and /health alone."),
	}
}

func (c *Config) checkFields() []field {
	return []field{
		on("corrupt-check-time", dur{&c.CorruptCheckTime}, "Time between comparisons of the whole store with the other members'; 0 is off. etcd's default is 0. If it is given, a wrong member that runs etcd gets etcd's CORRUPT alarm; without it such a member is only named."),
		on("compact-hash-check-time", dur{&c.CompactHashCheckTime}, "Time between checks of compaction hashes, which run unless --corrupt-check-time is 0."),
		on("watch-progress-notify-interval", dur{&c.WatchProgress}, "Interval of watch bookmarks; 0 means 10m."),
		on("downgrade-check-time", dur{&c.DowngradeCheckTime}, "Time between checks whether a downgrade is done."),
		on("warning-apply-duration", dur{&c.WarnApply}, "Log a request that takes longer to apply."),
		on("warning-unary-request-duration", dur{&c.WarnUnary}, "Log a unary request that takes longer."),
		on("bootstrap-defrag-threshold-megabytes", num[uint]{&c.DefragThresholdMB}, "Defragment at start when that much can be freed; 0 is off."),
		on("unsafe-no-fsync", yes{&c.UnsafeNoFsync}, "Do not sync files: data can be lost, for tests only."),
		on("feature-gates", text{&c.FeatureGates}, "Name=true|false pairs of experimental features."),
		on("emulate-version", text{&c.EmulateVersion}, "Serve as this etcd version (such as 3.4): the data directory stays one that it opens. Theseus only."),
		on("v2-deprecation", &discard{}, "Deprecated and without effect."),
	}
}

// notServed are the flags of etcd 3.7 that this build knows and does not serve.
func notServed() []field {
	var all []field
	for _, n := range []string{
		"discovery-srv", "discovery-srv-name", "discovery-endpoints", "discovery-token", "discovery-dial-timeout",
		"discovery-request-timeout", "discovery-keepalive-time", "discovery-keepalive-timeout",
		"discovery-cert", "discovery-key", "discovery-cacert", "discovery-user", "discovery-password",
		"distributed-tracing-address", "distributed-tracing-service-name", "distributed-tracing-instance-id",
		"distributed-tracing-sampling-rate",
	} {
		all = append(all, field{name: n, value: &discard{}, status: refused})
	}
	for _, n := range []string{"discovery-insecure-transport", "discovery-insecure-skip-tls-verify", "enable-distributed-tracing"} {
		all = append(all, field{name: n, value: refusedBool(), status: refused})
	}
	return all
}

// noLongerSupported are taken and without effect, in etcd too.
var noLongerSupported = []string{
	"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force", "max-result-buffer",
	"max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout", "retry-interval", "snapshot", "v", "vv",
}
