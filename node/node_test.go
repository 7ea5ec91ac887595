package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

// cluster runs members with all their goroutines, in a synctest bubble: time passes
// only when nobody has anything to do.
type cluster struct {
	t       *testing.T
	mu      sync.Mutex
	members map[uint64]*member
	cut     map[uint64]bool // members that nobody reaches
	sent    int             // snapshots
}

type member struct {
	c       *cluster
	id      uint64
	fs      vfs.FS
	node    *Node
	app     *toy
	durable image
	stop    func()
	done    chan error
	closer  io.Closer

	mu      sync.Mutex
	applied map[string]uint64
	reads   map[string]uint64
	dropped int
	fatal   error
	leads   int // calls of OnLeader
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, members: map[uint64]*member{}, cut: map[uint64]bool{}}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.halt()
		}
	})
	return c
}

// add starts a member; adjust may change its options.
func (c *cluster) add(id uint64, peers []raft.Peer, adjust func(*Options)) *member {
	m := &member{c: c, id: id, fs: vfs.NewCrash(id), applied: map[string]uint64{}, reads: map[string]uint64{}}
	c.mu.Lock()
	c.members[id] = m
	c.mu.Unlock()
	m.start(peers, adjust)
	return m
}

func (m *member) start(peers []raft.Peer, adjust func(*Options)) {
	t := m.c.t
	t.Helper()
	o, err := open(m.fs, m.durable)
	must(t, err)
	m.app = &toy{now: o.durable, durable: o.durable, dir: o.dir, fs: m.fs, onApply: m.onApply}
	opt := o.options(m.id, peers)
	opt.Applier, opt.Transport = m.app, m.c
	opt.OnReadState = func(rs []raft.ReadState) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, r := range rs {
			m.reads[string(r.RequestCtx)] = r.Index
		}
	}
	opt.OnDropped = func(data [][]byte) { m.locked(func() { m.dropped += len(data) }) }
	opt.OnLeader = func(uint64, uint64) { m.locked(func() { m.leads++ }) }
	opt.Fatal = func(err error) { m.locked(func() { m.fatal = err }) }
	if adjust != nil {
		adjust(&opt)
	}
	n, err := New(opt)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m.c.mu.Lock()
	m.node, m.stop, m.done, m.closer = n, cancel, done, o.wal
	m.c.mu.Unlock()
	go func() { done <- n.Run(ctx) }()
}

func (m *member) locked(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn()
}

func (m *member) onApply(e raftpb.Entry) {
	m.locked(func() { m.applied[string(e.Data)] = e.Index })
}

// halt stops the member as a clean stop does, and returns what Run returned.
func (m *member) halt() error {
	if m.node == nil {
		return nil
	}
	m.stop()
	err := <-m.done
	m.closer.Close()
	m.durable = m.app.durable
	m.c.mu.Lock()
	m.node = nil
	m.c.mu.Unlock()
	return err
}

func (m *member) has(data string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied[data] > 0
}

// Send implements Transport.
func (c *cluster) Send(ms []raftpb.Message) {
	for _, m := range ms {
		c.mu.Lock()
		to := c.members[m.To]
		ok := to != nil && to.node != nil && !c.cut[m.To] && !c.cut[m.From]
		var n *Node
		if ok {
			n = to.node
		}
		c.mu.Unlock()
		if ok {
			_ = n.Step(m)
		}
	}
}

// SendSnapshot implements Transport.
func (c *cluster) SendSnapshot(m raftpb.Message, db io.ReadCloser, _ int64) {
	c.mu.Lock()
	c.sent++
	to, from := c.members[m.To], c.members[m.From]
	ok := to != nil && to.node != nil && !c.cut[m.To] && !c.cut[m.From]
	c.mu.Unlock()
	b, _ := io.ReadAll(db)
	db.Close()
	if ok {
		_, err := to.app.dir.SaveDB(bytes.NewReader(b), m.Snapshot.Metadata.Index)
		ok = err == nil && to.node.Step(m) == nil
	}
	from.node.ReportSnapshot(m.To, ok)
}

// until lets time pass until cond holds.
func (c *cluster) until(what string, cond func() bool) {
	c.t.Helper()
	for range 600 {
		synctest.Wait()
		if cond() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, m := range c.members {
		if m.node != nil {
			c.t.Logf("member %d: %+v", m.id, m.node.Status())
		}
	}
	c.t.Fatalf("a minute has passed without: %s", what)
}

// leader waits for one and returns it.
func (c *cluster) leader() *member {
	c.t.Helper()
	var lead *member
	c.until("a leader", func() bool {
		for _, m := range c.members {
			if m.node != nil && m.node.Status().Lead == m.id {
				lead = m
				return true
			}
		}
		return false
	})
	return lead
}

func (c *cluster) propose(m *member, data string) {
	c.t.Helper()
	must(c.t, m.node.Propose([]byte(data)))
}

// three starts three voters.
func three(t *testing.T, adjust func(*Options)) (*cluster, []*member) {
	c := newCluster(t)
	var ms []*member
	for id := uint64(1); id <= 3; id++ {
		ms = append(ms, c.add(id, peersOf(1, 2, 3), adjust))
	}
	return c, ms
}

func TestOnlyVoterLeadsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c := newCluster(t)
		m := c.add(1, peersOf(1), nil)
		must(t, m.node.ReadIndex([]byte("read")))
		c.propose(m, "x")
		synctest.Wait()
		if !m.has("x") || m.node.Status().Lead != 1 || m.node.Status().RaftState != raft.StateLeader {
			t.Fatalf("not served before time passed: %+v", m.node.Status())
		}
		m.locked(func() {
			if m.reads["read"] == 0 && len(m.reads) == 0 {
				t.Log("the read came before there was a leader: it is asked again")
			}
		})
		must(t, m.halt())
		m.start(nil, nil)
		must(t, m.node.ReadIndex([]byte("again")))
		c.propose(m, "y")
		synctest.Wait()
		if !m.has("y") || time.Since(began) != 0 {
			t.Fatalf("after a restart: %+v after %v", m.node.Status(), time.Since(began))
		}
	})
}

func TestProposalsAreHeldWhileLeadershipMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := three(t, nil)
		lead := c.leader()
		old := lead.id
		to := old%3 + 1
		c.until("followers that have caught up", func() bool { return c.members[to].node.Applied() == lead.node.Commit() })
		lead.node.TransferLeader(to)
		for i := range 50 {
			for _, m := range c.members {
				c.propose(m, fmt.Sprintf("%d-%d", i, m.id))
			}
		}
		began := time.Now()
		c.until("all applied", func() bool {
			for i := range 50 {
				for _, m := range c.members {
					if !m.has(fmt.Sprintf("%d-%d", i, m.id)) {
						return false
					}
				}
			}
			return true
		})
		if lead := c.leader(); lead.id != to {
			t.Fatalf("%d leads, not %d", lead.id, to)
		}
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("the handover took %v", took)
		}
	})
}

func TestSnapshotForAFollowerThatLagsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := three(t, func(o *Options) { o.SnapshotCount, o.CatchUpEntries = 1000, 10 })
		lead := c.leader()
		late := ms[lead.id%3]
		must(t, late.halt())
		for i := range 100 {
			c.propose(lead, fmt.Sprintf("k%d", i))
			synctest.Wait()
		}
		late.start(nil, nil)
		c.until("the late member to have caught up", func() bool { return late.node.Applied() == lead.node.Commit() })
		c.propose(lead, "after")
		c.until("the late member to follow", func() bool { return late.has("after") })
		synctest.Wait()
		if late.app.installs != 1 || late.app.now.Chain != lead.app.now.Chain {
			t.Fatalf("%d snapshots installed; %+v and %+v", late.app.installs, late.app.now, lead.app.now)
		}
		if c.sent != 1 {
			t.Errorf("%d snapshots sent", c.sent)
		}
		if held := lead.node.feeder.held.Load(); held != 1 {
			t.Errorf("the log is held %d times right after a snapshot was sent", held)
		}
		time.Sleep(holdCompaction + time.Second)
		synctest.Wait()
		if held := lead.node.feeder.held.Load(); held != 0 {
			t.Errorf("the log is held %d times, long after", held)
		}
		must(t, late.halt())
		late.start(nil, nil) // from the received snapshot
		c.propose(lead, "later")
		c.until("the late member to be back", func() bool { return late.has("later") })
	})
}

func TestDiskSnapshotsAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		few := func(o *Options) { o.SnapshotCount, o.CatchUpEntries = 20, 5 }
		m := c.add(1, peersOf(1), few)
		for i := range 200 {
			c.propose(m, fmt.Sprintf("%04d%0512d", i, 0))
			synctest.Wait()
		}
		s := m.node.Status()
		if s.SnapshotIndex == 0 || s.Applied-s.SnapshotIndex > 21 {
			t.Fatalf("the last snapshot is %d, applied is %d", s.SnapshotIndex, s.Applied)
		}
		first, _ := m.node.core.log.FirstIndex()
		if s.Applied-first > 8 {
			t.Errorf("entries %d to %d are in memory", first, s.Applied)
		}
		ids, err := m.app.dir.List()
		must(t, err)
		if len(ids) != 2 || ids[0].Index != s.SnapshotIndex {
			t.Errorf("snapshots on disk: %v", ids)
		}
		want := m.app.now
		must(t, m.halt())
		m.start(nil, few)
		synctest.Wait()
		c.propose(m, "z")
		synctest.Wait()
		if m.app.now.Index != want.Index+2 || !m.has("z") { // the new leader's empty entry, and ours
			t.Fatalf("applied %+v before and %+v after the restart", want, m.app.now)
		}
	})
}

func TestForcedSnapshotIsAtExactlyItsEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m := c.add(1, peersOf(1), nil)
		synctest.Wait()
		m.app.forceAt, m.app.force = "force", m.node.ForceSnapshot
		for _, data := range []string{"a", "force", "b", "c"} {
			c.propose(m, data)
		}
		synctest.Wait()
		at := m.applied["force"]
		if got := m.node.Status().SnapshotIndex; got != at {
			t.Fatalf("snapshot at %d, want %d", got, at)
		}
		m.node.ForceSnapshot()
		synctest.Wait()
		if got := m.node.Status().SnapshotIndex; got != m.applied["c"] {
			t.Fatalf("snapshot of an idle member at %d, want %d", got, m.applied["c"])
		}
		n := m.app.snapshots
		m.node.ForceSnapshot() // there is one at this index
		synctest.Wait()
		if m.app.snapshots != n {
			t.Error("a second snapshot of the same index was taken")
		}
	})
}

func TestFailedSyncIsFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var mu sync.Mutex
		fail := false
		boom := errors.New("boom")
		m := &member{c: c, id: 1, applied: map[string]uint64{}, reads: map[string]uint64{}}
		m.fs = vfs.NewFault(vfs.NewCrash(1), func(op vfs.Op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			if fail && op == vfs.OpSync {
				return boom
			}
			return nil
		})
		c.members[1] = m
		m.start(peersOf(1), nil)
		c.propose(m, "before")
		synctest.Wait()
		mu.Lock()
		fail = true
		mu.Unlock()
		c.propose(m, "during")
		synctest.Wait()
		if !m.has("before") || m.has("during") {
			t.Fatal("what could not be synced was applied")
		}
		if !errors.Is(m.fatal, boom) {
			t.Fatalf("Fatal was told: %v", m.fatal)
		}
		if err := m.node.Propose(nil); !errors.Is(err, ErrStopped) {
			t.Errorf("Propose: %v", err)
		}
		if _, err := m.node.Progress(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("Progress: %v", err)
		}
		if err := m.halt(); !errors.Is(err, boom) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestProposalsWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m := c.add(1, peersOf(1, 2, 3), nil)
		c.propose(m, "old")
		time.Sleep(9 * time.Second)
		if m.dropped != 0 {
			t.Fatal("dropped too early")
		}
		c.propose(m, "young")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if m.dropped != 1 {
			t.Fatalf("%d dropped, want the old one", m.dropped)
		}
		c.add(2, peersOf(1, 2, 3), nil)
		c.until("the young one to be applied", func() bool { return m.has("young") })
		if m.has("old") {
			t.Error("a dropped proposal was proposed")
		}
	})
}

func TestQueuesHaveLimits(t *testing.T) {
	c := newCluster(t)
	m := c.add(1, peersOf(1, 2), nil)
	m.halt()
	m.node, _ = New(Options{ID: 1, Applier: m.app, Transport: c})
	defer func() { m.node = nil }()
	full := func(fn func() error) int {
		for n := 0; ; n++ {
			if err := fn(); err != nil {
				if !errors.Is(err, ErrBusy) {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	if n := full(func() error { return m.node.Propose([]byte("x")) }); n != maxProposals {
		t.Errorf("%d proposals", n)
	}
	if n := full(func() error { return m.node.Step(raftpb.Message{}) }); n != maxMessages {
		t.Errorf("%d messages", n)
	}
	if n := full(func() error { return m.node.ReadIndex(nil) }); n != maxReads {
		t.Errorf("%d reads", n)
	}
	for range 10_000 {
		m.node.ReportUnreachable(7)
	}
	if n := len(m.node.inbox.in.unreachable); n != 1 {
		t.Errorf("%d reports of one peer", n)
	}
	m.node, _ = New(Options{ID: 1, Applier: m.app, Transport: c})
	if n := full(func() error { return m.node.Propose(make([]byte, 1<<20)) }); n != maxProposalBytes>>20 {
		t.Errorf("%d MiB of proposals", n)
	}
}

func TestMembersJoinAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := three(t, nil)
		lead := c.leader()
		must(t, lead.node.ProposeConfChange(raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 4}))
		synctest.Wait()
		m4 := c.add(4, nil, nil)
		c.propose(m4, "from the learner")
		c.until("the learner's proposal", func() bool { return lead.has("from the learner") && m4.has("from the learner") })
		s, err := lead.node.Progress(t.Context())
		must(t, err)
		if pr, ok := s.Progress[4]; !ok || !pr.IsLearner || pr.Match == 0 {
			t.Fatalf("progress of the learner: %+v", s.Progress)
		}
		must(t, lead.node.ProposeConfChange(raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: 4}))
		c.until("a fourth voter", func() bool { return slices.Equal(m4.app.now.Conf.Voters, []uint64{1, 2, 3, 4}) })
		must(t, lead.node.ProposeConfChange(raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: lead.id}))
		c.until("the leader to have gone", func() bool { return len(m4.app.now.Conf.Voters) == 3 })
		must(t, lead.halt())
		lead = c.leader()
		c.propose(lead, "without it")
		c.until("the rest to go on", func() bool { return m4.has("without it") })
		// A refused change (NodeID 0) must let the next one through.
		must(t, lead.node.ProposeConfChange(raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: m4.app.now.Removed[0]}))
		synctest.Wait()
		must(t, lead.node.ProposeConfChange(raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 9}))
		c.until("a change after a refused one", func() bool { return slices.Contains(m4.app.now.Conf.Learners, 9) })
	})
}

func TestForceNewCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := three(t, nil)
		lead := c.leader()
		c.propose(lead, "kept")
		c.until("an entry on all members", func() bool { return ms[0].has("kept") && ms[1].has("kept") && ms[2].has("kept") })
		for _, m := range ms {
			if m != lead {
				must(t, m.halt())
			}
		}
		c.propose(lead, "not committed")
		synctest.Wait()
		must(t, lead.halt())

		o, err := open(lead.fs, lead.durable)
		must(t, err)
		must(t, ForceNewCluster(o.wal, o.contents, o.snapshot, Force{Self: lead.id, Applied: lead.durable.Index}))
		must(t, o.wal.Close())
		lead.start(nil, nil)
		c.propose(lead, "alone")
		synctest.Wait()
		if !lead.has("alone") || lead.has("not committed") {
			t.Fatalf("applied: %v", lead.applied)
		}
		if conf := lead.app.now.Conf; !slices.Equal(conf.Voters, []uint64{lead.id}) || len(lead.app.now.Removed) != 2 {
			t.Fatalf("%+v", lead.app.now)
		}
	})
}

func TestAdvanceTicksShortensTheFirstElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := three(t, nil)
		for _, m := range ms {
			m.node.AdvanceTicks(8)
		}
		began := time.Now()
		c.leader()
		if took := time.Since(began); took > 1300*time.Millisecond {
			t.Errorf("the first election took %v", took)
		}
	})
}

// TestLostLogIsFatal: a member whose disk was emptied must not go on as if it had
// never acknowledged anything.
func TestLostLogIsFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := three(t, nil)
		lead := c.leader()
		for i := range 10 {
			c.propose(lead, fmt.Sprint(i))
		}
		late := ms[lead.id%3]
		c.until("an entry on all members", func() bool { return late.has("9") })
		must(t, late.halt())
		late.fs, late.durable = vfs.NewCrash(99), image{}
		late.start(peersOf(1, 2, 3), nil)
		c.until("the member to stop", func() bool { late.mu.Lock(); defer late.mu.Unlock(); return late.fatal != nil })
		if err := late.halt(); !errors.Is(err, ErrLogLost) {
			t.Fatal(err)
		}
	})
}
