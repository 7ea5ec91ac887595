package server

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"theseus/api"
)

// Rules of expiry (interop 7.8, D.8).
const (
	expireEvery      = 500 * time.Millisecond // how often leases are looked at
	expirePerRound   = 500                    // how many are handed over each time
	revokesInFlight  = 16
	revokeRetry      = 3 * time.Second // a lease whose revoke did not come through is tried again
	checkpointEvery  = 5 * time.Minute // also the TTL from which a lease is checkpointed
	checkpointsAtOne = 1000            // leases in one checkpoint entry
	spreadAbove      = 750             // leases that may expire in one second after a promotion
)

// errNotPrimary tells that this member is not the leader, whose clock alone counts.
var errNotPrimary = errors.New("not a primary lessor")

// lessor is the clock of the leases. Only the leader's is primary and knows when
// leases expire; the others know nothing, and the TTLs are in the lease room.
type lessor struct {
	now         func() time.Time
	checkpoints bool // propose remaining TTLs of long leases

	mu      sync.Mutex
	primary bool
	demoted chan struct{} // closed when primary ends
	leases  map[int64]*leaseClock
	queue   leaseQueue // by due time
}

// leaseClock is one lease of the primary.
type leaseClock struct {
	id, ttl    int64
	remaining  int64 // checkpointed, 0 none
	expiry     time.Time
	due        time.Time // when to look at it again: expiry, or when to retry its revoke
	checkpoint time.Time // when the next checkpoint is due; zero none
	position   int       // in queue
	gone       chan struct{}
}

// leaseInfo is what promotion needs to know of a lease.
type leaseInfo struct{ id, ttl, remaining int64 }

func newLessor(now func() time.Time, checkpoints bool) *lessor {
	return &lessor{now: now, checkpoints: checkpoints}
}

// promote starts the clock: every lease gets what is left of it, or its whole TTL,
// plus extend, so that no lease ends because leadership moved.
func (l *lessor) promote(extend time.Duration, all []leaseInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.primary {
		close(l.demoted)
	}
	l.primary, l.demoted = true, make(chan struct{})
	l.leases, l.queue = make(map[int64]*leaseClock, len(all)), nil
	now := l.now()
	for _, x := range all {
		left := x.ttl
		if x.remaining > 0 {
			left = x.remaining
		}
		c := &leaseClock{id: x.id, ttl: x.ttl, remaining: x.remaining, gone: make(chan struct{})}
		c.expiry = now.Add(extend + seconds(left))
		l.setCheckpoint(c, now)
		l.leases[x.id] = c
		l.queue = append(l.queue, c)
	}
	l.spread()
	for i, c := range l.queue {
		c.due, c.position = c.expiry, i
	}
	heap.Init(&l.queue)
}

// spread moves leases that would expire in a crowd later, so that a second holds at
// most spreadAbove of them.
func (l *lessor) spread() {
	if len(l.queue) < expirePerRound*2 {
		return
	}
	slices.SortFunc(l.queue, func(a, b *leaseClock) int { return a.expiry.Compare(b.expiry) })
	start, n := l.queue[0].expiry, 0
	for _, c := range l.queue {
		if c.expiry.Sub(start) >= time.Second {
			start, n = c.expiry, 0
		}
		if n == spreadAbove {
			start, n = start.Add(time.Second), 0
		}
		n++
		if c.expiry.Before(start) {
			c.expiry = start
		}
	}
}

// demote stops the clock.
func (l *lessor) demote() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.primary {
		return
	}
	l.primary = false
	close(l.demoted)
	l.leases, l.queue = nil, nil
}

// granted, revoked and checkpointed follow what is applied.
func (l *lessor) granted(id, ttl int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.primary {
		return
	}
	now := l.now()
	c := &leaseClock{id: id, ttl: ttl, expiry: now.Add(seconds(ttl)), gone: make(chan struct{})}
	c.due = c.expiry
	l.setCheckpoint(c, now)
	l.leases[id] = c
	heap.Push(&l.queue, c)
}

func (l *lessor) revoked(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.leases[id]; c != nil {
		heap.Remove(&l.queue, c.position)
		delete(l.leases, id)
		close(c.gone)
	}
}

func (l *lessor) checkpointed(id, remaining int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.leases[id]; c != nil {
		c.remaining = remaining
		l.setCheckpoint(c, l.now())
	}
}

func (l *lessor) setCheckpoint(c *leaseClock, now time.Time) {
	c.checkpoint = time.Time{}
	if next := now.Add(checkpointEvery); l.checkpoints && c.expiry.After(next) {
		c.checkpoint = next
	}
}

// renew gives a lease its whole TTL again and returns it. forget is called, without
// locks, to have a checkpointed remainder dropped first. A lease that has expired
// and is not revoked yet is waited for.
func (l *lessor) renew(ctx context.Context, id int64, forget func(id int64) error) (int64, error) {
	l.mu.Lock()
	c, err := l.alive(ctx, id)
	if err == nil && c.remaining > 0 && l.checkpoints {
		l.mu.Unlock()
		if err := forget(id); err != nil {
			return 0, err
		}
		l.mu.Lock()
		c, err = l.alive(ctx, id)
	}
	defer l.mu.Unlock()
	if err != nil {
		return 0, err
	}
	now := l.now()
	c.expiry = now.Add(seconds(c.ttl))
	c.due = c.expiry
	l.setCheckpoint(c, now)
	heap.Fix(&l.queue, c.position)
	return c.ttl, nil
}

// alive returns the lease if it has not expired. It is called and returns with the
// lock held, and lets go of it while it waits for a revoke.
func (l *lessor) alive(ctx context.Context, id int64) (*leaseClock, error) {
	for {
		if !l.primary {
			return nil, errNotPrimary
		}
		c := l.leases[id]
		if c == nil {
			return nil, api.ErrLeaseNotFound
		}
		if c.expiry.After(l.now()) {
			return c, nil
		}
		gone, demoted := c.gone, l.demoted
		l.mu.Unlock()
		select {
		case <-gone:
		case <-demoted:
		case <-ctx.Done():
			l.mu.Lock()
			return nil, ctx.Err()
		}
		l.mu.Lock()
	}
}

// left returns the seconds that a lease still has (negative when it is overdue).
func (l *lessor) left(id int64) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.primary {
		return 0, errNotPrimary
	}
	c := l.leases[id]
	if c == nil {
		return 0, api.ErrLeaseNotFound
	}
	return int64(c.expiry.Sub(l.now()).Seconds()), nil
}

// isPrimary reports whether the clock runs here.
func (l *lessor) isPrimary() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.primary
}

// expired returns up to expirePerRound leases to revoke now. Each comes again after
// revokeRetry unless it was revoked.
func (l *lessor) expired() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []int64
	now := l.now()
	for len(l.queue) > 0 && len(out) < expirePerRound && !l.queue[0].due.After(now) {
		c := l.queue[0]
		c.due = now.Add(revokeRetry)
		heap.Fix(&l.queue, 0)
		out = append(out, c.id)
	}
	return out
}

// due returns the checkpoints to propose now.
func (l *lessor) dueCheckpoints() []leaseInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.checkpoints || !l.primary {
		return nil
	}
	var out []leaseInfo
	now := l.now()
	for _, c := range l.leases {
		if c.checkpoint.IsZero() || c.checkpoint.After(now) || len(out) == checkpointsAtOne {
			continue
		}
		if left := int64(c.expiry.Sub(now).Seconds()); left > 0 && left < c.ttl {
			out = append(out, leaseInfo{id: c.id, ttl: c.ttl, remaining: left})
		}
		l.setCheckpoint(c, now)
	}
	return out
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// leaseQueue is a min-heap by due time.
type leaseQueue []*leaseClock

func (q leaseQueue) Len() int           { return len(q) }
func (q leaseQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q leaseQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].position, q[j].position = i, j
}

// Push implements heap.Interface.
func (q *leaseQueue) Push(x any) {
	c := x.(*leaseClock)
	c.position = len(*q)
	*q = append(*q, c)
}

// Pop implements heap.Interface.
func (q *leaseQueue) Pop() any {
	old := *q
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return c
}
