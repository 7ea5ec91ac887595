package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"theseus/api"
	"theseus/peer"
)

// testMember is one member in this process, on loopback sockets.
type testMember struct {
	*Server
	t        *testing.T
	o        Options
	listener net.Listener
	web      *http.Server
	running  bool
}

// testCluster is a cluster of them.
type testCluster struct {
	t       *testing.T
	members []*testMember
}

// fast are options that let tests run quickly; unsynced, since no test here loses power.
func fast(o Options) Options {
	o.Tick = 10 * time.Millisecond
	o.ElectionTicks = 20
	o.UnsafeNoSync = true
	o.BcryptCost = 4
	return o
}

func testLogger(t *testing.T) *zap.Logger {
	if os.Getenv("THESEUS_TEST_LOG") == "" {
		return zap.NewNop()
	}
	return zaptest.NewLogger(t)
}

// newCluster starts n members of a new cluster; change may be nil.
func newCluster(t *testing.T, n int, change func(i int, o *Options)) *testCluster {
	t.Helper()
	c := &testCluster{t: t}
	initial := map[string][]string{}
	for i := range n {
		m := c.member(fmt.Sprintf("m%d", i))
		initial[m.o.Name] = m.o.PeerURLs
	}
	for i, m := range c.members {
		m.o.InitialCluster = initial
		if change != nil {
			change(i, &m.o)
		}
	}
	var wg sync.WaitGroup
	for _, m := range c.members {
		wg.Go(m.start)
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

// member makes a member that does not run yet.
func (c *testCluster) member(name string) *testMember {
	c.t.Helper()
	m := &testMember{t: c.t}
	m.listen("127.0.0.1:0")
	m.o = fast(Options{
		Name: name, DataDir: filepath.Join(c.t.TempDir(), name),
		PeerURLs: []string{"http://" + m.listener.Addr().String()}, ClientURLs: []string{"http://127.0.0.1:1"},
		Logger: testLogger(c.t).Named(name),
	})
	c.members = append(c.members, m)
	c.t.Cleanup(func() { m.stop() })
	return m
}

func (m *testMember) listen(addr string) {
	m.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.listener = l
}

// start opens and runs the member.
func (m *testMember) start() {
	m.t.Helper()
	if err := m.tryStart(); err != nil {
		m.t.Error(err)
	}
}

func (m *testMember) tryStart() error {
	if m.listener == nil {
		m.listen(m.o.PeerURLs[0][len("http://"):])
	}
	var h lateHandler
	m.web = &http.Server{Handler: &h}
	go func(web *http.Server, l net.Listener) { _ = web.Serve(peer.Listener(l)) }(m.web, m.listener)
	s, err := New(m.o)
	if err != nil {
		_ = m.web.Close()
		m.listener = nil
		return err
	}
	m.Server = s
	peers := s.PeerHandler()
	h.h.Store(&peers)
	s.Start()
	m.running = true
	return nil
}

// lateHandler answers 404 until it is known what is served.
type lateHandler struct{ h atomic.Pointer[http.Handler] }

func (l *lateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := l.h.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// stop stops it; the address stays its own.
func (m *testMember) stop() {
	m.t.Helper()
	if m.running {
		m.running = false
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := m.Stop(ctx); err != nil {
			m.t.Errorf("stop %s: %v", m.o.Name, err)
		}
		_ = m.web.Close()
	}
	if m.listener != nil {
		_ = m.listener.Close()
		m.listener = nil
	}
}

// leader waits for a leader that all running members agree on.
func (c *testCluster) leader() *testMember {
	c.t.Helper()
	var found *testMember
	c.eventually("a leader", func() bool {
		found = nil
		var lead uint64
		for _, m := range c.members {
			if !m.running {
				continue
			}
			if m.Leader() == 0 || lead != 0 && m.Leader() != lead {
				return false
			}
			if lead = m.Leader(); lead == m.ID() {
				found = m
			}
		}
		return found != nil
	})
	return found
}

// follower returns a running member that does not lead.
func (c *testCluster) follower() *testMember {
	c.t.Helper()
	lead := c.leader()
	for _, m := range c.members {
		if m.running && m != lead {
			return m
		}
	}
	c.t.Fatal("there is no follower")
	return nil
}

// eventually waits, looking every few milliseconds, until ok.
func (c *testCluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (m *testMember) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	m.t.Cleanup(cancel)
	return ctx
}

func (m *testMember) put(key, value string) int64 {
	m.t.Helper()
	resp, err := m.Put(m.context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}, nil)
	if err != nil {
		m.t.Fatalf("put %s at %s: %v", key, m.o.Name, err)
	}
	return resp.Header.Revision
}

// get reads a key linearizably; "" when there is none.
func (m *testMember) get(key string) string {
	m.t.Helper()
	return m.read(key, false)
}

func (m *testMember) read(key string, serializable bool) string {
	m.t.Helper()
	res, err := m.Range(m.context(), &pb.RangeRequest{Key: []byte(key), Serializable: serializable})
	if err != nil {
		m.t.Fatalf("get %s at %s: %v", key, m.o.Name, err)
	}
	if len(res.KVs) == 0 {
		return ""
	}
	var kv mvccpb.KeyValue
	if err := api.DecodeKV(res.KVs[0], &kv); err != nil {
		m.t.Fatal(err)
	}
	return string(kv.Value)
}

// agree waits until all running members have applied the same, and compares hashes.
func (c *testCluster) agree() {
	c.t.Helper()
	c.eventually("equal revisions", func() bool {
		rev := int64(-1)
		for _, m := range c.members {
			if !m.running {
				continue
			}
			if rev >= 0 && m.Revision() != rev {
				return false
			}
			rev = m.Revision()
		}
		return true
	})
	var first *testMember
	var want uint32
	for _, m := range c.members {
		if !m.running {
			continue
		}
		h, err := m.HashKV(m.context(), &pb.HashKVRequest{})
		switch {
		case err != nil:
			c.t.Errorf("hash of %s: %v", m.o.Name, err)
		case first == nil:
			first, want = m, h.Hash
		case h.Hash != want:
			c.t.Errorf("%s has hash %x, %s %x", m.o.Name, h.Hash, first.o.Name, want)
		}
	}
}
