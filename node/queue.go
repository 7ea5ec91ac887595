package node

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// queue hands items from any goroutine to one. It has no limit of its own: what goes
// in is limited by raft, which waits for answers (see the limits in api.go).
type queue[T any] struct {
	mu     sync.Mutex
	cond   sync.Cond
	items  []T
	spare  []T
	taken  bool // the taker is busy with what it took
	closed bool
}

func newQueue[T any]() *queue[T] {
	q := &queue[T]{}
	q.cond.L = &q.mu
	return q
}

// put adds items; after close they are dropped.
func (q *queue[T]) put(items ...T) {
	q.mu.Lock()
	if !q.closed {
		q.items = append(q.items, items...)
	}
	q.mu.Unlock()
	q.cond.Signal()
}

// take waits for items and returns all there are. They are valid until the next
// take. It returns none once the queue is closed and empty.
func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.spare)
	q.spare = q.spare[:0]
	q.taken = false
	for len(q.items) == 0 && !q.closed {
		q.cond.Wait()
	}
	items := q.items
	q.items, q.spare = q.spare, items
	q.taken = len(items) > 0
	return items
}

// done says that what was taken has been dealt with.
func (q *queue[T]) done() {
	q.mu.Lock()
	q.taken = false
	q.mu.Unlock()
}

// busy tells whether there is something that has not been dealt with.
func (q *queue[T]) busy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taken || len(q.items) > 0
}

// close lets the taker finish; with drop it forgets what was not taken.
func (q *queue[T]) close(drop bool) {
	q.mu.Lock()
	q.closed = true
	if drop {
		q.items = nil
	}
	q.mu.Unlock()
	q.cond.Broadcast()
}

// inbox is what waits for the raft goroutine.
type inbox struct {
	mu        sync.Mutex
	wake      chan struct{}
	closed    bool
	in        input
	spare     input
	propBytes int
	held      int // proposals that the core keeps, and their bytes
	heldBytes int
}

// input is one round's intake.
type input struct {
	props       []raftpb.Entry
	msgs        []raftpb.Message // of peers
	local       []raftpb.Message // of the other stages
	reads       [][]byte
	calls       []func(*Core)
	unreachable []uint64
}

func (in *input) reset() {
	clear(in.props)
	clear(in.msgs)
	clear(in.local)
	clear(in.reads)
	clear(in.calls)
	in.props, in.msgs, in.local = in.props[:0], in.msgs[:0], in.local[:0]
	in.reads, in.calls, in.unreachable = in.reads[:0], in.calls[:0], in.unreachable[:0]
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// with changes the intake under the lock and wakes the raft goroutine.
func (b *inbox) with(fn func(*input) error) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrStopped
	}
	err := fn(&b.in)
	b.mu.Unlock()
	if err == nil {
		b.signal()
	}
	return err
}

func (b *inbox) propose(e raftpb.Entry) error {
	b.mu.Lock()
	switch {
	case b.closed:
		b.mu.Unlock()
		return ErrStopped
	case len(b.in.props)+b.held >= maxProposals || b.propBytes+b.heldBytes >= maxProposalBytes:
		b.mu.Unlock()
		return ErrBusy
	}
	b.in.props = append(b.in.props, e)
	b.propBytes += len(e.Data)
	b.mu.Unlock()
	b.signal()
	return nil
}

// local brings answers of another stage. It works after close too, until the raft
// goroutine has ended.
func (b *inbox) local(ms []raftpb.Message) {
	b.mu.Lock()
	b.in.local = append(b.in.local, ms...)
	b.mu.Unlock()
	b.signal()
}

// call runs fn on the raft goroutine, after close too.
func (b *inbox) call(fn func(*Core)) {
	b.mu.Lock()
	b.in.calls = append(b.in.calls, fn)
	b.mu.Unlock()
	b.signal()
}

// take returns what has come in since the last take; it is valid until the next one.
// held is what the core keeps of earlier proposals.
func (b *inbox) take(held, heldBytes int) *input {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spare.reset()
	b.in, b.spare = b.spare, b.in
	b.held, b.heldBytes = held+len(b.spare.props), heldBytes+b.propBytes
	b.propBytes = 0
	return &b.spare
}

// close refuses what comes from outside from now on.
func (b *inbox) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
}
