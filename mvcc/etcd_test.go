package mvcc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"theseus/backend"
	"theseus/test/cluster"
)

// TestLikeEtcd gives a real member and this store the same operations: all
// answers, hashes and stored records have to be equal, and then our store has to
// read the member's own file.
func TestLikeEtcd(t *testing.T) {
	for _, minor := range []string{"3.3", "3.4", "3.5", "3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			if testing.Short() && minor != "3.7" {
				t.Skip("short: only the newest etcd")
			}
			t.Parallel()
			compareWithEtcd(t, cluster.Etcd(t, minor))
		})
	}
}

func compareWithEtcd(t *testing.T, binary cluster.Binary) {
	c := cluster.New(t, cluster.Options{Binary: binary})
	p := &pair{t: t, member: c.Members[0], f: newFixture(t, Options{}), rng: rand.New(rand.NewPCG(11, 12))}
	p.dial()
	if _, err := p.lease.LeaseGrant(p.ctx(), &pb.LeaseGrantRequest{ID: 7, TTL: 3600}); err != nil {
		t.Fatal(err)
	}
	for round := range 6 {
		for range 60 {
			p.write()
		}
		for range 60 {
			p.read()
		}
		p.hashes()
		if round%2 == 1 {
			p.compact()
			p.hashes()
		}
	}
	p.member.Stop()
	p.compareFiles()
	p.member.Start()
	p.member.WaitHealthy()
	p.dial()
	p.f.reopen() // hashes of compactions do not outlive a process
	p.hashes()
	for range 40 {
		p.read()
	}
}

// pair is a real member beside our store.
type pair struct {
	t      *testing.T
	member *cluster.Member
	kv     pb.KVClient
	lease  pb.LeaseClient
	maint  pb.MaintenanceClient
	f      *fixture
	rng    *rand.Rand
	kept   []int64 // revisions whose hash etcd 3.5 on took while compacting, and answers with
}

func (p *pair) dial() {
	conn, err := grpc.NewClient(strings.TrimPrefix(p.member.ClientURL(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	p.kv, p.lease, p.maint = pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)
}

func (p *pair) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	p.t.Cleanup(cancel)
	return ctx
}

func (p *pair) key() []byte { return fmt.Appendf(nil, "k%02d", p.rng.IntN(40)) }

// write makes a random transaction on both sides.
func (p *pair) write() {
	p.t.Helper()
	var ops []*pb.RequestOp
	add := func(one *pb.RequestOp) { ops = append(ops, one) }
	put := func(key []byte) {
		r := &pb.PutRequest{Key: key, Value: []byte(strings.Repeat("v", p.rng.IntN(3)*p.rng.IntN(100))), Lease: int64(p.rng.IntN(2) * 7)}
		add(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}})
	}
	del := func(key, end []byte) {
		add(&pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end}}})
	}
	switch p.rng.IntN(8) {
	case 0:
		del(p.key(), p.key())
	case 1, 2:
		del(p.key(), nil)
	case 3:
		put([]byte("a"))
		put([]byte("b"))
		del([]byte("k1"), p.key())
	default:
		put(p.key())
	}
	resp, err := p.kv.Txn(p.ctx(), &pb.TxnRequest{Success: ops})
	if err != nil {
		p.t.Fatal(err)
	}
	p.f.unit(func(tx *Txn) {
		for _, o := range ops {
			if r := o.GetRequestPut(); r != nil {
				tx.Put(r.Key, r.Value, r.Lease)
			} else {
				tx.DeleteRange(o.GetRequestDeleteRange().Key, o.GetRequestDeleteRange().RangeEnd)
			}
		}
	})
	if rev, _ := p.f.s.Revision(); rev != resp.Header.Revision {
		p.t.Fatalf("revision %d, etcd's %d", rev, resp.Header.Revision)
	}
}

// read asks both sides the same range. Sorts leave equal elements in any order,
// so that those are by revisions that no two keys share, or compared as sets.
func (p *pair) read() {
	p.t.Helper()
	current, compacted := p.f.s.Revision()
	r := &pb.RangeRequest{
		Key: p.key(), RangeEnd: [][]byte{nil, {0}, []byte("l"), p.key()}[p.rng.IntN(4)],
		Limit: int64(p.rng.IntN(3) * p.rng.IntN(10)), CountOnly: p.rng.IntN(6) == 0, KeysOnly: p.rng.IntN(4) == 0,
	}
	if p.rng.IntN(2) == 0 {
		r.Revision = max(compacted-2, 0) + p.rng.Int64N(current-max(compacted-2, 0)+3)
	}
	if p.rng.IntN(2) == 0 {
		r.SortOrder = pb.RangeRequest_SortOrder(p.rng.IntN(3))
		r.SortTarget = []pb.RangeRequest_SortTarget{pb.RangeRequest_KEY, pb.RangeRequest_MOD, pb.RangeRequest_VALUE, pb.RangeRequest_VERSION}[p.rng.IntN(4)]
	}
	if p.rng.IntN(4) == 0 {
		r.MinModRevision, r.MaxCreateRevision = p.rng.Int64N(current), p.rng.Int64N(current)
	}
	if p.rng.IntN(4) == 0 {
		r.MaxModRevision, r.MinCreateRevision = p.rng.Int64N(current+1), p.rng.Int64N(current)
	}
	theirs, err := p.kv.Range(p.ctx(), r)
	ours, ourErr := p.f.s.Range(RangeOptions{
		Key: r.Key, End: r.RangeEnd, Rev: r.Revision, Limit: r.Limit, CountOnly: r.CountOnly, KeysOnly: r.KeysOnly, SortTarget: r.SortTarget,
		SortOrder: r.SortOrder, MinMod: r.MinModRevision, MaxMod: r.MaxModRevision, MinCreate: r.MinCreateRevision, MaxCreate: r.MaxCreateRevision,
	})
	if text(err) != text(ourErr) {
		p.t.Fatalf("%v: %s, etcd says %s", r, text(ourErr), text(err))
	}
	if err != nil {
		return
	}
	var kvs []string
	for _, raw := range ours.KVs {
		kvs = append(kvs, string(raw))
	}
	diff := cmp.Diff(p.encoded(theirs, r), kvs)
	if r.SortTarget == pb.RangeRequest_VERSION || r.SortTarget == pb.RangeRequest_VALUE || r.SortTarget == pb.RangeRequest_MOD {
		diff = "" // transactions share revisions, too: see sameOrder
		p.sameOrder(r, theirs, kvs)
	}
	if diff != "" || ours.Count != theirs.Count || ours.More != theirs.More || ours.Rev != theirs.Header.Revision {
		p.t.Fatalf("%v: count %d more %v, etcd's %d %v (-etcd +ours)\n%s", r, ours.Count, ours.More, theirs.Count, theirs.More, diff)
	}
}

func text(err error) string {
	if err == nil {
		return "ok"
	}
	return status.Code(err).String() + ": " + status.Convert(err).Message()
}

// encoded is etcd's answer in our form. Members older than 3.7 leave the lease in
// answers without values.
func (p *pair) encoded(r *pb.RangeResponse, req *pb.RangeRequest) (kvs []string) {
	for _, kv := range r.Kvs {
		if req.KeysOnly && p.member.Binary.Minor() < 7 && req.SortTarget != pb.RangeRequest_VALUE {
			kv.Lease = 0
		}
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(kv)
		if err != nil {
			p.t.Fatal(err)
		}
		kvs = append(kvs, string(raw))
	}
	return kvs
}

// sameOrder compares sorted answers: the sequence of what they are sorted by is
// the same, and, where nothing was cut off, the set of keys.
func (p *pair) sameOrder(r *pb.RangeRequest, theirs *pb.RangeResponse, ours []string) {
	p.t.Helper()
	by := func(raw string) string {
		f, err := parse([]byte(raw))
		if err != nil {
			p.t.Fatal(err)
		}
		switch r.SortTarget {
		case pb.RangeRequest_VERSION:
			return fmt.Sprint(f.version)
		case pb.RangeRequest_MOD:
			return fmt.Sprint(f.mod)
		}
		if r.KeysOnly {
			return "" // the values that it was sorted by are gone
		}
		return string(f.value)
	}
	list := func(raws []string) (order []string) {
		for _, raw := range raws {
			order = append(order, by(raw))
		}
		return order
	}
	all := p.encoded(theirs, r)
	diff := cmp.Diff(list(all), list(ours))
	if !theirs.More {
		slices.Sort(all)
		slices.Sort(ours)
		diff += cmp.Diff(all, ours)
	}
	if diff != "" {
		p.t.Fatalf("%v (-etcd +ours):\n%s", r, diff)
	}
}

func (p *pair) compact() {
	p.t.Helper()
	current, _ := p.f.s.Revision()
	rev := current - p.rng.Int64N(20)
	if _, err := p.kv.Compact(p.ctx(), &pb.CompactionRequest{Revision: rev, Physical: true}); err != nil {
		p.t.Fatal(err)
	}
	if p.member.Binary.Minor() >= 5 {
		p.f.hashCompacted(rev)
		p.kept = append(p.kept, rev)
	} else {
		p.f.compacted(rev) // the old keep no hash of it
	}
	for _, bad := range []int64{-1, rev, current + 1} {
		_, err := p.kv.Compact(p.ctx(), &pb.CompactionRequest{Revision: bad})
		if ourErr := p.f.compact(bad); text(err) != text(ourErr) {
			p.t.Fatalf("compact(%d): %s, etcd says %s", bad, text(ourErr), text(err))
		}
	}
}

// hashes compares HashKV at all revisions near an edge.
func (p *pair) hashes() {
	p.t.Helper()
	current, compacted := p.f.s.Revision()
	minor := p.member.Binary.Minor()
	revs := []int64{-1, 0, 1, compacted - 1, compacted, compacted + 1, compacted + 9, current - 1, current, current + 1}
	for _, rev := range append(revs, p.kept...) {
		if minor < 5 && rev == compacted {
			continue // the old refuse it
		}
		theirs, err := p.maint.HashKV(p.ctx(), &pb.HashKVRequest{Revision: rev})
		ours, ourErr := p.f.s.HashKV(rev)
		if text(err) != text(ourErr) {
			p.t.Errorf("HashKV(%d) at %d compacted %d: %s, etcd says %s", rev, current, compacted, text(ourErr), text(err))
			continue
		}
		if err != nil {
			continue
		}
		want := Hash{theirs.Hash, theirs.CompactRevision, theirs.HashRevision, theirs.Header.Revision}
		if minor < 6 {
			want.HashRevision = ours.HashRevision // it has no such field
		}
		if ours != want {
			p.t.Errorf("HashKV(%d) = %+v, etcd's %+v", rev, ours, want)
		}
	}
}

// compareFiles reads the file that the member left and compares it with ours.
func (p *pair) compareFiles() {
	p.t.Helper()
	b, err := backend.Open(backend.Options{Path: filepath.Join(p.member.Dir, "member", "snap", "db"), ReadOnly: true})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	theirs := &fixture{t: p.t, b: b}
	if p.member.Binary.Minor() >= 5 { // the older ones drop a tombstone at the compacted revision
		if diff := cmp.Diff(theirs.records(), p.f.records()); diff != "" {
			p.t.Errorf("bucket (-etcd +ours):\n%s", diff)
		}
	}
	if theirs.s, err = Open(b, Options{}); err != nil {
		p.t.Fatal(err)
	}
	if theirs.hash(0) != p.f.hash(0) {
		p.t.Errorf("hash of our own %+v, out of etcd's file %+v", p.f.hash(0), theirs.hash(0))
	}
	mark := func(f *fixture, key []byte) string { return fmt.Sprintf("%x", f.b.Get(metaBucket, key)) }
	for _, key := range [][]byte{scheduledKey, finishedKey} {
		if a, b := mark(theirs, key), mark(p.f, key); a != b {
			p.t.Errorf("%s is %s, etcd's %s", key, b, a)
		}
	}
}
