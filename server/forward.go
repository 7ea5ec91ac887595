package server

import (
	"context"
	"errors"
	"time"

	"theseus/api"
)

// forwardPause lies between two rounds of asking the leader.
const forwardPause = 50 * time.Millisecond

// errSelfLeads says that this member has become the leader itself meanwhile.
var errSelfLeads = errors.New("this member leads")

// forward asks the leader, at one of its peer URLs after the other, again until it
// answers, final says that an error is its answer, or ctx ends.
func (s *Server) forward(ctx context.Context, ask func(ctx context.Context, u string) error, final func(error) bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	for {
		lead, err := s.waitLeader(ctx)
		switch {
		case err != nil:
			return err
		case lead == s.id: // it takes a moment until the lessor counts
			pause(ctx, forwardPause)
			return errSelfLeads
		}
		m, _ := s.members().Member(lead)
		for _, u := range m.PeerURLs {
			err := ask(ctx, u)
			if err == nil || final(err) {
				return err
			}
			if ctx.Err() != nil {
				break
			}
		}
		if pause(ctx, forwardPause); ctx.Err() != nil {
			return s.patience(ctx, ctx.Err())
		}
	}
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// waitLeader returns the leader, waiting an election timeout for one.
func (s *Server) waitLeader(ctx context.Context) (uint64, error) {
	timer := time.NewTimer(s.o.electionTimeout())
	defer timer.Stop()
	for {
		changed := s.lead.watch()
		if lead := s.Leader(); lead != 0 {
			return lead, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return 0, api.ErrNoLeader
		case <-s.done:
			return 0, api.ErrStopped
		case <-ctx.Done():
			return 0, s.patience(ctx, ctx.Err())
		}
	}
}
