// Package wait is a meeting point: for a request id and its result ([Results]),
// and for an index that is going to be applied ([Index]).
//
// Both are safe for concurrent use, hold nothing for those who have left, and
// start no goroutine.
package wait

import (
	"context"
	"sync"

	"theseus/internal/must"
)

// shardCount spreads the ids, which are consecutive, over as many locks.
const shardCount = 64

// Results joins those who wait for the result of a request with the one who brings
// it. Register, hand the request on, then Wait.
type Results[T any] struct {
	shards [shardCount]shard[T]
	free   sync.Pool // of *Waiter[T] whose channel is empty
}

type shard[T any] struct {
	mu      sync.Mutex
	waiters map[uint64]*Waiter[T]
	_       [40]byte // keeps neighbours off one cache line
}

// Waiter waits for one result. It is used once, and by one goroutine.
type Waiter[T any] struct {
	r  *Results[T]
	id uint64
	ch chan T // holds one: Trigger never waits
}

// NewResults returns an empty meeting point.
func NewResults[T any]() *Results[T] {
	r := &Results[T]{}
	for i := range r.shards {
		r.shards[i].waiters = map[uint64]*Waiter[T]{}
	}
	return r
}

// Register announces a waiter for id, which must not be registered already. The
// caller owes exactly one Wait or Cancel.
func (r *Results[T]) Register(id uint64) *Waiter[T] {
	w, _ := r.free.Get().(*Waiter[T])
	if w == nil {
		w = &Waiter[T]{r: r, ch: make(chan T, 1)}
	}
	w.id = id
	s := r.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters[id] != nil {
		must.True(false, "request id %x is waited for twice", id) // its arguments cost an allocation
	}
	s.waiters[id] = w
	return w
}

// Trigger hands v to the waiter of id and tells whether there was one. It never blocks.
func (r *Results[T]) Trigger(id uint64, v T) bool {
	s := r.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiters[id]
	if w == nil {
		return false
	}
	delete(s.waiters, id)
	// Within the lock, so that a Cancel that finds the waiter gone finds v.
	w.ch <- v
	return true
}

// TriggerAll hands v to everybody who waits: the member stops, for instance.
func (r *Results[T]) TriggerAll(v T) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for id, w := range s.waiters {
			delete(s.waiters, id)
			w.ch <- v
		}
		s.mu.Unlock()
	}
}

// IsRegistered tells whether somebody waits for id.
func (r *Results[T]) IsRegistered(id uint64) bool {
	s := r.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiters[id] != nil
}

func (r *Results[T]) shard(id uint64) *shard[T] { return &r.shards[id%shardCount] }

// Wait returns the result, or the cause of ctx's end if that comes first, and
// releases the waiter. A result that is there already wins.
func (w *Waiter[T]) Wait(ctx context.Context) (T, error) {
	select {
	case v := <-w.ch:
		w.r.free.Put(w)
		return v, nil
	case <-ctx.Done():
	}
	if v, ok := w.leave(); ok {
		return v, nil
	}
	var none T
	return none, context.Cause(ctx)
}

// Cancel gives up waiting and releases the waiter.
func (w *Waiter[T]) Cancel() { w.leave() }

// leave takes the waiter out, and returns a result that has come all the same.
func (w *Waiter[T]) leave() (v T, ok bool) {
	s := w.r.shard(w.id)
	s.mu.Lock()
	if s.waiters[w.id] == w {
		delete(s.waiters, w.id)
	} else {
		v, ok = <-w.ch, true
	}
	s.mu.Unlock()
	w.r.free.Put(w)
	return v, ok
}
