package server

import (
	"sync"
	"sync/atomic"
	"time"

	"theseus/api"
)

// lostAfter is the number of election timeouts after which streams that require a
// leader are told that there is none.
const lostAfter = 3

// leadership follows who leads. The raft goroutine tells it; anybody asks.
type leadership struct {
	lead, term atomic.Uint64

	mu      sync.Mutex
	since   time.Time     // when lead became what it is
	left    time.Time     // when a leader of an earlier term was last heard of
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
	if l.lead.Load() != 0 && (l.lead.Load() != lead || l.term.Load() != term) {
		l.left = now
	}
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

// leftSince returns when the leader before the one of this term was last heard of;
// false when there is another term by now.
func (l *leadership) leftSince(term uint64) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left, l.term.Load() == term && l.lead.Load() != 0
}

// forsaken are requests that were given to a leader of an earlier term. Once the first
// entry of a term is applied, those that are not never will be, unless the old leader
// still passes them on: they get a last election timeout for that. Whoever waits for a
// leader that has died would else wait for its own timeout.
type forsaken struct{ before, since time.Time }

// forsake notes them when a term's first entry is applied.
func (s *Server) forsake(term uint64, now time.Time) {
	if left, ok := s.lead.leftSince(term); ok && !left.IsZero() {
		s.forsaken.Store(&forsaken{before: left, since: now})
	}
}

// failForsaken tells them when their time is over.
func (s *Server) failForsaken(now time.Time) {
	f := s.forsaken.Load()
	if f == nil || now.Sub(f.since) < s.o.electionTimeout() || !s.forsaken.CompareAndSwap(f, nil) {
		return
	}
	for _, x := range s.pending.expired(f.before) {
		s.metrics.proposalsFailed.Inc()
		x.w.Done(Outcome{Err: api.ErrTimeoutDueToLeaderFail})
	}
}
