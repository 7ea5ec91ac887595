package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// clusterService is Cluster. Its answers never carry a revision.
type clusterService struct {
	pb.UnimplementedClusterServer
	f *Front
}

// MemberAdd implements pb.ClusterServer.
func (s *clusterService) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	resp, err := s.f.srv.MemberAdd(ctx, r)
	return resp, withoutRevision(resp.GetHeader(), err)
}

// MemberRemove implements pb.ClusterServer.
func (s *clusterService) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	resp, err := s.f.srv.MemberRemove(ctx, r)
	return resp, withoutRevision(resp.GetHeader(), err)
}

// MemberUpdate implements pb.ClusterServer.
func (s *clusterService) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	resp, err := s.f.srv.MemberUpdate(ctx, r)
	return resp, withoutRevision(resp.GetHeader(), err)
}

// MemberList implements pb.ClusterServer.
func (s *clusterService) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	resp, err := s.f.srv.MemberList(ctx, r)
	return resp, withoutRevision(resp.GetHeader(), err)
}

// MemberPromote implements pb.ClusterServer.
func (s *clusterService) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	resp, err := s.f.srv.MemberPromote(ctx, r)
	return resp, withoutRevision(resp.GetHeader(), err)
}

func withoutRevision(h *pb.ResponseHeader, err error) error {
	if h != nil {
		h.Revision = 0
	}
	return err
}
