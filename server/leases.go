package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"theseus/api"
)

// StartLeaseGrant proposes a lease; r.ID 0 lets the server choose one.
func (s *Server) StartLeaseGrant(c Credentials, r *pb.LeaseGrantRequest, w Waiter) {
	if s.authOn() {
		s.later(c, w, func(ctx context.Context) Outcome { return outcome(s.LeaseGrant(ctx, r)) })
		return
	}
	if err := s.admitGrant(r); err != nil {
		w.Done(Outcome{Err: err})
		return
	}
	s.propose(&pb.RequestHeader{}, fieldLeaseGrant, encoded(r, nil), w)
}

// LeaseGrant makes a lease.
func (s *Server) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := s.admitGrant(r); err != nil {
		return nil, err
	}
	if _, err := s.asUser(ctx); err != nil {
		return nil, err
	}
	m, err := s.request(ctx, fieldLeaseGrant, encoded(r, nil), nil)
	return answer[*pb.LeaseGrantResponse](m, err)
}

// admitGrant checks a grant and chooses the id.
func (s *Server) admitGrant(r *pb.LeaseGrantRequest) error {
	if err := s.admit(); err != nil {
		return err
	}
	for leases := s.store.Load().mach.Leases(); r.ID == 0; {
		if id := s.ids.nextLease(); !leases.Exists(id) {
			r.ID = id
		}
	}
	return s.admitSpace(r)
}

// StartLeaseRevoke proposes the end of a lease.
func (s *Server) StartLeaseRevoke(c Credentials, r *pb.LeaseRevokeRequest, w Waiter) {
	if s.authOn() {
		s.later(c, w, func(ctx context.Context) Outcome { return outcome(s.LeaseRevoke(ctx, r)) })
		return
	}
	if err := s.admit(); err != nil {
		w.Done(Outcome{Err: err})
		return
	}
	s.propose(&pb.RequestHeader{}, fieldLeaseRevoke, encoded(r, nil), w)
}

// LeaseRevoke ends a lease and deletes its keys. Nobody in particular may not, even
// where the lease has no keys (etcd since 3.5).
func (s *Server) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if _, err := s.asUser(ctx); err != nil {
		return nil, err
	}
	m, err := s.request(ctx, fieldLeaseRevoke, encoded(r, nil), func(st *store, h *pb.RequestHeader) error {
		return st.mach.CheckLeaseRevoke(h, r)
	})
	return answer[*pb.LeaseRevokeResponse](m, err)
}

// LeaseRenew gives the lease its whole TTL again and returns it in seconds; a
// follower asks the leader. api.ErrLeaseNotFound means it is gone.
func (s *Server) LeaseRenew(ctx context.Context, id int64) (ttl int64, err error) {
	if _, err := s.asUser(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	for {
		if ttl, err = s.renewHere(ctx, id); !errors.Is(err, errNotPrimary) {
			return ttl, s.patience(ctx, err)
		}
		err = s.forward(ctx, func(ctx context.Context, u string) (err error) {
			ttl, err = s.client.LeaseRenew(ctx, u, id)
			return err
		}, isLeaseNotFound)
		if err != errSelfLeads {
			return ttl, err
		}
	}
}

// renewHere renews a lease at the leader, for followers too; elsewhere it fails with
// "not a primary lessor". A lease that is not known yet is looked for again once all
// that was committed is applied.
func (s *Server) renewHere(ctx context.Context, id int64) (ttl int64, err error) {
	ttl, err = s.lessor.renew(ctx, id, s.forgetCheckpoint)
	if err == api.ErrLeaseNotFound {
		if err := s.waitApplied(ctx, s.node.Commit()); err != nil {
			return 0, api.ErrTimeout
		}
		ttl, err = s.lessor.renew(ctx, id, s.forgetCheckpoint)
	}
	if err == nil {
		s.metrics.leaseRenewed.Inc()
	}
	return ttl, err
}

// patience turns the end of a context into what a client is told.
func (s *Server) patience(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() == nil:
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.ErrTimeout
	default:
		return api.ErrCanceled
	}
}

// LeaseTimeToLive tells what is left of a lease; TTL is -1 when there is none.
func (s *Server) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := s.mayReadLease(ctx, r); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	for {
		resp, err := s.timeToLiveHere(ctx, r)
		if errors.Is(err, errNotPrimary) {
			err = s.forward(ctx, func(ctx context.Context, u string) (err error) {
				resp, err = s.client.LeaseTimeToLive(ctx, u, r.ID, r.Keys)
				return err
			}, isLeaseNotFound)
			if err == errSelfLeads {
				continue
			}
		}
		switch err = s.patience(ctx, err); {
		case err == api.ErrLeaseNotFound:
			return &pb.LeaseTimeToLiveResponse{Header: s.Header(0), ID: r.ID, TTL: -1}, nil
		case err != nil:
			return nil, err
		}
		resp.Header = s.Header(0)
		return resp, nil
	}
}

// mayReadLease lets users see the keys of a lease only if they may read all of them.
func (s *Server) mayReadLease(ctx context.Context, r *pb.LeaseTimeToLiveRequest) error {
	h, err := s.asUser(ctx)
	if err != nil || !r.Keys || !s.authOn() {
		return err
	}
	return s.holding(func(st *store) error {
		_, keys, _ := st.mach.Leases().Lookup(r.ID)
		for _, k := range keys {
			if err := st.mach.Auth().Check(h.Username, h.AuthRevision, k, nil, authpb.READ); err != nil {
				return err
			}
		}
		return nil
	})
}

// timeToLiveHere answers at the leader, for followers too; elsewhere it fails with
// "not a primary lessor".
func (s *Server) timeToLiveHere(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if !s.lessor.isPrimary() {
		return nil, errNotPrimary
	}
	if err := s.fenceError(); err != nil {
		return nil, err
	}
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return nil, err
	}
	left, err := s.lessor.left(r.ID)
	if err != nil {
		return nil, err
	}
	st, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer st.release()
	l, keys, ok := st.mach.Leases().Lookup(r.ID)
	if !ok {
		return nil, api.ErrLeaseNotFound
	}
	resp := &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: max(left, 0), GrantedTTL: l.TTL}
	if r.Keys {
		resp.Keys = keys
	}
	return resp, nil
}

// LeaseLeases lists the leases.
func (s *Server) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := s.fenceError(); err != nil {
		return nil, err
	}
	if _, err := s.asUser(ctx); err != nil {
		return nil, err
	}
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return nil, err
	}
	resp := &pb.LeaseLeasesResponse{Header: s.Header(0)}
	err := s.holding(func(st *store) error {
		for _, l := range st.mach.Leases().List() {
			resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: l.ID})
		}
		return nil
	})
	return resp, err
}

func isLeaseNotFound(err error) bool { return err == api.ErrLeaseNotFound }

// forgetCheckpoint proposes that nothing is left over from a checkpoint of the lease.
func (s *Server) forgetCheckpoint(id int64) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.o.requestTimeout())
	defer cancel()
	return s.proposeCheckpoints(ctx, []leaseInfo{{id: id}})
}

func (s *Server) proposeCheckpoints(ctx context.Context, all []leaseInfo) error {
	r := &pb.LeaseCheckpointRequest{}
	for _, c := range all {
		r.Checkpoints = append(r.Checkpoints, &pb.LeaseCheckpoint{ID: c.id, Remaining_TTL: c.remaining})
	}
	return s.requestAs(ctx, s.rootHeader(), fieldLeaseCheckpoint, encoded(r, nil), nil).Err
}

// expireLeases revokes leases whose time is over and checkpoints long ones, while
// this member's clock counts.
func (s *Server) expireLeases(ctx context.Context) {
	ticker := time.NewTicker(expireEvery)
	defer ticker.Stop()
	slots := make(chan struct{}, revokesInFlight)
	var wg sync.WaitGroup
	defer wg.Wait()
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, id := range s.lessor.expired() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				defer func() { <-slots }()
				s.revokeExpired(ctx, id)
			})
		}
		s.checkpointLeases(ctx)
	}
}

func (s *Server) revokeExpired(ctx context.Context, id int64) {
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	o := s.requestAs(ctx, s.rootHeader(), fieldLeaseRevoke, encoded(&pb.LeaseRevokeRequest{ID: id}, nil), nil)
	switch {
	case o.Err == nil:
		s.metrics.leaseExpired.Inc()
	case o.Err == api.ErrLeaseNotFound || ctx.Err() != nil:
	default:
		s.log.Warn("failed to revoke lease", zap.Int64("lease-id", id), zap.Error(o.Err))
	}
}

func (s *Server) checkpointLeases(ctx context.Context) {
	due := s.lessor.dueCheckpoints()
	if len(due) == 0 || !s.checkpointsAllowed() {
		return
	}
	for i := range due {
		due[i].remaining = max(due[i].remaining, 1)
	}
	if err := s.proposeCheckpoints(ctx, due); err != nil && ctx.Err() == nil {
		s.log.Warn("failed to checkpoint leases", zap.Int("leases", len(due)), zap.Error(err))
	}
}

// nudge proposes an entry that changes nothing, after a snapshot was sent. etcd 3.6 and
// 3.7 take a snapshot without taking note that they have applied so far: until the next
// entry comes they count as thousands of entries behind, refuse every proposal of their
// own and never come up in a cluster that nobody writes to. Every version knows the
// revocation of a lease, and what a lease that does not exist answers interests nobody.
func (s *Server) nudge() {
	body := encoded(&pb.LeaseRevokeRequest{ID: s.ids.nextLease()}, nil)
	s.propose(s.rootHeader(), fieldLeaseRevoke, body, nobody{})
}

// nobody waits for nothing.
type nobody struct{}

// Done implements Waiter.
func (nobody) Done(Outcome) {}
