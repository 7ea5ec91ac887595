package machine

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
	"theseus/member"
)

// FuzzApply applies arbitrary bytes as an entry, behind a log that gives them
// something to work on. Whatever they are: no panic, the entry is applied or the
// machine stops, and a machine that is opened again holds the same.
func FuzzApply(f *testing.F) {
	for _, e := range mixedLog(1, "3.7.0", 60) {
		f.Add(uint8(e.Type), e.Data)
	}
	f.Add(uint8(0), api.AppendInternal(nil, 4242, []byte("x"), &pb.RequestHeader{ID: 1}))
	f.Add(uint8(0), (&api.LegacyRequest{Method: "POST", Path: "/1/../0/x//y", Val: "v", PrevIndex: 1}).Append(nil))
	f.Add(uint8(1), []byte(`\x08\x01`))
	f.Add(uint8(2), []byte(nil))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		r := newRig(t, Options{})
		var l entries
		l.birth("3.7.0")
		l.confChange(raftpb.ConfChangeAddLearnerNode, member.Member{ID: 5, PeerURLs: []string{"http://p5"}, IsLearner: true}, false)
		l.request(api.FieldLeaseGrant, &pb.LeaseGrantRequest{ID: 1, TTL: 100})
		l.request(api.FieldPut, put("a", "1", 1))
		l.request(api.FieldAuthUserAdd, &pb.AuthUserAddRequest{Name: "u", Password: "p"})
		l.request(api.FieldAuthRoleAdd, &pb.AuthRoleAddRequest{Name: "u"})
		r.apply(false, l.all...)
		e := l.next()
		e.Type, e.Data = raftpb.EntryType(kind%3), data
		before := r.dump()
		res := r.apply(true, e)[0]
		if res.Fatal != nil && r.dump() != before {
			t.Fatalf("%v, but it left something behind", res.Fatal)
		}
		if res.Fatal == nil {
			r.apply(true, raftpb.Entry{Index: e.Index + 1, Term: 2})
		}
		want, snapshot := r.dump(), r.m.SnapshotData()
		index, _ := r.m.Applied()
		r.reopen(snapshot, index)
		if got := r.dump(); got != want {
			t.Fatalf("opened again it holds\n%s\nand held\n%s", got, want)
		}
	})
}
