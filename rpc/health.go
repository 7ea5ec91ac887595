package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// healthPoll is how often a health watch looks whether a defragmentation runs.
const healthPoll = 100 * time.Millisecond

// healthService is grpc.health.v1.Health for the service "", the whole member.
type healthService struct {
	healthpb.UnimplementedHealthServer
	f *Front
}

func (s *healthService) now() healthpb.HealthCheckResponse_ServingStatus {
	if s.f.o.StopOnDefrag && s.f.srv.Defragmenting() {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}

// Check implements healthpb.HealthServer.
func (s *healthService) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if r.Service != "" {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: s.now()}, nil
}

// List implements healthpb.HealthServer.
func (s *healthService) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	return &healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{"": {Status: s.now()}}}, nil
}

// Watch implements healthpb.HealthServer: the status now, and each change.
func (s *healthService) Watch(r *healthpb.HealthCheckRequest, ss grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	var tick <-chan time.Time
	if s.f.o.StopOnDefrag && r.Service == "" {
		t := time.NewTicker(healthPoll)
		defer t.Stop()
		tick = t.C
	}
	last := healthpb.HealthCheckResponse_ServingStatus(-1)
	for {
		now := s.now()
		if r.Service != "" {
			now = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		}
		if now != last {
			if err := ss.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-tick:
		case <-ss.Context().Done():
			return status.Error(codes.Canceled, "Stream has ended.")
		}
	}
}
