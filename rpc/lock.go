package rpc

import (
	"bytes"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/rpc/lockpb"
)

// lockService is v3lockpb.Lock.
type lockService struct {
	lockpb.UnimplementedLockServer
	f *Front
}

// Lock implements lockpb.LockServer.
func (s *lockService) Lock(ctx context.Context, r *lockpb.LockRequest) (*lockpb.LockResponse, error) {
	resp, err := s.lock(ctx, r)
	return resp, recipeError(err)
}

func (s *lockService) lock(ctx context.Context, r *lockpb.LockRequest) (*lockpb.LockResponse, error) {
	lease, err := s.f.session(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	p := s.f.newPlace(r.Name, lease)
	h, _, owner, err := p.enter(ctx, nil)
	if err != nil {
		return nil, err
	}
	if owner != nil && owner.CreateRevision != p.rev && !bytes.Equal(owner.Key, p.key) {
		if h, err = p.wait(ctx); err != nil {
			return nil, err
		}
	}
	return &lockpb.LockResponse{Header: h, Key: p.key}, nil
}

// wait waits for the lock's turn, and leaves the queue when that fails. The key may
// have gone with its lease meanwhile.
func (p *place) wait(ctx context.Context) (*pb.ResponseHeader, error) {
	if err := p.turn(ctx); err != nil {
		p.leave(ctx)
		return nil, err
	}
	res, err := p.f.srv.Range(ctx, &pb.RangeRequest{Key: p.key})
	if err != nil {
		p.leave(ctx)
		return nil, err
	}
	if len(res.KVs) == 0 {
		return nil, errSessionExpired
	}
	return p.f.srv.Header(res.Rev), nil
}

// Unlock implements lockpb.LockServer.
func (s *lockService) Unlock(ctx context.Context, r *lockpb.UnlockRequest) (*lockpb.UnlockResponse, error) {
	resp, err := s.unlock(ctx, r)
	return resp, recipeError(err)
}

func (s *lockService) unlock(ctx context.Context, r *lockpb.UnlockRequest) (*lockpb.UnlockResponse, error) {
	if len(r.Key) == 0 {
		return nil, api.ErrEmptyKey
	}
	resp, err := s.f.srv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: r.Key}, nil)
	if err != nil {
		return nil, err
	}
	return &lockpb.UnlockResponse{Header: resp.Header}, nil
}
