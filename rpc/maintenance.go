package rpc

import (
	"context"
	"crypto/sha256"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"

	"theseus/api"
	"theseus/internal/h2"
)

// maintenanceService has the methods of Maintenance that are not raw.
type maintenanceService struct {
	pb.UnimplementedMaintenanceServer
	f *Front
}

// Alarm implements pb.MaintenanceServer. An action that has no name ends real
// members; here it gets the error that they give for an unknown downgrade action.
func (s *maintenanceService) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if _, ok := pb.AlarmRequest_AlarmAction_name[int32(r.Action)]; !ok {
		return nil, api.ErrUnknownMethod
	}
	return s.f.srv.Alarm(ctx, r)
}

// Status implements pb.MaintenanceServer.
func (s *maintenanceService) Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	return s.f.srv.Status(ctx, r)
}

// Defragment implements pb.MaintenanceServer.
func (s *maintenanceService) Defragment(ctx context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	return s.f.srv.Defragment(ctx, r)
}

// Hash implements pb.MaintenanceServer.
func (s *maintenanceService) Hash(ctx context.Context, r *pb.HashRequest) (*pb.HashResponse, error) {
	return s.f.srv.Hash(ctx, r)
}

// HashKV implements pb.MaintenanceServer.
func (s *maintenanceService) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	return s.f.srv.HashKV(ctx, r)
}

// MoveLeader implements pb.MaintenanceServer.
func (s *maintenanceService) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(api.TransferAhead)) > 0 {
		if err := s.f.srv.ExpectTransfer(ctx); err != nil {
			return nil, err
		}
	}
	return s.f.srv.MoveLeader(ctx, r)
}

// Downgrade implements pb.MaintenanceServer.
func (s *maintenanceService) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if _, ok := pb.DowngradeRequest_DowngradeAction_name[int32(r.Action)]; !ok {
		return nil, api.ErrUnknownMethod
	}
	return s.f.srv.Downgrade(ctx, r)
}

// snapshotChunk is the size of a snapshot message's blob (surface 1.4).
const snapshotChunk = 32 << 10

// snapshot answers Maintenance.Snapshot: the db in blobs, then the SHA-256 of it.
// Messages have no header (watched on 3.7).
func (f *Front) snapshot(ctx context.Context, s *h2.Stream) error {
	if err := s.RecvMsg(&pb.SnapshotRequest{}); err != nil {
		return err
	}
	image, size, version, err := f.srv.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer image.Close()
	sum, buf := sha256.New(), make([]byte, snapshotChunk)
	for left := size; left > 0; {
		n, err := io.ReadFull(image, buf[:min(left, snapshotChunk)])
		if err != nil {
			return err
		}
		left -= int64(n)
		sum.Write(buf[:n])
		if err := f.sendBlob(s, &pb.SnapshotResponse{RemainingBytes: uint64(left), Blob: buf[:n], Version: version}); err != nil {
			return err
		}
	}
	return f.sendBlob(s, &pb.SnapshotResponse{Blob: sum.Sum(nil), Version: version})
}

func (f *Front) sendBlob(s *h2.Stream, m *pb.SnapshotResponse) error {
	err := s.SendMsg(m)
	if err != nil {
		f.sendFailed(s, "snapshot")
	}
	return err
}
