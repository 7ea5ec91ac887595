package rpc

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"theseus/server"
)

// member is one member with its front, in this process.
type member struct {
	t     testing.TB
	srv   *server.Server
	front *Front
	reg   *prometheus.Registry
	addr  string // of the clients' port
	l     net.Listener
	ended bool
}

// newMember starts a member of its own for the length of a test; change may be nil.
func newMember(t testing.TB, change func(*server.Options, *Options)) *member {
	t.Helper()
	lg := zap.NewNop()
	if os.Getenv("THESEUS_TEST_LOG") != "" {
		lg = zaptest.NewLogger(t)
	}
	m := &member{t: t, reg: prometheus.NewRegistry()}
	so := server.Options{
		Name: "one", DataDir: filepath.Join(t.TempDir(), "one.etcd"),
		PeerURLs: []string{"http://127.0.0.1:2"}, ClientURLs: []string{"http://127.0.0.1:1"},
		Tick: 10 * time.Millisecond, ElectionTicks: 20, UnsafeNoSync: true, Logger: lg,
	}
	o := Options{Logger: lg, Registerer: m.reg}
	if change != nil {
		change(&so, &o)
	}
	var err error
	if m.srv, err = server.New(so); err != nil {
		t.Fatal(err)
	}
	m.srv.Start()
	o.Server = m.srv
	m.front = New(o)
	if m.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	m.addr = m.l.Addr().String()
	go func() {
		for {
			c, err := m.l.Accept()
			if err != nil {
				return
			}
			go m.front.Serve(c, nil)
		}
	}()
	t.Cleanup(m.stop)
	if len(so.InitialCluster) < 2 {
		select {
		case <-m.srv.Ready():
		case <-time.After(20 * time.Second):
			t.Fatal("the member does not get ready")
		}
	}
	return m
}

// stop ends the member as embed does.
func (m *member) stop() {
	if m.ended {
		return
	}
	m.ended = true
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m.l.Close()
	m.front.EndStreams()
	if err := m.front.Shutdown(ctx); err != nil {
		m.t.Errorf("shutdown: %v", err)
	}
	if err := m.srv.Stop(ctx); err != nil {
		m.t.Errorf("stop: %v", err)
	}
	if n := m.front.Panics(); n != 0 {
		m.t.Errorf("%d handlers panicked", n)
	}
}

// client is a clientv3 on the member.
func (m *member) client(change ...func(*clientv3.Config)) *clientv3.Client {
	m.t.Helper()
	cfg := clientv3.Config{Endpoints: []string{m.addr}, Logger: zap.NewNop(), DialTimeout: 10 * time.Second}
	for _, fn := range change {
		fn(&cfg)
	}
	c, err := clientv3.New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// conn is a plain gRPC connection to the member.
func (m *member) conn() *grpc.ClientConn {
	m.t.Helper()
	cc, err := grpc.NewClient(m.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { cc.Close() })
	return cc
}

func short10(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
