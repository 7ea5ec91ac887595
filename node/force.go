package node

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/wal"
)

// Force are the arguments of ForceNewCluster.
type Force struct {
	Self uint64
	// Applied is the database's consistent index: what was applied was committed,
	// also when the log does not say so.
	Applied uint64
	// Context is the JSON of this member, used if it is no voter.
	Context []byte
}

// ForceNewCluster makes a cluster of one member out of what the log held (interop
// 8b.5): entries that are not known to be committed are dropped, every other
// member is removed by entries at the end, and these are saved as committed. c is
// changed accordingly, ready for New.
func ForceNewCluster(w *wal.WAL, c *wal.Contents, s *raftpb.Snapshot, f Force) error {
	var from raftpb.SnapshotMetadata
	if s != nil {
		from = s.Metadata
	}
	commit := max(c.State.Commit, f.Applied, from.Index)
	if last := from.Index + uint64(len(c.Entries)); commit > last {
		return fmt.Errorf("the log ends at index %d, but %d is committed", last, commit)
	}
	c.Entries = c.Entries[:commit-from.Index]
	voters, all, err := membersOf(from.ConfState, c.Entries)
	if err != nil {
		return err
	}
	changes := forced(f, voters, all)
	added := make([]raftpb.Entry, 0, len(changes))
	for _, cc := range changes {
		data, err := cc.Marshal()
		if err != nil {
			return fmt.Errorf("encode conf change: %w", err)
		}
		commit++
		added = append(added, raftpb.Entry{Type: raftpb.EntryConfChange, Term: c.State.Term, Index: commit, Data: data})
	}
	c.State.Commit = commit
	if err := w.Save(c.State, added); err != nil {
		return fmt.Errorf("save to the write-ahead log: %w", err)
	}
	c.Entries = append(c.Entries, added...)
	return nil
}

// forced are the changes that leave only this member: it joins first if need be, since
// a configuration without voters is none.
func forced(f Force, voters, all map[uint64]bool) []raftpb.ConfChange {
	var out []raftpb.ConfChange
	if !voters[f.Self] {
		out = append(out, raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: f.Self, Context: f.Context})
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if id != f.Self {
			out = append(out, raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: id})
		}
	}
	return out
}

// membersOf collects who is in the cluster after the entries: voters, and all with
// learners.
func membersOf(cs raftpb.ConfState, ents []raftpb.Entry) (voters, all map[uint64]bool, err error) {
	voters, all = map[uint64]bool{}, map[uint64]bool{}
	for _, id := range cs.Voters {
		voters[id], all[id] = true, true
	}
	for _, id := range cs.Learners {
		all[id] = true
	}
	for i := range ents {
		if ents[i].Type != raftpb.EntryConfChange {
			continue
		}
		var cc raftpb.ConfChange
		if err := cc.Unmarshal(ents[i].Data); err != nil {
			return nil, nil, fmt.Errorf("decode the conf change at index %d: %w", ents[i].Index, err)
		}
		switch cc.Type {
		case raftpb.ConfChangeAddNode:
			voters[cc.NodeID], all[cc.NodeID] = true, true
		case raftpb.ConfChangeAddLearnerNode:
			delete(voters, cc.NodeID)
			all[cc.NodeID] = true
		case raftpb.ConfChangeRemoveNode:
			delete(voters, cc.NodeID)
			delete(all, cc.NodeID)
		}
	}
	return voters, all, nil
}
