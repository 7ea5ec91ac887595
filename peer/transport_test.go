package peer

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.etcd.io/raft/v3/raftpb"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// fake is a member behind a transport.
type fake struct {
	t           *testing.T
	msgs        chan raftpb.Message
	unreachable chan uint64
	snaps       chan bool

	mu      sync.Mutex
	removed map[uint64]bool
	dbs     map[uint64][]byte
	answer  error // of Process
}

func newFake(t *testing.T) *fake {
	return &fake{
		t: t, msgs: make(chan raftpb.Message, 100_000), unreachable: make(chan uint64, 100_000), snaps: make(chan bool, 100),
		removed: map[uint64]bool{}, dbs: map[uint64][]byte{},
	}
}

func (f *fake) Process(_ context.Context, m raftpb.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.removed[m.From] {
		return ErrMemberRemoved
	}
	f.msgs <- m
	return f.answer
}

func (f *fake) IsRemoved(id uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removed[id]
}

func (f *fake) ReportUnreachable(id uint64) { f.unreachable <- id }

func (f *fake) ReportSnapshot(_ uint64, ok bool) { f.snaps <- ok }

func (f *fake) SaveSnapshotDB(r io.Reader, index uint64) (int64, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dbs[index] = b
	return int64(len(b)), nil
}

func (f *fake) next() raftpb.Message {
	f.t.Helper()
	select {
	case m := <-f.msgs:
		return m
	case <-time.After(patience):
		f.t.Fatal("no message arrived")
		return raftpb.Message{}
	}
}

func recv[T any](t *testing.T, what string, ch chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

const testCluster = 0xc1

// end is one transport with its listener.
type end struct {
	*Transport
	fake *fake
	url  string
	srv  *http.Server
	reg  *prometheus.Registry
}

// listen starts a member; adjust may change its options.
func listen(t *testing.T, id uint64, adjust func(*Options)) *end {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &end{fake: newFake(t), url: "http://" + l.Addr().String(), reg: prometheus.NewRegistry()}
	o := Options{
		ID: id, ClusterID: testCluster, LocalURLs: []string{e.url}, ServerVersion: func() string { return "3.7.3" },
		Handler: e.fake, Registerer: e.reg,
	}
	if adjust != nil {
		adjust(&o)
	}
	e.Transport = New(o)
	e.srv = &http.Server{Handler: e.Handler()}
	go func() { _ = e.srv.Serve(Listener(l)) }()
	t.Cleanup(func() {
		e.Close()
		e.srv.Close()
	})
	return e
}

// connect makes two members known to each other and waits for all four streams.
func connect(t *testing.T, a, b *end) {
	t.Helper()
	a.AddPeer(b.o.ID, []string{b.url})
	b.AddPeer(a.o.ID, []string{a.url})
	for _, out := range []*outgoing{&a.peer(b.o.ID).app, &a.peer(b.o.ID).msg, &b.peer(a.o.ID).app, &b.peer(a.o.ID).msg} {
		waitFor(t, "a stream", func() bool { return out.attached() })
	}
}

func (o *outgoing) attached() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.conn != nil
}

// waitFor looks again and again; what it waits for has no channel to wait on.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestMessagesTravelOnStreams(t *testing.T) {
	a, b := listen(t, 1, nil), listen(t, 2, nil)
	connect(t, a, b)
	if a.ActiveSince(2).IsZero() || a.ActivePeers() != 1 || !a.ActiveSince(3).IsZero() {
		t.Error("the peer is not active")
	}
	large := bytes.Repeat([]byte("x"), 3<<20)
	sent := []raftpb.Message{
		{Type: raftpb.MsgApp, From: 1, To: 2, Term: 3, LogTerm: 3, Index: 7, Commit: 7, Entries: []raftpb.Entry{{Term: 3, Index: 8, Data: []byte("a")}}},
		{Type: raftpb.MsgApp, From: 1, To: 2, Term: 3, LogTerm: 3, Index: 8, Commit: 8, Entries: []raftpb.Entry{{Term: 3, Index: 9, Data: large}}},
		{Type: raftpb.MsgApp, From: 1, To: 2, Term: 3, LogTerm: 3, Index: 9, Commit: 9},
	}
	a.Send(sent)
	for i := range sent {
		got := b.fake.next()
		if g, w := string(mustMarshal(t, got)), string(mustMarshal(t, sent[i])); g != w {
			t.Fatalf("message %d arrived as %v", i, got.Type)
		}
	}
	other := raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 3, Commit: 4, Context: []byte("12345678")}
	b.Send([]raftpb.Message{other, {Type: raftpb.MsgVote, From: 2, To: 9, Term: 1}, {}})
	if got := a.fake.next(); string(got.Context) != "12345678" || got.Type != raftpb.MsgHeartbeat {
		t.Fatalf("%+v", got)
	}
	var got dto.Metric
	if err := b.metrics.receivedBytes.WithLabelValues("1").Write(&got); err != nil || got.Counter.GetValue() < float64(len(large)) {
		t.Errorf("%v bytes received, %v", got.Counter.GetValue(), err)
	}
}

func mustMarshal(t *testing.T, m raftpb.Message) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPostsWhenThereIsNoStream: a remote has none.
func TestPostsWhenThereIsNoStream(t *testing.T) {
	a, b := listen(t, 1, nil), listen(t, 2, nil)
	a.AddRemote(2, []string{b.url})
	a.Send([]raftpb.Message{{Type: raftpb.MsgApp, From: 1, To: 2, Term: 1}})
	if m := b.fake.next(); m.Type != raftpb.MsgApp {
		t.Fatalf("%+v", m)
	}
	// The post has made the sender known, so it can be answered.
	b.Send([]raftpb.Message{{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: 1}})
	if m := a.fake.next(); m.Type != raftpb.MsgAppResp {
		t.Fatalf("%+v", m)
	}
	connect(t, a, b) // the remote becomes a peer
}

func TestSnapshotsTravelWithTheirDatabase(t *testing.T) {
	a, b := listen(t, 1, nil), listen(t, 2, nil)
	connect(t, a, b)
	db := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	m := raftpb.Message{Type: raftpb.MsgSnap, From: 1, To: 2, Term: 3, Snapshot: &raftpb.Snapshot{
		Data: []byte("{}"), Metadata: raftpb.SnapshotMetadata{Index: 77, Term: 3, ConfState: raftpb.ConfState{Voters: []uint64{1, 2}}},
	}}
	a.SendSnapshot(m, io.NopCloser(bytes.NewReader(db)), int64(len(db)))
	if got := b.fake.next(); got.Snapshot == nil || got.Snapshot.Metadata.Index != 77 {
		t.Fatalf("%+v", got)
	}
	if !recv(t, "report", a.fake.snaps) {
		t.Error("reported as failed")
	}
	b.fake.mu.Lock()
	saved := b.fake.dbs[77]
	b.fake.mu.Unlock()
	if !bytes.Equal(saved, db) {
		t.Errorf("%d bytes saved", len(saved))
	}

	// What ends early, or is longer than announced, must not be taken for whole.
	for name, size := range map[string]int64{"short": int64(len(db)) + 1, "long": int64(len(db)) - 1} {
		m.Snapshot.Metadata.Index++
		a.SendSnapshot(m, io.NopCloser(bytes.NewReader(db)), size)
		if recv(t, "report", a.fake.snaps) {
			t.Errorf("%s: reported as sent", name)
		}
		b.fake.mu.Lock()
		if _, ok := b.fake.dbs[m.Snapshot.Metadata.Index]; ok {
			t.Errorf("%s: saved", name)
		}
		b.fake.mu.Unlock()
	}
	m.To = 99
	closed := &closeNoter{}
	a.SendSnapshot(m, closed, 1)
	if recv(t, "report", a.fake.snaps) || !closed.closed {
		t.Error("a snapshot for nobody was sent, or not closed")
	}
}

type closeNoter struct{ closed bool }

func (c *closeNoter) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closeNoter) Close() error             { c.closed = true; return nil }

func TestRemovedMembersAreTold(t *testing.T) {
	told := make(chan uint64, 10)
	a := listen(t, 1, func(o *Options) { o.OnRemoved = func(by uint64) { told <- by } })
	b := listen(t, 2, nil)
	b.fake.removed[1] = true
	a.AddPeer(2, []string{b.url})
	if by := recv(t, "word of the removal", told); by != 2 {
		t.Errorf("told by %d", by)
	}
	// By a post too.
	c := listen(t, 1, func(o *Options) { o.OnRemoved = func(by uint64) { told <- by } })
	c.AddRemote(2, []string{b.url})
	c.Send([]raftpb.Message{{Type: raftpb.MsgVote, From: 1, To: 2, Term: 1}})
	recv(t, "word of the removal", told)
}

func TestPeersComeAndGo(t *testing.T) {
	a, b := listen(t, 1, nil), listen(t, 2, nil)
	connect(t, a, b)
	a.AddPeer(1, []string{a.url}) // itself
	a.AddPeer(2, []string{"http://127.0.0.1:1"})
	if a.peer(1) != nil || a.peer(2).urls.pick() != b.url {
		t.Error("a peer was added that should not have been")
	}
	p := a.peer(2)
	a.RemovePeer(2)
	if a.peer(2) != nil || p.app.attached() {
		t.Error("the removed peer is still there")
	}
	recv(t, "report of the lost stream", b.fake.unreachable)
	if !a.ActiveSince(2).IsZero() {
		t.Error("a removed peer is active")
	}
	// It comes back under another address, which it is told later.
	a.AddPeer(2, []string{"http://127.0.0.1:1"})
	a.UpdatePeer(2, []string{"http://127.0.0.1:1", b.url})
	waitFor(t, "connection through the second url", func() bool { return a.peer(2).msg.attached() && b.peer(1).msg.attached() })
	a.RemoveAll()
	a.Send([]raftpb.Message{{Type: raftpb.MsgVote, From: 1, To: 2}})
	if a.ActivePeers() != 0 {
		t.Error("somebody is left")
	}
}

func TestURLsThatCannotBeDialed(t *testing.T) {
	for _, s := range []string{"", "http://", "ftp://h:1", "h:1", "http://h:1/path", "http://%zz"} {
		if list, err := parseURLs([]string{s}); err == nil {
			t.Errorf("%q: %v", s, list)
		}
	}
	list, err := parseURLs([]string{"http://a:1", "https://b:2/"})
	if err != nil || strings.Join(list, " ") != "http://a:1 https://b:2" {
		t.Errorf("%v, %v", list, err)
	}
	u := urls{list: list}
	u.failed("https://b:2") // is not the picked one
	if u.pick() != "http://a:1" {
		t.Error("moved on without need")
	}
	u.failed("http://a:1")
	if u.pick() != "https://b:2" {
		t.Error("did not move on")
	}
}

// TestNewStreamReplacesTheOld: a peer that dials again is believed.
func TestNewStreamReplacesTheOld(t *testing.T) {
	a := listen(t, 1, nil)
	a.AddPeer(2, []string{"http://127.0.0.1:1"})
	dial := func() *http.Response {
		req, _ := http.NewRequest(http.MethodGet, a.url+"/raft/stream/message/2", nil)
		for k, v := range goodHeaders(2, 1) {
			req.Header[k] = v
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	first := dial()
	waitFor(t, "first stream", func() bool { return a.peer(2).msg.attached() })
	old := a.peer(2).msg.conn
	second := dial()
	waitFor(t, "second stream", func() bool {
		o := &a.peer(2).msg
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.conn != nil && o.conn != old
	})
	if _, err := io.ReadAll(first.Body); err == nil {
		t.Error("the first stream ended as if it were complete")
	}
	a.Send([]raftpb.Message{{Type: raftpb.MsgVote, From: 1, To: 2, Term: 5}})
	var m raftpb.Message
	if err := newMessageDecoder(second.Body).next(&m); err != nil || m.Term != 5 {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestStuckReaderIsGivenUp: its messages are dropped, raft is told, nobody waits.
func TestStuckReaderIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		tr := New(Options{ID: 1, ClusterID: testCluster, ServerVersion: func() string { return "3.7.3" }, Handler: f})
		defer tr.Close()
		p := &peer{t: tr, id: 2, lg: tr.lg, metrics: tr.metrics.of(2), queue: make(chan raftpb.Message)}
		p.status = status{lg: p.lg, metrics: p.metrics}
		p.ctx, p.cancel = context.WithCancel(tr.ctx)
		p.app.init(p, "app", func() encoder { return &appEncoder{} })
		p.msg.init(p, "msg", func() encoder { return messageEncoder{} })
		ours, theirs := net.Pipe()
		defer theirs.Close()
		began := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.msg.serve(ours)
		}()
		synctest.Wait()
		vote := raftpb.Message{Type: raftpb.MsgVote, From: 1, To: 2, Term: 1}
		p.send(&vote)
		synctest.Wait() // the writer is stuck with it
		for range streamQueue + 100 {
			p.send(&vote)
		}
		if n := len(f.unreachable); n != 100 {
			t.Errorf("%d messages reported as dropped", n)
		}
		<-done
		if took := time.Since(began); took != ioTimeout {
			t.Errorf("the stream was given up after %v", took)
		}
		if p.msg.attached() || len(p.msg.queue) > 0 || !p.status.activeSince().IsZero() {
			t.Error("the stream is still there")
		}
		p.stop()
	})
}

// TestLinkHeartbeatsKeepStreamsAlive: an idle stream lives for ever.
func TestLinkHeartbeatsKeepStreamsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		tr := New(Options{ID: 1, ClusterID: testCluster, ServerVersion: func() string { return "3.7.3" }, Handler: f})
		defer tr.Close()
		p := &peer{t: tr, id: 2, lg: tr.lg, metrics: tr.metrics.of(2)}
		p.status = status{lg: p.lg, metrics: p.metrics}
		p.ctx, p.cancel = context.WithCancel(tr.ctx)
		p.app.init(p, "app", func() encoder { return &appEncoder{} })
		ours, theirs := net.Pipe()
		go p.app.serve(ours)
		r := &timedConn{Conn: theirs, read: ioTimeout}
		began := time.Now()
		b := make([]byte, 64)
		for time.Since(began) < time.Minute {
			n, err := r.Read(b)
			if err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			if string(b[:n]) != "1\r\n\x00\r\n" {
				t.Fatalf("read %q", b[:n])
			}
		}
		p.stop()
		p.app.close()
		if _, err := r.Read(b); err == nil {
			t.Error("the stream goes on after its peer has gone")
		}
	})
}

// TestCloseLeavesNothingBehind: no goroutine, no connection.
func TestCloseLeavesNothingBehind(t *testing.T) {
	a, b := listen(t, 1, nil), listen(t, 2, nil)
	connect(t, a, b)
	a.Close()
	a.Close()
	a.AddPeer(3, []string{b.url})
	if a.peer(3) != nil {
		t.Error("a closed transport took a peer")
	}
	a.Send([]raftpb.Message{{Type: raftpb.MsgVote, From: 1, To: 2}})
	recv(t, "report of the lost stream", b.fake.unreachable)
}
