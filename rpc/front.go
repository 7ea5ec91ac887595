package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/internal/h2"
	"theseus/server"
)

// receiveSlack is what a gRPC message may hold beyond a request of the largest size
// (surface 1.4).
const receiveSlack = 512 << 10

// Options of a Front. The zero value of a field means the default named beside it.
type Options struct {
	// Server answers. It must outlive the front.
	Server *server.Server
	// HTTP answers HTTP/2 requests that are not gRPC, as they come on a TLS port.
	HTTP http.Handler

	// MaxConcurrentStreams bounds the open calls of a connection. 0: no bound.
	MaxConcurrentStreams uint32
	// KeepaliveMinTime is the shortest interval between a client's pings (5 s).
	// KeepaliveInterval and KeepaliveTimeout are ours to silent clients (2 h, 20 s); a
	// negative interval means that they are left alone.
	KeepaliveMinTime, KeepaliveInterval, KeepaliveTimeout time.Duration

	// ClientCertAuth says that client certificates are verified: the common name
	// is who asks, where no token says otherwise.
	ClientCertAuth bool
	// WarnUnary logs unary requests that take longer (300 ms); negative: none.
	WarnUnary time.Duration
	// Extensive adds the histogram grpc_server_handling_seconds.
	Extensive bool
	// StopOnDefrag lets the health service say NOT_SERVING while a
	// defragmentation runs.
	StopOnDefrag bool

	Logger     *zap.Logger           // nil: none
	Registerer prometheus.Registerer // nil: none
}

// A Front serves a member's gRPC services.
type Front struct {
	o       Options
	srv     *server.Server
	lg      *zap.Logger
	h2      *h2.Server
	metrics *metrics
	maxOps  int
	maxSend int // bytes of a request as the client may send it
	debug   bool

	panics  atomic.Uint64
	streams openStreams

	mu      sync.Mutex
	stopped bool
	done    chan struct{}  // closed by Shutdown and Close
	wg      sync.WaitGroup // added to under mu, while not stopped
}

// New returns a front that serves no connection yet.
func New(o Options) *Front {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.WarnUnary == 0 {
		o.WarnUnary = 300 * time.Millisecond
	}
	f := &Front{
		o: o, srv: o.Server, lg: o.Logger,
		maxOps: o.Server.MaxTxnOps(), maxSend: o.Server.MaxRequestBytes() + receiveSlack,
		debug: o.Logger.Core().Enabled(zap.DebugLevel), done: make(chan struct{}),
	}
	f.metrics = newMetrics(o.Registerer, f)
	f.h2 = h2.New(f.transport())
	f.register()
	f.metrics.resolve(f.h2)
	f.srv.AroundAnswers(f.h2.Hold, f.h2.Release)
	f.spawn(f.watchLeader)
	f.spawn(f.watchFence)
	return f
}

func (f *Front) transport() h2.Options {
	t := h2.Options{
		Logger:               f.lg,
		MaxMessageBytes:      f.maxSend,
		MaxConcurrentStreams: f.o.MaxConcurrentStreams,
		MinPing:              f.o.KeepaliveMinTime,
		KeepaliveTime:        f.o.KeepaliveInterval,
		KeepaliveTimeout:     f.o.KeepaliveTimeout,
		HTTP:                 f.o.HTTP,
		Marshal:              marshal,
		Unmarshal:            unmarshal,
		UnaryInterceptor:     f.unary,
		StreamInterceptor:    f.stream,
		Recovered:            f.recovered,
	}
	if f.o.Extensive {
		t.Done = f.metrics.handling
	}
	return t
}

func marshal(dst []byte, m any) ([]byte, error) {
	p, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", m)
	}
	return api.Append(dst, p), nil
}

func unmarshal(b []byte, m any) error {
	p, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", m)
	}
	if err := api.Unmarshal(b, p); err != nil {
		return malformed(b, p)
	}
	return nil
}

// malformed is what protobuf says of b, which is no encoding of m, without the
// variations that it makes on purpose: clients see the text.
func malformed(b []byte, m proto.Message) error {
	err := proto.Unmarshal(b, m)
	if err == nil {
		return errors.New("proto: cannot parse invalid wire-format data")
	}
	return errors.New(strings.ReplaceAll(err.Error(), "\u00a0", " "))
}

// recovered counts and logs a panic of a handler; its caller gets Internal.
func (f *Front) recovered(method string, value any, stack []byte) {
	f.panics.Add(1)
	f.lg.Error("recovered from a panic in a request handler", zap.String("method", method),
		zap.Any("panic", value), zap.ByteString("stack", stack))
}

// Panics is how many handlers have panicked.
func (f *Front) Panics() uint64 { return f.panics.Load() }

// Serve serves one accepted connection until it ends; it owns c. A *tls.Conn is
// handshaken if that has not been done. head is what has been read from c already.
func (f *Front) Serve(c net.Conn, head []byte) { f.h2.ServeConnHead(c, head) }

// EndStreams ends every open watch, lease and other stream with Unavailable, and
// those that are opened later; unary calls go on.
func (f *Front) EndStreams() { f.streams.end(api.ErrStopped) }

// Shutdown takes no new calls, waits for the open ones, and closes all
// connections; at the latest when ctx ends.
func (f *Front) Shutdown(ctx context.Context) error {
	err := f.h2.Shutdown(ctx)
	f.stop()
	return err
}

// Close ends all connections at once.
func (f *Front) Close() {
	f.h2.Close()
	f.stop()
}

func (f *Front) stop() {
	f.mu.Lock()
	if !f.stopped {
		f.stopped = true
		close(f.done)
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// spawn runs fn in a goroutine that Shutdown and Close wait for, or, after them, here.
func (f *Front) spawn(fn func()) {
	f.mu.Lock()
	stopped := f.stopped
	if !stopped {
		f.wg.Go(fn)
	}
	f.mu.Unlock()
	if stopped {
		fn()
	}
}
