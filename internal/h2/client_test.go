package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// service is grpc-go's interop test service on our front.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	gone chan error // what a handler saw when its client left
}

func (s *service) UnaryCall(ctx context.Context, r *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("fail"); len(v) > 0 {
		st, _ := status.New(codes.DataLoss, v[0]).WithDetails(durationpb.New(7 * time.Second))
		return nil, st.Err()
	}
	if v := md.Get("wait"); len(v) > 0 {
		<-ctx.Done()
		s.gone <- ctx.Err()
		return nil, ctx.Err()
	}
	if v := md.Get("blob-bin"); len(v) > 0 {
		grpc.SetHeader(ctx, metadata.Pairs("head-bin", v[0], "two", "a", "two", "b"))
		grpc.SetTrailer(ctx, metadata.Pairs("tail-bin", v[0]))
	}
	if v := md.Get("panic"); len(v) > 0 {
		panic(v[0])
	}
	p, _ := peer.FromContext(ctx)
	return &testgrpc.SimpleResponse{
		Payload:  &testgrpc.Payload{Body: append(r.GetPayload().GetBody(), make([]byte, r.ResponseSize)...)},
		Hostname: fmt.Sprintf("%v %T", p.Addr.Network(), p.AuthInfo),
	}, nil
}

func (s *service) StreamingOutputCall(r *testgrpc.StreamingOutputCallRequest, ss testgrpc.TestService_StreamingOutputCallServer) error {
	ss.SetHeader(metadata.Pairs("kind", "out"))
	ss.SetTrailer(metadata.Pairs("end", "out"))
	for _, p := range r.ResponseParameters {
		if err := ss.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, p.Size)}}); err != nil {
			s.gone <- err
			return err
		}
	}
	return nil
}

func (s *service) StreamingInputCall(ss testgrpc.TestService_StreamingInputCallServer) error {
	n := 0
	for {
		r, err := ss.Recv()
		if err == io.EOF {
			return ss.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
		}
		if err != nil {
			s.gone <- err
			return err
		}
		n += len(r.GetPayload().GetBody())
	}
}

func (s *service) FullDuplexCall(ss testgrpc.TestService_FullDuplexCallServer) error {
	if md, _ := metadata.FromIncomingContext(ss.Context()); len(md["early-head"]) > 0 {
		ss.SendHeader(metadata.Pairs("early", "yes"))
	}
	for {
		r, err := ss.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			s.gone <- err
			return err
		}
		for _, p := range r.ResponseParameters {
			if p.Size < 0 {
				return status.Error(codes.Aborted, "asked for it: 100% ünclear\n")
			}
			if err := ss.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, p.Size)}}); err != nil {
				return err
			}
		}
	}
}

// serve runs s on loopback for the length of the test and checks that nothing is
// left of it.
func serve(t testing.TB, s *Server, tc *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if tc != nil {
		l = tls.NewListener(l, tc)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		s.Close()
		<-done
	})
	return addr
}

func dial(t testing.TB, addr string, opts ...grpc.DialOption) testgrpc.TestServiceClient {
	t.Helper()
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)
	cc, err := grpc.NewClient(addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return testgrpc.NewTestServiceClient(cc)
}

const unaryPath = "/grpc.testing.TestService/UnaryCall"

func start(t testing.TB, o Options) (*service, *Server, testgrpc.TestServiceClient) {
	t.Helper()
	impl, s := &service{gone: make(chan error, 100)}, New(o)
	testgrpc.RegisterTestServiceServer(s, impl)
	return impl, s, dial(t, serve(t, s, nil))
}

func short(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func payload(n int) *testgrpc.Payload { return &testgrpc.Payload{Body: bytes.Repeat([]byte{'x'}, n)} }

func TestUnary(t *testing.T) {
	_, s, c := start(t, Options{})
	for _, n := range []int{0, 1, 100, 4 << 10, 16379, 16380, 70_000, 3 << 20} {
		r, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{Payload: payload(n)})
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if len(r.Payload.Body) != n || r.Hostname != "tcp <nil>" {
			t.Fatalf("%d bytes: got %d, peer %q", n, len(r.Payload.Body), r.Hostname)
		}
	}
	m := s.methods[unaryPath]
	if m.Started.Load() != 8 || m.Handled[codes.OK].Load() != 8 || m.Received.Load() != 8 || m.Sent.Load() != 8 {
		t.Errorf("counters: %d %d %d %d", m.Started.Load(), m.Handled[codes.OK].Load(), m.Received.Load(), m.Sent.Load())
	}
}

func TestLargeResponse(t *testing.T) {
	_, _, c := start(t, Options{})
	r, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{ResponseSize: 30 << 20}, grpc.MaxCallRecvMsgSize(1<<30))
	if err != nil || len(r.Payload.Body) != 30<<20 {
		t.Fatalf("%v", err)
	}
}

func TestErrors(t *testing.T) {
	_, s, c := start(t, Options{MaxMessageBytes: 1000})
	check := func(err error, code codes.Code, text string) {
		t.Helper()
		if st := status.Convert(err); st.Code() != code || st.Message() != text {
			t.Errorf("got %v %q, want %v %q", st.Code(), st.Message(), code, text)
		}
	}
	_, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{Payload: payload(2000)})
	check(err, codes.ResourceExhausted, fmt.Sprintf("grpc: received message larger than max (%d vs. 1000)",
		proto.Size(&testgrpc.SimpleRequest{Payload: payload(2000)})))
	_, err = c.UnaryCall(short(t), &testgrpc.SimpleRequest{Payload: payload(20_000)}, grpc.UseCompressor(gzip.Name))
	check(err, codes.ResourceExhausted, "grpc: received message after decompression larger than max 1000")
	_, err = c.UnimplementedCall(short(t), &testgrpc.Empty{})
	check(err, codes.Unimplemented, "method UnimplementedCall not implemented")

	text := "tab\t, percent %, umlaut ü, bad \xff, end"
	_, err = c.UnaryCall(metadata.AppendToOutgoingContext(short(t), "fail", "x"), &testgrpc.SimpleRequest{})
	check(err, codes.DataLoss, "x")
	if d := status.Convert(err).Details(); len(d) != 1 || d[0].(*durationpb.Duration).Seconds != 7 {
		t.Errorf("details %v", d)
	}
	cc := rawClient(t, s)
	for path, want := range map[string]string{
		"/grpc.testing.TestService/Nope": "unknown method Nope for service grpc.testing.TestService",
		"/no.Service/Nope":               "unknown service no.Service",
		"/nothing":                       `malformed method name: "/nothing"`,
	} {
		check(cc.Invoke(short(t), path, &testgrpc.Empty{}, &testgrpc.Empty{}), codes.Unimplemented, want)
	}
	s.methods[unaryPath].inline = func(c *Call) { c.Reply(nil, errors.New(text)) }
	_, err = c.UnaryCall(short(t), &testgrpc.SimpleRequest{})
	check(err, codes.Unknown, strings.ReplaceAll(text, "\xff", "\uFFFD"))
	s.methods[unaryPath].inline = func(c *Call) { c.Reply(nil, context.DeadlineExceeded) }
	_, err = c.UnaryCall(short(t), &testgrpc.SimpleRequest{})
	check(err, codes.DeadlineExceeded, "context deadline exceeded")
	s.methods[unaryPath].inline = func(c *Call) { panic("oh") }
	_, err = c.UnaryCall(short(t), &testgrpc.SimpleRequest{})
	check(err, codes.Internal, "panic in handler")
	long := strings.Repeat("long % ", 20_000) // needs CONTINUATION frames
	s.methods[unaryPath].inline = func(c *Call) { c.Reply(nil, errors.New(long)) }
	_, err = c.UnaryCall(short(t), &testgrpc.SimpleRequest{})
	check(err, codes.Unknown, long)
}

func rawClient(t *testing.T, s *Server) *grpc.ClientConn {
	cc, err := grpc.NewClient(serve(t, s, nil), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func TestPanicInBlockingHandler(t *testing.T) {
	var told string
	_, _, c := start(t, Options{Recovered: func(method string, v any, _ []byte) { told = method + " " + v.(string) }})
	_, err := c.UnaryCall(metadata.AppendToOutgoingContext(short(t), "panic", "ouch"), &testgrpc.SimpleRequest{})
	if status.Code(err) != codes.Internal || told != unaryPath+" ouch" {
		t.Errorf("%v, told %q", err, told)
	}
}

func TestMetadata(t *testing.T) {
	_, _, c := start(t, Options{})
	blob := string([]byte{0, 1, 2, 255, 254})
	var head, tail metadata.MD
	_, err := c.UnaryCall(metadata.AppendToOutgoingContext(short(t), "blob-bin", blob), &testgrpc.SimpleRequest{},
		grpc.Header(&head), grpc.Trailer(&tail))
	if err != nil {
		t.Fatal(err)
	}
	if head.Get("head-bin")[0] != blob || strings.Join(head.Get("two"), "") != "ab" || tail.Get("tail-bin")[0] != blob {
		t.Errorf("header %v trailer %v", head, tail)
	}
}

func TestInlineCall(t *testing.T) {
	_, s, c := start(t, Options{})
	s.HandleUnary(unaryPath, func(c *Call) {
		v, ok := c.Header("some")
		md, _ := metadata.FromIncomingContext(c.Context())
		_, has := c.Deadline()
		_, hasCtx := c.Context().Deadline()
		text := fmt.Sprint(v, ok, md.Get("some"), has, hasCtx, c.Context().Err(), c.Peer() != nil, len(md.Get("user-agent")))
		b, _ := proto.Marshal(&testgrpc.SimpleResponse{Username: text})
		c.Reply(append(c.Buffer(), b...), nil)
	})
	r, err := c.UnaryCall(metadata.AppendToOutgoingContext(short(t), "some", "value"), &testgrpc.SimpleRequest{})
	if err != nil || r.Username != "valuetrue [value] true true <nil> true 1" {
		t.Errorf("%v %v", r, err)
	}
	r, err = c.UnaryCall(context.Background(), &testgrpc.SimpleRequest{})
	if err != nil || r.Username != "false [] false false <nil> true 1" {
		t.Errorf("%v %v", r, err)
	}
}

func TestGzip(t *testing.T) {
	_, s, c := start(t, Options{})
	for range 3 {
		r, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{Payload: payload(50_000), ResponseSize: 9}, grpc.UseCompressor(gzip.Name))
		if err != nil || len(r.Payload.Body) != 50_009 {
			t.Fatal(err)
		}
	}
	st, err := c.FullDuplexCall(short(t), grpc.UseCompressor(gzip.Name))
	if err != nil {
		t.Fatal(err)
	}
	echo(t, st, 70_000)
	s.HandleUnary(unaryPath, func(c *Call) { c.Reply(append([]byte{}, c.Request()...), nil) })
	if _, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{Payload: payload(50_000)}, grpc.UseCompressor(gzip.Name)); err != nil {
		t.Fatal(err)
	}
}

func echo(t *testing.T, st testgrpc.TestService_FullDuplexCallClient, n int) {
	t.Helper()
	if err := st.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: int32(n)}}}); err != nil {
		t.Fatal(err)
	}
	r, err := st.Recv()
	if err != nil || len(r.Payload.Body) != n {
		t.Fatalf("%v", err)
	}
}

func TestStreams(t *testing.T) {
	_, _, c := start(t, Options{})
	out, err := c.StreamingOutputCall(short(t), &testgrpc.StreamingOutputCallRequest{
		ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1}, {Size: 100_000}, {Size: 0}, {Size: 3 << 20}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 100_000, 0, 3 << 20} {
		if r, err := out.Recv(); err != nil || len(r.Payload.Body) != want {
			t.Fatalf("want %d: %v", want, err)
		}
	}
	if _, err := out.Recv(); err != io.EOF {
		t.Fatal(err)
	}
	if h, _ := out.Header(); h.Get("kind")[0] != "out" || out.Trailer().Get("end")[0] != "out" {
		t.Errorf("metadata %v", h)
	}
	in, err := c.StreamingInputCall(short(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := in.Send(&testgrpc.StreamingInputCallRequest{Payload: payload(100_000)}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := in.CloseAndRecv(); err != nil || r.AggregatedPayloadSize != 5_000_000 {
		t.Fatal(r, err)
	}
	both, err := c.FullDuplexCall(metadata.AppendToOutgoingContext(short(t), "early-head", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if h, err := both.Header(); err != nil || len(h.Get("early")) != 1 { // before any message
		t.Fatal(h, err)
	}
	for _, n := range []int{0, 10, 200_000} {
		echo(t, both, n)
	}
	both.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: -1}}})
	if _, err := both.Recv(); status.Code(err) != codes.Aborted || status.Convert(err).Message() != "asked for it: 100% ünclear\n" {
		t.Fatal(err)
	}
}

func TestStreamHalfClose(t *testing.T) {
	_, _, c := start(t, Options{})
	st, err := c.FullDuplexCall(short(t))
	if err != nil {
		t.Fatal(err)
	}
	echo(t, st, 5)
	st.CloseSend()
	if _, err := st.Recv(); err != io.EOF {
		t.Fatal(err)
	}
}

func TestCancelAndDeadline(t *testing.T) {
	impl, s, c := start(t, Options{})
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(short(t), "wait", "1"))
	go func() {
		for s.methods[unaryPath].Started.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{}); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	if err := <-impl.gone; err != context.Canceled {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "wait", "1"), 30*time.Millisecond)
	defer cancel()
	if _, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatal(err)
	}
	if err := <-impl.gone; err == nil { // canceled by the client's reset, or our own timer
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.StreamingInputCall(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-impl.gone; status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
}

// A sender that the client does not read from must wait, and be woken by the
// client's cancel.
func TestSlowReceiver(t *testing.T) {
	impl, s, c := start(t, Options{})
	ctx, cancel := context.WithCancel(short(t))
	params := make([]*testgrpc.ResponseParameters, 10_000)
	for i := range params {
		params[i] = &testgrpc.ResponseParameters{Size: 10_000}
	}
	st, err := c.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{ResponseParameters: params})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	// Others go on meanwhile, also those with answers larger than a window.
	if _, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{ResponseSize: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if n := s.methods["/grpc.testing.TestService/StreamingOutputCall"].Sent.Load(); n > 1000 {
		t.Fatalf("%d messages sent to a client that does not read", n)
	}
	cancel()
	if err := <-impl.gone; status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
}

func TestThousandsOfCalls(t *testing.T) {
	impl, s, c := start(t, Options{})
	_ = impl
	var mu sync.Mutex
	var held []*Call
	s.HandleUnary(unaryPath, func(c *Call) { mu.Lock(); held = append(held, c); mu.Unlock() })
	const n = 3000
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{Payload: payload(i)})
			if err != nil || len(r.Payload.Body) != i {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	for {
		mu.Lock()
		all := len(held) == n
		mu.Unlock()
		if all {
			break
		}
		time.Sleep(time.Millisecond)
	}
	s.Hold()
	for _, c := range held {
		var r testgrpc.SimpleRequest
		proto.Unmarshal(c.Request(), &r)
		b, _ := proto.Marshal(&testgrpc.SimpleResponse{Payload: r.Payload})
		c.Reply(append(c.Buffer(), b...), nil)
	}
	s.Release()
	wg.Wait()
}

func TestTLS(t *testing.T) {
	cert := selfSigned(t)
	impl, s := &service{gone: make(chan error, 10)}, New(Options{})
	testgrpc.RegisterTestServiceServer(s, impl)
	addr := serve(t, s, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
	c := dial(t, addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	r, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{Payload: payload(2 << 20), ResponseSize: 10}, grpc.MaxCallRecvMsgSize(1<<30))
	if err != nil || r.Hostname != "tcp credentials.TLSInfo" || len(r.Payload.Body) != 2<<20+10 {
		t.Fatal(err, r.GetHostname())
	}
}

func TestShutdownGraceful(t *testing.T) {
	_, s, c := start(t, Options{})
	held := make(chan *Call, 1)
	s.HandleUnary(unaryPath, func(c *Call) { held <- c })
	got := make(chan error, 1)
	go func() {
		_, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{})
		got <- err
	}()
	call := <-held
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(short(t)) }()
	select {
	case err := <-down:
		t.Fatal("shutdown did not wait for the open call", err)
	case <-time.After(50 * time.Millisecond):
	}
	call.Reply(nil, nil)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if err := <-down; err != nil {
		t.Fatal(err)
	}
}

func TestShutdownTimeout(t *testing.T) {
	impl, s, c := start(t, Options{})
	if _, err := c.StreamingInputCall(short(t)); err != nil {
		t.Fatal(err)
	}
	for s.methods["/grpc.testing.TestService/StreamingInputCall"].Started.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := <-impl.gone; status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
}

func TestMaxConcurrentStreams(t *testing.T) {
	_, s, c := start(t, Options{MaxConcurrentStreams: 2})
	held := make(chan *Call, 100)
	s.HandleUnary(unaryPath, func(c *Call) { held <- c })
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := c.UnaryCall(short(t), &testgrpc.SimpleRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 10 {
		call := <-held
		call.c.mu.Lock()
		n := len(call.c.streams)
		call.c.mu.Unlock()
		if n > 2 {
			t.Errorf("%d streams open", n)
		}
		call.Reply(nil, nil)
	}
	wg.Wait()
}
