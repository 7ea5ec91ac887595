package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

func TestSinglePutGet(t *testing.T) {
	c := newCluster(t, 1, nil)
	m := c.members[0]
	if got := m.get("a"); got != "" {
		t.Errorf("a new member holds %q", got)
	}
	for i, want := range []int64{2, 3} {
		if rev := m.put("a", string(rune('0'+i))); rev != want {
			t.Errorf("put %d at revision %d, want %d", i, rev, want)
		}
	}
	if got := m.get("a"); got != "1" {
		t.Errorf("a = %q", got)
	}
	del, err := m.DeleteRange(m.context(), &pb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true}, nil)
	if err != nil || del.Deleted != 1 || string(del.PrevKvs[0].Value) != "1" {
		t.Errorf("delete: %v, %v", del, err)
	}
	if h := del.Header; h.ClusterId != m.ClusterID() || h.MemberId != m.ID() || h.Revision != 4 || h.RaftTerm == 0 {
		t.Errorf("header: %v", h)
	}
	if got := m.get("a"); got != "" {
		t.Errorf("a deleted key holds %q", got)
	}
}

// TestFirstReadIsSoon keeps the promise of a fast start.
func TestFirstReadIsSoon(t *testing.T) {
	start := time.Now()
	c := newCluster(t, 1, func(_ int, o *Options) { o.Tick, o.ElectionTicks, o.UnsafeNoSync = 0, 0, false })
	c.members[0].get("a")
	took := time.Since(start)
	t.Logf("the first read was answered after %v", took)
	if took > 100*time.Millisecond && !raceEnabled {
		t.Errorf("the first read took %v", took)
	}
}

func TestSingleTxn(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	put := func(k, v string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte(v)}}}
	}
	get := func(k string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(k)}}}
	}
	missing := &pb.Compare{Key: []byte("a"), Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{}}
	for i, want := range []bool{true, false} {
		resp, err := m.Txn(m.context(), &pb.TxnRequest{Compare: []*pb.Compare{missing}, Success: []*pb.RequestOp{put("a", "1")}, Failure: []*pb.RequestOp{get("a")}}, nil)
		if err != nil || resp.Succeeded != want {
			t.Fatalf("txn %d: %v, %v", i, resp, err)
		}
		if !want && string(resp.Responses[0].GetResponseRange().Kvs[0].Value) != "1" {
			t.Errorf("txn %d: %v", i, resp)
		}
	}
	resp, err := m.Txn(m.context(), &pb.TxnRequest{Success: []*pb.RequestOp{get("a"), get("b")}}, nil)
	if err != nil || !resp.Succeeded || resp.Header.Revision != 2 || resp.Header.MemberId != m.ID() {
		t.Errorf("read-only txn: %v, %v", resp, err)
	}
	_, err = m.Txn(m.context(), &pb.TxnRequest{Success: []*pb.RequestOp{put("c", "1"),
		{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Revision: 100}}}}}, nil)
	if err != api.ErrFutureRev {
		t.Errorf("txn with a future range: %v", err)
	}
	if got := m.get("c"); got != "" {
		t.Errorf("the refused txn wrote %q", got)
	}
}

// collector is a Waiter that collects.
type collector struct {
	mu  sync.Mutex
	got []Outcome
	wg  sync.WaitGroup
}

func (c *collector) Done(o Outcome) {
	c.mu.Lock()
	c.got = append(c.got, o)
	c.mu.Unlock()
	c.wg.Done()
}

func TestStartForms(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	var c collector
	const n = 2000
	c.wg.Add(2 * n)
	for range n {
		r := &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}
		m.StartPut(Credentials{}, r, api.Append(nil, r), &c)
		m.StartRange(Credentials{}, &pb.RangeRequest{Key: []byte("k")}, &c)
	}
	c.wg.Wait()
	var revs []int64
	for _, o := range c.got {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if p, ok := o.Resp.(*pb.PutResponse); ok {
			revs = append(revs, p.Header.Revision)
		}
	}
	slices.Sort(revs)
	if len(revs) != n || revs[0] != 2 || revs[n-1] != n+1 {
		t.Errorf("%d puts from revision %d to %d", len(revs), revs[0], revs[len(revs)-1])
	}
	c.wg.Add(2)
	m.StartTxn(Credentials{}, &pb.TxnRequest{}, nil, &c)
	m.StartDeleteRange(Credentials{}, &pb.DeleteRangeRequest{Key: []byte("k")}, nil, &c)
	c.wg.Wait()
	for _, o := range c.got[2*n:] {
		if o.Err != nil {
			t.Error(o.Err)
		}
	}
}

func TestRequestTooLarge(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	_, err := m.Put(m.context(), &pb.PutRequest{Key: []byte("a"), Value: make([]byte, defaultRequestBytes)}, nil)
	if err != api.ErrRequestTooLarge {
		t.Errorf("put of 1.5 MiB: %v", err)
	}
	if _, err = m.Put(m.context(), &pb.PutRequest{Key: []byte("a"), Value: make([]byte, defaultRequestBytes-100)}, nil); err != nil {
		t.Errorf("put of 100 bytes less: %v", err)
	}
}

func TestSingleLease(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	grant, err := m.LeaseGrant(m.context(), &pb.LeaseGrantRequest{TTL: 1})
	if err != nil || grant.ID <= 0 || grant.TTL != m.Server.o.minLeaseTTL() {
		t.Fatalf("grant: %v, %v", grant, err)
	}
	if _, err := m.Put(m.context(), &pb.PutRequest{Key: []byte("leased"), Lease: grant.ID}, nil); err != nil {
		t.Fatal(err)
	}
	if ttl, err := m.LeaseRenew(m.context(), grant.ID); ttl != grant.TTL || err != nil {
		t.Errorf("renew: %d, %v", ttl, err)
	}
	left, err := m.LeaseTimeToLive(m.context(), &pb.LeaseTimeToLiveRequest{ID: grant.ID, Keys: true})
	if err != nil || left.TTL < 0 || left.TTL > grant.TTL || left.GrantedTTL != grant.TTL || len(left.Keys) != 1 {
		t.Errorf("time to live: %v, %v", left, err)
	}
	all, err := m.LeaseLeases(m.context(), &pb.LeaseLeasesRequest{})
	if err != nil || len(all.Leases) != 1 {
		t.Errorf("leases: %v, %v", all, err)
	}
	(&testCluster{t: t}).eventually("the lease to expire", func() bool {
		res, err := m.Range(m.context(), &pb.RangeRequest{Key: []byte("leased")})
		return err == nil && res.Count == 0
	})
	if left, err = m.LeaseTimeToLive(m.context(), &pb.LeaseTimeToLiveRequest{ID: grant.ID}); err != nil || left.TTL != -1 {
		t.Errorf("time to live of an expired lease: %v, %v", left, err)
	}
	if _, err = m.LeaseRenew(m.context(), grant.ID); err != api.ErrLeaseNotFound {
		t.Errorf("renew of an expired lease: %v", err)
	}
	if _, err = m.LeaseRevoke(m.context(), &pb.LeaseRevokeRequest{ID: grant.ID}); err != api.ErrLeaseNotFound {
		t.Errorf("revoke of an expired lease: %v", err)
	}
}

func TestCompaction(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	for range 50 {
		m.put("a", "x")
	}
	if _, err := m.Compact(m.context(), &pb.CompactionRequest{Revision: 30, Physical: true}); err != nil {
		t.Fatal(err)
	}
	for rev, want := range map[int64]error{29: api.ErrCompacted, 30: nil, 51: nil, 52: api.ErrFutureRev} {
		if _, err := m.Range(m.context(), &pb.RangeRequest{Key: []byte("a"), Revision: rev}); err != want {
			t.Errorf("range at %d: %v, want %v", rev, err, want)
		}
	}
	for rev, want := range map[int64]error{30: api.ErrCompacted, 100: api.ErrFutureRev} {
		if _, err := m.Compact(m.context(), &pb.CompactionRequest{Revision: rev}); err != want {
			t.Errorf("compact %d: %v, want %v", rev, err, want)
		}
	}
}

func TestQuota(t *testing.T) {
	m := newCluster(t, 1, func(_ int, o *Options) { o.QuotaBytes, o.FlushInterval = 1<<20, time.Millisecond }).members[0]
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = m.Put(m.context(), &pb.PutRequest{Key: []byte{byte(i)}, Value: make([]byte, 100<<10)}, nil)
		time.Sleep(5 * time.Millisecond) // the file grows at the flush
	}
	if err != api.ErrNoSpace {
		t.Fatalf("a put beyond the quota: %v", err)
	}
	(&testCluster{t: t}).eventually("the alarm", func() bool { return len(m.Alarms()) == 1 })
	if reason := m.Health(m.context(), nil, false); reason != "ALARM NOSPACE" {
		t.Errorf("health: %q", reason)
	}
	if reason := m.Health(m.context(), []string{"NOSPACE"}, false); reason != "" {
		t.Errorf("health without alarms: %q", reason)
	}
	st, err := m.Status(m.context(), &pb.StatusRequest{})
	if err != nil || len(st.Errors) != 1 {
		t.Errorf("status: %v, %v", st, err)
	}
	if _, err := m.DeleteRange(m.context(), &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, nil); err != nil {
		t.Errorf("delete under the alarm: %v", err)
	}
}

func TestRestart(t *testing.T) {
	c := newCluster(t, 1, func(_ int, o *Options) { o.SnapshotCount, o.CatchUpEntries = 20, 5 })
	m := c.members[0]
	for range 100 {
		m.put("a", "x")
	}
	lease, err := m.LeaseGrant(m.context(), &pb.LeaseGrantRequest{TTL: 1000})
	if err != nil {
		t.Fatal(err)
	}
	id, cluster, hash := m.ID(), m.ClusterID(), kvHash(t, m)
	for range 3 {
		m.stop()
		m.start()
		if m.ID() != id || m.ClusterID() != cluster {
			t.Fatalf("ids changed to %x, %x", m.ID(), m.ClusterID())
		}
		if got := m.get("a"); got != "x" || m.Revision() != 101 || kvHash(t, m) != hash {
			t.Errorf("after a restart: %q at revision %d", got, m.Revision())
		}
	}
	if ttl, err := m.LeaseRenew(m.context(), lease.ID); err != nil || ttl != 1000 {
		t.Errorf("renew after restarts: %d, %v", ttl, err)
	}
	<-m.Ready()
	members, err := m.MemberList(m.context(), &pb.MemberListRequest{Linearizable: true})
	if err != nil || len(members.Members) != 1 || members.Members[0].Name != "m0" {
		t.Errorf("members: %v, %v", members, err)
	}
}

func kvHash(t *testing.T, m *testMember) uint32 {
	t.Helper()
	h, err := m.HashKV(m.context(), &pb.HashKVRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return h.Hash
}

func TestRefusesWhenStopped(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	m.put("a", "1")
	m.stop()
	if _, err := m.Put(m.context(), &pb.PutRequest{Key: []byte("a")}, nil); err != api.ErrStopped {
		t.Errorf("put: %v", err)
	}
	if _, err := m.Range(m.context(), &pb.RangeRequest{Key: []byte("a")}); err != api.ErrStopped {
		t.Errorf("get: %v", err)
	}
	select {
	case <-m.Done():
	default:
		t.Error("Done is not closed")
	}
}

func TestContextEnds(t *testing.T) {
	c := newCluster(t, 3, nil)
	lead := c.leader()
	for _, m := range c.members {
		if m != lead {
			m.stop()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := lead.Put(ctx, &pb.PutRequest{Key: []byte("a")}, nil); !errors.Is(err, api.ErrTimeout) && !errors.Is(err, api.ErrTimeoutDueToConnectionLost) {
		t.Errorf("put without a quorum: %v", err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := lead.Range(canceled, &pb.RangeRequest{Key: []byte("a")}); err != api.ErrCanceled {
		t.Errorf("get with a canceled context: %v", err)
	}
}

func TestHealthy(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	m.put("a", "1")
	for _, name := range []string{CheckSerializableRead, CheckLinearizableRead, CheckDataCorruption, CheckNonLearner} {
		if err := m.Check(m.context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if reason := m.Health(m.context(), nil, false); reason != "" {
		t.Errorf("health: %q", reason)
	}
	st, err := m.Status(m.context(), &pb.StatusRequest{})
	if err != nil || st.Leader != m.ID() || st.DbSize == 0 || st.RaftIndex == 0 || len(st.Errors) != 0 || st.DbSizeQuota != defaultQuotaBytes {
		t.Errorf("status: %v, %v", st, err)
	}
}

func TestAlarms(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	raise := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_CORRUPT}
	if resp, err := m.Alarm(m.context(), raise); err != nil || len(resp.Alarms) != 1 || resp.Header.MemberId != m.ID() {
		t.Fatalf("raise: %v, %v", resp, err)
	}
	if _, err := m.Put(m.context(), &pb.PutRequest{Key: []byte("a")}, nil); err != api.ErrCorrupt {
		t.Errorf("put: %v", err)
	}
	if err := m.Check(m.context(), CheckDataCorruption); err == nil || err.Error() != "alarm activated: CORRUPT" {
		t.Errorf("check: %v", err)
	}
	for kind, want := range map[pb.AlarmType]int{pb.AlarmType_NONE: 1, pb.AlarmType_CORRUPT: 1, pb.AlarmType_NOSPACE: 0} {
		if resp, err := m.Alarm(m.context(), &pb.AlarmRequest{Alarm: kind}); err != nil || len(resp.Alarms) != want {
			t.Errorf("list %v: %v, %v", kind, resp, err)
		}
	}
	m.stop()
	m.start()
	if _, err := m.Put(m.context(), &pb.PutRequest{Key: []byte("a")}, nil); err != api.ErrCorrupt {
		t.Errorf("put after a restart: %v", err)
	}
	raise.Action = pb.AlarmRequest_DEACTIVATE
	if _, err := m.Alarm(m.context(), raise); err != nil {
		t.Fatal(err)
	}
	m.put("a", "1")
	if _, err := m.Alarm(m.context(), &pb.AlarmRequest{Action: 9}); err != api.ErrUnknownMethod {
		t.Errorf("an unknown action: %v", err)
	}
}

// TestWatch looks that what is applied reaches the streams.
func TestWatch(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	m.put("a", "1")
	stream := m.WatchHub().NewStream()
	defer stream.Close()
	stream.Create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	var got []string
	m.put("a", "2")
	for len(got) < 3 {
		all, err := stream.Next(m.context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			var r pb.WatchResponse
			must(t, api.Unmarshal(b, &r))
			if r.Created {
				got = append(got, "created")
			}
			for _, e := range r.Events {
				got = append(got, string(e.Kv.Value))
			}
		}
	}
	if want := []string{"created", "1", "2"}; !slices.Equal(got, want) {
		t.Errorf("the stream brought %q, want %q", got, want)
	}
	m.stop()
	if _, err := stream.Next(m.context()); err != api.ErrStopped {
		t.Errorf("the stream of a stopped member: %v", err)
	}
}

func TestTokenOptions(t *testing.T) {
	for spec, want := range map[string]bool{"": true, "simple": true, "jwt,sign-method=HS256,priv-key=nowhere": false, "magic": false, "jwt,color=red": false} {
		if _, err := newTokens(spec, time.Minute); (err == nil) != want {
			t.Errorf("auth-token %q: %v", spec, err)
		}
	}
	key := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(key, []byte("a secret that is long enough"), 0o600))
	m := newCluster(t, 1, func(_ int, o *Options) { o.AuthToken = "jwt,sign-method=HS256,ttl=1m,priv-key=" + key }).members[0]
	m.enableAuth()
	alice := m.as("alice", "alice")
	if _, err := m.Put(alice, &pb.PutRequest{Key: []byte("a1")}, nil); err != nil {
		t.Errorf("put with a signed token: %v", err)
	}
	_, err := m.RoleAdd(m.as("root", "root"), &pb.AuthRoleAddRequest{Name: "new"})
	must(t, err)
	if _, err := m.Put(alice, &pb.PutRequest{Key: []byte("a1")}, nil); err != api.ErrAuthOldRevision {
		t.Errorf("put with a signed token of an older revision: %v", err)
	}
}
