package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"theseus/internal/vfs"
)

// Options says how one member runs. The zero value of a field means the default
// named beside it; Name, DataDir and PeerURLs have none.
type Options struct {
	// Name is the member's human name; it must appear in InitialCluster when the
	// member is new.
	Name string
	// DataDir holds member/snap and member/wal; WALDir, if set, is the wal folder.
	DataDir, WALDir string

	// PeerURLs and ClientURLs are what the member advertises.
	PeerURLs, ClientURLs []string
	// InitialCluster maps names to peer URLs. Default: this member alone.
	InitialCluster map[string][]string
	// InitialClusterToken goes into the ids of a new cluster. Default "etcd-cluster".
	InitialClusterToken string
	// JoinExisting is --initial-cluster-state=existing.
	JoinExisting bool
	// BirthRecord is the file outside the data directory that tells whether this member
	// ever had data; "" is none.
	BirthRecord string
	// BirthArchive is the archive of backups, as dir:PATH, that a new cluster must not be
	// in; "" is none.
	BirthArchive string
	// OnDataLoss is what a Gate does about a member whose data is lost: "refuse" (the
	// default: it is held), "replace" or "exit".
	OnDataLoss string
	// ClientTLS is what the member shows and demands when it dials the client ports of
	// others, to replace itself. It may be nil when no client URL is https.
	ClientTLS *tls.Config
	// ForceNewCluster makes a one-member cluster of the directory's data.
	ForceNewCluster bool

	// Tick is raft's clock, the heartbeat interval. Default 100 ms.
	Tick time.Duration
	// ElectionTicks is the election timeout in ticks. Default 10.
	ElectionTicks int
	// NoElectionTickAdvance keeps a starting member waiting a whole election timeout.
	NoElectionTickAdvance bool
	// NoPreVote turns raft's pre-vote phase off.
	NoPreVote bool

	// SnapshotCount is how many entries are applied between disk snapshots.
	// Default 10,000.
	SnapshotCount uint64
	// CatchUpEntries stay in memory behind a snapshot for slow followers.
	// Default 5,000.
	CatchUpEntries uint64
	// MaxSnapshots and MaxWALs are how many files are kept; 0 keeps all.
	MaxSnapshots, MaxWALs uint

	// QuotaBytes bounds the db file: 0 means 2 GiB, negative no bound.
	QuotaBytes int64
	// FlushInterval and FlushOps say when the backend writes its pending batch.
	// Defaults 100 ms and 10,000.
	FlushInterval time.Duration
	FlushOps      int
	// FreelistType is bbolt's: "map" (default) or "array".
	FreelistType string
	// UnsafeNoSync skips every fsync: for tests, data is lost in a crash.
	UnsafeNoSync bool
	// ValueBudgetBytes bounds the values held in memory. Default: mvcc's.
	ValueBudgetBytes int64

	// MaxTxnOps is for rpc's validation. Default 128.
	MaxTxnOps uint
	// MaxRequestBytes bounds one proposal. Default 1.5 MiB.
	MaxRequestBytes uint

	// CompactionMode is "periodic" (default) or "revision"; CompactionRetention
	// is its value as the flag takes it ("0" or "" is off).
	CompactionMode, CompactionRetention string
	// CompactionBatch revisions are removed at a time, CompactionPause apart.
	// Defaults 1,000 and 10 ms.
	CompactionBatch int
	CompactionPause time.Duration

	// NoStrictReconfigCheck lets member changes through that could lose quorum.
	NoStrictReconfigCheck bool
	// MaxLearners bounds learners in the cluster. Default 1.
	MaxLearners int

	// AuthToken is "simple" (default) or "jwt,...". BcryptCost 10 and AuthTokenTTL
	// 300 s are defaults.
	AuthToken    string
	BcryptCost   int
	AuthTokenTTL time.Duration

	// CorruptCheckTime is how often the member compares its data with the others', and
	// fences and repairs itself if it is wrong; 0 is never.
	CorruptCheckTime time.Duration
	// CorruptAlarm has the leader raise etcd's alarm for a wrong member that runs etcd;
	// else such a member is only named.
	CorruptAlarm bool
	// InitialCorruptCheck compares hashes with the peers before serving.
	InitialCorruptCheck bool
	// CompactHashCheck has the leader raise etcd's alarm for a member that runs etcd and
	// whose hash of a compaction differs. The hashes are compared every
	// CompactHashCheckTime (default 1 min), also for CorruptCheckTime.
	CompactHashCheck     bool
	CompactHashCheckTime time.Duration

	// StopOnDefrag only shows in the metrics: rpc acts on it.
	StopOnDefrag bool

	// LeaseCheckpoint keeps remaining TTLs across leader changes;
	// LeaseCheckpointPersist stores them below cluster version 3.6 too.
	LeaseCheckpoint, LeaseCheckpointPersist bool

	// WatchProgressInterval is how often an idle watcher that asked for it is told
	// the revision. Default 10 min.
	WatchProgressInterval time.Duration
	// DowngradeCheckTime is how often the leader sees whether a downgrade is done.
	// Default 5 s.
	DowngradeCheckTime time.Duration
	// WarnApply logs applies that take longer. Default 100 ms.
	WarnApply time.Duration

	// EmulateVersion makes the member speak as this etcd version ("3.4.0"): the
	// cluster version is not raised above it. Default: version.Current.
	EmulateVersion string

	// PeerTLS is what the member shows and demands when it dials peers. It may be
	// nil when no peer URL is https.
	PeerTLS *tls.Config

	// FS holds the log and the snapshots. Default the operating system's. The db
	// is always on the operating system's.
	FS vfs.FS
	// Logger defaults to none; Registerer too.
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Defaults and bounds that operators know from etcd.
const (
	defaultQuotaBytes   = 2 << 30
	maxQuotaBytes       = 8 << 30
	defaultRequestBytes = 3 << 19 // 1.5 MiB
	defaultToken        = "etcd-cluster"
)

// normalize fills in defaults and says what cannot be.
func (o Options) normalize() (Options, error) {
	if o.Name == "" {
		return o, errors.New("name is empty: a member needs one that is in its initial cluster")
	}
	if o.DataDir == "" {
		return o, errors.New("data directory is empty: say where the member keeps its data")
	}
	if len(o.PeerURLs) == 0 {
		return o, errors.New("no peer URL is advertised: other members could not reach this one")
	}
	o.PeerURLs = slices.Clone(o.PeerURLs)
	slices.Sort(o.PeerURLs)
	if len(o.InitialCluster) == 0 {
		o.InitialCluster = map[string][]string{o.Name: o.PeerURLs}
	}
	setDefault(&o.InitialClusterToken, defaultToken)
	setDefault(&o.Tick, 100*time.Millisecond)
	setDefault(&o.ElectionTicks, 10)
	setDefault(&o.SnapshotCount, 10_000)
	setDefault(&o.CatchUpEntries, 5_000)
	setDefault(&o.MaxTxnOps, 128)
	setDefault(&o.MaxRequestBytes, defaultRequestBytes)
	setDefault(&o.CompactionBatch, 1000)
	setDefault(&o.CompactionPause, 10*time.Millisecond)
	setDefault(&o.MaxLearners, 1)
	setDefault(&o.BcryptCost, 10)
	setDefault(&o.AuthTokenTTL, 300*time.Second)
	setDefault(&o.CompactHashCheckTime, time.Minute)
	setDefault(&o.DowngradeCheckTime, 5*time.Second)
	setDefault(&o.WarnApply, 100*time.Millisecond)
	setDefault(&o.FS, vfs.OS)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.WALDir == "" {
		o.WALDir = filepath.Join(o.DataDir, "member", "wal")
	}
	if o.ElectionTicks < 2 {
		return o, fmt.Errorf("election timeout of %d ticks is too short: at least 2 are needed", o.ElectionTicks)
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// electionTimeout and requestTimeout are what the rules of etcd count in.
func (o Options) electionTimeout() time.Duration { return time.Duration(o.ElectionTicks) * o.Tick }

func (o Options) requestTimeout() time.Duration { return 5*time.Second + 2*o.electionTimeout() }

// minLeaseTTL is ceil(1.5 election timeouts) in seconds (interop 7.8).
func (o Options) minLeaseTTL() int64 {
	least := time.Duration(3*o.ElectionTicks) / 2 * o.Tick
	return int64((least + time.Second - 1) / time.Second)
}

func (o Options) snapDir() string { return filepath.Join(o.DataDir, "member", "snap") }
func (o Options) dbPath() string  { return filepath.Join(o.snapDir(), "db") }
