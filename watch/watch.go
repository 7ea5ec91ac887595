// Package watch turns committed revisions into watcher streams.
//
// The apply goroutine hands each transaction's events to [Hub.Notify], which only
// puts them in an inbox. Two goroutines of the Hub do the rest. One takes the
// inbox, finds the watchers of every event and queues responses at their streams:
// an event is encoded once, and all responses that hold it share the bytes. The
// other catches up watchers that start in the past or that have fallen behind, by
// reading the store's history in bounded steps, in turn.
//
// A watcher is in one of these states, which only change under the Hub's lock:
//
//	synced   it has been queued everything up to the Hub's position, and stands in
//	         the index, so that the next events find it
//	ready    it is behind, and waits for its turn to be caught up
//	reading  it is part of the step that is being read
//	stalled  it is behind, and its stream's queue is full
//	dead     what it wanted is compacted; its id stays taken until the client cancels
//
// The position is the revision up to which all synced watchers have been served.
// It follows the store's current revision at a small distance, and is what
// progress responses report.
//
// Every queue has a bound. An inbox that overflows is thrown away and all synced
// watchers become ready: the store still has the events. A stream whose queue is
// full has its watchers stalled until its consumer, who calls [Stream.Next], has
// taken what is there. No slow stream delays another one or the apply goroutine.
//
// Nothing here is persisted. The order of use: New, then Run in a goroutine of the
// server; NewStream for each gRPC stream, one goroutine that calls Next, others
// that call Create, Cancel and Progress; Close.
package watch

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"theseus/mvcc"
)

// limits bound every queue and every piece of work. What happens beyond each of
// them stands in the package documentation or at its use. They are fields only so
// that tests can make them small.
type limits struct {
	inboxEvents, inboxBytes int

	passRevs  int // revisions that are served in one pass over the index
	passBytes int // and bytes, so that responses stay small while watchers keep up

	stepRevs     int   // revisions of one catch-up step, and so of one response
	stepBytes    int   // bytes that one watcher gets in one step, one revision at least
	stepWatchers int   // watchers of one step
	closeRevs    int64 // a distance short enough to be read under the lock

	queueItems      int // responses queued at a stream
	queuePerWatcher int // and as many more for each of its watchers
	queueBytes      int // of events that wait, shared ones counted once
	queueControl    int // created, canceled and progress responses; beyond, the caller waits

	batchBytes int // what Next returns at once, one response at least
}

var defaultLimits = limits{
	inboxEvents: 1 << 16, inboxBytes: 64 << 20,
	passRevs: 1000, passBytes: 512 << 10,
	stepRevs: 1000, stepBytes: 16 << 20, stepWatchers: 512, closeRevs: 64,
	queueItems: 8192, queuePerWatcher: 64, queueBytes: 16 << 20, queueControl: 256,
	batchBytes: 256 << 10,
}

const (
	stepScan      = 4096                   // watchers looked at to find those of a step
	asksLimit     = 16                     // unanswered progress requests of one stream; more are ignored
	retryInterval = 100 * time.Millisecond // after a read of history that failed
)

// Defaults of Options.
const (
	defaultFragmentBytes    = 1536<<10 + 512<<10
	defaultProgressInterval = 10 * time.Minute
)

// Options of a Hub.
type Options struct {
	ClusterID, MemberID uint64
	// Term returns the raft term for response headers; nil means 0. Any goroutine calls it.
	Term func() uint64
	// FragmentBytes is the size of a response from which on a watcher that asked for
	// fragments gets it in parts: max-request-bytes + 512 KiB. Default 2 MiB.
	FragmentBytes int
	// ProgressInterval is the time between progress notifications, to which each
	// stream adds up to a tenth. Default 10 minutes.
	ProgressInterval time.Duration
	Logger           *zap.Logger           // nil: no logging
	Registerer       prometheus.Registerer // nil: no metrics
}

func (o *Options) setDefaults() {
	if o.Term == nil {
		o.Term = func() uint64 { return 0 }
	}
	if o.FragmentBytes == 0 {
		o.FragmentBytes = defaultFragmentBytes
	}
	if o.ProgressInterval == 0 {
		o.ProgressInterval = defaultProgressInterval
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Reasons that etcd gives for refusing a watcher, besides api errors.
const (
	reasonEmptyRange  = "mvcc: watcher range is empty"
	reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// history is what a Hub needs of the store; *mvcc.Store is it, and the tests have
// a dumb one beside it.
type history interface {
	Revision() (current, compacted int64)
	Events(fromRev, toRev int64, maxRevs int, fn func([]mvcc.Event) error) (next int64, err error)
	Prev(e *mvcc.Event) []byte
}

type state int

const (
	ready state = iota
	reading
	stalled
	synced
	dead
	gone // canceled, or its stream is closed
)

// watcher is one watch of one stream.
type watcher struct {
	stream   *Stream
	id       int64
	spec     spec
	start    int64 // as the client asked for it
	progress bool
	fragment bool

	// Guarded by the Hub's lock.
	state state
	next  int64  // the first revision it wants; once synced, a lower bound of it
	group *group // where it stands in an index
	place int    // and at which place of the group

	// sent says that events went out since the last progress tick. Only the
	// goroutine that calls Next touches it.
	sent bool
	// merged is where out.merge has put the watcher's events, in which run of it.
	merged struct{ run, at int }
}

// spec is what watchers must have in common to get the very same events.
type spec struct {
	key   string
	end   string // exclusive; empty: key alone
	toEnd bool   // everything from key on
	flags flags
	next  int64 // during catch-up, the first revision wanted; 0 in the index of the synced
}

type flags uint8

const (
	withPrev flags = 1 << iota
	noPut
	noDelete
)

// wants tells whether the filters let an event through.
func (f flags) wants(del bool) bool {
	if del {
		return f&noDelete == 0
	}
	return f&noPut == 0
}
