package h2

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Options configures a Server. The zero value means the documented defaults.
type Options struct {
	Logger *zap.Logger // nil: none

	// MaxMessageBytes bounds one received message. 0: 4 MiB.
	MaxMessageBytes int
	// MaxConcurrentStreams is announced to each connection; a stream beyond it
	// is refused. 0: not announced.
	MaxConcurrentStreams uint32

	// MinPing is the shortest interval between a client's pings while calls are
	// open; more often ends in GOAWAY too_many_pings. 0: 5 s.
	MinPing time.Duration
	// PingWithoutStream allows pings at MinPing although no call is open.
	PingWithoutStream bool
	// KeepaliveTime and KeepaliveTimeout: a silent connection is pinged after
	// the first, and closed when nothing came for the second. 0: 2 h, 20 s. A
	// negative KeepaliveTime: never.
	KeepaliveTime, KeepaliveTimeout time.Duration

	// Marshal appends the encoded message to dst; Unmarshal decodes b, which the
	// message may alias. They serve the methods of RegisterService. Messages that
	// are *[]byte are passed through raw. nil: protobuf.
	Marshal   func(dst []byte, m any) ([]byte, error)
	Unmarshal func(b []byte, m any) error

	// UnaryInterceptor and StreamInterceptor stand around the handlers that
	// RegisterService has brought (not around HandleUnary's). The stream that an
	// interceptor gets is a *Stream. nil: none.
	UnaryInterceptor  grpc.UnaryServerInterceptor
	StreamInterceptor grpc.StreamServerInterceptor

	// HTTP answers the requests that are not gRPC (by their content type). nil:
	// they get status 415, as from grpc-go.
	HTTP http.Handler

	// Recovered is told of a panic in a handler, which ends in Internal for its
	// caller. nil: it is logged.
	Recovered func(method string, value any, stack []byte)

	// Done, if set, is told how long each finished call of a registered method
	// took. It costs two clock readings a call.
	Done func(m *Method, took time.Duration)
}

func (o *Options) fill() {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.MaxMessageBytes == 0 {
		o.MaxMessageBytes = defaultMaxMessageBytes
	}
	if o.MinPing == 0 {
		o.MinPing = 5 * time.Second
	}
	switch {
	case o.KeepaliveTime == 0:
		o.KeepaliveTime = 2 * time.Hour
	case o.KeepaliveTime < 0:
		o.KeepaliveTime = math.MaxInt64
	}
	if o.KeepaliveTimeout == 0 {
		o.KeepaliveTimeout = 20 * time.Second
	}
	if o.Marshal == nil {
		o.Marshal = marshalProto
	}
	if o.Unmarshal == nil {
		o.Unmarshal = unmarshalProto
	}
}

func marshalProto(dst []byte, m any) ([]byte, error) {
	p, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("marshal: %T is no protobuf message", m)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, p)
}

func unmarshalProto(b []byte, m any) error {
	p, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("unmarshal: %T is no protobuf message", m)
	}
	return proto.Unmarshal(b, p)
}

// A Server serves gRPC on connections handed to it. Its registrations must be
// complete before the first connection is served.
type Server struct {
	o        Options
	methods  map[string]*Method // by path, with the leading slash
	services map[string]bool

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining bool
	closed   bool
	idle     sync.Cond // conns became empty

	dirty dirtyList
	web   Method // stands for requests that are not gRPC

	maxHeld, maxQueued int64 // maxHeldBytes and maxQueuedBytes, less in tests
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// New returns a server without methods.
func New(o Options) *Server {
	o.fill()
	s := &Server{o: o, methods: map[string]*Method{}, services: map[string]bool{}, conns: map[*conn]struct{}{},
		maxHeld: maxHeldBytes, maxQueued: maxQueuedBytes}
	s.idle.L = &s.mu
	return s
}

// HandleUnary registers fn for the unary method at path ("/package.Service/Method"),
// in place of a method of the same path that RegisterService may have brought.
//
// fn runs on the connection's reader goroutine and must not block. It, or whoever
// it gives the call to, answers with Call.Reply exactly once.
func (s *Server) HandleUnary(path string, fn func(c *Call)) {
	m := s.method(path)
	m.inline, m.unary, m.stream = fn, nil, nil
}

// RegisterService implements grpc.ServiceRegistrar: a goroutine a call. Paths that
// HandleUnary has registered before keep their handler.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if desc.HandlerType != nil && impl != nil {
		want := reflect.TypeOf(desc.HandlerType).Elem()
		if !reflect.TypeOf(impl).Implements(want) {
			panic(fmt.Sprintf("h2: register %s: %T does not implement %v", desc.ServiceName, impl, want))
		}
	}
	s.services[desc.ServiceName] = true
	for i := range desc.Methods {
		m := s.method("/" + desc.ServiceName + "/" + desc.Methods[i].MethodName)
		if m.inline == nil {
			m.unary, m.impl = &desc.Methods[i], impl
		}
	}
	for i := range desc.Streams {
		m := s.method("/" + desc.ServiceName + "/" + desc.Streams[i].StreamName)
		m.stream, m.impl = &desc.Streams[i], impl
	}
}

// method finds or makes the entry of a path.
func (s *Server) method(path string) *Method {
	service, name, ok := splitPath(path)
	if !ok {
		panic("h2: no method path: " + path)
	}
	s.services[service] = true
	m := s.methods[path]
	if m == nil {
		m = &Method{Path: path, Service: service, Name: name}
		s.methods[path] = m
	}
	return m
}

// splitPath cuts "/service/method" at the last slash, as grpc-go does.
func splitPath(path string) (service, method string, ok bool) {
	p, ok := strings.CutPrefix(path, "/")
	if !ok {
		return "", "", false
	}
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", "", false
	}
	return p[:i], p[i+1:], true
}

// ServeConn serves one accepted connection until it ends, and returns when all
// its handlers have. A *tls.Conn is handshaken first. It owns nc.
func (s *Server) ServeConn(nc net.Conn) { s.ServeConnHead(nc, nil) }

// ServeConnHead is ServeConn for a connection from which head has already been
// read, by a listener that looks at the first bytes to tell protocols apart.
func (s *Server) ServeConnHead(nc net.Conn, head []byte) {
	c := newConn(s, nc, head)
	if !s.add(c) {
		nc.Close()
		return
	}
	defer s.remove(c)
	c.serve()
}

// Serve accepts from l until Accept fails, a goroutine a connection. It returns
// Accept's error, after the connections it started have ended.
func (s *Server) Serve(l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		nc, err := l.Accept()
		if err != nil {
			return err
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			s.ServeConn(nc)
		}()
	}
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.draining {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 {
		s.idle.Broadcast()
	}
}

// Shutdown takes no new connection, says GOAWAY on every open one, lets open
// calls finish, and returns when the last connection has ended. When ctx ends
// before, it closes what is left and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()

	stop := context.AfterFunc(ctx, s.Close)
	s.wait()
	if !stop() {
		return context.Cause(ctx)
	}
	return nil
}

// Close ends all connections and the calls on them, and waits for their handlers.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.abort()
	}
	s.mu.Unlock()
	s.wait()
}

func (s *Server) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) > 0 {
		s.idle.Wait()
	}
}
