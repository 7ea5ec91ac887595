package node

import (
	"fmt"
	"io"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Feeder feeds committed entries to the Applier, takes snapshots when they are due,
// and lets go of old entries in memory. It is used by one goroutine; ForceSnapshot,
// Applied and HoldLog may be called by any.
type Feeder struct {
	applier Applier
	log     *Log
	lg      *zap.Logger

	snapshotCount, catchUp uint64

	applied atomic.Uint64
	term    uint64 // of the entry at applied
	conf    raftpb.ConfState
	taken   uint64 // index of the last disk snapshot that was asked for
	force   atomic.Bool
	held    atomic.Int32 // snapshots on their way to peers, which need the log behind them
}

// NewFeeder returns the apply stage. log is the Core's.
func NewFeeder(o Options, log *Log) *Feeder {
	o.setDefaults()
	f := &Feeder{
		applier: o.Applier, log: log, lg: o.Logger,
		snapshotCount: o.SnapshotCount, catchUp: o.CatchUpEntries,
	}
	if o.Snapshot != nil {
		f.taken = o.Snapshot.Metadata.Index
		f.conf = o.Snapshot.Metadata.ConfState
	}
	f.applied.Store(max(f.taken, o.Applied))
	if o.ConfState != nil {
		f.conf = *o.ConfState
	}
	f.term, _ = log.Term(f.Applied())
	return f
}

// Applied is the index that the Applier has run.
func (f *Feeder) Applied() uint64 { return f.applied.Load() }

// ForceSnapshot makes a disk snapshot due.
func (f *Feeder) ForceSnapshot() { f.force.Store(true) }

// HoldLog keeps (n > 0) entries in memory, or no longer (n < 0).
func (f *Feeder) HoldLog(n int32) { f.held.Add(n) }

// Fed is what the apply of a batch brought about.
type Fed struct {
	Local []raftpb.Message // for Core.Answer, in order
	// Snapshots are to be saved: Applier.Flush, then the .snap, then Disk.Record.
	Snapshots []raftpb.Snapshot
}

// Apply runs MsgStorageApplys in order; those that wait together go to the Applier
// as one. change is Core.ApplyConfChange, on the core's goroutine.
func (f *Feeder) Apply(ms []raftpb.Message, change func(raftpb.ConfChange) raftpb.ConfState, out *Fed) error {
	clear(out.Local)
	out.Local, out.Snapshots = out.Local[:0], nil
	ents := ms[0].Entries
	for i := range ms {
		out.Local = append(out.Local, ms[i].Responses...)
		if i > 0 {
			ents = append(ents[:len(ents):len(ents)], ms[i].Entries...)
		}
	}
	changed := func(cc raftpb.ConfChange) raftpb.ConfState {
		f.conf = change(cc)
		return f.conf
	}
	for len(ents) > 0 {
		n, err := f.applier.Apply(ents, changed)
		if err != nil {
			return fmt.Errorf("apply entries %d to %d: %w", ents[0].Index, ents[len(ents)-1].Index, err)
		}
		if n < 1 || n > len(ents) {
			return fmt.Errorf("apply entries %d to %d: %d of them were applied", ents[0].Index, ents[len(ents)-1].Index, n)
		}
		last := ents[n-1]
		ents = ents[n:]
		if last.Index < f.Applied() {
			continue // it was applied in an earlier life, and came again after a start
		}
		f.term = last.Term
		f.applied.Store(last.Index)
		if err := f.takeSnapshot(out); err != nil {
			return err
		}
	}
	return f.compact()
}

// Idle takes the snapshot that was forced while nothing was to be applied.
func (f *Feeder) Idle(out *Fed) error {
	clear(out.Local)
	out.Local, out.Snapshots = out.Local[:0], nil
	return f.takeSnapshot(out)
}

// Install replaces the state by a received snapshot that is durable.
func (f *Feeder) Install(s raftpb.Snapshot) error {
	if at := s.Metadata.Index; at <= f.applied.Load() {
		return fmt.Errorf("apply received snapshot %d: the applied index is %d already", at, f.applied.Load())
	}
	if err := f.applier.ApplySnapshot(s); err != nil {
		return fmt.Errorf("apply received snapshot %d: %w", s.Metadata.Index, err)
	}
	f.conf = s.Metadata.ConfState
	f.taken, f.term = s.Metadata.Index, s.Metadata.Term
	f.applied.Store(s.Metadata.Index)
	f.lg.Info("applied a received snapshot", zap.Uint64("index", s.Metadata.Index))
	return nil
}

// Stream completes a MsgSnap with the state as of now and opens the database. An
// error is not fatal: the peer asks again.
func (f *Feeder) Stream(m raftpb.Message) (raftpb.Message, io.ReadCloser, int64, error) {
	s, db, size, err := f.applier.Snapshot(true)
	if err != nil {
		return m, nil, 0, fmt.Errorf("open a snapshot at %d: %w", f.Applied(), err)
	}
	if err := f.complete(&s); err != nil {
		db.Close()
		return m, nil, 0, err
	}
	m.Snapshot = &s
	return m, db, size, nil
}

// complete fills in what the Applier may leave to us.
func (f *Feeder) complete(s *raftpb.Snapshot) error {
	at := &s.Metadata
	if at.Index == 0 {
		at.Index = f.Applied()
	}
	if at.Index != f.Applied() {
		return fmt.Errorf("the snapshot is as of index %d, but %d is applied", at.Index, f.Applied())
	}
	if at.Term == 0 {
		at.Term = f.term
	}
	if len(at.ConfState.Voters) == 0 {
		at.ConfState = f.conf
	}
	return nil
}

// takeSnapshot describes the state as of now, if a disk snapshot is due.
func (f *Feeder) takeSnapshot(out *Fed) error {
	applied := f.Applied()
	due := applied > f.taken+f.snapshotCount
	if f.force.Load() {
		f.force.Store(false)
		due = applied != f.taken
	}
	if !due || len(f.conf.Voters) == 0 {
		return nil
	}
	s, _, _, err := f.applier.Snapshot(false)
	if err != nil {
		return fmt.Errorf("describe the state at %d: %w", applied, err)
	}
	if err := f.complete(&s); err != nil {
		return err
	}
	f.taken = applied
	out.Snapshots = append(out.Snapshots, s)
	return nil
}

// compact lets go of entries that no follower should need. It goes in steps, since
// each one copies what stays.
func (f *Feeder) compact() error {
	applied := f.Applied()
	first, err := f.log.FirstIndex()
	if err != nil {
		return err
	}
	held := applied + 1 - min(first, applied+1)
	over := f.log.Bytes() > maxLogBytes
	if len(f.conf.Voters) == 0 || !over && held < f.catchUp+max(1, f.catchUp/compactShare) {
		return nil
	}
	if f.held.Load() > 0 && held < maxHeldEntries && f.log.Bytes() < 2*maxLogBytes {
		return nil
	}
	upTo := applied - min(applied, f.catchUp)
	if over {
		upTo = max(upTo, f.log.cutFor(maxLogBytes/2, applied))
	}
	// raft announces a snapshot of this index to those who need older entries; what
	// they get is as of the moment it is sent.
	return f.log.Compact(applied, f.conf, upTo)
}
