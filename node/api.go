package node

import (
	"errors"
	"io"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"

	"theseus/snap"
	"theseus/wal"
)

// Errors of Propose, ProposeConfChange, ReadIndex and Step.
var (
	// ErrBusy says that a queue is full. Nothing was queued.
	ErrBusy = errors.New("raft queue is full")
	// ErrStopped says that Run has ended or is about to.
	ErrStopped = errors.New("raft has stopped")
	// ErrMessage says that a message is none that a peer may send. It was dropped.
	ErrMessage = errors.New("raft message is malformed")
	// ErrLogLost is fatal: this member no longer has what it once acknowledged.
	ErrLogLost = errors.New("the raft log was corrupted, truncated or lost")
)

// Applier is the state machine as this room sees it. All methods but Flush are
// called on one goroutine, the apply goroutine.
type Applier interface {
	// Apply runs committed entries in order and returns how many it has run. It may
	// stop early, after an entry that asked for a snapshot at exactly its index
	// (call ForceSnapshot first): the rest comes again. change must be called once
	// for every conf change entry, with NodeID 0 if it was refused, and returns the
	// configuration from then on. An error is fatal for the member.
	Apply(ents []raftpb.Entry, change func(raftpb.ConfChange) raftpb.ConfState) (n int, err error)
	// ApplySnapshot replaces the state by a snapshot received from the leader, whose
	// database is in the snap folder. An error is fatal for the member.
	ApplySnapshot(s raftpb.Snapshot) error
	// Snapshot describes the state as of the applied index: data and metadata with
	// the conf state. With stream it also opens an image of the database that stays
	// as it is now, and whose applied index is the snapshot's; size is its bytes.
	// Without stream it must be quick: Flush follows before the snapshot counts.
	// When metadata has no index, term or conf state, the node fills them in.
	Snapshot(stream bool) (s raftpb.Snapshot, db io.ReadCloser, size int64, err error)
	// Flush returns when everything applied before the call is durable in the
	// database. It is called from a goroutine of its own, beside the others.
	Flush() error
}

// Transport carries messages to peers. Its methods may be called from several
// goroutines at once and never block.
type Transport interface {
	// Send sends each message to the member it names, or drops it. What the messages
	// refer to does not change any more; the slice is the caller's again.
	Send(msgs []raftpb.Message)
	// SendSnapshot streams a snapshot and its database, closes db, and reports the
	// end with ReportSnapshot, always, once.
	SendSnapshot(m raftpb.Message, db io.ReadCloser, size int64)
}

// Options says how the node runs. Fields without a default are needed.
type Options struct {
	ID uint64
	// WAL is the open log and Contents what Open read from it; nil Contents means a
	// new one.
	WAL      *wal.WAL
	Contents *wal.Contents
	// Snap is the snap folder. Snapshot is what the log was opened from: only its
	// metadata counts, so a 3.7 directory that has no .snap makes one from the wal
	// record. nil when the log starts at its beginning.
	Snap     *snap.Dir
	Snapshot *raftpb.Snapshot
	// Peers bootstraps a new cluster (interop 6.7) if the log is still empty; nil for
	// a member that joins.
	Peers []raft.Peer
	// Applied is the index after which entries must be handed to the Applier and
	// ConfState the configuration as of it. Without ConfState, entries are handed
	// over from the snapshot on.
	Applied   uint64
	ConfState *raftpb.ConfState

	ElectionTicks  int           // default 10
	HeartbeatTicks int           // default 1
	Tick           time.Duration // default 100 ms
	PreVote        bool
	// SnapshotCount is how many entries are applied between disk snapshots (default
	// 10,000), CatchUpEntries how many stay in memory behind what is applied
	// (default 5,000).
	SnapshotCount, CatchUpEntries uint64
	// KeepSnapshots and KeepSegments are how many .snap and .wal files outlive a
	// purge; 0 keeps all.
	KeepSnapshots, KeepSegments int

	Applier   Applier
	Transport Transport

	// OnLeader is told when the leader or the term changes. OnReadState brings the
	// answers of ReadIndex. OnDropped brings proposals that will not be proposed
	// (held too long without a leader). They are called on the raft goroutine and
	// must not block. Each may be nil.
	OnLeader    func(lead, term uint64)
	OnReadState func([]raft.ReadState)
	OnDropped   func(data [][]byte)
	// OnSlowHeartbeat is told by how much a leader was late to send heartbeats.
	OnSlowHeartbeat func(late time.Duration)
	// Fatal is told of the error that ends the member: storage that can no longer be
	// trusted. It is called once, before Run returns the same error. Default panic.
	Fatal func(error)

	Logger *zap.Logger // default zap.NewNop()
}

// Limits of raft and of the queues. What they do when they are reached stands
// beside each.
const (
	maxMessageBytes     = 1 << 20   // entries in one MsgApp; one entry may be larger
	maxInflightMessages = 512       // MsgApps sent and not acknowledged; replication pauses
	maxInflightBytes    = 128 << 20 // the same in bytes
	maxUncommittedBytes = 512 << 20 // in a leader's log; proposals are held
	maxApplyingBytes    = 16 << 20  // handed to the Applier and not applied; commits wait in the log
	maxBatchEntries     = 4096      // in one proposal step of the leader; the rest goes in the next
	maxForwardBytes     = 1 << 20   // of proposals in one message to the leader
	maxProposals        = 1 << 16   // that wait; Propose is refused
	maxProposalBytes    = 256 << 20 // the same in bytes
	maxMessages         = 4096      // of peers that wait; more are dropped
	maxReads            = 4096      // read index requests that wait; more are refused
	maxSnapshotsSent    = 4         // at once; another peer's fails and is asked for again
	maxHeldEntries      = 500_000   // in memory behind the applied index while a snapshot is sent
	maxLogBytes         = 256 << 20 // of entries in memory; older ones go, twice as much while a snapshot is sent

	holdFor        = 10 * time.Second // a proposal without a leader; then it is dropped
	holdCompaction = 30 * time.Second // after a snapshot was sent, so that its receiver can catch up
)

// compactShare is the part of CatchUpEntries that is let go of at a time, as its
// divisor: each time costs a copy of what stays.
const compactShare = 5

// setDefaults fills in the documented defaults.
func (o *Options) setDefaults() {
	if o.ElectionTicks == 0 {
		o.ElectionTicks = 10
	}
	if o.HeartbeatTicks == 0 {
		o.HeartbeatTicks = 1
	}
	if o.Tick == 0 {
		o.Tick = 100 * time.Millisecond
	}
	if o.SnapshotCount == 0 {
		o.SnapshotCount = 10_000
	}
	if o.CatchUpEntries == 0 {
		o.CatchUpEntries = 5_000
	}
	if o.Contents == nil {
		o.Contents = &wal.Contents{}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
}

// Status is what a member knows of its cluster, as of a moment ago.
type Status struct {
	ID, Lead, Term, Vote uint64
	// Commit is the commit index; Applied the index that the Applier has run.
	Commit, Applied uint64
	RaftState       raft.StateType
	// LeadTransferee is the member that leadership is being handed to, 0 none.
	LeadTransferee uint64
	// SnapshotIndex is the index of the last snapshot on disk.
	SnapshotIndex uint64
	// Progress is the leader's view of every member; only Node.Progress fills it.
	Progress map[uint64]tracker.Progress
}
