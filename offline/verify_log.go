package offline

import (
	"errors"
	"fmt"
	"os"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
	"theseus/snap"
	"theseus/wal"
)

// log reads all segments: the checksums, and which snapshots they know.
func (v *verifier) log() error {
	if !wal.Exists(vfs.OS, v.walDir) {
		v.damaged(v.walDir, "there is no write-ahead log")
		return nil
	}
	var err error
	v.logged, err = wal.Snapshots(v.walDir, wal.Options{})
	return v.found(err)
}

// snaps reads all .snap files and decides from which one the member starts.
func (v *verifier) snaps() error {
	path := snapDir(v.dataDir)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil // said already: the database is missing
	}
	dir, err := snap.Open(vfs.OS, path)
	if err != nil {
		return err
	}
	ids, err := dir.List()
	if err != nil {
		return err
	}
	var good []snap.ID
	for _, id := range ids {
		s, err := dir.Load(id)
		if err != nil {
			if err := v.found(err); err != nil {
				return err
			}
			continue
		}
		if s.Metadata.Index != id.Index || s.Metadata.Term != id.Term {
			v.damaged(fmt.Sprintf("%s/%016x-%016x.snap", path, id.Term, id.Index),
				"it holds the snapshot of term %d and index %d", s.Metadata.Term, s.Metadata.Index)
			continue
		}
		good = append(good, id)
	}
	v.snapshot = newestSnapshot(good, v.logged)
	v.report.Summary.SnapshotIndex = v.snapshot.Index
	return nil
}

// entries reads the log as the next start would.
func (v *verifier) entries() error {
	if !wal.Exists(vfs.OS, v.walDir) {
		return nil
	}
	c, err := wal.Read(v.walDir, v.snapshot, wal.Options{})
	if err != nil {
		return v.found(err)
	}
	v.contents = c
	if r := c.Repaired; r != nil {
		v.add(finding{File: r.File, Offset: r.Offset, What: r.What, Do: doRepair, Harmless: true})
	}
	node, cluster, err := wal.ParseMetadata(c.Metadata)
	if err != nil {
		v.damaged(v.walDir, "the metadata record: %v", err)
		return nil
	}
	v.memberID = node
	s := &v.report.Summary
	s.MemberID, s.ClusterID = hexID(node), hexID(cluster)
	s.CommitIndex, s.LastIndex = c.State.Commit, v.lastIndex()
	if c.State.Commit < v.snapshot.Index {
		v.damaged(v.walDir, "the commit index %d is below that of the snapshot, %d", c.State.Commit, v.snapshot.Index)
	}
	if c.State.Commit > s.LastIndex {
		v.damaged(v.walDir, "the commit index %d is beyond the last entry, %d", c.State.Commit, s.LastIndex)
	}
	v.terms()
	return nil
}

// lastIndex is the index of the last entry, or of the snapshot.
func (v *verifier) lastIndex() uint64 {
	if n := len(v.contents.Entries); n > 0 {
		return v.contents.Entries[n-1].Index
	}
	return v.snapshot.Index
}

// terms checks that terms never fall along the log.
func (v *verifier) terms() {
	last := v.snapshot.Term
	for _, e := range v.contents.Entries {
		if e.Term < last {
			v.damaged(v.walDir, "entry %d is of term %d, the one before it of term %d", e.Index, e.Term, last)
			return
		}
		last = e.Term
		if e.Type != raftpb.EntryNormal {
			continue
		}
		if _, err := entryVersion(e); err != nil {
			v.damaged(v.walDir, "entry %d cannot be decoded: %v", e.Index, err)
			return
		}
	}
	if last > v.contents.State.Term {
		v.damaged(v.walDir, "the last entry is of term %d, the hard state of term %d", last, v.contents.State.Term)
	}
}
