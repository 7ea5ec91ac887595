package embed

import (
	"fmt"
	"net/url"
	"time"

	"theseus/server"
)

// serverOptions are what the server room takes of the configuration.
func (m *Member) serverOptions(sec security) (server.Options, error) {
	c := m.cfg
	peers, err := c.PeerMap()
	if err != nil {
		return server.Options{}, err
	}
	gates, err := c.Gates()
	if err != nil {
		return server.Options{}, err
	}
	dial, err := sec.dialConfig(c)
	if err != nil {
		return server.Options{}, err
	}
	o := server.Options{
		Name: c.Name, DataDir: c.ResolvedDataDir(), WALDir: c.WALDir,
		PeerURLs: texts(c.AdvertisePeerURLs), ClientURLs: texts(c.AdvertiseClientURLs),
		InitialCluster: peers, InitialClusterToken: c.ClusterToken,
		BirthRecord: c.ResolvedBirthRecord(), BirthArchive: c.BirthArchive, OnDataLoss: c.OnDataLoss,
		JoinExisting: c.ClusterState == "existing", ForceNewCluster: c.ForceNewCluster,
		Tick: time.Duration(c.TickMs) * time.Millisecond, ElectionTicks: int(c.ElectionMs / c.TickMs),
		NoElectionTickAdvance: !c.TickAdvance, NoPreVote: !c.PreVote,
		SnapshotCount: c.SnapshotCount, CatchUpEntries: c.CatchUpEntries, MaxSnapshots: c.MaxSnapshots, MaxWALs: c.MaxWALs,
		QuotaBytes: c.QuotaBytes, FlushInterval: c.BatchInterval, FlushOps: c.BatchLimit,
		FreelistType: c.FreelistType, UnsafeNoSync: c.UnsafeNoFsync,
		MaxTxnOps: c.MaxTxnOps, MaxRequestBytes: c.MaxRequestBytes,
		CompactionMode: c.CompactionMode, CompactionRetention: c.CompactionRetention,
		CompactionBatch: c.CompactionBatch, CompactionPause: c.CompactionSleep,
		NoStrictReconfigCheck: !c.StrictReconfigCheck, MaxLearners: c.MaxLearners,
		AuthToken: c.AuthToken, BcryptCost: int(c.BcryptCost), AuthTokenTTL: time.Duration(c.AuthTokenTTL) * time.Second,
		CorruptCheckTime: c.CorruptCheckTime, CorruptAlarm: c.AsksForCorruptAlarm(), InitialCorruptCheck: gates["InitialCorruptCheck"],
		CompactHashCheck: gates["CompactHashCheck"], CompactHashCheckTime: c.CompactHashCheckTime,
		LeaseCheckpoint: gates["LeaseCheckpoint"], LeaseCheckpointPersist: gates["LeaseCheckpointPersist"],
		WatchProgressInterval: c.WatchProgress, DowngradeCheckTime: c.DowngradeCheckTime, WarnApply: c.WarnApply,
		EmulateVersion: c.EmulateVersion, PeerTLS: dial, Logger: m.lg,
	}
	if o.ClientTLS, err = sec.dialClients(c); err != nil {
		return o, err
	}
	if c.DefragThresholdMB > 0 {
		return o, fmt.Errorf("--bootstrap-defrag-threshold-megabytes is not served by this build of Theseus: leave it out, space is given back online by `theseus ctl defrag`")
	}
	return o, nil
}

func texts(all []url.URL) []string {
	out := make([]string, len(all))
	for i := range all {
		out[i] = all[i].String()
	}
	return out
}
