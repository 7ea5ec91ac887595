package rpc

import (
	"context"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/internal/h2"
)

// leaseService has the methods of Lease that are neither hot nor raw.
type leaseService struct {
	pb.UnimplementedLeaseServer
	f *Front
}

// LeaseTimeToLive implements pb.LeaseServer.
func (s *leaseService) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return s.f.srv.LeaseTimeToLive(ctx, r)
}

// LeaseLeases implements pb.LeaseServer.
func (s *leaseService) LeaseLeases(ctx context.Context, r *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	return s.f.srv.LeaseLeases(ctx, r)
}

// leaseKeepAlive answers Lease.LeaseKeepAlive: one answer a request, in order. A
// lease that is gone has TTL 0. The header is from before the renewal.
func (f *Front) leaseKeepAlive(ctx context.Context, s *h2.Stream) error {
	for {
		var r pb.LeaseKeepAliveRequest
		if err := s.RecvMsg(&r); err != nil {
			if err == io.EOF {
				return nil
			}
			f.receiveFailed(s, "lease-keepalive")
			return err
		}
		resp := pb.LeaseKeepAliveResponse{Header: f.srv.Header(0), ID: r.ID}
		ttl, err := f.srv.LeaseRenew(ctx, r.ID)
		switch {
		case err == api.ErrLeaseNotFound:
			ttl = 0
		case err != nil:
			return err
		}
		resp.TTL = ttl
		if err := s.SendMsg(&resp); err != nil {
			f.sendFailed(s, "lease-keepalive")
			return err
		}
	}
}

// sendFailed and receiveFailed count streams that broke while the client still
// wanted them.
func (f *Front) sendFailed(s *h2.Stream, api string) { f.streamFailed(s, "send", api) }

func (f *Front) receiveFailed(s *h2.Stream, api string) { f.streamFailed(s, "receive", api) }

func (f *Front) streamFailed(s *h2.Stream, what, api string) {
	if s.Context().Err() == nil {
		f.metrics.streamFailed(what, api)
	}
}
