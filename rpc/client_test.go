package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"theseus/rpc/electionpb"
	"theseus/rpc/lockpb"
	"theseus/server"
)

func TestClientKV(t *testing.T) {
	m := newMember(t, nil)
	c, ctx := m.client(), short10(t)
	for i := range 30 {
		if _, err := c.Put(ctx, fmt.Sprintf("k%02d", i), strings.Repeat("v", i*100)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Put(ctx, "k05", "new", clientv3.WithPrevKV())
	if err != nil || string(p.PrevKv.Key) != "k05" || p.Header.Revision != 32 || p.Header.MemberId != m.srv.ID() ||
		p.Header.ClusterId != m.srv.ClusterID() || p.Header.RaftTerm == 0 {
		t.Fatalf("%v %v", p, err)
	}
	g, err := c.Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithLimit(7), clientv3.WithSerializable())
	if err != nil || len(g.Kvs) != 7 || g.Count != 30 || !g.More || g.Header.Revision != 32 || string(g.Kvs[5].Value) != "new" {
		t.Fatalf("%v %v", g, err)
	}
	x, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Version("k05"), "=", 2)).
		Then(clientv3.OpPut("k05", "3"), clientv3.OpGet("k05"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete("k06")}, nil)).Commit()
	if err != nil || !x.Succeeded || string(x.Responses[1].GetResponseRange().Kvs[0].Value) != "3" ||
		x.Responses[2].GetResponseTxn().Responses[0].GetResponseDeleteRange().Deleted != 1 || x.Header.Revision != 33 {
		t.Fatalf("%v %v", x, err)
	}
	d, err := c.Delete(ctx, "k1", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil || d.Deleted != 10 || len(d.PrevKvs) != 10 || d.Header.Revision != 34 {
		t.Fatalf("%v %v", d, err)
	}
	if _, err := c.Compact(ctx, 33, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "k", clientv3.WithRev(10)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "k", clientv3.WithRev(1000)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Fatal(err)
	}
}

// Many clients at once, values up to the limit.
func TestClientManyPuts(t *testing.T) {
	m := newMember(t, nil)
	c, ctx := m.client(), short10(t)
	errs := make(chan error, 500)
	for i := range 500 {
		go func() {
			_, err := c.Put(ctx, fmt.Sprint("k", i%50), strings.Repeat("x", i*20))
			errs <- err
		}()
	}
	for range 500 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Put(ctx, "big", strings.Repeat("x", 3<<19-100)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "big", strings.Repeat("x", 3<<19)); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Fatal(err)
	}
	g, err := c.Get(ctx, "", clientv3.WithPrefix())
	if err != nil || g.Count != 51 {
		t.Fatal(g.Count, err)
	}
}

func TestRangeStream(t *testing.T) {
	m := newMember(t, nil)
	c, kv, ctx := m.client(), pb.NewKVClient(m.conn()), short10(t)
	for i := range 100 {
		if _, err := c.Put(ctx, fmt.Sprintf("s%03d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	from, to := []byte("s"), []byte("t")
	for _, x := range []struct {
		r    *pb.RangeRequest
		want string // as real etcd 3.7 streams it: keys, and with a header: !keys/more/count
	}{
		{&pb.RangeRequest{Key: from, RangeEnd: to}, "10 20 40 !30/false/100"},
		{&pb.RangeRequest{Key: from, RangeEnd: to, Limit: 5}, "!5/true/100"},
		{&pb.RangeRequest{Key: from, RangeEnd: to, Limit: 10}, "!10/true/100"},
		{&pb.RangeRequest{Key: from, RangeEnd: to, Limit: 30}, "10 !20/true/100"},
		{&pb.RangeRequest{Key: from, RangeEnd: to, Limit: 100}, "10 20 40 !30/false/100"},
		{&pb.RangeRequest{Key: from, RangeEnd: to, CountOnly: true}, "!0/false/100"},
		{&pb.RangeRequest{Key: from, RangeEnd: to, KeysOnly: true, SortTarget: pb.RangeRequest_VERSION}, "10 20 40 !30/false/100"},
		{&pb.RangeRequest{Key: []byte("s001")}, "!1/false/1"},
		{&pb.RangeRequest{Key: []byte("nope")}, "!0/false/0"},
		{&pb.RangeRequest{}, "rpc error: code = InvalidArgument desc = etcdserver: key is not provided"},
		{&pb.RangeRequest{Key: from, SortTarget: 9}, "rpc error: code = InvalidArgument desc = etcdserver: invalid sort option"},
		{&pb.RangeRequest{Key: from, Revision: 1 << 40}, "rpc error: code = OutOfRange desc = etcdserver: mvcc: required revision is a future revision"},
		{&pb.RangeRequest{Key: from, SortOrder: 2}, "rpc error: code = Unimplemented desc = RangeStream does not support custom sort orders"},
		{&pb.RangeRequest{Key: from, MinModRevision: 2}, "rpc error: code = Unimplemented desc = RangeStream does not support revision filters"},
	} {
		st, err := kv.RangeStream(ctx, x.r)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		var last string
		for {
			r, err := st.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				got = append(got, err.Error())
				break
			}
			for _, kv := range r.RangeResponse.Kvs {
				if string(kv.Key) <= last {
					t.Errorf("%q after %q", kv.Key, last)
				}
				last = string(kv.Key)
			}
			text := fmt.Sprint(len(r.RangeResponse.Kvs))
			if r.RangeResponse.Header != nil {
				text = fmt.Sprintf("!%s/%v/%d", text, r.RangeResponse.More, r.RangeResponse.Count)
			}
			got = append(got, text)
		}
		if g := strings.Join(got, " "); g != x.want {
			t.Errorf("%v: %s, want %s", x.r, g, x.want)
		}
	}
}

func TestClientLease(t *testing.T) {
	m := newMember(t, nil)
	c, ctx := m.client(), short10(t)
	g, err := c.Grant(ctx, 100)
	if err != nil || g.TTL != 100 {
		t.Fatal(g, err)
	}
	if _, err := c.Put(ctx, "a", "1", clientv3.WithLease(g.ID)); err != nil {
		t.Fatal(err)
	}
	ttl, err := c.TimeToLive(ctx, g.ID, clientv3.WithAttachedKeys())
	if err != nil || ttl.GrantedTTL != 100 || len(ttl.Keys) != 1 {
		t.Fatal(ttl, err)
	}
	if k, err := c.KeepAliveOnce(ctx, g.ID); err != nil || k.TTL != 100 {
		t.Fatal(k, err)
	}
	if l, err := c.Leases(ctx); err != nil || len(l.Leases) != 1 {
		t.Fatal(l, err)
	}
	if _, err := c.KeepAliveOnce(ctx, 12345); !errors.Is(err, rpctypes.ErrLeaseNotFound) { // TTL 0 on the wire
		t.Fatal(err)
	}
	if _, err := c.Revoke(ctx, g.ID); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Get(ctx, "a"); err != nil || r.Count != 0 {
		t.Fatal(r, err)
	}
	if _, err := c.Revoke(ctx, g.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Fatal(err)
	}
	if _, err := c.Grant(ctx, 9_000_000_001); !errors.Is(err, rpctypes.ErrLeaseTTLTooLarge) {
		t.Fatal(err)
	}
}

func TestClientWatch(t *testing.T) {
	m := newMember(t, nil)
	c, ctx := m.client(), short10(t)
	w := c.Watch(clientv3.WithRequireLeader(ctx), "k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	if r := <-w; !r.Created {
		t.Fatal(r)
	}
	for i := range 100 {
		if _, err := c.Put(ctx, "k", strings.Repeat("x", i*100)); err != nil {
			t.Fatal(err)
		}
	}
	for n := 0; n < 100; {
		r := <-w
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		for _, e := range r.Events {
			if len(e.Kv.Value) != n*100 || (n > 0) != (e.PrevKv != nil) {
				t.Fatal(n, e)
			}
			n++
		}
	}
	if err := c.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
		t.Fatal(err)
	}
	if r := <-w; !r.IsProgressNotify() || r.Header.Revision != 101 {
		t.Fatal(r)
	}
	past := c.Watch(ctx, "k", clientv3.WithRev(50))
	if r := <-past; len(r.Events) == 0 || r.Events[0].Kv.ModRevision != 50 {
		t.Fatal(r)
	}
}

// watchStream is a raw Watch stream.
func (m *member) watchStream(ctx context.Context) pb.Watch_WatchClient {
	m.t.Helper()
	st, err := pb.NewWatchClient(m.conn()).Watch(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return st
}

func create(r *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

func TestWatchStream(t *testing.T) {
	m := newMember(t, nil)
	c, ctx := m.client(), short10(t)
	st := m.watchStream(ctx)
	recv := func() *pb.WatchResponse {
		t.Helper()
		r, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	st.Send(&pb.WatchRequest{}) // no request in it: ignored
	st.Send(create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}))
	if r := recv(); !r.Created || !r.Canceled || r.WatchId != -1 || r.CancelReason != "mvcc: watcher range is empty" {
		t.Fatal(r)
	}
	st.Send(create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: -1}))
	if r := recv(); !r.Canceled || r.CancelReason != "etcdserver: mvcc: required revision has been compacted" {
		t.Fatal(r)
	}
	st.Send(create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}))
	if r := recv(); !r.Created || r.Canceled || r.WatchId != 7 {
		t.Fatal(r)
	}
	st.Send(create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}))
	if r := recv(); !r.Canceled || r.CancelReason != "mvcc: duplicate watch ID provided on the WatchStream" {
		t.Fatal(r)
	}
	st.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 99}}})
	st.CloseSend() // does not end the stream
	if _, err := c.Put(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if r := recv(); len(r.Events) != 1 || r.WatchId != 7 {
		t.Fatal(r)
	}
	m.front.EndStreams()
	if _, err := st.Recv(); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if _, err := m.watchStream(ctx).Recv(); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "a", "1"); err != nil { // unary calls go on
		t.Fatal(err)
	}
}

func TestLockService(t *testing.T) {
	m := newMember(t, nil)
	c, ctx, cc := m.client(), short10(t), m.conn()
	lock := lockpb.NewLockClient(cc)
	a, err := lock.Lock(ctx, &lockpb.LockRequest{Name: []byte("l")})
	if err != nil || !bytes.HasPrefix(a.Key, []byte("l/")) || a.Header.Revision == 0 {
		t.Fatal(a, err)
	}
	// A client of clientv3/concurrency stands in the same queue.
	s, err := concurrency.NewSession(c)
	if err != nil {
		t.Fatal(err)
	}
	mu := concurrency.NewMutex(s, "l")
	locked := make(chan error, 1)
	go func() { locked <- mu.Lock(ctx) }()
	waitFor(t, func() bool { r, err := c.Get(ctx, "l/", clientv3.WithPrefix()); return err == nil && r.Count == 2 })
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := lock.Lock(short, &lockpb.LockRequest{Name: []byte("l")}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatal(err)
	}
	waitFor(t, func() bool { r, err := c.Get(ctx, "l/", clientv3.WithPrefix()); return err == nil && r.Count == 2 }) // its place is given up
	if _, err := lock.Unlock(ctx, &lockpb.UnlockRequest{Key: a.Key}); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { _, err := lock.Lock(ctx, &lockpb.LockRequest{Name: []byte("l")}); got <- err }()
	waitFor(t, func() bool { r, err := c.Get(ctx, "l/", clientv3.WithPrefix()); return err == nil && r.Count == 2 })
	if err := mu.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	_, err = lock.Lock(ctx, &lockpb.LockRequest{Name: []byte("x"), Lease: 123})
	checkStatus(t, err, codes.Unknown, "etcdserver: requested lease not found")
	_, err = lock.Unlock(ctx, &lockpb.UnlockRequest{})
	checkStatus(t, err, codes.Unknown, "etcdserver: key is not provided")
}

func checkStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if st := status.Convert(err); st.Code() != code || st.Message() != text {
		t.Errorf("got %v %q, want %v %q", st.Code(), st.Message(), code, text)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited too long")
		}
	}
}

func TestElectionService(t *testing.T) {
	m := newMember(t, nil)
	c, ctx := m.client(), short10(t)
	e := electionpb.NewElectionClient(m.conn())
	name := []byte("e")
	_, err := e.Leader(ctx, &electionpb.LeaderRequest{Name: name})
	checkStatus(t, err, codes.Unknown, "election: no leader")
	_, err = e.Proclaim(ctx, &electionpb.ProclaimRequest{})
	checkStatus(t, err, codes.Unknown, `"leader" field must be provided`)
	_, err = e.Resign(ctx, &electionpb.ResignRequest{})
	checkStatus(t, err, codes.Unknown, `"leader" field must be provided`)

	seen, err := e.Observe(ctx, &electionpb.LeaderRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	sees := func(want string) {
		t.Helper()
		if r, err := seen.Recv(); err != nil || string(r.Kv.Value) != want {
			t.Fatalf("%v %v, want %s", r, err, want)
		}
	}
	first, err := e.Campaign(ctx, &electionpb.CampaignRequest{Name: name, Value: []byte("1")})
	if err != nil || first.Leader.Rev == 0 || first.Leader.Lease == 0 {
		t.Fatal(first, err)
	}
	sees("1")
	if _, err := e.Proclaim(ctx, &electionpb.ProclaimRequest{Leader: first.Leader, Value: []byte("1b")}); err != nil {
		t.Fatal(err)
	}
	sees("1b")
	s, err := concurrency.NewSession(c)
	if err != nil {
		t.Fatal(err)
	}
	other, won := concurrency.NewElection(s, "e"), make(chan error, 1)
	go func() { won <- other.Campaign(ctx, "2") }()
	waitFor(t, func() bool { r, err := c.Get(ctx, "e/", clientv3.WithPrefix()); return err == nil && r.Count == 2 })
	if r, err := e.Leader(ctx, &electionpb.LeaderRequest{Name: name}); err != nil || string(r.Kv.Value) != "1b" {
		t.Fatal(r, err)
	}
	if _, err := e.Resign(ctx, &electionpb.ResignRequest{Leader: first.Leader}); err != nil {
		t.Fatal(err)
	}
	if err := <-won; err != nil {
		t.Fatal(err)
	}
	sees("2")
	_, err = e.Proclaim(ctx, &electionpb.ProclaimRequest{Leader: first.Leader, Value: []byte("late")})
	checkStatus(t, err, codes.Unknown, "election: not leader")
}

func TestMaintenance(t *testing.T) {
	m := newMember(t, nil)
	c, ctx, cc := m.client(), short10(t), m.conn()
	if _, err := c.Put(ctx, "k", strings.Repeat("v", 200_000)); err != nil {
		t.Fatal(err)
	}
	st, err := c.Status(ctx, m.addr)
	if err != nil || st.Leader != m.srv.ID() || st.Version != "3.7.3" || st.DbSize == 0 {
		t.Fatal(st, err)
	}
	snap, err := pb.NewMaintenanceClient(cc).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	sum, total := sha256.New(), 0
	for {
		r, err := snap.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.Header != nil {
			t.Error("a snapshot message has a header")
		}
		if len(r.Blob) == sha256.Size && r.RemainingBytes == 0 {
			if !bytes.Equal(sum.Sum(nil), r.Blob) {
				t.Error("the checksum is wrong")
			}
			break
		}
		if len(r.Blob) > 32<<10 {
			t.Errorf("blob of %d bytes", len(r.Blob))
		}
		sum.Write(r.Blob)
		total += len(r.Blob)
	}
	if _, err := snap.Recv(); err != io.EOF || total < 200_000 {
		t.Fatal(total, err)
	}
	if r, err := c.HashKV(ctx, m.addr, 0); err != nil || r.Hash == 0 {
		t.Fatal(r, err)
	}
	if r, err := c.Defragment(ctx, m.addr); err != nil || r.Header != nil {
		t.Fatal(r, err)
	}
	if l, err := c.MemberList(ctx); err != nil || len(l.Members) != 1 || l.Header.Revision != 0 {
		t.Fatal(l, err)
	}
	_, err = pb.NewMaintenanceClient(cc).Alarm(ctx, &pb.AlarmRequest{Action: 9})
	checkStatus(t, err, codes.Unknown, "etcdserver: unknown method")
	_, err = pb.NewMaintenanceClient(cc).Downgrade(ctx, &pb.DowngradeRequest{Action: 9})
	checkStatus(t, err, codes.Unknown, "etcdserver: unknown method")
}

func TestHealth(t *testing.T) {
	m := newMember(t, nil)
	h, ctx := healthpb.NewHealthClient(m.conn()), short10(t)
	if r, err := h.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(r, err)
	}
	_, err := h.Check(ctx, &healthpb.HealthCheckRequest{Service: "x"})
	checkStatus(t, err, codes.NotFound, "unknown service")
	w, err := h.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := w.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(r, err)
	}
}

func TestAuthMetadata(t *testing.T) {
	m := newMember(t, func(so *server.Options, _ *Options) { so.BcryptCost = 4 })
	c, ctx := m.client(), short10(t)
	for _, err := range []error{
		second(c.RoleAdd(ctx, "root")), second(c.UserAdd(ctx, "root", "r")), second(c.UserGrantRole(ctx, "root", "root")),
		second(c.RoleAdd(ctx, "r")), second(c.RoleGrantPermission(ctx, "r", "a", "b", clientv3.PermissionType(clientv3.PermReadWrite))),
		second(c.UserAdd(ctx, "u", "u")), second(c.UserGrantRole(ctx, "u", "r")), second(c.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	kv := pb.NewKVClient(m.conn())
	a, z := &pb.PutRequest{Key: []byte("a")}, &pb.PutRequest{Key: []byte("z")}
	_, err := kv.Put(ctx, a)
	checkStatus(t, err, codes.InvalidArgument, "etcdserver: user name is empty")
	tok, err := pb.NewAuthClient(m.conn()).Authenticate(ctx, &pb.AuthenticateRequest{Name: "u", Password: "u"})
	if err != nil {
		t.Fatal(err)
	}
	for _, md := range [][]string{{"token", tok.Token}, {"authorization", tok.Token}, {"authorization", "Bearer " + tok.Token}, {"token", tok.Token, "token", "junk"}} {
		in := metadata.AppendToOutgoingContext(ctx, md...)
		if _, err := kv.Put(in, a); err != nil {
			t.Errorf("%s: %v", md[0], err)
		}
		_, err := kv.Put(in, z)
		checkStatus(t, err, codes.PermissionDenied, "etcdserver: permission denied")
		if _, err := kv.Range(in, &pb.RangeRequest{Key: []byte("a")}); err != nil {
			t.Error(err)
		}
		_, err = kv.Txn(in, &pb.TxnRequest{Success: ops{put("z")}})
		checkStatus(t, err, codes.PermissionDenied, "etcdserver: permission denied")
		_, err = kv.Compact(in, &pb.CompactionRequest{Revision: 1})
		checkStatus(t, err, codes.PermissionDenied, "etcdserver: permission denied")
	}
	_, err = kv.Put(metadata.AppendToOutgoingContext(ctx, "token", "junk"), a)
	checkStatus(t, err, codes.Unauthenticated, "etcdserver: invalid auth token")
	u := m.client(func(cfg *clientv3.Config) { cfg.Username, cfg.Password = "u", "u" })
	w := u.Watch(ctx, "z", clientv3.WithCreatedNotify())
	if r := <-w; !r.Canceled || !strings.Contains(r.Err().Error(), "permission denied") {
		t.Fatal(r)
	}
	if r := <-u.Watch(ctx, "a", clientv3.WithCreatedNotify()); !r.Created || r.Canceled {
		t.Fatal(r)
	}
}

func second[T any](_ T, err error) error { return err }

func TestMetrics(t *testing.T) {
	m := newMember(t, func(_ *server.Options, o *Options) { o.Extensive = true })
	c, ctx := m.client(), short10(t)
	if _, err := c.Put(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "", "1"); err == nil {
		t.Fatal("want an error")
	}
	families, err := m.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, x := range f.Metric {
			var labels []string
			for _, l := range x.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			v := x.GetCounter().GetValue()
			if x.Histogram != nil {
				v = float64(x.Histogram.GetSampleCount())
			}
			got[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = v
		}
	}
	for name, want := range map[string]float64{
		`grpc_server_started_total{grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary}`:                               2,
		`grpc_server_handled_total{grpc_code=OK,grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary}`:                  1,
		`grpc_server_handled_total{grpc_code=InvalidArgument,grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary}`:     1,
		`grpc_server_handled_total{grpc_code=Canceled,grpc_method=Watch,grpc_service=etcdserverpb.Watch,grpc_type=bidi_stream}`: 0,
		`grpc_server_msg_received_total{grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary}`:                          2,
		`grpc_server_handling_seconds{grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary}`:                            2,
		`grpc_server_started_total{grpc_method=Lock,grpc_service=v3lockpb.Lock,grpc_type=unary}`:                                0,
		`etcd_server_client_requests_total{client_api_version=3.7,type=unary}`:                                                  2,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	if got["etcd_network_client_grpc_received_bytes_total{}"] < 6 || got["etcd_network_client_grpc_sent_bytes_total{}"] < 10 {
		t.Error("bytes are not counted")
	}
}
