package offline

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/backend"
	"theseus/internal/vfs"
	"theseus/member"
	"theseus/snap"
	"theseus/wal"
)

// restoreTerm is the raft term in which the members of a restored cluster were added.
const restoreTerm = 1

// restoring is one restore under way.
type restoring struct {
	*tool
	log   *zap.Logger
	from  string // the snapshot file
	flags restoreFlags
	plan  plan
	place *placement
}

// build makes the member folder and the log. The order does not matter: nobody sees
// them before they are published.
func (r *restoring) build() error {
	snaps, err := snap.Open(vfs.OS, filepath.Join(r.place.memberWork(), "snap"))
	if err != nil {
		return err
	}
	db := filepath.Join(snaps.Path(), "db")
	if err := r.copyDB(db); err != nil {
		return err
	}
	v2, err := r.writeDB(db)
	if err != nil {
		return err
	}
	s := raftpb.Snapshot{Data: v2, Metadata: raftpb.SnapshotMetadata{
		ConfState: r.confState(), Index: uint64(len(r.plan.members)), Term: restoreTerm,
	}}
	if err := snaps.Save(s); err != nil {
		return err
	}
	if err := r.writeWAL(s.Metadata); err != nil {
		return err
	}
	return vfs.OS.SyncDir(r.place.memberWork())
}

// copyDB copies the image without its checksum.
func (r *restoring) copyDB(to string) error {
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = checkHash(r.from, f)
	if wrong := new(hashError); r.flags.skipHash && (errors.Is(err, errNoHash) || errors.As(err, &wrong)) {
		err = nil
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// writeDB puts the new members in the place of the old ones, as applied by the log's
// first entries, and returns the v2 store of the same state. That store names no
// cluster version, as etcdutl's does not, so that an older etcd may begin with it.
func (r *restoring) writeDB(path string) (v2 []byte, err error) {
	b, err := r.openDB(path, false)
	if damaged := new(backend.DamageError); errors.As(err, &damaged) { // its name is that of a copy
		return nil, fmt.Errorf("%s is damaged at offset %d: %s; take another snapshot", r.from, damaged.Offset, damaged.What)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	r.log.Info("Trimming membership information from the backend...")
	b.Begin()
	err = errors.Join(clearBucket(b, member.BucketMembers), clearBucket(b, member.BucketRemoved))
	if err == nil && r.flags.bump > 0 {
		err = r.bumpRevision(b)
	}
	if err == nil {
		v2, err = r.addMembers(b)
	}
	if err == nil {
		err = r.writeMeta(b)
	}
	b.End()
	return v2, errors.Join(err, b.Flush())
}

// clearBucket deletes every key of a bucket.
func clearBucket(b *backend.Backend, bucket backend.Bucket) error {
	if err := b.CreateBuckets(bucket); err != nil {
		return err
	}
	var keys [][]byte
	err := b.Scan(bucket, nil, nil, func(k, _ []byte) bool {
		keys = append(keys, append([]byte(nil), k...))
		return true
	})
	for _, k := range keys {
		b.Delete(bucket, k)
	}
	return err
}

// bumpRevision makes the store begin far above the revisions that clients have seen,
// with all older ones compacted, so that watches from before find out. The mark at
// the new revision is a record without a byte.
func (r *restoring) bumpRevision(b *backend.Backend) error {
	found, err := count(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.from, err)
	}
	to := found.revision + int64(r.flags.bump)
	if to <= found.revision {
		return fmt.Errorf("--bump-revision %d is beyond the largest revision", r.flags.bump)
	}
	r.log.Info("bumping latest revision", zap.Int64("latest-revision", found.revision),
		zap.Uint64("bump-amount", r.flags.bump), zap.Int64("new-latest-revision", to))
	b.Put(bucketKey, revKey(to), nil)
	r.log.Info("marking revision compacted", zap.Int64("revision", to))
	b.Put(bucketMeta, keyScheduled, revKey(to))
	return nil
}

// addMembers applies the plan's members and returns the v2 store.
func (r *restoring) addMembers(b *backend.Backend) ([]byte, error) {
	c, err := member.Open(b, member.Options{Rebuild: true})
	if err != nil {
		return nil, err
	}
	for _, m := range r.plan.members {
		if _, err := c.Apply(addNode(m)); err != nil {
			return nil, err
		}
		value, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		b.Put(member.BucketMembers, strconv.AppendUint(nil, m.ID, 16), value)
		r.log.Info("added member", zap.String("cluster-id", hexID(r.plan.clusterID)), zap.String("local-member-id", "0"),
			zap.String("added-peer-id", hexID(m.ID)), zap.Strings("added-peer-peer-urls", m.PeerURLs),
			zap.Bool("added-peer-is-learner", false))
	}
	return c.SnapshotJSON(), nil
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// addNode is the conf change that adds a member.
func addNode(m member.Member) raftpb.ConfChange {
	return raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: m.ID, Context: member.Context(m, false)}
}

// writeMeta says that the entries that add the members are applied.
func (r *restoring) writeMeta(b *backend.Backend) error {
	cs, err := json.Marshal(r.confState())
	if err != nil {
		return err
	}
	b.Put(bucketMeta, keyIndex, binary.BigEndian.AppendUint64(nil, uint64(len(r.plan.members))))
	b.Put(bucketMeta, keyTerm, binary.BigEndian.AppendUint64(nil, restoreTerm))
	b.Put(bucketMeta, keyConfState, cs)
	return nil
}

func (r *restoring) confState() raftpb.ConfState {
	var cs raftpb.ConfState
	for _, m := range r.plan.members {
		cs.Voters = append(cs.Voters, m.ID)
	}
	return cs
}

// writeWAL makes the log: one entry a member, committed, and the snapshot.
func (r *restoring) writeWAL(at raftpb.SnapshotMetadata) (err error) {
	w, err := wal.Create(r.place.walsWork(), wal.Metadata(r.plan.self.ID, r.plan.clusterID), wal.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var entries []raftpb.Entry
	for i, m := range r.plan.members {
		cc := addNode(m)
		data, err := cc.Marshal()
		if err != nil {
			return err
		}
		entries = append(entries, raftpb.Entry{Type: raftpb.EntryConfChange, Term: restoreTerm, Index: uint64(i + 1), Data: data})
	}
	state := raftpb.HardState{Term: restoreTerm, Vote: r.plan.members[0].ID, Commit: at.Index}
	if err := w.Save(state, entries); err != nil {
		return err
	}
	return w.SaveSnapshot(wal.Snapshot{Index: at.Index, Term: at.Term, ConfState: &at.ConfState})
}
