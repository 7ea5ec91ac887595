package server

import (
	"context"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"theseus/api"
)

// Limits of linearizable reads.
const (
	readRetry   = 500 * time.Millisecond // a round without an answer is asked again
	readChunk   = 32                     // reads that a reader goroutine takes at a time
	maxReaders  = 8
	rctxLen     = 8
	slowReadIdx = time.Second // a round that takes longer is counted and logged
)

// A reader is a read that waits until local state is recent enough. ready is called
// once, on a reader goroutine, and must be quick: heavy work goes elsewhere.
type reader interface{ ready(err error) }

// reads makes linearizable reads out of raft's read index. One round at a time asks
// the leader; every read that arrives meanwhile shares the next round. No goroutine
// and no timer belongs to a single read.
//
// A read moves through three places: next (gathers for the next round), flight (its
// round is under way), applying (its index is known, the member has to apply so far).
type reads struct {
	// ask starts a round; its answer comes to answered with the same context. It may
	// drop the request, and must not block.
	ask     func(rctx []byte)
	applied func() uint64
	newID   func() uint64
	timeout time.Duration
	onSlow  func()

	mu       sync.Mutex
	next     []waitingRead
	flight   []waitingRead
	spare    []waitingRead // an empty one for next
	round    uint64        // context of the round under way, 0 none
	roundAge time.Time     // when the round began
	asked    time.Time     // when it was last asked
	applying []confirmed
	changed  time.Time // when the leader last changed
	stopped  bool

	lowest atomic.Uint64 // smallest index in applying, for a cheap look by the apply goroutine

	run readQueue
}

type waitingRead struct {
	r     reader
	since time.Time
}

// confirmed are reads that may run when index is applied.
type confirmed struct {
	index uint64
	reads []waitingRead
}

const none = ^uint64(0)

func newReads() *reads {
	r := &reads{timeout: 7 * time.Second}
	r.lowest.Store(none)
	r.run.wake = make(chan struct{}, 1)
	return r
}

// add queues a read. It never blocks.
func (r *reads) add(x reader) {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		x.ready(api.ErrStopped)
		return
	}
	r.next = append(r.next, waitingRead{r: x, since: time.Now()})
	rctx := r.begin()
	r.mu.Unlock()
	r.send(rctx)
}

// begin starts a round if there is something to ask and none is under way. It
// returns the context to send once the lock is free.
func (r *reads) begin() []byte {
	if r.round != 0 || len(r.next) == 0 || r.stopped {
		return nil
	}
	r.flight, r.next, r.spare = r.next, r.spare, nil
	r.round = r.newID()
	r.roundAge = time.Now()
	r.asked = r.roundAge
	return encodeRound(r.round)
}

func encodeRound(id uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, rctxLen), id)
}

func (r *reads) send(rctx []byte) {
	if rctx != nil {
		r.ask(rctx)
	}
}

// answered takes the answer of a round; answers of older rounds are ignored. It is
// called by the raft goroutine and does not wait.
func (r *reads) answered(rctx []byte, index uint64) {
	if len(rctx) != rctxLen {
		return
	}
	id := binary.BigEndian.Uint64(rctx)
	r.mu.Lock()
	if id != r.round || id == 0 {
		r.mu.Unlock()
		return
	}
	if r.onSlow != nil && time.Since(r.roundAge) > slowReadIdx {
		r.onSlow()
	}
	batch := r.flight
	r.round, r.flight = 0, nil
	if index <= r.applied() {
		r.run.put(batch)
		clear(batch)
		r.spare = batch[:0]
	} else {
		r.applying = append(r.applying, confirmed{index: index, reads: batch})
		r.lowest.Store(min(r.lowest.Load(), index))
		if now := r.applied(); index <= now { // meanwhile: the apply goroutine may not have seen it
			r.run.put(r.takeApplied(now))
		}
	}
	rctx = r.begin()
	r.mu.Unlock()
	r.send(rctx)
}

// appliedTo lets reads go that waited for an index up to this one.
func (r *reads) appliedTo(index uint64) {
	if r.lowest.Load() > index {
		return
	}
	r.mu.Lock()
	batch := r.takeApplied(index)
	r.mu.Unlock()
	r.run.put(batch)
}

func (r *reads) takeApplied(index uint64) []waitingRead {
	var out []waitingRead
	rest := r.applying[:0]
	lowest := none
	for _, c := range r.applying {
		if c.index <= index {
			out = append(out, c.reads...)
			continue
		}
		rest = append(rest, c)
		lowest = min(lowest, c.index)
	}
	clear(r.applying[len(rest):])
	r.applying = rest
	r.lowest.Store(lowest)
	return out
}

// leaderChanged asks the round under way again: the leader that it was sent to may
// have dropped it. A confirmation by a later leader is as good for these reads.
func (r *reads) leaderChanged() {
	r.mu.Lock()
	r.changed = time.Now()
	rctx := r.again()
	r.mu.Unlock()
	r.send(rctx)
}

func (r *reads) again() []byte {
	if r.round == 0 || r.stopped {
		return nil
	}
	r.asked = time.Now()
	return encodeRound(r.round)
}

// tick asks a round that is overdue again and fails reads that waited too long. It
// reports whether a round was overdue and how many reads failed.
func (r *reads) tick(now time.Time) (retried bool, failed int) {
	r.mu.Lock()
	before := now.Add(-r.timeout)
	changed := r.changed
	var late, unapplied []waitingRead
	r.next, late = splitLate(r.next, before, late)
	r.flight, late = splitLate(r.flight, before, late)
	for i := range r.applying {
		r.applying[i].reads, unapplied = splitLate(r.applying[i].reads, before, unapplied)
	}
	var rctx []byte
	switch {
	case r.round != 0 && len(r.flight) == 0:
		r.round = 0
		rctx = r.begin()
	case r.round != 0 && now.Sub(r.asked) >= readRetry:
		retried = true
		rctx = r.again()
	}
	r.mu.Unlock()
	r.send(rctx)
	for _, x := range late {
		if x.since.Before(changed) {
			x.r.ready(api.ErrLeaderChanged)
		} else {
			x.r.ready(api.ErrTimeout)
		}
	}
	for _, x := range unapplied {
		x.r.ready(api.ErrTimeoutWaitAppliedIndex)
	}
	return retried, len(late) + len(unapplied)
}

func splitLate(all []waitingRead, before time.Time, late []waitingRead) (rest, _ []waitingRead) {
	rest = all[:0]
	for _, x := range all {
		if x.since.Before(before) {
			late = append(late, x)
		} else {
			rest = append(rest, x)
		}
	}
	clear(all[len(rest):])
	return rest, late
}

// stop fails everything that waits, and whatever comes later.
func (r *reads) stop() {
	r.mu.Lock()
	r.stopped = true
	all := append(r.next, r.flight...)
	for _, c := range r.applying {
		all = append(all, c.reads...)
	}
	r.next, r.flight, r.applying, r.round = nil, nil, nil, 0
	r.lowest.Store(none)
	r.mu.Unlock()
	for _, x := range all {
		x.r.ready(api.ErrStopped)
	}
}

// serve runs the reader goroutines until ctx ends, and what is queued then.
func (r *reads) serve(ctx context.Context) {
	var wg sync.WaitGroup
	for range min(max(1, runtime.GOMAXPROCS(0)), maxReaders) {
		wg.Go(func() { r.run.serve(ctx) })
	}
	wg.Wait()
}

// readQueue hands reads that may run to the reader goroutines.
type readQueue struct {
	mu    sync.Mutex
	queue []waitingRead
	head  int // of the queue; what is before it has been taken
	wake  chan struct{}
}

// put copies the batch into the queue.
func (q *readQueue) put(batch []waitingRead) {
	if len(batch) == 0 {
		return
	}
	q.mu.Lock()
	q.queue = append(q.queue, batch...)
	q.mu.Unlock()
	q.signal()
}

func (q *readQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take moves up to readChunk reads into buf and reports whether more are left.
func (q *readQueue) take(buf []waitingRead) (chunk []waitingRead, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.queue)-q.head, readChunk)
	taken := q.queue[q.head : q.head+n]
	chunk = append(buf[:0], taken...)
	clear(taken)
	q.head += n
	switch rest := len(q.queue) - q.head; {
	case rest == 0:
		q.queue, q.head = q.queue[:0], 0
	case q.head > rest && q.head > 1024: // give the front back
		copy(q.queue, q.queue[q.head:])
		clear(q.queue[rest:])
		q.queue, q.head = q.queue[:rest], 0
	}
	return chunk, q.head < len(q.queue)
}

func (q *readQueue) serve(ctx context.Context) {
	buf := make([]waitingRead, 0, readChunk)
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
		for {
			chunk, more := q.take(buf)
			if more {
				q.signal()
			}
			for i := range chunk {
				chunk[i].r.ready(nil)
				chunk[i] = waitingRead{}
			}
			if len(chunk) == 0 {
				break
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}
