package server

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"theseus/mvcc"
)

// metrics are etcd's, by etcd's names: dashboards and alerts are part of
// compatibility. What other rooms measure (gRPC, peers) they register themselves.
type metrics struct {
	leaderChanges, proposalsFailed           prometheus.Counter
	slowApplies, slowReads, failedReads      prometheus.Counter
	heartbeatFailures                        prometheus.Counter
	applySeconds                             *prometheus.HistogramVec
	requestSeconds                           *prometheus.HistogramVec
	rangeSeconds                             *prometheus.HistogramVec
	walSync, walWrite, backendCommit         prometheus.Histogram
	walBytes                                 prometheus.Gauge
	snapSync, snapDBSync, snapDBSave         prometheus.Histogram
	defragSeconds, snapshotSeconds           prometheus.Histogram
	hashSeconds, hashRevSeconds              prometheus.Histogram
	defragInflight, applyingSnapshot         prometheus.Gauge
	puts, deletes, ranges, txns              prometheus.Counter
	compactedKeys                            prometheus.Counter
	compactMillis, compactPauseMillis        prometheus.Histogram
	compactLast                              prometheus.Gauge
	leaseGranted, leaseRevoked, leaseRenewed prometheus.Counter
	leaseExpired                             prometheus.Counter
	leaseTTL                                 prometheus.Histogram
	promoteSuccess                           prometheus.Counter
	promoteFailures                          *prometheus.CounterVec
	alarms, clusterVersion, feature          *prometheus.GaugeVec
	corruptionMetrics
	putBytes prometheus.Gauge
	// hotApplies are members of applySeconds by field, for success and failure.
	hotApplies [hotOps][2]prometheus.Observer
	// hotRequests are members of requestSeconds, hotRanges of rangeSeconds.
	hotRequests [hotOps][2]prometheus.Observer
	hotRanges   [2]prometheus.Observer
}

// builder registers collectors; with no registerer they only count.
type builder struct{ r prometheus.Registerer }

func (b builder) add(c prometheus.Collector) {
	if b.r != nil {
		b.r.MustRegister(c)
	}
}

func (b builder) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	b.add(c)
	return c
}

func (b builder) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	b.add(c)
	return c
}

func (b builder) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	b.add(g)
	return g
}

func (b builder) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	b.add(g)
	return g
}

func (b builder) gaugeFunc(name, help string, fn func() float64) {
	b.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn))
}

func (b builder) histogram(name, help string, start, factor float64, count int) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(start, factor, count)})
	b.add(h)
	return h
}

func (b builder) histograms(name, help string, start float64, count int, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(start, 2, count)}, labels)
	b.add(h)
	return h
}

func newMetrics(r prometheus.Registerer) *metrics {
	b := builder{r}
	m := &metrics{}
	m.raft(b)
	m.disk(b)
	m.keys(b)
	m.others(b)
	m.corruption(b)
	m.warm()
	return m
}

func (m *metrics) raft(b builder) {
	m.leaderChanges = b.counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen.")
	m.proposalsFailed = b.counter("etcd_server_proposals_failed_total", "The total number of failed proposals seen.")
	m.slowApplies = b.counter("etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk).")
	m.slowReads = b.counter("etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests.")
	m.failedReads = b.counter("etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen.")
	m.heartbeatFailures = b.counter("etcd_server_heartbeat_send_failures_total", "The total number of leader heartbeat send failures (likely overloaded from slow disk).")
	m.applySeconds = b.histograms("etcd_server_apply_duration_seconds", "The latency distributions of v2 apply called by backend.", 0.0001, 20, "version", "op", "success")
	m.requestSeconds = b.histograms("etcd_server_request_duration_seconds", "Response latency distribution in seconds for each type.", 0.001, 14, "type", "success")
	m.rangeSeconds = b.histograms("etcd_server_range_duration_seconds", "The latency distributions of txn.Range", 0.0001, 20, "success")
	m.applyingSnapshot = b.gauge("etcd_server_snapshot_apply_in_progress_total", "1 if the server is applying the incoming snapshot. 0 if none.")
	m.promoteSuccess = b.counter("etcd_server_learner_promote_successes", "The total number of successful learner promotions while this member is leader.")
	m.promoteFailures = b.counters("etcd_server_learner_promote_failures", "The total number of failed learner promotions (likely learner not ready) while this member is leader.", "Reason")
}

func (m *metrics) disk(b builder) {
	m.walSync = b.histogram("etcd_disk_wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL.", 0.001, 2, 14)
	m.walWrite = b.histogram("etcd_disk_wal_write_duration_seconds", "The latency distributions of write called by WAL.", 0.001, 2, 14)
	m.walBytes = b.gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL.")
	m.backendCommit = b.histogram("etcd_disk_backend_commit_duration_seconds", "The latency distributions of commit called by backend.", 0.001, 2, 14)
	m.defragSeconds = b.histogram("etcd_disk_backend_defrag_duration_seconds", "The latency distribution of backend defragmentation.", 0.1, 2, 13)
	m.snapshotSeconds = b.histogram("etcd_disk_backend_snapshot_duration_seconds", "The latency distribution of backend snapshots.", 0.01, 2, 17)
	m.defragInflight = b.gauge("etcd_disk_defrag_inflight", "Whether or not defrag is active on the member. 1 means active, 0 means not.")
	m.snapSync = b.histogram("etcd_snap_fsync_duration_seconds", "The latency distributions of fsync called by snap.", 0.001, 2, 14)
	m.snapDBSync = b.histogram("etcd_snap_db_fsync_duration_seconds", "The latency distributions of fsyncing .snap.db file", 0.001, 2, 14)
	m.snapDBSave = b.histogram("etcd_snap_db_save_total_duration_seconds", "The total latency distributions of v3 snapshot save", 0.1, 2, 10)
}

func (m *metrics) keys(b builder) {
	m.puts = b.counter("etcd_mvcc_put_total", "Total number of puts seen by this member.")
	m.deletes = b.counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member.")
	m.ranges = b.counter("etcd_mvcc_range_total", "Total number of ranges seen by this member.")
	m.txns = b.counter("etcd_mvcc_txn_total", "Total number of txns seen by this member.")
	m.hashSeconds = b.histogram("etcd_mvcc_hash_duration_seconds", "The latency distribution of storage hash operation.", 0.01, 2, 15)
	m.hashRevSeconds = b.histogram("etcd_mvcc_hash_rev_duration_seconds", "The latency distribution of storage hash by revision operation.", 0.01, 2, 15)
	m.putBytes = b.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "The total size of put kv pairs seen by this member.")
	m.compactedKeys = b.counter("etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted.")
	m.compactMillis = b.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Bucketed histogram of db compaction total duration.", 100, 2, 14)
	m.compactPauseMillis = b.histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Bucketed histogram of db compaction pause duration.", 1, 2, 13)
	m.compactLast = b.gauge("etcd_debugging_mvcc_db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start.")
}

func (m *metrics) others(b builder) {
	m.leaseGranted = b.counter("etcd_debugging_lease_granted_total", "The total number of granted leases.")
	m.leaseRevoked = b.counter("etcd_debugging_lease_revoked_total", "The total number of revoked leases.")
	m.leaseRenewed = b.counter("etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader.")
	m.leaseExpired = b.counter("etcd_debugging_server_lease_expired_total", "The total number of expired leases.")
	m.leaseTTL = b.histogram("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", 1, 2, 24)
	m.alarms = b.gauges("etcd_debugging_server_alarms", "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm", "server_id", "alarm_type")
	m.clusterVersion = b.gauges("etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version", "cluster_version")
	m.feature = b.gauges("etcd_server_feature_enabled", "Whether or not a feature is enabled. 1 is enabled, 0 is not.", "name", "stage")
}

// identity publishes what never changes.
func identity(r prometheus.Registerer, id, serverVersion string) {
	b := builder{r}
	b.gauges("etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.", "server_id").WithLabelValues(id).Set(1)
	b.gauges("etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.", "server_version").WithLabelValues(serverVersion).Set(1)
	b.gauges("etcd_server_go_version", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", "server_go_version").WithLabelValues(runtime.Version()).Set(1)
}

// opNames are the values of label op, by the field of InternalRaftRequest.
var opNames = map[int]string{
	fieldPut: "Put", fieldDeleteRange: "DeleteRange", fieldTxn: "Txn", fieldCompaction: "Compaction",
	fieldLeaseGrant: "LeaseGrant", fieldLeaseRevoke: "LeaseRevoke", fieldAlarm: "Alarm", fieldLeaseCheckpoint: "LeaseCheckpoint",
	fieldAuthEnable: "AuthEnable", fieldAuthDisable: "AuthDisable", fieldAuthenticate: "Authenticate",
	fieldUserAdd: "AuthUserAdd", fieldUserDelete: "AuthUserDelete", fieldUserChange: "AuthUserChangePassword",
	fieldUserGrant: "AuthUserGrantRole", fieldUserRevoke: "AuthUserRevokeRole",
	fieldRoleAdd: "AuthRoleAdd", fieldRoleDelete: "AuthRoleDelete", fieldRoleGrant: "AuthRoleGrantPermission",
	fieldRoleRevoke: "AuthRoleRevokePermission", fieldVersionSet: "ClusterVersionSet",
	fieldMemberAttributes: "ClusterMemberAttrSet", fieldDowngradeInfo: "DowngradeInfoSet",
}

func opName(field int) string {
	if name, ok := opNames[field]; ok {
		return name
	}
	return "Unknown"
}

// hotOps are looked up once: their fields are the small numbers.
const hotOps = 16

// outcomeOf is the index of success (0) and failure (1).
func outcomeOf(ok bool) int {
	if ok {
		return 0
	}
	return 1
}

// applied counts one applied request.
func (m *metrics) applied(field int, ok bool, took time.Duration) {
	if field < hotOps && m.hotApplies[field][0] != nil {
		m.hotApplies[field][outcomeOf(ok)].Observe(took.Seconds())
		return
	}
	m.applySeconds.WithLabelValues("v3", opName(field), strconv.FormatBool(ok)).Observe(took.Seconds())
}

// requested counts one request of this member's, from its proposal to its answer.
func (m *metrics) requested(field int, ok bool, took time.Duration) {
	switch {
	case field == 0: // no client's
	case field < hotOps && m.hotRequests[field][0] != nil:
		m.hotRequests[field][outcomeOf(ok)].Observe(took.Seconds())
	default:
		m.requestSeconds.WithLabelValues(opName(field), strconv.FormatBool(ok)).Observe(took.Seconds())
	}
}

// ranged counts one range.
func (m *metrics) ranged(ok bool, took time.Duration) {
	m.hotRanges[outcomeOf(ok)].Observe(took.Seconds())
}

func (m *metrics) warm() {
	for i, ok := range [2]string{"true", "false"} {
		m.hotRanges[i] = m.rangeSeconds.WithLabelValues(ok)
		for field, name := range opNames {
			if field < hotOps {
				m.hotApplies[field][i] = m.applySeconds.WithLabelValues("v3", name, ok)
				m.hotRequests[field][i] = m.requestSeconds.WithLabelValues(name, ok)
			}
		}
	}
}

// measure publishes what is read when it is asked for.
func (s *Server) measure() {
	b := builder{s.o.Registerer}
	identity(s.o.Registerer, formatID(s.id), s.version.String())
	if cv, ok := s.members().Version(); ok {
		s.metrics.clusterVersion.WithLabelValues(cv.MinorString()).Set(1)
	}
	b.gaugeFunc("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", func() float64 { return truth(s.Leader() != 0) })
	b.gaugeFunc("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", func() float64 { return truth(s.isLeader()) })
	b.gaugeFunc("etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.", func() float64 { return truth(s.IsLearner()) })
	b.gaugeFunc("etcd_server_proposals_committed_total", "The total number of consensus proposals committed.", func() float64 { return float64(s.node.Commit()) })
	b.gaugeFunc("etcd_server_proposals_applied_total", "The total number of consensus proposals applied.", func() float64 { return float64(s.applied.Current()) })
	b.gaugeFunc("etcd_server_proposals_pending", "The current number of pending proposals to commit.", func() float64 { return float64(s.pending.len()) })
	b.gaugeFunc("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", func() float64 { return float64(s.quota()) })
	b.gaugeFunc("etcd_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.", func() float64 { return float64(s.store.Load().be.Size()) })
	b.gaugeFunc("etcd_mvcc_db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.", func() float64 { return float64(s.store.Load().be.SizeInUse()) })
	b.gaugeFunc("etcd_debugging_mvcc_current_revision", "The current revision of store.", func() float64 { return float64(s.Revision()) })
	b.gaugeFunc("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.", func() float64 {
		_, compacted := s.store.Load().mach.KV().Revision()
		return float64(compacted)
	})
	b.gaugeFunc("etcd_debugging_mvcc_keys_total", "Total number of keys.", func() float64 {
		res, _ := s.store.Load().mach.KV().Range(mvcc.RangeOptions{Key: []byte{0}, End: []byte{0}, CountOnly: true})
		return float64(res.Count)
	})
	b.gaugeFunc("os_fd_used", "The number of used file descriptors.", descriptors)
	b.gaugeFunc("os_fd_limit", "The file descriptor limit.", descriptorLimit)
	s.measureFeatures()
	b.gaugeFunc("etcd_debugging_auth_revision", "The current revision of auth store.", func() float64 { return float64(s.authRevision()) })
}

// measureFeatures publishes the feature gates of etcd 3.7 and how they stand.
func (s *Server) measureFeatures() {
	for _, f := range []struct {
		name, stage string
		on          bool
	}{
		{"AllAlpha", "ALPHA", false}, {"AllBeta", "BETA", false},
		{"CompactHashCheck", "ALPHA", s.o.CompactHashCheck}, {"InitialCorruptCheck", "ALPHA", s.o.InitialCorruptCheck},
		{"LeaseCheckpoint", "ALPHA", s.o.LeaseCheckpoint}, {"LeaseCheckpointPersist", "ALPHA", s.o.LeaseCheckpointPersist},
		{"FastLeaseKeepAlive", "BETA", true}, {"PriorityRequest", "ALPHA", false}, {"SetMemberLocalAddr", "ALPHA", false},
		{"StopGRPCServiceOnDefrag", "ALPHA", s.o.StopOnDefrag}, {"TxnModeWriteWithSharedBuffer", "BETA", true},
	} {
		s.metrics.feature.WithLabelValues(f.name, f.stage).Set(truth(f.on))
	}
}

// descriptors counts this process's open files, on Linux.
func descriptors() float64 {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return float64(len(names))
}

func descriptorLimit() float64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return float64(l.Cur)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
