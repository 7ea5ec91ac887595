package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
	"theseus/snap"
	"theseus/wal"
)

// image is all that the toy state machine holds; as JSON it is also its database.
type image struct {
	Index, Term uint64
	Chain       uint64 // hash over all entries so far
	Conf        raftpb.ConfState
	Removed     []uint64 // ids that may not join again
}

// history is what the whole cluster has agreed on: the hash after each index. The
// first to apply an index decides; whoever differs has broken raft's promise.
type history map[uint64]uint64

// toy is an Applier whose database is durable as of the last Flush.
type toy struct {
	now, durable image
	dir          *snap.Dir
	fs           vfs.FS
	history      history
	onApply      func(e raftpb.Entry) // for acknowledgements
	forceAt      string               // data of the entry that asks for a snapshot
	force        func()
	installs     int
	snapshots    int
}

func (a *toy) Apply(ents []raftpb.Entry, change func(raftpb.ConfChange) raftpb.ConfState) (int, error) {
	for i, e := range ents {
		if e.Type == raftpb.EntryConfChange {
			var cc raftpb.ConfChange
			if err := cc.Unmarshal(e.Data); err != nil {
				return i, err
			}
			if slices.Contains(a.now.Removed, cc.NodeID) {
				cc.NodeID = 0 // refused
			}
			conf := change(cc)
			if e.Index > a.now.Index {
				a.now.Conf = conf
				if cc.Type == raftpb.ConfChangeRemoveNode && cc.NodeID != 0 {
					a.now.Removed = append(slices.Clone(a.now.Removed), cc.NodeID)
				}
			}
		}
		if e.Index <= a.now.Index {
			continue // again after a start
		}
		if e.Index != a.now.Index+1 {
			return i, fmt.Errorf("entry %d after %d", e.Index, a.now.Index)
		}
		h := fnv.New64a()
		fmt.Fprintf(h, "%x %d %d %s", a.now.Chain, e.Term, e.Type, e.Data)
		a.now.Index, a.now.Term, a.now.Chain = e.Index, e.Term, h.Sum64()
		if have, ok := a.history[e.Index]; ok && have != a.now.Chain {
			return i, fmt.Errorf("entry %d of term %d is not what another member has applied", e.Index, e.Term)
		}
		if a.history != nil {
			a.history[e.Index] = a.now.Chain
		}
		if a.onApply != nil {
			a.onApply(e)
		}
		if a.forceAt != "" && string(e.Data) == a.forceAt {
			a.force()
			return i + 1, nil
		}
	}
	return len(ents), nil
}

func (a *toy) ApplySnapshot(s raftpb.Snapshot) error {
	a.installs++
	im, err := readImage(a.fs, a.dir.DBPath(s.Metadata.Index))
	if err != nil {
		return err
	}
	if im.Index != s.Metadata.Index || (a.history != nil && a.history[im.Index] != im.Chain) {
		return fmt.Errorf("the database is of index %d, the snapshot of %d", im.Index, s.Metadata.Index)
	}
	a.now, a.durable = im, im
	return nil
}

func (a *toy) Snapshot(stream bool) (raftpb.Snapshot, io.ReadCloser, int64, error) {
	a.snapshots++
	s := raftpb.Snapshot{Data: []byte("{}"), Metadata: raftpb.SnapshotMetadata{Index: a.now.Index, Term: a.now.Term, ConfState: a.now.Conf}}
	if !stream {
		return s, nil, 0, nil
	}
	a.durable = a.now
	b, err := json.Marshal(a.now)
	return s, io.NopCloser(bytes.NewReader(b)), int64(len(b)), err
}

func (a *toy) Flush() error {
	a.durable = a.now
	return nil
}

func readImage(fs vfs.FS, path string) (im image, err error) {
	f, err := fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return im, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return im, err
	}
	return im, json.Unmarshal(b, &im)
}

// opened is a member's disk, opened as a server does at its start.
type opened struct {
	wal      *wal.WAL
	contents *wal.Contents
	dir      *snap.Dir
	snapshot *raftpb.Snapshot
	durable  image
}

// open opens or makes log and snap folder. durable is what the database holds; one
// that is behind the snapshot is replaced by what was received with it.
func open(fs vfs.FS, durable image) (o opened, err error) {
	o.durable = durable
	wo := wal.Options{FS: fs, SegmentBytes: 16 << 10}
	if err := fs.MkdirAll("/m", 0o700); err != nil {
		return o, err
	}
	if err := fs.SyncDir("/"); err != nil {
		return o, err
	}
	if o.dir, err = snap.Open(fs, "/m/snap"); err != nil {
		return o, err
	}
	if err := fs.SyncDir("/m"); err != nil {
		return o, err
	}
	if err := o.dir.Clean(); err != nil {
		return o, err
	}
	if !wal.Exists(fs, "/m/wal") {
		o.wal, err = wal.Create("/m/wal", []byte("meta"), wo)
		return o, err
	}
	valid, err := wal.Snapshots("/m/wal", wo)
	if err != nil {
		return o, err
	}
	var ids []snap.ID
	var from wal.Snapshot
	for _, s := range valid {
		ids = append(ids, snap.ID{Term: s.Term, Index: s.Index})
	}
	if o.snapshot, err = o.dir.LoadNewest(ids); err != nil {
		o.snapshot = nil // none yet, or only the empty one
	} else {
		from = wal.Snapshot{Index: o.snapshot.Metadata.Index, Term: o.snapshot.Metadata.Term}
	}
	if o.wal, o.contents, err = wal.Open("/m/wal", from, wo); err != nil {
		return o, err
	}
	if durable.Index < from.Index {
		o.durable, err = readImage(fs, o.dir.DBPath(from.Index))
	}
	return o, err
}

func (o *opened) options(id uint64, peers []raft.Peer) Options {
	opt := Options{
		ID: id, WAL: o.wal, Contents: o.contents, Snap: o.dir, Snapshot: o.snapshot, Peers: peers,
		Applied: o.durable.Index, PreVote: true, KeepSnapshots: 2, KeepSegments: 2,
	}
	if o.durable.Index > 0 {
		conf := o.durable.Conf
		opt.ConfState = &conf
	}
	return opt
}

func peersOf(ids ...uint64) []raft.Peer {
	var ps []raft.Peer
	for _, id := range slices.Sorted(slices.Values(ids)) {
		ps = append(ps, raft.Peer{ID: id, Context: []byte(fmt.Sprintf(`{"id":%d}`, id))})
	}
	return ps
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
