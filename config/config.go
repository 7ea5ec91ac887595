// Package config is the one description of how a member is configured: every
// flag that etcd 3.7 has, under the same name on the command line, in the
// environment (ETCD_*) and in the YAML file, with etcd's defaults, precedence
// and texts.
//
// Parse reads arguments and environment, or the file alone when --config-file
// is given, and Validate checks what came of it. Only cmd and embed read a
// Config; they hand each room its own Options. A flag that etcd has and this
// build does not serve yet is refused by name; nothing is ignored in silence.
package config

import (
	"net/url"
	"path/filepath"
	"time"
)

// Config says how one member runs. Sizes are in bytes, TickMs and ElectionMs in
// milliseconds. New returns etcd's defaults.
type Config struct {
	// The member.
	Name              string
	DataDir           string
	WALDir            string
	SnapshotCount     uint64
	CatchUpEntries    uint64
	TickMs            uint
	ElectionMs        uint
	TickAdvance       bool
	MaxSnapshots      uint
	MaxWALs           uint
	QuotaBytes        int64
	FreelistType      string
	BatchInterval     time.Duration
	BatchLimit        int
	MaxTxnOps         uint
	MaxRequestBytes   uint
	MaxStreams        uint32
	KeepAliveMinTime  time.Duration
	KeepAliveInterval time.Duration
	KeepAliveTimeout  time.Duration
	ReusePort         bool
	ReuseAddress      bool
	RaftReadTimeout   time.Duration
	RaftWriteTimeout  time.Duration
	EnableGateway     bool

	// Addresses.
	ListenPeerURLs       []url.URL
	ListenClientURLs     []url.URL
	ListenClientHTTPURLs []url.URL
	ListenMetricsURLs    []url.URL
	AdvertisePeerURLs    []url.URL
	AdvertiseClientURLs  []url.URL

	// The cluster it is born into or joins.
	InitialCluster      string
	ClusterState        string
	ClusterToken        string
	StrictReconfigCheck bool
	PreVote             bool
	ForceNewCluster     bool
	MaxLearners         int

	// Compaction.
	CompactionMode      string
	CompactionRetention string
	CompactionBatch     int
	CompactionSleep     time.Duration

	// Security.
	ClientTLS         TLS
	PeerTLS           TLS
	SelfSignedYears   uint
	CipherSuites      []string
	TLSMinVersion     string
	TLSMaxVersion     string
	CORS              []string
	HostWhitelist     []string
	AuthToken         string
	BcryptCost        uint
	AuthTokenTTL      uint
	ClientAllowedHost []string
	PeerAllowedCN     []string
	PeerAllowedHost   []string
	PeerSkipSAN       bool

	// Logs and measurements.
	LogOutputs   []string
	LogLevel     string
	LogFormat    string
	RotateLogs   bool
	RotateConfig string
	EnablePprof  bool
	Metrics      string

	// Checks and clocks.
	CorruptCheckTime     time.Duration
	CompactHashCheckTime time.Duration
	WatchProgress        time.Duration
	DowngradeCheckTime   time.Duration
	WarnApply            time.Duration
	WarnUnary            time.Duration
	DefragThresholdMB    uint
	UnsafeNoFsync        bool
	FeatureGates         string

	// Ours, beyond etcd's.
	EmulateVersion string // serve as this etcd 3.x: the cluster version is not raised beyond it
	BirthRecord    string // file outside the data directory that tells whether there was data; "auto", or "" for none
	BirthArchive   string // backups, as dir:PATH, that a new cluster must not be in
	OnDataLoss     string // refuse, replace or exit

	// Warnings are for the log: what was taken from the environment, unknown
	// variables and unknown keys.
	Warnings []Warning

	set map[string]bool // flags given on the command line or by environment
}

// DefaultCorruptCheck is --corrupt-check-time when it is not given; etcd's is 0.
const DefaultCorruptCheck = 10 * time.Minute

// AsksForCorruptAlarm tells whether the operator asked for etcd's own check, and with it
// for the alarm that stops a cluster's writes.
func (c *Config) AsksForCorruptAlarm() bool {
	return c.CorruptCheckTime > 0 && (c.set["corrupt-check-time"] || c.CorruptCheckTime != DefaultCorruptCheck)
}

// TLS is one port's side of TLS; paths are of PEM files.
type TLS struct {
	Cert, Key             string
	ClientCert, ClientKey string // what the member shows when it dials
	TrustedCA             string
	CRL                   string
	ClientCertAuth        bool
	Auto                  bool
}

// Empty reports whether no certificate is configured.
func (t TLS) Empty() bool { return t.Cert == "" && t.Key == "" && !t.Auto }

// Warning is a line for the log, with fields as alternating names and values.
type Warning struct {
	Info    bool
	Message string
	Fields  []string
}

// New returns the defaults of etcd 3.7.
func New() *Config {
	return &Config{
		Name: "default", SnapshotCount: 10_000, CatchUpEntries: 5000,
		TickMs: 100, ElectionMs: 1000, TickAdvance: true, MaxSnapshots: 5, MaxWALs: 5,
		FreelistType: "map", MaxTxnOps: 128, MaxRequestBytes: 1.5 * 1024 * 1024, MaxStreams: 1<<32 - 1,
		KeepAliveMinTime: 5 * time.Second, KeepAliveInterval: 2 * time.Hour, KeepAliveTimeout: 20 * time.Second,
		RaftReadTimeout: 5 * time.Second, RaftWriteTimeout: 5 * time.Second, EnableGateway: true,
		ListenPeerURLs: mustURLs(defaultPeerURL), ListenClientURLs: mustURLs(defaultClientURL),
		AdvertisePeerURLs: mustURLs(defaultPeerURL), AdvertiseClientURLs: mustURLs(defaultClientURL),
		ClusterState: "new", ClusterToken: "etcd-cluster", StrictReconfigCheck: true, PreVote: true, MaxLearners: 1,
		CompactionMode: "periodic", CompactionRetention: "0",
		SelfSignedYears: 1, TLSMinVersion: "TLS1.2", CORS: []string{"*"}, HostWhitelist: []string{"*"},
		AuthToken: "simple", BcryptCost: 10, AuthTokenTTL: 300,
		LogOutputs: []string{"default"}, LogLevel: "info", LogFormat: "json",
		RotateConfig: `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`,
		Metrics:      "basic", CorruptCheckTime: DefaultCorruptCheck, CompactHashCheckTime: time.Minute, DowngradeCheckTime: 5 * time.Second,
		WarnApply: 100 * time.Millisecond, WarnUnary: 300 * time.Millisecond,
		BirthRecord: "auto", OnDataLoss: "refuse",
		set: map[string]bool{},
	}
}

const (
	defaultPeerURL   = "http://localhost:2380"
	defaultClientURL = "http://localhost:2379"
)

// ResolvedDataDir is --data-dir, or etcd's default of <name>.etcd.
func (c *Config) ResolvedDataDir() string {
	if c.DataDir != "" {
		return c.DataDir
	}
	return c.Name + ".etcd"
}

// ResolvedBirthRecord is --birth-record, or the sibling of the data directory that
// `rm -rf` of it leaves alone.
func (c *Config) ResolvedBirthRecord() string {
	if c.BirthRecord == "auto" {
		return filepath.Clean(c.ResolvedDataDir()) + ".birth"
	}
	return c.BirthRecord
}

// ResolvedInitialCluster is --initial-cluster, or this member alone.
func (c *Config) ResolvedInitialCluster() string {
	if c.InitialCluster != "" {
		return c.InitialCluster
	}
	text := ""
	for i, u := range c.AdvertisePeerURLs {
		if i > 0 {
			text += ","
		}
		text += c.Name + "=" + u.String()
	}
	return text
}
