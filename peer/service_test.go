package peer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
)

// office is a Service that answers what a test wants.
type office struct {
	members   []Member
	storage   string
	err       error
	applied   error
	downgrade bool
	got       any
}

func (o *office) PeerMembers() []Member              { return o.members }
func (o *office) Versions() (string, string, string) { return "3.7.3", "3.7.0", o.storage }
func (o *office) PeerHashKV(_ context.Context, rev int64) (HashKV, error) {
	o.got = rev
	return HashKV{Revision: 5, Hash: 1915589769, CompactRevision: 3, HashRevision: rev}, o.err
}
func (o *office) WaitApplied(context.Context) error { return o.applied }
func (o *office) PrimaryRenew(_ context.Context, id int64) (int64, error) {
	o.got = id
	return 60, o.err
}
func (o *office) PrimaryTimeToLive(_ context.Context, id int64, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	o.got = keys
	return &pb.LeaseTimeToLiveResponse{ID: id, TTL: 7, GrantedTTL: 60, Keys: [][]byte{[]byte("k")}}, o.err
}
func (o *office) PeerPromote(_ context.Context, id uint64, token string) ([]Member, error) {
	o.got = token
	return o.members, o.err
}
func (o *office) DowngradeEnabled(context.Context) (bool, error) { return o.downgrade, o.err }

func serveOffice(t *testing.T, o *office) (*httptest.Server, *Client) {
	srv := httptest.NewServer(ServiceHandler(testCluster, o, nil))
	c := NewClient(nil, 0)
	t.Cleanup(func() {
		c.Close()
		srv.Close()
	})
	return srv, c
}

var twoMembers = []Member{
	{ID: 13680830299368554380, PeerURLs: []string{"http://127.0.0.1:21701"}, Name: "n1", ClientURLs: []string{"http://127.0.0.1:21700"}},
	{ID: 13680830299368554381, PeerURLs: []string{"http://127.0.0.1:21702"}, IsLearner: true},
}

// TestServiceBodies: what goes over the wire, byte by byte (interop 8.9, 8.10).
func TestServiceBodies(t *testing.T) {
	o := &office{members: twoMembers, storage: "3.7.0"}
	srv, _ := serveOffice(t, o)
	for _, tc := range []struct {
		method, path, body string
		status             int
		contentType, want  string
	}{
		{"GET", "/members", "", 200, "application/json", `[{"id":13680830299368554380,"peerURLs":["http://127.0.0.1:21701"],"name":"n1","clientURLs":["http://127.0.0.1:21700"]},` +
			`{"id":13680830299368554381,"peerURLs":["http://127.0.0.1:21702"],"isLearner":true}]` + "\n"},
		{"POST", "/members", "", 405, "", "Method Not Allowed\n"},
		{"GET", "/members/", "", 404, "", ""},
		{"GET", "/version", "", 200, "application/json", `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{"GET", "/members/hashkv", `{"revision":4}`, 200, "application/json", `{"header":{"revision":5},"hash":1915589769,"compact_revision":3,"hash_revision":4}`},
		{"GET", "/members/hashkv", `{}`, 200, "application/json", `{"header":{"revision":5},"hash":1915589769,"compact_revision":3}`},
		{"GET", "/members/hashkv", `x`, 400, "", "error unmarshalling request\n"},
		{"GET", "/downgrade/enabled", "", 200, "text/plain", "false"},
		{"POST", "/leases", "\x08\x09", 200, "application/protobuf", hexString("1009183c")},
		{"POST", "/leases", "\xff", 400, "", "error unmarshalling request\n"},
		{"POST", "/leases/internal", "\x0a\x04\x08\x09\x10\x01", 200, "application/protobuf", hexString("0a0b0a0010091807203c2a016b")},
		{"POST", "/leases/internal", "\x08\x09", 400, "", "error unmarshalling request\n"},
		{"GET", "/leases", "", 405, "", "Method Not Allowed\n"},
		{"POST", "/members/promote/xyz", "", 404, "", "member xyz not found in cluster\n"},
		{"POST", "/leases", strings.Repeat("x", maxRequestBody+1), 413, "", "request body too large\n"},
	} {
		req, _ := http.NewRequest(tc.method, srv.URL+tc.path, strings.NewReader(tc.body))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		name := tc.method + " " + tc.path
		if resp.StatusCode != tc.status || (tc.want != "" && string(b) != tc.want) {
			t.Errorf("%s: status %d, %q", name, resp.StatusCode, b)
		}
		if tc.contentType != "" && resp.Header.Get("Content-Type") != tc.contentType {
			t.Errorf("%s: %s", name, resp.Header.Get("Content-Type"))
		}
	}
}

func hexString(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// TestClientAndService: each request there and back.
func TestClientAndService(t *testing.T) {
	o := &office{members: twoMembers, downgrade: true}
	srv, c := serveOffice(t, o)
	ctx := t.Context()
	ms, id, err := c.GetMembers(ctx, srv.URL+"/")
	if d := cmp.Diff(twoMembers, ms); d != "" || id != testCluster || err != nil {
		t.Errorf("members: %s %x %v", d, id, err)
	}
	if v, err := c.GetVersion(ctx, srv.URL); err != nil || v != (Versions{Server: "3.7.3", Cluster: "3.7.0", Theseus: true}) {
		t.Errorf("version: %+v, %v", v, err)
	}
	h, err := c.HashKV(ctx, srv.URL, testCluster, 4)
	if err != nil || h != (HashKV{Revision: 5, Hash: 1915589769, CompactRevision: 3, HashRevision: 4}) {
		t.Errorf("hash: %+v, %v", h, err)
	}
	if ttl, err := c.LeaseRenew(ctx, srv.URL, 9); ttl != 60 || err != nil || o.got != int64(9) {
		t.Errorf("renew: %d, %v, asked for %v", ttl, err, o.got)
	}
	l, err := c.LeaseTimeToLive(ctx, srv.URL, 9, true)
	want := &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{}, ID: 9, TTL: 7, GrantedTTL: 60, Keys: [][]byte{[]byte("k")}}
	if d := cmp.Diff(want, l, cmpopts.IgnoreUnexported(pb.LeaseTimeToLiveResponse{}, pb.ResponseHeader{})); d != "" || err != nil || o.got != true {
		t.Errorf("time to live: %s, %v", d, err)
	}
	ms, err = c.Promote(ctx, srv.URL, 7, "token.1")
	if d := cmp.Diff(twoMembers, ms); d != "" || err != nil || o.got != "token.1" {
		t.Errorf("promote: %s %v with %v", d, err, o.got)
	}
	if on, err := c.DowngradeEnabled(ctx, srv.URL); !on || err != nil {
		t.Errorf("downgrade: %v, %v", on, err)
	}
}

// TestServiceErrors: the error that the leader's server gives is the one that the
// asking member gets.
func TestServiceErrors(t *testing.T) {
	o := &office{}
	srv, c := serveOffice(t, o)
	ctx := t.Context()
	renew := func() error { _, err := c.LeaseRenew(ctx, srv.URL, 9); return err }
	live := func() error { _, err := c.LeaseTimeToLive(ctx, srv.URL, 9, true); return err }
	promote := func() error { _, err := c.Promote(ctx, srv.URL, 7, ""); return err }
	hash := func() error { _, err := c.HashKV(ctx, srv.URL, testCluster, 4); return err }
	for _, tc := range []struct {
		name      string
		call      func() error
		say, want error
	}{
		{"renew", renew, api.ErrLeaseNotFound, api.ErrLeaseNotFound},
		{"renew", renew, ErrNotPrimary, ErrNotPrimary},
		{"time to live", live, api.ErrLeaseNotFound, api.ErrLeaseNotFound},
		{"time to live", live, ErrNotPrimary, ErrNotPrimary},
		{"promote", promote, api.ErrMemberNotFound, api.ErrMemberNotFound},
		{"promote", promote, api.ErrMemberNotLearner, api.ErrMemberNotLearner},
		{"promote", promote, api.ErrLearnerNotReady, api.ErrLearnerNotReady},
		{"promote", promote, api.ErrTimeout, api.ErrTimeout},
		{"hash", hash, api.ErrCompacted, api.ErrCompacted},
		{"hash", hash, api.ErrFutureRev, api.ErrFutureRev},
	} {
		o.err = tc.say
		if err := tc.call(); !errors.Is(err, tc.want) {
			t.Errorf("%s of %v: %v", tc.name, tc.say, err)
		}
	}
	o.err, o.applied = nil, context.DeadlineExceeded
	if err := renew(); !errors.Is(err, api.ErrTimeout) {
		t.Errorf("renew before it is applied: %v", err)
	}
	if _, err := c.HashKV(ctx, srv.URL, 5, 0); !errors.Is(err, api.ErrClusterIDMismatch) {
		t.Errorf("hash in another cluster: %v", err)
	}
	for _, other := range []error{api.ErrPermissionDenied, errors.New("?")} {
		o.err = other
		if err := promote(); err == nil || !strings.Contains(err.Error(), other.Error()) {
			t.Errorf("promote of %v: %v", other, err)
		}
	}
}

// TestOldAndStrangeAnswers: members that do not know a question, and servers that are
// no members.
func TestOldAndStrangeAnswers(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/members":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/version":
			_, _ = w.Write([]byte("not json"))
		case "/leases":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	c := NewClient(nil, 0)
	defer c.Close()
	ctx := t.Context()
	if on, err := c.DowngradeEnabled(ctx, srv.URL); on || err != nil {
		t.Errorf("a member without downgrades: %v, %v", on, err)
	}
	if _, _, err := c.GetMembers(ctx, srv.URL); err == nil || !strings.Contains(err.Error(), "status 302") {
		t.Errorf("followed a redirect: %v", err)
	}
	if _, err := c.GetVersion(ctx, srv.URL); err == nil {
		t.Error("no version was taken for one")
	}
	if _, err := c.LeaseRenew(ctx, srv.URL, 1); err == nil || !strings.Contains(err.Error(), "status 307") {
		t.Errorf("followed a redirect: %v", err)
	}
	if _, err := c.GetVersion(ctx, "http://127.0.0.1:1"); err == nil {
		t.Error("nobody answered")
	}
}

// TestTLS: streams, posts and snapshots over https.
func TestTLS(t *testing.T) {
	a := listen(t, 1, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &end{fake: newFake(t), url: "https://" + l.Addr().String()}
	b.Transport = New(Options{ID: 2, ClusterID: testCluster, LocalURLs: []string{b.url}, ServerVersion: a.o.ServerVersion, Handler: b.fake})
	srv := httptest.NewUnstartedServer(b.Handler())
	srv.Listener.Close()
	srv.Listener = Listener(l)
	srv.StartTLS()
	defer srv.Close()
	defer b.Close()
	trusting := listen(t, 1, func(o *Options) { o.TLS = srv.Client().Transport.(*http.Transport).TLSClientConfig })
	connect(t, trusting, b)
	trusting.Send([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 1, To: 2, Term: 1}})
	if m := b.fake.next(); m.Term != 1 {
		t.Errorf("%+v", m)
	}
	m := raftpb.Message{Type: raftpb.MsgSnap, From: 1, To: 2, Term: 3, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 7}}}
	trusting.SendSnapshot(m, io.NopCloser(bytes.NewReader([]byte("db"))), 2)
	if !recv(t, "report", trusting.fake.snaps) {
		t.Error("the snapshot failed")
	}
	// Without the right roots nothing is exchanged.
	a.AddRemote(2, []string{b.url})
	a.Send([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 1, To: 2, Term: 1}})
	recv(t, "report", a.fake.unreachable)
}
