package rpc

import (
	"bytes"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"theseus/api"
	"theseus/rpc/electionpb"
)

// electionService is v3electionpb.Election.
type electionService struct {
	electionpb.UnimplementedElectionServer
	f *Front
}

// Campaign implements electionpb.ElectionServer.
func (s *electionService) Campaign(ctx context.Context, r *electionpb.CampaignRequest) (*electionpb.CampaignResponse, error) {
	resp, err := s.campaign(ctx, r)
	return resp, recipeError(err)
}

func (s *electionService) campaign(ctx context.Context, r *electionpb.CampaignRequest) (*electionpb.CampaignResponse, error) {
	lease, err := s.f.session(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	p := s.f.newPlace(r.Name, lease)
	h, mine, _, err := p.enter(ctx, r.Value)
	if err != nil {
		return nil, err
	}
	if mine != nil && !bytes.Equal(mine.Value, r.Value) {
		if _, err := p.proclaim(ctx, r.Value); err != nil {
			p.leave(ctx)
			return nil, err
		}
	}
	if err := p.turn(ctx); err != nil {
		if ctx.Err() != nil {
			p.leave(ctx)
		}
		return nil, err
	}
	return &electionpb.CampaignResponse{Header: h,
		Leader: &electionpb.LeaderKey{Name: r.Name, Key: p.key, Rev: p.rev, Lease: lease}}, nil
}

// proclaim sets the value of a key that is still the one we made.
func (p *place) proclaim(ctx context.Context, value []byte) (*pb.ResponseHeader, error) {
	resp, err := p.f.srv.Txn(ctx, &pb.TxnRequest{Compare: p.created(p.rev),
		Success: []*pb.RequestOp{opPut(&pb.PutRequest{Key: p.key, Value: value, Lease: p.lease})}}, nil)
	switch {
	case err != nil:
		return nil, err
	case !resp.Succeeded:
		return nil, errNotLeader
	}
	return resp.Header, nil
}

// held is the place that a client names by its leader key.
func (s *electionService) held(k *electionpb.LeaderKey) (*place, error) {
	switch {
	case k == nil:
		return nil, errMissingLeader
	case len(k.Key) == 0:
		return nil, api.ErrEmptyKey
	}
	return &place{f: s.f, key: k.Key, rev: k.Rev, lease: k.Lease}, nil
}

// Proclaim implements electionpb.ElectionServer.
func (s *electionService) Proclaim(ctx context.Context, r *electionpb.ProclaimRequest) (*electionpb.ProclaimResponse, error) {
	resp, err := s.announce(ctx, r)
	return resp, recipeError(err)
}

func (s *electionService) announce(ctx context.Context, r *electionpb.ProclaimRequest) (*electionpb.ProclaimResponse, error) {
	p, err := s.held(r.Leader)
	if err != nil {
		return nil, err
	}
	if p.lease, err = s.f.session(ctx, p.lease); err != nil {
		return nil, err
	}
	h, err := p.proclaim(ctx, r.Value)
	if err != nil {
		return nil, err
	}
	return &electionpb.ProclaimResponse{Header: h}, nil
}

// Resign implements electionpb.ElectionServer.
func (s *electionService) Resign(ctx context.Context, r *electionpb.ResignRequest) (*electionpb.ResignResponse, error) {
	resp, err := s.resign(ctx, r)
	return resp, recipeError(err)
}

func (s *electionService) resign(ctx context.Context, r *electionpb.ResignRequest) (*electionpb.ResignResponse, error) {
	p, err := s.held(r.Leader)
	if err != nil {
		return nil, err
	}
	resp, err := s.f.srv.Txn(ctx, &pb.TxnRequest{Compare: p.created(p.rev),
		Success: []*pb.RequestOp{opDelete(&pb.DeleteRangeRequest{Key: p.key})}}, nil)
	if err != nil {
		return nil, err
	}
	return &electionpb.ResignResponse{Header: resp.Header}, nil
}

// leader reads the oldest key of the election, nil if there is none.
func (s *electionService) leader(ctx context.Context, name []byte) (*pb.ResponseHeader, *mvccpb.KeyValue, error) {
	p := s.f.newPlace(name, 0)
	res, err := s.f.srv.Range(ctx, p.firstOwner())
	if err != nil {
		return nil, nil, err
	}
	h := s.f.srv.Header(res.Rev)
	if len(res.KVs) == 0 {
		return h, nil, nil
	}
	kv := &mvccpb.KeyValue{}
	return h, kv, api.DecodeKV(res.KVs[0], kv)
}

// Leader implements electionpb.ElectionServer.
func (s *electionService) Leader(ctx context.Context, r *electionpb.LeaderRequest) (*electionpb.LeaderResponse, error) {
	resp, err := s.current(ctx, r)
	return resp, recipeError(err)
}

func (s *electionService) current(ctx context.Context, r *electionpb.LeaderRequest) (*electionpb.LeaderResponse, error) {
	h, kv, err := s.leader(ctx, r.Name)
	switch {
	case err != nil:
		return nil, err
	case kv == nil:
		return nil, errNoLeader
	}
	return &electionpb.LeaderResponse{Header: h, Kv: kv}, nil
}

// Observe implements electionpb.ElectionServer: the leader now, what it proclaims,
// and the leaders after it. When the member cannot follow the election any more the
// stream just ends, as real ones do; the client begins anew.
func (s *electionService) Observe(r *electionpb.LeaderRequest, ss grpc.ServerStreamingServer[electionpb.LeaderResponse]) error {
	if err := s.observe(r, ss); ss.Context().Err() != nil {
		return err
	}
	return nil
}

func (s *electionService) observe(r *electionpb.LeaderRequest, ss grpc.ServerStreamingServer[electionpb.LeaderResponse]) error {
	ctx := ss.Context()
	for {
		h, kv, err := s.leader(ctx, r.Name)
		if err != nil {
			return err
		}
		if kv == nil {
			if h, kv, err = s.candidate(ctx, r.Name, h.Revision); err != nil {
				return err
			}
		}
		if err := ss.Send(&electionpb.LeaderResponse{Header: h, Kv: kv}); err != nil {
			return err
		}
		if err := s.reign(ctx, kv.Key, h.Revision+1, ss); err != nil {
			return err
		}
	}
}

// candidate waits for the first key of an election without any.
func (s *electionService) candidate(ctx context.Context, name []byte, from int64) (h *pb.ResponseHeader, kv *mvccpb.KeyValue, err error) {
	p := s.f.newPlace(name, 0)
	err = s.f.follow(ctx, &pb.WatchCreateRequest{Key: p.prefix, RangeEnd: prefixEnd(p.prefix), StartRevision: from},
		func(e *mvccpb.Event, eh *pb.ResponseHeader) bool {
			if e.Type != mvccpb.Event_PUT {
				return false
			}
			// The response may hold later revisions: go on from this one.
			kv, h = e.Kv, eh
			h.Revision = kv.ModRevision
			return true
		})
	return h, kv, err
}

// reign sends what a leader proclaims until its key is gone.
func (s *electionService) reign(ctx context.Context, key []byte, from int64, ss grpc.ServerStreamingServer[electionpb.LeaderResponse]) error {
	var failed error
	err := s.f.follow(ctx, &pb.WatchCreateRequest{Key: bytes.Clone(key), StartRevision: from},
		func(e *mvccpb.Event, h *pb.ResponseHeader) bool {
			if e.Type == mvccpb.Event_DELETE {
				return true
			}
			failed = ss.Send(&electionpb.LeaderResponse{Header: h, Kv: e.Kv})
			return failed != nil
		})
	if failed != nil {
		return failed
	}
	return err
}
