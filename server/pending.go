package server

import (
	"sync"
	"sync/atomic"
	"time"
)

// pendingShards spreads the lock of the pending table.
const pendingShards = 16

// pending holds the requests that wait until their entry is applied. A request is
// completed by whoever takes it out, so exactly once.
type pending struct {
	shards [pendingShards]pendingShard
	n      atomic.Int64
}

type pendingShard struct {
	mu sync.Mutex
	m  map[uint64]waiting
	_  [40]byte // shards on cache lines of their own
}

// waiting is one request in flight.
type waiting struct {
	w     Waiter
	since time.Time
	field int // of InternalRaftRequest, for the metrics; 0 for what is no request
}

func newPending() *pending {
	p := &pending{}
	for i := range p.shards {
		p.shards[i].m = make(map[uint64]waiting)
	}
	return p
}

func (p *pending) shard(id uint64) *pendingShard { return &p.shards[id%pendingShards] }

// add registers who waits for the request. It must happen before the proposal.
func (p *pending) add(id uint64, w waiting) {
	s := p.shard(id)
	s.mu.Lock()
	s.m[id] = w
	s.mu.Unlock()
	p.n.Add(1)
}

// has reports whether somebody waits for the request.
func (p *pending) has(id uint64) bool {
	s := p.shard(id)
	s.mu.Lock()
	_, ok := s.m[id]
	s.mu.Unlock()
	return ok
}

// take removes the request and returns who waits for it; ok is false when nobody does.
func (p *pending) take(id uint64) (x waiting, ok bool) {
	s := p.shard(id)
	s.mu.Lock()
	if x, ok = s.m[id]; ok {
		delete(s.m, id)
	}
	s.mu.Unlock()
	if ok {
		p.n.Add(-1)
	}
	return x, ok
}

// expired removes and returns the requests that began before the given time.
func (p *pending) expired(before time.Time) []waiting {
	var out []waiting
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		for id, x := range s.m {
			if x.since.Before(before) {
				out = append(out, x)
				delete(s.m, id)
			}
		}
		s.mu.Unlock()
	}
	p.n.Add(-int64(len(out)))
	return out
}

// len is how many requests wait.
func (p *pending) len() int { return int(p.n.Load()) }
