package node

import (
	"go.etcd.io/raft/v3/raftpb"
)

// sending knows which peers are being sent a snapshot. It is used by the raft
// goroutine. As long as one is on its way, and a while after, the entries behind it
// stay in memory, so that its receiver finds them.
type sending struct {
	to    []uint64
	until []uint64 // ticks at which an ended one no longer counts
}

// begin notes a snapshot; false when there are too many.
func (s *sending) begin(id uint64, f *Feeder) bool {
	if len(s.to) >= maxSnapshotsSent {
		return false
	}
	for _, to := range s.to {
		if to == id {
			return false
		}
	}
	s.to = append(s.to, id)
	f.HoldLog(1)
	return true
}

func (s *sending) ended(id, until uint64) {
	for i, to := range s.to {
		if to == id {
			s.to = append(s.to[:i], s.to[i+1:]...)
			s.until = append(s.until, until)
			return
		}
	}
}

func (s *sending) tick(now uint64, f *Feeder) {
	n := 0
	for n < len(s.until) && s.until[n] <= now {
		n++
		f.HoldLog(-1)
	}
	s.until = s.until[n:]
}

// sendSnapshot sends the state to a peer that needs entries which are gone. What raft
// put into the message is replaced by the state at the moment of sending.
func (n *Node) sendSnapshot(m raftpb.Message) {
	if !n.sending.begin(m.To, n.feeder) {
		id := m.To // raft asks again after the peer's next heartbeat
		n.inbox.call(func(c *Core) { c.ReportSnapshot(id, false) })
		return
	}
	n.toKeep.put(keepJob{stream: &m})
}
