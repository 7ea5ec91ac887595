// Package wait is a meeting point for those who wait for an index that is going to be
// applied and the one who applies it. It is safe for concurrent use, holds nothing for
// those who have left, and starts no goroutine.
package wait

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
)

// Index joins those who wait for an index with the one who advances it. Waiters
// for the same index share one channel. The zero value stands at index 0.
type Index struct {
	current atomic.Uint64

	mu    sync.Mutex // guards what follows, and orders Advance against Wait
	queue marks      // by index, lowest first
	at    map[uint64]*mark
}

type mark struct {
	index   uint64
	waiters int
	place   int // in the queue, -1 once reached
	reached chan struct{}
}

// Current returns the index last advanced to.
func (x *Index) Current() uint64 { return x.current.Load() }

// Advance makes index the current one and wakes those who waited for it or for a
// lower one. An index below the current one is ignored.
func (x *Index) Advance(index uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if index <= x.current.Load() {
		return
	}
	x.current.Store(index)
	for len(x.queue) > 0 && x.queue[0].index <= index {
		m := heap.Pop(&x.queue).(*mark)
		delete(x.at, m.index)
		close(m.reached)
	}
}

// Wait returns when index has been reached, or with the cause of ctx's end.
func (x *Index) Wait(ctx context.Context, index uint64) error {
	if x.current.Load() >= index {
		return nil
	}
	m := x.join(index)
	if m == nil {
		return nil
	}
	select {
	case <-m.reached:
		return nil
	case <-ctx.Done():
		x.leave(m)
		return context.Cause(ctx)
	}
}

// join returns the mark of index with one more waiter, nil if it has been reached.
func (x *Index) join(index uint64) *mark {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.current.Load() >= index {
		return nil
	}
	m := x.at[index]
	if m == nil {
		if x.at == nil {
			x.at = map[uint64]*mark{}
		}
		m = &mark{index: index, reached: make(chan struct{})}
		x.at[index] = m
		heap.Push(&x.queue, m)
	}
	m.waiters++
	return m
}

func (x *Index) leave(m *mark) {
	x.mu.Lock()
	defer x.mu.Unlock()
	m.waiters--
	if m.waiters == 0 && m.place >= 0 {
		heap.Remove(&x.queue, m.place)
		delete(x.at, m.index)
	}
}

// marks is the heap of marks.
type marks []*mark

func (q marks) Len() int           { return len(q) }
func (q marks) Less(i, j int) bool { return q[i].index < q[j].index }

func (q marks) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *marks) Push(m any) {
	m.(*mark).place = len(*q)
	*q = append(*q, m.(*mark))
}

func (q *marks) Pop() any {
	old := *q
	m := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	m.place = -1
	return m
}
