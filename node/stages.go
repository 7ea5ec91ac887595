package node

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// errEnding is what waits for the disk gets when the node ends first.
var errEnding = errors.New("the node is ending")

// diskJob is an append, or the record of a saved snapshot.
type diskJob struct {
	msg    raftpb.Message
	record *raftpb.SnapshotMetadata
	done   chan<- error // of the record, with room for one
}

// diskLoop is the goroutine of the log. After an error it only empties its queue:
// nothing may be acknowledged any more.
func (n *Node) diskLoop() {
	var batch diskBatch
	broken := false
	for {
		jobs := n.toDisk.take()
		if len(jobs) == 0 {
			return
		}
		for len(jobs) > 0 {
			if broken {
				refuse(jobs)
				break
			}
			var err error
			if jobs, err = n.diskStep(jobs, &batch); err != nil {
				broken = true
				n.fail(err)
			}
		}
	}
}

// diskBatch is scratch of the disk goroutine.
type diskBatch struct {
	msgs  []raftpb.Message
	saved Saved
}

// diskStep carries out the appends up to the next record as one batch, or one record,
// and returns the jobs that are left.
func (n *Node) diskStep(jobs []diskJob, b *diskBatch) ([]diskJob, error) {
	if at := jobs[0].record; at != nil {
		err := n.disk.Record(*at)
		jobs[0].done <- err
		return jobs[1:], err
	}
	clear(b.msgs)
	b.msgs = b.msgs[:0]
	for len(jobs) > 0 && jobs[0].record == nil {
		b.msgs = append(b.msgs, jobs[0].msg)
		jobs = jobs[1:]
	}
	if err := n.disk.Append(b.msgs, &b.saved); err != nil {
		return jobs, err
	}
	for i := range b.saved.Installed {
		s := b.saved.Installed[i]
		n.toFeed.put(feedJob{install: &s})
		n.toKeep.put(keepJob{release: s.Metadata.Index})
	}
	if len(b.saved.Send) > 0 {
		n.o.Transport.Send(b.saved.Send)
	}
	if !n.o.WAL.Prepared() && n.preparing.CompareAndSwap(false, true) {
		n.toKeep.put(keepJob{prepare: true})
	}
	if len(jobs) == 0 {
		// The disk is free, as far as the raft goroutine is concerned, before it hears
		// of the answers: the proposals that it holds leave in the same round.
		n.toDisk.done()
	}
	held := n.gated.Swap(false)
	if len(b.saved.Local) > 0 {
		n.inbox.local(b.saved.Local)
	} else if held {
		n.inbox.signal()
	}
	return jobs, nil
}

func refuse(jobs []diskJob) {
	for _, j := range jobs {
		if j.done != nil {
			j.done <- errEnding
		}
	}
}

// feedJob is an apply, a received snapshot, a snapshot to send, or (nothing set) a
// look whether a forced snapshot is due.
type feedJob struct {
	msg     raftpb.Message
	install *raftpb.Snapshot
	stream  *raftpb.Message
}

func (j *feedJob) applies() bool {
	return j.install == nil && j.stream == nil && len(j.msg.Entries) > 0
}

// feedLoop is the apply goroutine.
func (n *Node) feedLoop() {
	var msgs []raftpb.Message
	var fed Fed
	for {
		jobs := n.toFeed.take()
		if len(jobs) == 0 {
			return
		}
		for len(jobs) > 0 {
			clear(msgs)
			msgs = msgs[:0]
			for len(jobs) > 0 && jobs[0].applies() {
				msgs = append(msgs, jobs[0].msg)
				jobs = jobs[1:]
			}
			var err error
			if len(msgs) > 0 {
				err = n.feeder.Apply(msgs, n.applyConfChange, &fed)
			} else {
				err = n.feedOther(&jobs[0], &fed)
				jobs = jobs[1:]
			}
			if err != nil {
				n.fail(err)
				return // what was acknowledged is in the log and comes again
			}
			n.afterFeed(&fed)
		}
	}
}

func (n *Node) feedOther(j *feedJob, fed *Fed) error {
	switch {
	case j.install != nil:
		return n.feeder.Install(*j.install)
	case j.stream != nil:
		n.stream(*j.stream)
		return nil
	}
	return n.feeder.Idle(fed)
}

func (n *Node) afterFeed(fed *Fed) {
	for i := range fed.Snapshots {
		s := fed.Snapshots[i]
		n.toKeep.put(keepJob{save: &s})
	}
	fed.Snapshots = nil
	if len(fed.Local) > 0 {
		n.inbox.local(fed.Local)
		clear(fed.Local)
		fed.Local = fed.Local[:0]
	}
}

// applyConfChange brings a conf change into force from the apply goroutine.
func (n *Node) applyConfChange(cc raftpb.ConfChange) raftpb.ConfState {
	ch := make(chan raftpb.ConfState, 1)
	n.inbox.call(func(c *Core) { ch <- c.ApplyConfChange(cc) })
	return <-ch
}

// stream opens a snapshot for a peer and hands it to the transport.
func (n *Node) stream(m raftpb.Message) {
	m, db, size, err := n.feeder.Stream(m)
	if err != nil {
		n.o.Logger.Warn("cannot send a snapshot", zap.String("to", fmt.Sprintf("%x", m.To)), zap.Error(err))
		n.ReportSnapshot(m.To, false)
		return
	}
	n.o.Transport.SendSnapshot(m, db, size)
}

// keepJob is a snapshot to save, a snapshot to send, a segment to prepare, or the
// index of a received snapshot, which made older files superfluous.
type keepJob struct {
	save    *raftpb.Snapshot
	stream  *raftpb.Message
	prepare bool
	release uint64
}

// keepLoop is the keeper's goroutine.
func (n *Node) keepLoop() {
	for {
		jobs := n.toKeep.take()
		if len(jobs) == 0 {
			return
		}
		for i := range jobs {
			if err := n.keep(&jobs[i]); err != nil {
				if !errors.Is(err, errEnding) {
					n.fail(err)
				}
				return
			}
		}
	}
}

func (n *Node) keep(j *keepJob) error {
	switch {
	case j.save != nil:
		return n.saveSnapshot(j.save)
	case j.stream != nil:
		// Most of what the database has not written yet goes out here, so that the apply
		// goroutine has little left to write when it opens the image.
		if err := n.o.Applier.Flush(); err != nil {
			return fmt.Errorf("flush the database: %w", err)
		}
		n.toFeed.put(feedJob{stream: j.stream})
	case j.prepare:
		if err := n.o.WAL.Prepare(); err != nil {
			return fmt.Errorf("prepare a segment of the write-ahead log: %w", err)
		}
		n.preparing.Store(false)
	default:
		n.onDisk.Store(max(n.onDisk.Load(), j.release))
		n.release(j.release)
	}
	return nil
}

// saveSnapshot makes a snapshot of our own durable: the database first, so that it is
// never behind the .snap, then the .snap, then its record in the log.
func (n *Node) saveSnapshot(s *raftpb.Snapshot) error {
	at := s.Metadata
	if at.Index <= n.onDisk.Load() {
		return nil // a received one has overtaken it
	}
	if err := n.o.Applier.Flush(); err != nil {
		return fmt.Errorf("flush the database: %w", err)
	}
	if err := n.o.Snap.Save(*s); err != nil {
		return fmt.Errorf("save snapshot %d: %w", at.Index, err)
	}
	done := make(chan error, 1)
	n.toDisk.put(diskJob{record: &at, done: done})
	if err := <-done; err != nil {
		return err
	}
	n.onDisk.Store(at.Index)
	n.o.Logger.Info("saved snapshot", zap.Uint64("snapshot-index", at.Index))
	n.release(at.Index)
	return nil
}

// release gives up files that a durable snapshot has made superfluous. What cannot
// be removed now can be removed next time.
func (n *Node) release(index uint64) {
	err := n.o.WAL.ReleaseTo(index)
	if err == nil {
		_, err = n.o.WAL.Purge(n.o.KeepSegments)
	}
	if err == nil {
		err = n.o.Snap.ReleaseDBs(index)
	}
	if err == nil {
		_, err = n.o.Snap.Purge(n.o.KeepSnapshots)
	}
	if err != nil {
		n.o.Logger.Warn("cannot remove old files", zap.Error(err))
	}
}
