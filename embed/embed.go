package embed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"theseus/config"
	"theseus/httpapi"
	"theseus/rpc"
	"theseus/server"
)

// Version is our own version, shown beside the protocol's.
const Version = "0.1.0"

// Member is one running member with its listeners. Its methods may be called
// from any goroutine.
type Member struct {
	cfg     *config.Config
	lg      *zap.Logger
	ls      *listeners
	held    *hold // set by Start if the member was not let in at once
	srv     atomic.Pointer[server.Server]
	front   atomic.Pointer[front] // what takes the gRPC connections now
	rpc     *rpc.Front            // nil until the member is let in
	gateway *grpc.ClientConn      // likewise
	peers   lateHandler           // of the peer ports
	web     lateHandler           // of the client ports
	metrics lateHandler           // of --listen-metrics-urls
	https   []*http.Server
	splits  []*splitter
	wg      sync.WaitGroup

	ready, done chan struct{}
	endOnce     sync.Once
	err         error // set before done is closed
	closing     sync.Once
	closeErr    error
}

// front serves gRPC connections.
type front struct{ serve frontConn }

// Start validates the configuration, binds every port, opens the data directory
// and runs the member. It returns as soon as requests are taken. An error says
// what is wrong and what to do; nothing has been changed on disk then. A member that
// its cluster must not, or not yet, be joined by (Server is nil) serves that answer.
func Start(cfg *config.Config) (*Member, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	lg, err := NewLogger(cfg)
	if err != nil {
		return nil, err
	}
	logWarnings(lg, cfg)
	sec, err := newSecurity(cfg, lg)
	if err != nil {
		return nil, err
	}
	ls, err := bind(cfg, sec, lg)
	if err != nil {
		return nil, err
	}
	m := &Member{cfg: cfg, lg: lg, ls: ls, ready: make(chan struct{}), done: make(chan struct{})}
	if err := m.start(sec); err != nil {
		ls.close()
		return nil, err
	}
	return m, nil
}

func logWarnings(lg *zap.Logger, cfg *config.Config) {
	for _, w := range cfg.Warnings {
		var fields []zap.Field
		for i := 0; i+1 < len(w.Fields); i += 2 {
			fields = append(fields, zap.String(w.Fields[i], w.Fields[i+1]))
		}
		if w.Info {
			lg.Info(w.Message, fields...)
		} else {
			lg.Warn(w.Message, fields...)
		}
	}
}

func (m *Member) start(sec security) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	o, err := m.serverOptions(sec)
	if err != nil {
		return err
	}
	o.Registerer = registry
	gate, err := server.NewGate(o)
	if err != nil {
		return err
	}
	// Members that are born together ask each other before they have opened their
	// directories: they must be told at once that there is nothing here yet.
	m.peers.before, m.web.before, m.metrics.before = http.StatusNotFound, http.StatusServiceUnavailable, http.StatusServiceUnavailable
	m.peers.set(gate.PeerHandler())
	m.servePeers(&m.peers)
	var why *server.Held
	err = gate.Pass(context.Background())
	switch {
	case errors.As(err, &why):
		err = m.holdAt(gate, o, registry, *why)
	case err == nil:
		err = m.enter(gate, registry)
	}
	if err != nil {
		gate.Close()
		m.closeServers()
		return err
	}
	m.serveClients()
	m.serveMetrics()
	return nil
}

// enter opens and runs the member that the gate has let in.
func (m *Member) enter(gate *server.Gate, registry *prometheus.Registry) error {
	srv, err := gate.Open()
	if err != nil {
		return err
	}
	m.rpc = rpc.New(m.frontOptions(srv, registry))
	if m.gateway, err = m.dialSelf(); err != nil {
		return err
	}
	handlers := m.handlerOptions(srv, registry)
	if m.cfg.EnableGateway {
		handlers.Gateway = m.gateway
	}
	h, err := httpapi.New(handlers)
	if err != nil {
		return err
	}
	m.peers.set(srv.PeerHandler())
	srv.Start()
	m.srv.Store(srv)
	m.web.set(h)
	m.metrics.set(httpapi.NewMetrics(handlers))
	m.front.Store(&front{m.rpc.Serve})
	m.wg.Go(func() {
		select {
		case <-srv.Ready():
			close(m.ready)
			<-srv.Done()
		case <-srv.Done():
		}
		m.end(srv.Err())
	})
	return nil
}

// end says that the member no longer serves.
func (m *Member) end(err error) {
	m.endOnce.Do(func() {
		m.err = err
		close(m.done)
	})
}

func (m *Member) handlerOptions(of httpapi.Member, registry *prometheus.Registry) httpapi.Options {
	return httpapi.Options{
		Member: of, Gatherer: registry, Registerer: registry, Pprof: m.cfg.EnablePprof || m.cfg.LogLevel == "debug",
		CORS: m.cfg.CORS, HostWhitelist: m.cfg.HostWhitelist, Product: Version,
	}
}

// lateHandler is a handler that is known only after what needs it: the gateway
// dials the front, and the front hands plain HTTP/2 requests to the gateway. Until
// then it answers with the status before.
type lateHandler struct {
	before int
	h      atomic.Pointer[http.Handler]
}

func (l *lateHandler) set(h http.Handler) { l.h.Store(&h) }

func (l *lateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := l.h.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	http.Error(w, "starting", l.before)
}

func (m *Member) frontOptions(srv *server.Server, registry prometheus.Registerer) rpc.Options {
	gates, _ := m.cfg.Gates() // checked by Validate
	streams := m.cfg.MaxStreams
	if streams == 1<<32-1 {
		streams = 0
	}
	interval := m.cfg.KeepAliveInterval
	if interval == 0 {
		interval = -1 // the flag's zero turns it off
	}
	return rpc.Options{
		Server: srv, HTTP: &m.web, MaxConcurrentStreams: streams,
		KeepaliveMinTime: m.cfg.KeepAliveMinTime, KeepaliveInterval: interval, KeepaliveTimeout: m.cfg.KeepAliveTimeout,
		ClientCertAuth: m.cfg.ClientTLS.ClientCertAuth || m.cfg.ClientTLS.TrustedCA != "",
		WarnUnary:      m.cfg.WarnUnary, Extensive: m.cfg.Metrics == "extensive",
		StopOnDefrag: gates["StopGRPCServiceOnDefrag"], Logger: m.lg, Registerer: registry,
	}
}

// dialSelf connects the gateway to the front through memory.
func (m *Member) dialSelf() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///self",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1), grpc.MaxCallSendMsgSize(1<<31-1)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			m.wg.Go(func() { m.rpc.Serve(theirs, nil) })
			return ours, nil
		}))
}

func (m *Member) servePeers(handler http.Handler) {
	h := &http.Server{Handler: handler, ErrorLog: zap.NewStdLog(zap.NewNop()), ReadHeaderTimeout: sniffTimeout}
	for _, l := range m.ls.peers {
		m.lg.Info("serving peer traffic", zap.String("address", l.Addr().String()))
		m.serveHTTP(h, server.PeerListener(l))
	}
}

// settle keeps clients with the other members until this one can answer them: they
// share their requests out among all that they are connected to, and those that come
// here would wait until it has found the leader.
func (m *Member) settle() {
	if srv := m.srv.Load(); srv != nil {
		srv.Settle(context.Background())
	}
}

func (m *Member) serveClients() {
	web := &http.Server{Handler: &m.web, ErrorLog: zap.NewStdLog(zap.NewNop()), ReadHeaderTimeout: sniffTimeout}
	for _, l := range m.ls.clients {
		s := newSplitter(l, func(c net.Conn, head []byte) { m.front.Load().serve(c, head) })
		m.splits = append(m.splits, s)
		m.wg.Go(func() {
			m.settle()
			s.run()
		})
		if len(m.ls.http) == 0 {
			m.serveHTTP(web, s)
		} else {
			s.close() // gRPC only
		}
		m.logServing(l, "grpc+http")
	}
	for _, l := range m.ls.http {
		m.serveHTTP(web, l)
		m.logServing(l, "http")
	}
}

func (m *Member) closeServers() {
	for _, h := range m.https {
		_ = h.Close()
	}
}

func (m *Member) logServing(l listener, traffic string) {
	if l.secure() {
		m.lg.Info("serving client traffic securely", zap.String("traffic", traffic), zap.String("address", l.Addr().String()))
		return
	}
	m.lg.Info("serving client traffic insecurely; this is strongly discouraged!", zap.String("traffic", traffic), zap.String("address", l.Addr().String()))
}

func (m *Member) serveMetrics() {
	web := &http.Server{Handler: &m.metrics, ErrorLog: zap.NewStdLog(zap.NewNop()), ReadHeaderTimeout: sniffTimeout}
	for _, l := range m.ls.metrics {
		m.serveHTTP(web, l)
	}
}

func (m *Member) serveHTTP(h *http.Server, l net.Listener) {
	m.https = append(m.https, h)
	m.wg.Go(func() {
		if err := h.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			m.lg.Warn("listener ended", zap.Error(err))
		}
	})
}

// Ready is closed when the member has published itself to its cluster.
func (m *Member) Ready() <-chan struct{} { return m.ready }

// Done is closed when the member has stopped serving, by itself or by Close.
func (m *Member) Done() <-chan struct{} { return m.done }

// Err tells, after Done is closed, why the member stopped by itself: nil after Close,
// server.ErrRemoved when it is no longer in its cluster.
func (m *Member) Err() error {
	<-m.done
	return m.err
}

// Server is the member itself, nil as long as it is not let into its cluster.
func (m *Member) Server() *server.Server { return m.srv.Load() }

// ClientAddrs are the addresses clients reach the member at.
func (m *Member) ClientAddrs() []net.Addr {
	var all []net.Addr
	for _, l := range m.ls.clients {
		all = append(all, l.Addr())
	}
	return all
}

// closeTimeout bounds how long open unary calls may take to end.
const closeTimeout = 500 * time.Millisecond

// Close stops the member: leadership goes to another member while requests are
// still served; then open streams end, open calls finish, and the directory is
// released.
func (m *Member) Close() error {
	m.closing.Do(func() {
		m.lg.Info("closing etcd server", zap.String("name", m.cfg.Name), zap.String("data-dir", m.cfg.ResolvedDataDir()))
		m.closeErr = m.close()
		m.lg.Info("closed etcd server", zap.String("name", m.cfg.Name), zap.String("data-dir", m.cfg.ResolvedDataDir()))
		_ = m.lg.Sync()
	})
	return m.closeErr
}

func (m *Member) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if m.held != nil {
		m.held.cancel()
		<-m.held.done
	}
	srv := m.srv.Load()
	if srv != nil {
		if err := srv.HandOver(ctx); err != nil {
			m.lg.Warn("leadership was not handed over", zap.Error(err))
		}
		m.rpc.EndStreams()
	}
	for _, l := range append(append([]listener{}, m.ls.clients...), m.ls.http...) {
		_ = l.Close()
	}
	var err error
	if srv != nil {
		short, done := context.WithTimeout(ctx, closeTimeout)
		defer done()
		_ = m.gateway.Close()
		_ = m.rpc.Shutdown(short)
		err = srv.Stop(ctx)
	} else {
		m.held.gate.Close()
		m.held.front.Stop()
		m.end(nil)
	}
	m.closeServers()
	for _, s := range m.splits {
		s.close()
	}
	m.ls.close()
	m.wg.Wait()
	if err != nil {
		return fmt.Errorf("stop the member: %w", err)
	}
	return nil
}

// Log is the logger the configuration asked for.
func (m *Member) Log() *zap.Logger { return m.lg }
