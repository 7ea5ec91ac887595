package node

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// check refuses messages of peers that raft would take at face value: it indexes
// into entries that are not there, panics at data that does not decode, and appends
// whatever indexes it is given.
func (c *Core) check(m *raftpb.Message) error {
	switch {
	case m.From == raft.None:
		return fmt.Errorf("%w: %s from nobody", ErrMessage, m.Type)
	case m.To != c.id:
		return fmt.Errorf("%w: %s to %x", ErrMessage, m.Type, m.To)
	case m.Term == 0 && m.Type != raftpb.MsgProp && m.Type != raftpb.MsgReadIndex:
		// raft would take it for a message of its own member, of any term.
		return fmt.Errorf("%w: %s from %x without a term", ErrMessage, m.Type, m.From)
	}
	forwards := m.Type == raftpb.MsgProp || m.Type == raftpb.MsgReadIndex || m.Type == raftpb.MsgTransferLeader
	if m.From == c.id && !forwards { // what this member has forwarded may come back
		return fmt.Errorf("%w: %s from this member itself", ErrMessage, m.Type)
	}
	if err := c.checkType(m); err != nil {
		return fmt.Errorf("%w: %s from %x: %w", ErrMessage, m.Type, m.From, err)
	}
	return nil
}

func (c *Core) checkType(m *raftpb.Message) error {
	switch m.Type {
	case raftpb.MsgProp:
		m.Term = 0 // raft panics when it forwards one with a term
		return checkProposal(m.Entries)
	case raftpb.MsgReadIndex:
		m.Term = 0
		return checkRead(m)
	case raftpb.MsgReadIndexResp:
		return checkRead(m)
	case raftpb.MsgApp:
		return checkAppend(m)
	case raftpb.MsgAppResp:
		if b := c.rn.BasicStatus(); b.RaftState == raft.StateLeader && b.Term == m.Term && !m.Reject && m.Index > c.last {
			return fmt.Errorf("it acknowledges index %d, but the log ends at %d", m.Index, c.last)
		}
		return nil
	case raftpb.MsgSnap:
		return checkSnapshot(m.Snapshot)
	case raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp,
		raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow, raftpb.MsgPreVote, raftpb.MsgPreVoteResp:
		return nil
	}
	return fmt.Errorf("type %d", int32(m.Type))
}

// checkLost finds out that this member's log has lost what it had acknowledged: the
// leader knows better where it ends. Going on could lose it for the whole cluster.
func (c *Core) checkLost(m *raftpb.Message) error {
	if m.Type == raftpb.MsgHeartbeat && m.Commit > c.last && m.Term >= c.rn.BasicStatus().Term {
		return fmt.Errorf("%w: leader %x knows that entry %d was here, but the log ends at %d; remove this member from the cluster "+
			"and add it again with an empty data directory", ErrLogLost, m.From, m.Commit, c.last)
	}
	return nil
}

func checkRead(m *raftpb.Message) error {
	if len(m.Entries) != 1 {
		return fmt.Errorf("%d entries", len(m.Entries))
	}
	return nil
}

func checkProposal(ents []raftpb.Entry) error {
	if len(ents) == 0 {
		return fmt.Errorf("no entries")
	}
	for i := range ents {
		switch e := &ents[i]; e.Type {
		case raftpb.EntryNormal:
		case raftpb.EntryConfChange:
			if err := checkConfChange(e.Data); err != nil {
				return err
			}
		default: // joint changes: every etcd panics when it applies one
			return fmt.Errorf("entry of type %d", int32(e.Type))
		}
	}
	return nil
}

func checkConfChange(data []byte) error {
	var cc raftpb.ConfChange
	if err := cc.Unmarshal(data); err != nil {
		return fmt.Errorf("decode conf change: %w", err)
	}
	if _, ok := raftpb.ConfChangeType_name[int32(cc.Type)]; !ok {
		return fmt.Errorf("conf change of type %d", int32(cc.Type))
	}
	return nil
}

func checkAppend(m *raftpb.Message) error {
	index, term := m.Index, m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		index++
		if e.Index != index || e.Term < term || e.Term > m.Term || e.Term == 0 {
			return fmt.Errorf("entry %d of term %d where index %d of term %d to %d belongs", e.Index, e.Term, index, term, m.Term)
		}
		if e.Type != raftpb.EntryNormal {
			if err := checkProposal(m.Entries[i : i+1]); err != nil {
				return err
			}
		}
		term = e.Term
	}
	return nil
}

func checkSnapshot(s *raftpb.Snapshot) error {
	if s == nil || s.Metadata.Index == 0 || s.Metadata.Term == 0 {
		return fmt.Errorf("no snapshot")
	}
	cs := &s.Metadata.ConfState
	if len(cs.Voters) == 0 || len(cs.VotersOutgoing)+len(cs.LearnersNext) > 0 || cs.AutoLeave {
		return fmt.Errorf("configuration %v", *cs)
	}
	ids := slices.Concat(cs.Voters, cs.Learners)
	slices.Sort(ids)
	if ids[0] == 0 || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		return fmt.Errorf("configuration %v", *cs)
	}
	return nil
}
