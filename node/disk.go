package node

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/snap"
	"theseus/wal"
)

// Disk makes raft's appends durable: log, hard state, received snapshots. It is used
// by one goroutine. After an error nothing on disk can be relied on.
type Disk struct {
	id  uint64
	wal *wal.WAL
	dir *snap.Dir
	log *Log
	lg  *zap.Logger

	// The batch being gathered.
	ents []raftpb.Entry
	hard raftpb.HardState
}

// NewDisk returns the disk stage. log is the Core's.
func NewDisk(o Options, log *Log) *Disk {
	o.setDefaults()
	return &Disk{id: o.ID, wal: o.WAL, dir: o.Snap, log: log, lg: o.Logger}
}

// Saved is what became possible by a write.
type Saved struct {
	Local []raftpb.Message // for Core.Answer, in order
	Send  []raftpb.Message // to peers: acknowledgements and votes
	// Installed are received snapshots, for Feeder.Install. It must get them after
	// all that Core.Work gave it before, and before the core hears of Local.
	Installed []raftpb.Snapshot
}

func (s *Saved) reset() {
	clear(s.Local)
	clear(s.Send)
	s.Local, s.Send, s.Installed = s.Local[:0], s.Send[:0], nil
}

// Append carries out MsgStorageAppends in order: those that wait together become one
// write and one sync.
func (d *Disk) Append(ms []raftpb.Message, out *Saved) error {
	out.reset()
	for i := range ms {
		m := &ms[i]
		if m.Snapshot != nil {
			if err := d.flush(); err != nil {
				return err
			}
			if err := d.install(m); err != nil {
				return err
			}
			out.Installed = append(out.Installed, *m.Snapshot)
		} else {
			d.gather(m)
		}
	}
	if err := d.flush(); err != nil {
		return err
	}
	for i := range ms {
		d.answer(ms[i].Responses, out)
	}
	return nil
}

// gather adds one message to the batch. Its entries may take the place of earlier
// ones that were not written yet; those need not be.
func (d *Disk) gather(m *raftpb.Message) {
	if len(m.Entries) > 0 {
		if len(d.ents) > 0 {
			if first, have := m.Entries[0].Index, d.ents[0].Index; first <= have {
				d.ents = d.ents[:0]
			} else if keep := first - have; keep < uint64(len(d.ents)) {
				d.ents = d.ents[:keep]
			}
		}
		d.ents = append(d.ents, m.Entries...)
	}
	if hs := hardState(m); !raft.IsEmptyHardState(hs) {
		d.hard = hs
	}
}

func hardState(m *raftpb.Message) raftpb.HardState {
	return raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
}

// flush writes the batch and makes it readable for raft.
func (d *Disk) flush() error {
	if len(d.ents) == 0 && raft.IsEmptyHardState(d.hard) {
		return nil
	}
	if err := d.wal.Save(d.hard, d.ents); err != nil {
		return fmt.Errorf("save to the write-ahead log: %w", err)
	}
	if err := d.log.Append(d.ents); err != nil {
		return fmt.Errorf("append to the log in memory: %w", err)
	}
	clear(d.ents)
	d.ents, d.hard = d.ents[:0], raftpb.HardState{}
	return nil
}

// install makes a received snapshot durable; its database is already. The order is
// that of etcd (interop 2.7): a record in the log never names a .snap that is not
// there, and the snapshot counts only once the hard state with its commit index is
// there too.
func (d *Disk) install(m *raftpb.Message) error {
	s := m.Snapshot
	at := s.Metadata
	d.lg.Info("saving a received snapshot", zap.Uint64("index", at.Index), zap.Uint64("term", at.Term))
	if err := d.dir.Save(*s); err != nil {
		return fmt.Errorf("save received snapshot %d: %w", at.Index, err)
	}
	if err := d.Record(at); err != nil {
		return err
	}
	// The commit index first, by itself: entries torn off behind a snapshot that is
	// not yet committed would read as a gap in the log.
	if err := d.wal.Save(hardState(m), nil); err != nil {
		return fmt.Errorf("save to the write-ahead log: %w", err)
	}
	if err := d.wal.Sync(); err != nil {
		return fmt.Errorf("sync the write-ahead log: %w", err)
	}
	if err := d.wal.Save(raftpb.HardState{}, m.Entries); err != nil {
		return fmt.Errorf("save to the write-ahead log: %w", err)
	}
	d.log.Install(at)
	return d.log.Append(m.Entries)
}

// Record writes that the snapshot's .snap is durable.
func (d *Disk) Record(at raftpb.SnapshotMetadata) error {
	cs := at.ConfState
	if err := d.wal.SaveSnapshot(wal.Snapshot{Index: at.Index, Term: at.Term, ConfState: &cs}); err != nil {
		return fmt.Errorf("record snapshot %d in the write-ahead log: %w", at.Index, err)
	}
	return nil
}

// answer sorts the responses. An acknowledgement speaks for all earlier ones to the
// same leader.
func (d *Disk) answer(ms []raftpb.Message, out *Saved) {
	for _, m := range ms {
		if m.To == d.id {
			out.Local = append(out.Local, m)
			continue
		}
		if n := len(out.Send); n > 0 && m.Type == raftpb.MsgAppResp && !m.Reject {
			if p := &out.Send[n-1]; p.Type == m.Type && !p.Reject && p.To == m.To && p.Term == m.Term && p.Index <= m.Index {
				*p = m
				continue
			}
		}
		out.Send = append(out.Send, m)
	}
}
