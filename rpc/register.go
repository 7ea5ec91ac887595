package rpc

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"theseus/internal/h2"
	"theseus/rpc/electionpb"
	"theseus/rpc/lockpb"
)

// register binds every service of surface 1.1 to the transport.
func (f *Front) register() {
	for path, fn := range map[string]func(*h2.Call){
		pb.KV_Range_FullMethodName:          f.rangeKeys,
		pb.KV_Put_FullMethodName:            f.put,
		pb.KV_DeleteRange_FullMethodName:    f.deleteRange,
		pb.KV_Txn_FullMethodName:            f.txn,
		pb.Lease_LeaseGrant_FullMethodName:  f.leaseGrant,
		pb.Lease_LeaseRevoke_FullMethodName: f.leaseRevoke,
	} {
		f.h2.HandleUnary(path, fn)
	}
	f.h2.RegisterService(withStreams(pb.KV_ServiceDesc, rawStreams{"RangeStream": f.rangeStream}), &kvService{f: f})
	f.h2.RegisterService(withStreams(pb.Watch_ServiceDesc, rawStreams{"Watch": f.watch}), &watchService{})
	f.h2.RegisterService(withStreams(pb.Lease_ServiceDesc, rawStreams{"LeaseKeepAlive": f.leaseKeepAlive}), &leaseService{f: f})
	pb.RegisterClusterServer(f.h2, &clusterService{f: f})
	f.h2.RegisterService(withStreams(pb.Maintenance_ServiceDesc, rawStreams{"Snapshot": f.snapshot}), &maintenanceService{f: f})
	pb.RegisterAuthServer(f.h2, &authService{f: f})
	healthpb.RegisterHealthServer(f.h2, &healthService{f: f})
	lockpb.RegisterLockServer(f.h2, &lockService{f: f})
	electionpb.RegisterElectionServer(f.h2, &electionService{f: f})
}

// rawStreams are streaming handlers that read and write encoded messages.
type rawStreams map[string]func(ctx context.Context, s *h2.Stream) error

// withStreams returns the description of a service with some of its streams handled
// raw.
func withStreams(desc grpc.ServiceDesc, raw rawStreams) *grpc.ServiceDesc {
	desc.Streams = slices.Clone(desc.Streams)
	for i := range desc.Streams {
		fn := raw[desc.Streams[i].StreamName]
		if fn == nil {
			continue
		}
		desc.Streams[i].Handler = func(_ any, ss grpc.ServerStream) error {
			s := ss.(identifiedStream)
			return fn(s.ctx, s.Stream)
		}
	}
	return &desc
}
