package rpc

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// A HeldFront stands where a Front will be as long as the member is not let into its
// cluster: every call is answered with Unavailable and the reason, and the health service
// says NOT_SERVING.
type HeldFront struct {
	reason func() string
	srv    *grpc.Server
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
}

// NewHeldFront starts one; reason is asked at every call.
func NewHeldFront(reason func() string) *HeldFront {
	f := &HeldFront{reason: reason, conns: make(chan net.Conn), done: make(chan struct{})}
	f.srv = grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		return status.Error(codes.Unavailable, reason())
	}))
	healthpb.RegisterHealthServer(f.srv, heldHealth{})
	f.wg.Go(func() { _ = f.srv.Serve(f) })
	return f
}

// Serve takes one connection, of which head has been read already. It returns at once.
func (f *HeldFront) Serve(c net.Conn, head []byte) {
	if len(head) > 0 {
		c = &rewound{Conn: c, head: head}
	}
	select {
	case f.conns <- c:
	case <-f.done:
		_ = c.Close()
	}
}

// Stop ends all connections, so that clients come again and find the member.
func (f *HeldFront) Stop() {
	f.srv.Stop()
	f.wg.Wait()
}

// Accept, Close and Addr make it the listener of its own server.
func (f *HeldFront) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (f *HeldFront) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr is no address.
func (f *HeldFront) Addr() net.Addr { return &net.UnixAddr{Name: "held", Net: "unix"} }

// rewound gives back what was read to see which protocol it is.
type rewound struct {
	net.Conn
	head []byte
}

func (r *rewound) Read(b []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(b, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	return r.Conn.Read(b)
}

type heldHealth struct {
	healthpb.UnimplementedHealthServer
}

func notServing() *healthpb.HealthCheckResponse {
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}
}

func (heldHealth) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return notServing(), nil
}

func (heldHealth) Watch(_ *healthpb.HealthCheckRequest, ss grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if err := ss.Send(notServing()); err != nil {
		return err
	}
	<-ss.Context().Done() // the connection ends when the member is let in
	return status.FromContextError(ss.Context().Err()).Err()
}
