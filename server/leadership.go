package server

import (
	"sync"
	"sync/atomic"
	"time"
)

// lostAfter is the number of election timeouts after which streams that require a
// leader are told that there is none.
const lostAfter = 3

// leadership follows who leads. The raft goroutine tells it; anybody asks.
type leadership struct {
	lead, term atomic.Uint64

	mu      sync.Mutex
	since   time.Time     // when lead became what it is
	lostAt  time.Time     // when the last leader was lost; zero when there is one
	changed chan struct{} // closed at the next change
	lost    chan struct{} // closed when there has been none for too long
	isLost  bool
}

func newLeadership(now time.Time) *leadership {
	return &leadership{since: now, lostAt: now, changed: make(chan struct{}), lost: make(chan struct{})}
}

// set takes what raft says now and reports whether the leader is another one.
func (l *leadership) set(lead, term uint64, now time.Time) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term.Store(term)
	if l.lead.Load() == lead {
		return false
	}
	l.lead.Store(lead)
	l.since = now
	close(l.changed)
	l.changed = make(chan struct{})
	switch {
	case lead == 0:
		l.lostAt = now
	default:
		l.lostAt = time.Time{}
		if l.isLost {
			l.lost, l.isLost = make(chan struct{}), false
		}
	}
	return true
}

// tick closes lost when there has been no leader for the given time.
func (l *leadership) tick(now time.Time, patience time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isLost && !l.lostAt.IsZero() && now.Sub(l.lostAt) >= patience {
		close(l.lost)
		l.isLost = true
	}
}

// watch returns a channel that is closed at the next change of the leader.
func (l *leadership) watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *leadership) lostChan() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// electedSince returns when the present leader was seen first.
func (l *leadership) electedSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}
