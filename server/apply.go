package server

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/machine"
	"theseus/member"
	"theseus/mvcc"
)

// applier is the server as the raft loop sees it: node.Applier. Its methods but Flush
// run on the apply goroutine; the writer lock lets bounded pieces of other work
// (compaction, storage migration) in between batches.
type applier struct {
	s *Server

	// Scratch of the apply goroutine.
	results []machine.Result
	events  []mvcc.Event
}

// Apply runs committed entries as one unit of the backend, then tells everybody who
// wants to know: watchers, the proposers that wait, readers.
func (a *applier) Apply(ents []raftpb.Entry, change func(raftpb.ConfChange) raftpb.ConfState) (int, error) {
	s := a.s
	ents = s.valve.pass(ents)
	defer s.valve.leave()
	st := s.store.Load()
	s.writer.Lock()
	st.mach.Begin()
	n, err := a.run(st.mach, ents, change)
	st.mach.End()
	s.writer.Unlock()
	if n > 0 {
		a.publish(ents[n-1].Index)
	}
	clear(a.results)
	clear(a.events)
	a.results, a.events = a.results[:0], a.events[:0]
	return n, err
}

// run applies entries until one asks for a snapshot at its index, or cannot be applied.
func (a *applier) run(m *machine.Machine, ents []raftpb.Entry, change func(raftpb.ConfChange) raftpb.ConfState) (int, error) {
	before := time.Now()
	for i := range ents {
		res := m.Apply(ents[i], a.s.mine(&ents[i]))
		if res.Fatal != nil {
			return i, fmt.Errorf("apply entry %d of term %d: %w", ents[i].Index, ents[i].Term, res.Fatal)
		}
		stop := false
		for _, e := range res.Effects {
			switch e := e.(type) {
			case machine.ConfChange:
				m.SetConfState(change(e.Change))
			case machine.ForceSnapshot:
				stop = true
			}
		}
		a.results = append(a.results, res)
		after := time.Now()
		a.s.observeApply(&ents[i], &a.results[len(a.results)-1], after.Sub(before))
		before = after
		if stop {
			a.s.log.Info("Cluster version downgrade detected, forcing snapshot", zap.Uint64("applied-index", ents[i].Index))
			a.s.lowered.Store(ents[i].Index)
			a.s.node.ForceSnapshot()
			return i + 1, nil
		}
	}
	return len(ents), nil
}

// publish makes a finished batch known. Watchers come first: they only queue.
func (a *applier) publish(index uint64) {
	s := a.s
	for i := range a.results {
		a.events = append(a.events, a.results[i].Events...)
	}
	if n := len(a.events); n > 0 {
		s.hub.Notify(slices.Clone(a.events), a.events[n-1].Rev.Main)
		s.metrics.count(a.events)
	}
	for i := range a.results {
		for _, e := range a.results[i].Effects {
			s.effect(e)
		}
	}
	s.applied.Advance(index)
	now := time.Now()
	b := s.bursts.begin()
	for i := range a.results {
		res := &a.results[i]
		if res.ID == 0 {
			continue
		}
		if x, ok := s.takeMine(res.ID); ok {
			x.w.Done(Outcome{Resp: res.Resp, Err: res.Err})
			s.metrics.requested(x.field, res.Err == nil, now.Sub(x.since))
		}
	}
	b.end()
	s.reads.appliedTo(index)
}

// mine reports whether this member proposed the entry and somebody waits for it.
func (s *Server) mine(e *raftpb.Entry) bool {
	id := requestID(e)
	return id != 0 && s.ids.ours(id) && s.pending.has(id)
}

func (s *Server) takeMine(id uint64) (waiting, bool) {
	if !s.ids.ours(id) {
		return waiting{}, false
	}
	return s.pending.take(id)
}

// Flush makes everything applied durable in the database.
func (a *applier) Flush() error {
	st, err := a.s.acquire()
	if err != nil {
		return err
	}
	defer st.release()
	return st.be.Flush()
}

// Snapshot describes the state as of the applied index.
func (a *applier) Snapshot(stream bool) (raftpb.Snapshot, io.ReadCloser, int64, error) {
	s := a.s
	if err := s.fenceError(); err != nil && stream {
		return raftpb.Snapshot{}, nil, 0, err // nobody shall have our data
	}
	st, err := s.acquire()
	if err != nil {
		return raftpb.Snapshot{}, nil, 0, err
	}
	defer st.release()
	s.writer.Lock()
	defer s.writer.Unlock()
	index, term := st.mach.Applied()
	cs, ok := st.mach.ConfState()
	if !ok {
		cs = confStateOf(st.mach.Members().Members())
	}
	shot := raftpb.Snapshot{
		Data:     st.mach.SnapshotData(),
		Metadata: raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: cs},
	}
	if !stream {
		return shot, nil, 0, nil
	}
	image, err := st.be.Snapshot()
	if err != nil {
		return raftpb.Snapshot{}, nil, 0, err
	}
	return shot, s.stream(image, func() {}), image.Size(), nil
}

// ApplySnapshot replaces the state by what the leader sent (interop 3.8): its database
// has been received as a .snap.db, its raft part is durable.
func (a *applier) ApplySnapshot(shot raftpb.Snapshot) error {
	s := a.s
	s.valve.passAll()
	defer s.valve.leave()
	s.metrics.applyingSnapshot.Inc()
	defer s.metrics.applyingSnapshot.Dec()
	index := shot.Metadata.Index
	s.log.Info("applying snapshot", zap.Uint64("current-applied-index", s.applied.Current()), zap.Uint64("incoming-leader-snapshot-index", index), zap.Uint64("incoming-leader-snapshot-term", shot.Metadata.Term))
	if index <= s.applied.Current() {
		return fmt.Errorf("apply snapshot of index %d: index %d is applied already", index, s.applied.Current())
	}
	before := s.members().Members()
	if err := s.switchStore(shot); err != nil {
		return fmt.Errorf("apply snapshot of index %d: %w", index, err)
	}
	st := s.store.Load()
	s.hub.Restore(st.mach.KV())
	s.tokens.simple.DropAll() // who got one meanwhile is not told by a snapshot
	s.followMembers(before, st.mach.Members())
	s.compaction.kick()
	s.versions.kick()
	s.applied.Advance(index)
	s.reads.appliedTo(index)
	s.log.Info("applied snapshot", zap.Uint64("current-applied-index", index))
	return nil
}

// followMembers tells the transport how the membership differs after a snapshot. What
// stays the same keeps its connections.
func (s *Server) followMembers(before []member.Member, now *member.Cluster) {
	for _, m := range before {
		if _, ok := now.Member(m.ID); !ok && m.ID != s.id {
			s.transport.RemovePeer(m.ID)
		}
	}
	for _, m := range now.Members() {
		i := slices.IndexFunc(before, func(x member.Member) bool { return x.ID == m.ID })
		switch {
		case m.ID == s.id:
		case i < 0:
			s.transport.AddPeer(m.ID, m.PeerURLs)
		case !slices.Equal(before[i].PeerURLs, m.PeerURLs):
			s.transport.UpdatePeer(m.ID, m.PeerURLs)
		}
	}
}

// switchStore puts the received database in the place of ours.
func (s *Server) switchStore(shot raftpb.Snapshot) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	old := s.store.Load()
	received := s.snaps.DBPath(shot.Metadata.Index)
	if _, err := os.Stat(received); err != nil {
		return fmt.Errorf("database of the snapshot is missing: %w", err)
	}
	// The old file loses its name but lives until its last reader lets go; nothing of
	// it is needed any more, so it need not be flushed. A crash between here and the
	// rename is healed at the next start, which finds the .snap.db again.
	if err := s.o.FS.Rename(received, s.o.dbPath()); err != nil {
		return err
	}
	if err := s.o.FS.SyncDir(s.o.snapDir()); err != nil {
		return err
	}
	st, err := s.openStore(shot.Data, shot.Metadata.Index)
	if err != nil {
		return err
	}
	st.mach.SetConfState(shot.Metadata.ConfState)
	s.store.Store(st)
	s.log.Info("restored database from snapshot")
	s.tasks.Go(func() {
		old.release()
		if err := <-old.closed; err != nil {
			s.log.Warn("failed to close the replaced database", zap.Error(err))
		}
	})
	return nil
}
