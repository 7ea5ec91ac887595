package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/backend"
	"theseus/internal/vfs"
	"theseus/machine"
	"theseus/member"
	"theseus/node"
	"theseus/snap"
	"theseus/version"
	"theseus/wal"
)

// restart opens what an earlier run, of ours or of etcd, left (interop 1.6, 8b.4).
// Everything that can be checked is checked before anything is changed.
func (s *Server) restart() (birth, error) {
	if err := s.checkDB(); err != nil {
		return birth{}, err
	}
	be, err := s.openBackend() // its lock keeps a second server out of the log too
	if err != nil {
		return birth{}, err
	}
	opened := false
	defer func() {
		if !opened {
			_ = be.Close()
		}
	}()
	records, err := wal.Snapshots(s.o.WALDir, s.walOptions())
	if err != nil {
		return birth{}, explainLocked(err, s.o.WALDir)
	}
	if s.snaps, err = s.openSnapDir(); err != nil {
		return birth{}, err
	}
	shot, err := s.chooseSnapshot(records, be)
	if err != nil {
		return birth{}, err
	}
	b, switchIn, err := s.openLog(shot, be)
	if err != nil {
		return birth{}, err
	}
	if switchIn {
		if be, err = s.switchIn(be, shot.Metadata.Index); err != nil {
			return birth{}, err
		}
	}
	opened = true
	if err := s.restore(be, shot); err != nil {
		return birth{}, err
	}
	if err := s.checkOwner(); err != nil {
		return birth{}, err
	}
	if err := s.checkHistory(b.contents.State.Commit); err != nil {
		return birth{}, err
	}
	if err := s.snaps.Clean(); err != nil {
		return birth{}, err
	}
	return s.continueAs(b)
}

// checkDB refuses a log without its database.
func (s *Server) checkDB() error {
	_, err := os.Stat(s.o.dbPath())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("database file (%s) of the backend is missing, though there is a log in %s: put the file back, or remove this member from its cluster and add it again with an empty --data-dir",
			s.o.dbPath(), s.o.WALDir)
	}
	return err
}

// chooseSnapshot returns the newest snapshot that the log and the snap folder, or the
// database alone since 3.6, can vouch for; nil means the log's beginning.
func (s *Server) chooseSnapshot(records []wal.Snapshot, be *backend.Backend) (*raftpb.Snapshot, error) {
	index := consistentIndex(be)
	fromDB := storesMembers(be)
	slices.SortFunc(records, func(a, b wal.Snapshot) int { return compareIDs(b.Index, a.Index) })
	for _, r := range records {
		if r.Index == 0 {
			break
		}
		shot, err := s.snaps.Load(snap.ID{Term: r.Term, Index: r.Index})
		if err == nil {
			return shot, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("failed to read a snapshot file; the next older one is taken", zap.Uint64("snapshot-index", r.Index), zap.Error(err))
		}
		if fromDB && index >= r.Index {
			shot := &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: r.Index, Term: r.Term}}
			if r.ConfState != nil {
				shot.Metadata.ConfState = *r.ConfState
			}
			return shot, nil
		}
	}
	return nil, nil
}

// consistentIndex is the index of the last entry whose effect the database holds.
func consistentIndex(be *backend.Backend) uint64 {
	if v := be.Get(machine.BucketMeta, []byte("consistent_index")); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// storesMembers tells whether the database's own membership is to be trusted: since 3.6.
func storesMembers(be *backend.Backend) bool {
	v, err := version.Parse(string(be.Get(machine.BucketMeta, []byte("storageVersion"))))
	return err == nil && v.AtLeast(version.V3_6)
}

// openLog opens the log from the snapshot on and holds it against the database. It tells
// whether the database of the snapshot still has to take the place of the old one.
func (s *Server) openLog(shot *raftpb.Snapshot, be *backend.Backend) (birth, bool, error) {
	from := wal.Snapshot{}
	if shot != nil {
		from.Index, from.Term = shot.Metadata.Index, shot.Metadata.Term
	}
	index := consistentIndex(be)
	switchIn := index < from.Index
	if switchIn {
		if err := s.checkReceivedDB(index, from.Index); err != nil {
			return birth{}, false, err
		}
	}
	w, contents, err := wal.Open(s.o.WALDir, from, s.walOptions())
	if err != nil {
		return birth{}, false, explainLocked(err, s.o.WALDir)
	}
	s.wal = w
	last := from.Index
	if n := len(contents.Entries); n > 0 {
		last = contents.Entries[n-1].Index
	}
	if index > last {
		return birth{}, false, fmt.Errorf("write-ahead log %s ends at index %d, before index %d of the database %s: entries are missing, nothing was changed; put the newest segments back, or remove this member from its cluster and add it again with an empty --data-dir",
			s.o.WALDir, last, index, s.o.dbPath())
	}
	if s.id, s.clusterID, err = wal.ParseMetadata(contents.Metadata); err != nil {
		return birth{}, false, fmt.Errorf("read metadata of the log %s: %w", s.o.WALDir, err)
	}
	if r := contents.Repaired; r != nil {
		s.log.Warn("repaired the end of the log", zap.String("path", r.File), zap.Int64("offset", r.Offset), zap.String("what", r.What), zap.String("backup", r.Backup))
	}
	return birth{contents: contents, snapshot: shot}, switchIn, nil
}

// checkReceivedDB demands the database of a snapshot that is newer than ours.
func (s *Server) checkReceivedDB(index, want uint64) error {
	_, err := os.Stat(s.snaps.DBPath(want))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("database file (%s index %d) does not match with snapshot (index %d), and database snapshot file %s is not found: it is not the database of this log; nothing was changed",
			s.o.dbPath(), index, want, s.snaps.DBPath(want))
	}
	return err
}

// switchIn finishes what a crash interrupted: the received database becomes ours.
func (s *Server) switchIn(old *backend.Backend, index uint64) (*backend.Backend, error) {
	if err := old.Close(); err != nil {
		return nil, err
	}
	if err := s.o.FS.Rename(s.snaps.DBPath(index), s.o.dbPath()); err != nil {
		return nil, err
	}
	if err := s.o.FS.SyncDir(s.o.snapDir()); err != nil {
		return nil, err
	}
	s.log.Info("recovered database from snapshot", zap.Uint64("snapshot-index", index))
	return s.openBackend()
}

// restore opens the machine over the backend, which belongs to the store from then on.
func (s *Server) restore(be *backend.Backend, shot *raftpb.Snapshot) error {
	var v2 []byte
	var index uint64
	if shot != nil {
		v2, index = shot.Data, shot.Metadata.Index
	}
	st, err := s.newStoreOver(be, v2, index)
	if err != nil {
		_ = be.Close()
		return err
	}
	s.store.Store(st)
	if st.mach.Members().Removed(s.id) {
		return fmt.Errorf("%w: the data directory %s is of no more use to it; add the member again with an empty one", ErrRemoved, s.o.DataDir)
	}
	return nil
}

// continueAs finishes a restart: with what the log holds, as a one-member cluster, or from
// the beginning if the first start ended before anything was written.
func (s *Server) continueAs(b birth) (birth, error) {
	c := b.contents
	index, _ := s.store.Load().mach.Applied()
	if len(c.Entries) == 0 && b.snapshot == nil && index == 0 && c.State.Commit == 0 {
		return s.beginAgain(b)
	}
	if s.o.ForceNewCluster {
		self := member.Member{ID: s.id, PeerURLs: s.o.PeerURLs}
		err := node.ForceNewCluster(s.wal, c, b.snapshot, node.Force{Self: s.id, Applied: index, Context: member.Context(self, false)})
		if err != nil {
			return b, fmt.Errorf("force a new cluster: %w", err)
		}
	}
	s.log.Info("restarting local member", s.idField("cluster-id", s.clusterID), s.idField("local-member-id", s.id), zap.Uint64("commit-index", c.State.Commit))
	return b, nil
}

// beginAgain repeats a first start that left an empty log.
func (s *Server) beginAgain(b birth) (birth, error) {
	local, err := s.initialMembers()
	if err != nil {
		return b, err
	}
	note, err := s.readNote()
	if err != nil {
		return b, err
	}
	if s.o.JoinExisting || note != nil { // a replacement joins, whatever the flags say
		found, err := s.findCluster(local, s.id)
		if err != nil {
			return b, err
		}
		s.joining, s.initial, b.remotes = true, found.members, others(found.members, s.id)
		return b, nil
	}
	var ids []uint64
	for i := range local {
		local[i].ID = member.MemberID(local[i].PeerURLs, s.o.InitialClusterToken, 0)
		ids = append(ids, local[i].ID)
	}
	slices.SortFunc(local, func(x, y member.Member) int { return compareIDs(x.ID, y.ID) })
	if id := member.ClusterID(ids); id != s.clusterID || !slices.Contains(ids, s.id) {
		return b, fmt.Errorf("log %s is empty and was made for member %s of cluster %s, but the flags describe cluster %s: give the flags of the first start, or an empty --data-dir",
			s.o.WALDir, formatID(s.id), formatID(s.clusterID), formatID(id))
	}
	s.initial, b.peers, b.contents = local, raftPeers(local), nil
	return b, nil
}

// openBackend opens the database file.
func (s *Server) openBackend() (*backend.Backend, error) {
	freelist := s.o.FreelistType
	if freelist == "map" {
		freelist = "hashmap"
	}
	return backend.Open(backend.Options{
		Path: s.o.dbPath(), Logger: s.log, FlushInterval: s.o.FlushInterval, FlushOps: s.o.FlushOps,
		FreelistType: freelist, NoSync: s.o.UnsafeNoSync,
		OnFlush: func(took time.Duration) { s.metrics.backendCommit.Observe(took.Seconds()) },
		Fatal:   func(err error) { s.end(fmt.Errorf("database %s: %w", s.o.dbPath(), err)) },
	})
}

// openStore opens the database file and the machine over it.
func (s *Server) openStore(v2 []byte, index uint64) (*store, error) {
	be, err := s.openBackend()
	if err != nil {
		return nil, err
	}
	st, err := s.newStoreOver(be, v2, index)
	if err != nil {
		_ = be.Close()
	}
	return st, err
}

func (s *Server) newStoreOver(be *backend.Backend, v2 []byte, index uint64) (*store, error) {
	var m *machine.Machine
	m, err := machine.Open(machine.Options{
		Backend: be, SelfID: s.id, V2: v2, V2Index: index, ServerVersion: s.version,
		MinLeaseTTL: s.o.minLeaseTTL(), MaxLearners: s.o.MaxLearners, QuotaBytes: s.o.QuotaBytes,
		PersistCheckpoints: s.o.LeaseCheckpointPersist, ValueBudgetBytes: s.o.ValueBudgetBytes,
		StripRanges: func() bool {
			cv, ok := m.Members().Version()
			return ok && cv.Less(version.V3_7)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", s.o.dbPath(), err)
	}
	return newStore(be, m), nil
}

// explainLocked adds what to do when another server has the directory.
func explainLocked(err error, dir string) error {
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("another server uses %s: %w: stop it, or give another --data-dir", dir, err)
	}
	return err
}
