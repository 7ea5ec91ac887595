package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Node is one member's raft with its goroutines: one each for raft, for the log, for
// the state machine, and one, the keeper, for what may take long and holds nobody up.
type Node struct {
	o      Options
	core   *Core
	disk   *Disk
	feeder *Feeder

	inbox     *inbox
	toDisk    *queue[diskJob]
	toFeed    *queue[feedJob]
	toKeep    *queue[keepJob]
	gated     atomic.Bool // the raft goroutine holds proposals until the disk is free
	preparing atomic.Bool // a segment is to be prepared
	status    atomic.Pointer[Status]
	commit    atomic.Uint64
	onDisk    atomic.Uint64 // index of the newest snapshot on disk
	sending   sending

	ended    chan struct{} // closed when Run returns
	failOnce sync.Once
	failure  error
	cancel   context.CancelFunc
}

// New restores raft from what the log held. Nothing runs before Run.
func New(o Options) (*Node, error) {
	o.setDefaults()
	core, log, err := NewCore(o)
	if err != nil {
		return nil, err
	}
	n := &Node{
		o: o, core: core, disk: NewDisk(o, log), feeder: NewFeeder(o, log),
		ended: make(chan struct{}),
		inbox: newInbox(), toDisk: newQueue[diskJob](), toFeed: newQueue[feedJob](), toKeep: newQueue[keepJob](),
	}
	if o.Snapshot != nil {
		n.onDisk.Store(o.Snapshot.Metadata.Index)
	}
	n.publish()
	return n, nil
}

// Run works until ctx ends or storage fails, and returns when all goroutines of the
// node have ended: nil after ctx's end, else the error that Fatal was told.
func (n *Node) Run(ctx context.Context) error {
	ctx, n.cancel = context.WithCancel(ctx)
	defer n.cancel()
	defer close(n.ended)
	var feed, keep, disk sync.WaitGroup
	feed.Go(n.feedLoop)
	keep.Go(n.keepLoop)
	disk.Go(n.diskLoop)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		n.inbox.close()
		// The keeper waits for the disk and the feeder for raft, so they end in this
		// order, and raft last.
		n.toFeed.close(true)
		feed.Wait()
		n.toKeep.close(true)
		keep.Wait()
		n.toDisk.close(false)
		disk.Wait()
	}()
	n.raftLoop(ended)
	return n.failure
}

// fail ends the node: storage or state machine can no longer be trusted.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.failure = err
		n.o.Logger.Error("the member cannot go on", zap.Error(err))
		n.o.Fatal(err)
	})
	n.cancel()
}

// raftLoop is the raft goroutine: it takes everything that waits, steps it, and
// hands out what comes of it.
func (n *Node) raftLoop(ended <-chan struct{}) {
	ticker := time.NewTicker(n.o.Tick)
	defer ticker.Stop()
	last := time.Now()
	var work Work
	n.round(&work)
	for {
		select {
		case <-n.inbox.wake:
		case now := <-ticker.C:
			n.tick(now.Sub(last))
			last = now
		case <-ended:
			return
		}
		n.round(&work)
	}
}

func (n *Node) tick(since time.Duration) {
	if dropped := n.core.Tick(); len(dropped) > 0 && n.o.OnDropped != nil {
		n.o.OnDropped(dropped)
	}
	n.sending.tick(n.core.tick, n.feeder)
	if late := since - 2*n.o.Tick; late > 0 && n.o.OnSlowHeartbeat != nil && n.core.Status().RaftState == raft.StateLeader {
		n.o.OnSlowHeartbeat(late)
	}
}

// round is one turn of the raft goroutine. Answers of the other stages go first, so
// that the commit index they bring leaves together with the new entries.
func (n *Node) round(work *Work) {
	in := n.inbox.take(n.core.Waiting())
	for _, fn := range in.calls {
		fn(n.core)
	}
	for _, m := range in.local {
		n.heard(n.core.Answer(m))
	}
	for _, m := range in.msgs {
		n.heard(n.core.Step(m))
	}
	for _, id := range in.unreachable {
		n.core.ReportUnreachable(id)
	}
	for _, rctx := range in.reads {
		n.core.ReadIndex(rctx)
	}
	for _, e := range in.props {
		n.core.Propose(e)
	}
	n.flush()
	n.core.Work(work)
	n.dispatch(work)
}

func (n *Node) heard(err error) {
	switch {
	case errors.Is(err, ErrLogLost):
		n.fail(err)
	case err != nil:
		n.o.Logger.Warn("dropped a message", zap.Error(err))
	}
}

// flush proposes what waits. A leader waits for its disk: what comes in meanwhile
// becomes one batch, one write, one sync and one message to each peer. Nothing else
// waits for the disk here.
func (n *Node) flush() {
	if waiting, _ := n.core.Waiting(); waiting == 0 {
		return
	}
	if n.core.Status().RaftState == raft.StateLeader && n.toDisk.busy() {
		n.gated.Store(true)
		if n.toDisk.busy() {
			return
		}
		n.gated.Store(false) // it became free in between and may not have seen the flag
	}
	n.core.Flush()
}

// dispatch hands out work; nothing of it blocks.
func (n *Node) dispatch(w *Work) {
	if len(w.Send) > 0 {
		n.o.Transport.Send(w.Send)
	}
	for _, m := range w.Append {
		n.toDisk.put(diskJob{msg: m})
	}
	for _, m := range w.Apply {
		n.toFeed.put(feedJob{msg: m})
	}
	for i := range w.Snaps {
		n.sendSnapshot(w.Snaps[i])
	}
	n.publish()
	if w.Changed && n.o.OnLeader != nil {
		n.o.OnLeader(w.Lead, w.Term)
	}
	if len(w.Reads) > 0 && n.o.OnReadState != nil {
		n.o.OnReadState(w.Reads)
	}
}

// publish makes the status visible to other goroutines.
func (n *Node) publish() {
	s := n.core.Status()
	n.commit.Store(s.Commit)
	s.Commit, s.Applied = 0, 0 // read from their own counters: they change all the time
	if old := n.status.Load(); old == nil || !sameStatus(old, s) {
		fresh := s // only what changes is allocated
		n.status.Store(&fresh)
	}
}

func sameStatus(a *Status, b Status) bool {
	return a.Lead == b.Lead && a.Term == b.Term && a.Vote == b.Vote && a.RaftState == b.RaftState &&
		a.LeadTransferee == b.LeadTransferee
}

// Propose queues a proposal; it is proposed, or forwarded to the leader, together
// with all others that wait. While there is no leader it is held. data must not
// change any more. ErrBusy when too many wait.
func (n *Node) Propose(data []byte) error { return n.inbox.propose(raftpb.Entry{Data: data}) }

// ProposeConfChange queues a change of configuration.
func (n *Node) ProposeConfChange(cc raftpb.ConfChange) error {
	data, err := cc.Marshal()
	if err != nil {
		return err
	}
	return n.inbox.propose(raftpb.Entry{Type: raftpb.EntryConfChange, Data: data})
}

// ReadIndex asks for a read index; the answer comes to OnReadState with the same
// context, or never: ask again.
func (n *Node) ReadIndex(rctx []byte) error {
	return n.inbox.with(func(in *input) error {
		if len(in.reads) >= maxReads {
			return ErrBusy
		}
		in.reads = append(in.reads, rctx)
		return nil
	})
}

// Step takes a message of a peer. It never blocks; ErrBusy drops the message.
func (n *Node) Step(m raftpb.Message) error {
	return n.inbox.with(func(in *input) error {
		if len(in.msgs) >= maxMessages {
			return ErrBusy
		}
		in.msgs = append(in.msgs, m)
		return nil
	})
}

// TransferLeader begins to hand leadership to a member; watch Status for the end.
// Proposals are held meanwhile.
func (n *Node) TransferLeader(to uint64) { n.inbox.call(func(c *Core) { c.TransferLeader(to) }) }

// Hold keeps proposals here until there is another leader, for some ticks at most:
// call it before the present one, another member, hands over.
func (n *Node) Hold(ticks int) { n.inbox.call(func(c *Core) { c.Hold(ticks) }) }

// Campaign begins an election.
func (n *Node) Campaign() {
	n.inbox.call(func(c *Core) {
		if err := c.Campaign(); err != nil {
			n.o.Logger.Warn("cannot campaign", zap.Error(err))
		}
	})
}

// AdvanceTicks lets ticks pass at once (interop 6.9, initial election ticks).
func (n *Node) AdvanceTicks(ticks int) {
	n.inbox.call(func(*Core) {
		for range ticks {
			n.tick(0)
		}
	})
}

// ReportUnreachable tells raft that a message to a member was lost.
func (n *Node) ReportUnreachable(id uint64) {
	_ = n.inbox.with(func(in *input) error {
		if !slices.Contains(in.unreachable, id) {
			in.unreachable = append(in.unreachable, id)
		}
		return nil
	})
}

// ReportSnapshot ends what Transport.SendSnapshot began.
func (n *Node) ReportSnapshot(id uint64, ok bool) {
	n.inbox.call(func(c *Core) {
		c.ReportSnapshot(id, ok)
		n.sending.ended(id, c.tick+uint64(holdCompaction/n.o.Tick))
	})
}

// ForceSnapshot asks for a snapshot on disk at the index that is applied when the
// Applier returns, or now if it is idle.
func (n *Node) ForceSnapshot() {
	n.feeder.ForceSnapshot()
	n.toFeed.put(feedJob{})
}

// Status is cheap and may be called for every request.
func (n *Node) Status() Status {
	s := *n.status.Load()
	s.Commit, s.Applied, s.SnapshotIndex = n.Commit(), n.Applied(), n.onDisk.Load()
	return s
}

// Commit is the commit index.
func (n *Node) Commit() uint64 { return n.commit.Load() }

// Applied is the index that the Applier has run.
func (n *Node) Applied() uint64 { return n.feeder.Applied() }

// Progress is Status with the progress of every member, if this one leads. It asks
// the raft goroutine.
func (n *Node) Progress(ctx context.Context) (Status, error) {
	ch := make(chan Status, 1)
	err := n.inbox.with(func(in *input) error {
		in.calls = append(in.calls, func(c *Core) { ch <- c.Progress() })
		return nil
	})
	if err != nil {
		return Status{}, err
	}
	select {
	case s := <-ch:
		s.Applied, s.SnapshotIndex = n.Applied(), n.onDisk.Load()
		return s, nil
	case <-ctx.Done():
		return Status{}, context.Cause(ctx)
	case <-n.ended:
		return Status{}, ErrStopped
	}
}
