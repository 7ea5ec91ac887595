package node

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Core is raft itself: no goroutine, clock or disk. Everything goes in by Tick,
// Step, Propose, ReadIndex and the calls below them; Work takes out what is to be
// done. It is used by one goroutine.
type Core struct {
	id  uint64
	rn  *raft.RawNode
	log *Log // shared with Disk, which appends, and Feeder, which compacts

	tick uint64 // since the start
	hold uint64 // ticks that a proposal may wait for a leader
	// conf is the configuration in force here, last the index of the newest entry or
	// snapshot, durable or not, that Work has brought.
	conf raftpb.ConfState
	last uint64

	// Proposals wait here for a leader, for the end of a leader's transfer, and on a
	// leader for its disk (see Flush). batch is scratch.
	waiting      []proposal
	waitingBytes int
	batch        []raftpb.Entry
	// reads wait until a lone leader has committed in its term: until then it may
	// not know of writes that it has acknowledged in an earlier life.
	reads []raftpb.Message

	// Until this tick, or until there is another leader than this one, nothing is
	// forwarded (see Hold).
	quiet     uint64
	quietLead uint64

	lead, term uint64 // as last told by Work
}

type proposal struct {
	entry raftpb.Entry
	tick  uint64 // of arrival
	mine  bool   // not forwarded by a peer
}

// Work is what raft wants done. Slices are valid until the next call of Core.Work.
type Work struct {
	Send   []raftpb.Message // to peers, at once: a leader's entries need not be on its own disk
	Snaps  []raftpb.Message // MsgSnap to peers, whose snapshot Feeder.Stream fills in
	Append []raftpb.Message // for Disk, in order
	Apply  []raftpb.Message // for Feeder, in order
	Reads  []raft.ReadState

	Lead, Term uint64
	Changed    bool // lead or term is not what it was
}

func (w *Work) reset() {
	clear(w.Send)
	clear(w.Snaps)
	clear(w.Append)
	clear(w.Apply)
	w.Send, w.Snaps, w.Append, w.Apply = w.Send[:0], w.Snaps[:0], w.Append[:0], w.Apply[:0]
	w.Reads, w.Changed = nil, false
}

// NewCore restores raft from what the log held. log is for Disk and Feeder.
func NewCore(o Options) (c *Core, log *Log, err error) {
	o.setDefaults()
	log, applied, err := restore(&o)
	if err != nil {
		return nil, nil, err
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID:                        o.ID,
		ElectionTick:              o.ElectionTicks,
		HeartbeatTick:             o.HeartbeatTicks,
		Storage:                   log,
		Applied:                   applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxMessageBytes,
		MaxCommittedSizePerReady:  maxApplyingBytes,
		MaxUncommittedEntriesSize: maxUncommittedBytes,
		MaxInflightMsgs:           maxInflightMessages,
		MaxInflightBytes:          maxInflightBytes,
		CheckQuorum:               true,
		PreVote:                   o.PreVote,
		ReadOnlyOption:            raft.ReadOnlySafe,
		Logger:                    newLogger(o.Logger),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("start raft: %w", err)
	}
	c = &Core{id: o.ID, rn: rn, log: log, conf: log.conf, hold: max(1, uint64(holdFor/o.Tick))}
	c.last, _ = log.LastIndex()
	if len(o.Peers) > 0 && len(o.Contents.Entries) == 0 && o.Snapshot == nil {
		if err := rn.Bootstrap(o.Peers); err != nil {
			return nil, nil, fmt.Errorf("bootstrap raft: %w", err)
		}
		for _, p := range o.Peers {
			c.conf.Voters = append(c.conf.Voters, p.ID)
		}
	}
	return c, log, nil
}

// restore checks that log, snapshot and applied index belong together, and loads
// them. applied is the index after which entries are handed over.
func restore(o *Options) (log *Log, applied uint64, err error) {
	var from raftpb.SnapshotMetadata
	if o.Snapshot != nil {
		from = o.Snapshot.Metadata
	}
	hs, last := o.Contents.State, from.Index
	if n := len(o.Contents.Entries); n > 0 {
		if first := o.Contents.Entries[0].Index; first > from.Index+1 {
			return nil, 0, fmt.Errorf("the log begins at index %d, but the snapshot ends at %d", first, from.Index)
		}
		last = o.Contents.Entries[n-1].Index
	}
	switch {
	case o.Applied > last:
		return nil, 0, fmt.Errorf("the log ends at index %d, but the database has applied %d", last, o.Applied)
	case o.Applied > 0 && o.Applied < from.Index:
		return nil, 0, fmt.Errorf("the database has applied index %d, but the log begins after %d", o.Applied, from.Index)
	}
	log = newLog()
	if log.hard = hs; last > 0 {
		// What was applied was committed, also when the log does not say so: commit
		// indexes are written without a sync.
		log.hard.Commit = max(hs.Commit, o.Applied, from.Index)
	}
	log.conf, applied = from.ConfState, from.Index
	if o.ConfState != nil {
		log.conf, applied = *o.ConfState, max(o.Applied, from.Index)
	}
	if from.Index > 0 {
		log.Install(from)
	}
	return log, applied, log.Append(o.Contents.Entries)
}

// Tick lets one tick pass. It returns proposals of this member that have waited too
// long and will not be proposed.
func (c *Core) Tick() (dropped [][]byte) {
	c.tick++
	c.rn.Tick()
	n := 0
	for n < len(c.waiting) && c.waiting[n].tick+c.hold < c.tick {
		if p := c.waiting[n]; p.mine && p.entry.Type == raftpb.EntryNormal {
			dropped = append(dropped, p.entry.Data)
		}
		n++
	}
	c.leave(n)
	return dropped
}

// wait queues a proposal.
func (c *Core) wait(p proposal) {
	c.waitingBytes += len(p.entry.Data)
	c.waiting = append(c.waiting, p)
}

// leave takes the first n proposals out of the queue.
func (c *Core) leave(n int) {
	for i := range n {
		c.waitingBytes -= len(c.waiting[i].entry.Data)
	}
	c.waiting = slices.Delete(c.waiting, 0, n)
	if len(c.waiting) == 0 && cap(c.waiting) > maxBatchEntries {
		c.waiting = nil
	}
}

// Propose queues an entry until the next Flush.
func (c *Core) Propose(e raftpb.Entry) {
	c.wait(proposal{entry: e, tick: c.tick, mine: true})
}

// Waiting is the number of queued proposals and the bytes of their data.
func (c *Core) Waiting() (n, bytes int) { return len(c.waiting), c.waitingBytes }

// Flush proposes what is queued, if it can: there is a leader, and leadership is not
// being handed over. On a leader all goes in one step, so that it becomes one write,
// one sync and one message to each peer. It returns how many entries left the queue.
func (c *Core) Flush() (n int) {
	for len(c.waiting) > 0 {
		b := c.rn.BasicStatus()
		if b.Lead == raft.None || b.LeadTransferee != raft.None || c.quietNow(b) {
			break
		}
		took, ok := c.proposeSome(b.RaftState == raft.StateLeader)
		if !ok {
			break
		}
		n += took
	}
	return n
}

// Hold keeps proposals here for some ticks, or until there is another leader: the
// present one is about to hand over. A leader of etcd drops what is forwarded to it
// meanwhile, and whether it did nobody can tell.
func (c *Core) Hold(ticks int) {
	c.quiet, c.quietLead = c.tick+uint64(ticks), c.rn.BasicStatus().Lead
}

func (c *Core) quietNow(b raft.BasicStatus) bool {
	return c.tick < c.quiet && b.Lead == c.quietLead && b.RaftState != raft.StateLeader
}

func (c *Core) proposeSome(leader bool) (n int, ok bool) {
	limit, bytes := maxBatchEntries, 0
	c.batch = c.batch[:0]
	for n < len(c.waiting) && n < limit {
		e := &c.waiting[n].entry
		if bytes += len(e.Data); !leader && n > 0 && bytes > maxForwardBytes {
			break
		}
		c.batch = append(c.batch, *e)
		n++
	}
	ents := c.batch
	if !leader {
		ents = slices.Clone(ents) // the message to the leader keeps them
	}
	err := c.rn.Step(raftpb.Message{Type: raftpb.MsgProp, From: c.id, Entries: ents})
	clear(c.batch)
	if err != nil { // dropped by raft: kept here for the next time
		return 0, false
	}
	c.leave(n)
	return n, true
}

// ReadIndex asks for a read index with this context.
func (c *Core) ReadIndex(rctx []byte) {
	c.readIndex(raftpb.Message{Type: raftpb.MsgReadIndex, Entries: []raftpb.Entry{{Data: rctx}}})
}

func (c *Core) readIndex(m raftpb.Message) {
	if c.loneLeaderIsNew() {
		if len(c.reads) < maxReads {
			c.reads = append(c.reads, m)
		}
		return
	}
	_ = c.rn.Step(m) // without a leader it is dropped, and asked again
}

// loneLeaderIsNew tells whether this member is the leader and only voter and has not
// committed in its term yet. raft answers reads of such a leader at once.
func (c *Core) loneLeaderIsNew() bool {
	if !c.alone() {
		return false
	}
	b := c.rn.BasicStatus()
	if b.RaftState != raft.StateLeader {
		return false
	}
	term, err := c.log.Term(b.Commit)
	return err != nil || term != b.Term
}

// alone tells whether this member is the only voter.
func (c *Core) alone() bool { return len(c.conf.Voters) == 1 && c.conf.Voters[0] == c.id }

// Answer takes an answer of Disk or Feeder.
func (c *Core) Answer(m raftpb.Message) error { return c.rn.Step(m) }

// Step takes a message of a peer. One that no peer may send is ErrMessage; ErrLogLost
// is fatal.
func (c *Core) Step(m raftpb.Message) error {
	if err := c.check(&m); err != nil {
		return err
	}
	if err := c.checkLost(&m); err != nil {
		return err
	}
	switch m.Type {
	case raftpb.MsgProp:
		if c.rn.BasicStatus().RaftState == raft.StateLeader {
			c.forwarded(m.Entries)
			return nil
		}
	case raftpb.MsgReadIndex:
		c.readIndex(m)
		return nil
	case raftpb.MsgTransferLeader:
		if c.rn.BasicStatus().RaftState != raft.StateLeader {
			return nil // raft panics when it forwards one that was forwarded
		}
	}
	err := c.rn.Step(m)
	if errors.Is(err, raft.ErrProposalDropped) || errors.Is(err, raft.ErrStepPeerNotFound) {
		return nil // as if it had been lost on the way
	}
	return err
}

// forwarded queues what a follower has forwarded, beside this leader's own.
func (c *Core) forwarded(ents []raftpb.Entry) {
	for i := range ents {
		if len(c.waiting) >= maxProposals || c.waitingBytes >= maxProposalBytes {
			return // as if lost on the way: the proposer times out
		}
		e := raftpb.Entry{Type: ents[i].Type, Data: ents[i].Data}
		c.wait(proposal{entry: e, tick: c.tick})
	}
}

// Campaign begins an election.
func (c *Core) Campaign() error { return c.rn.Campaign() }

// TransferLeader begins to hand leadership to a member.
func (c *Core) TransferLeader(to uint64) { c.rn.TransferLeader(to) }

// ReportUnreachable says that a message to a member was lost.
func (c *Core) ReportUnreachable(id uint64) { c.rn.ReportUnreachable(id) }

// ReportSnapshot says how the sending of a snapshot ended.
func (c *Core) ReportSnapshot(id uint64, ok bool) {
	st := raft.SnapshotFinish
	if !ok {
		st = raft.SnapshotFailure
	}
	c.rn.ReportSnapshot(id, st)
}

// ApplyConfChange brings a committed change of configuration into force. One with
// NodeID 0 changes nothing, but lets the next one be proposed.
func (c *Core) ApplyConfChange(cc raftpb.ConfChange) raftpb.ConfState {
	c.conf = *c.rn.ApplyConfChange(cc)
	return c.conf
}

// Work fills w with everything that raft wants done now.
func (c *Core) Work(w *Work) {
	w.reset()
	c.campaignAlone()
	c.releaseReads()
	for c.rn.HasReady() {
		rd := c.rn.Ready()
		w.Reads = append(w.Reads, rd.ReadStates...)
		c.sort(rd.Messages, w)
	}
	b := c.rn.BasicStatus()
	w.Changed = b.Lead != c.lead || b.Term != c.term
	c.lead, c.term = b.Lead, b.Term
	w.Lead, w.Term = b.Lead, b.Term
}

// sort puts the messages of one Ready where they belong.
func (c *Core) sort(ms []raftpb.Message, w *Work) {
	soon := c.proposesSoon()
	var votes []raftpb.Message
	for _, m := range ms {
		switch {
		case m.To == raft.LocalAppendThread:
			if m.Snapshot != nil {
				c.conf, c.last = m.Snapshot.Metadata.ConfState, m.Snapshot.Metadata.Index
			}
			if n := len(m.Entries); n > 0 {
				c.last = m.Entries[n-1].Index
			}
			m.Responses = append(m.Responses, votes...)
			votes = nil
			w.Append = append(w.Append, m)
		case m.To == raft.LocalApplyThread:
			w.Apply = append(w.Apply, m)
		case m.Type == raftpb.MsgSnap:
			w.Snaps = append(w.Snaps, m)
		case m.Type == raftpb.MsgVote:
			// raft would let a candidate ask for votes while its term is not durable yet.
			// With the votes of the others it leads; after a crash it is back in the term
			// before, asks again, gets the same votes again, and leads the same term with
			// other entries. So it asks when the term is durable.
			votes = append(votes, m)
		case soon && m.Type == raftpb.MsgApp && len(m.Entries) == 0:
			// It brings no more than the commit index, which the entries that wait here
			// bring too. To raft it is a message lost on the way.
		default:
			w.Send = appendMessage(w.Send, m)
		}
	}
	w.Send = append(w.Send, votes...) // none: a term comes with an append
}

// proposesSoon tells whether this is a leader that holds proposals for its disk only:
// the next messages to the peers are at most one sync away.
func (c *Core) proposesSoon() bool {
	if len(c.waiting) == 0 {
		return false
	}
	b := c.rn.BasicStatus()
	return b.RaftState == raft.StateLeader && b.LeadTransferee == raft.None
}

// appendMessage adds m, and drops what only brings the commit index that m brings
// too: a leader emits such a message between a commit and the next entries.
func appendMessage(ms []raftpb.Message, m raftpb.Message) []raftpb.Message {
	if m.Type == raftpb.MsgApp {
		for i := len(ms) - 1; i >= 0; i-- {
			p := &ms[i]
			if p.To != m.To {
				continue
			}
			if p.Type == raftpb.MsgApp && len(p.Entries) == 0 && p.Term == m.Term && p.Index == m.Index && p.Commit <= m.Commit {
				*p = m
				return ms
			}
			break
		}
	}
	return append(ms, m)
}

// campaignAlone elects the only voter at once, instead of after a timeout. raft
// would refuse while conf changes are not applied.
func (c *Core) campaignAlone() {
	if !c.alone() {
		return
	}
	b := c.rn.BasicStatus()
	if b.RaftState == raft.StateFollower && b.Lead == raft.None && b.Applied >= b.Commit {
		_ = c.rn.Campaign()
	}
}

func (c *Core) releaseReads() {
	if len(c.reads) == 0 || c.loneLeaderIsNew() {
		return
	}
	reads := c.reads
	c.reads = nil
	for _, m := range reads {
		_ = c.rn.Step(m)
	}
}

// Status is what raft knows. Applied is what it was told of; Feeder knows more.
func (c *Core) Status() Status {
	b := c.rn.BasicStatus()
	return Status{
		ID: c.id, Lead: b.Lead, Term: b.Term, Vote: b.Vote, Commit: b.Commit, Applied: b.Applied,
		RaftState: b.RaftState, LeadTransferee: b.LeadTransferee,
	}
}

// Progress is Status with the leader's view of every member.
func (c *Core) Progress() Status {
	s := c.Status()
	if s.RaftState == raft.StateLeader {
		s.Progress = map[uint64]tracker.Progress{}
		c.rn.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) { s.Progress[id] = p })
	}
	return s
}
