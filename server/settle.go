package server

import (
	"context"

	"theseus/api"
)

// Settle waits until the member can answer its clients: it knows the leader and has
// applied what was committed when it asked. Without a quorum that never happens, and
// there are requests that need none, so it waits an election timeout at most.
func (s *Server) Settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.o.electionTimeout())
	defer cancel()
	w := make(settled, 1)
	s.reads.add(w)
	select {
	case <-w:
	case <-s.done:
	case <-ctx.Done():
	}
}

// settled is a read that only waits.
type settled chan struct{}

func (w settled) ready(err error) {
	if err == nil || err == api.ErrStopped {
		w <- struct{}{}
	}
}
