package machine

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/backend"
	"theseus/member"
)

const testSelf = 0x8e9e05c52164694d

// rig is a machine on a file, which can be closed and opened again.
type rig struct {
	t    testing.TB
	path string
	o    Options
	b    *backend.Backend
	m    *Machine
	// raft's side, kept by hand.
	conf raftpb.ConfState
}

func newRig(t testing.TB, o Options) *rig {
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "db"), o: o}
	if r.o.SelfID == 0 {
		r.o.SelfID = testSelf
	}
	if r.o.HashPassword == nil {
		r.o.HashPassword = func(p string) ([]byte, error) { return []byte("hash of " + p), nil }
	}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	r.t.Helper()
	if err := r.tryOpen(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) tryOpen() error {
	b, err := backend.Open(backend.Options{Path: r.path, NoSync: true, MapBytes: 1 << 28})
	if err != nil {
		return err
	}
	r.b, r.o.Backend = b, b
	r.m, err = Open(r.o)
	if err != nil {
		_ = b.Close()
		r.b = nil
	}
	return err
}

func (r *rig) close() {
	if r.b == nil {
		return
	}
	if err := r.b.Close(); err != nil {
		r.t.Error(err)
	}
	r.b = nil
}

// reopen is a clean restart. v2 is the snapshot that lies beside the database.
func (r *rig) reopen(v2 []byte, v2Index uint64) {
	r.t.Helper()
	r.close()
	r.o.V2, r.o.V2Index = v2, v2Index
	r.open()
}

// apply runs entries as one unit and plays raft's part for conf changes.
func (r *rig) apply(mine bool, entries ...raftpb.Entry) []Result {
	r.m.Begin()
	defer r.m.End()
	var out []Result
	for _, e := range entries {
		res := r.m.Apply(e, mine)
		for _, effect := range res.Effects {
			if cc, ok := effect.(ConfChange); ok {
				r.confChange(cc.Change)
			}
		}
		out = append(out, res)
	}
	return out
}

// confChange is what raft does with a single change.
func (r *rig) confChange(cc raftpb.ConfChange) {
	if cc.NodeID != 0 {
		drop := func(ids []uint64) []uint64 {
			return slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return id == cc.NodeID })
		}
		switch cc.Type {
		case raftpb.ConfChangeAddNode:
			r.conf.Learners = drop(r.conf.Learners)
			r.conf.Voters = append(drop(r.conf.Voters), cc.NodeID)
		case raftpb.ConfChangeAddLearnerNode:
			r.conf.Learners = append(drop(r.conf.Learners), cc.NodeID)
		case raftpb.ConfChangeRemoveNode:
			r.conf.Voters, r.conf.Learners = drop(r.conf.Voters), drop(r.conf.Learners)
		}
		slices.Sort(r.conf.Voters)
		slices.Sort(r.conf.Learners)
		if len(r.conf.Learners) == 0 {
			r.conf.Learners = nil
		}
	}
	r.m.SetConfState(r.conf)
}

// dump is every key of every bucket.
func (r *rig) dump() string {
	var out strings.Builder
	for _, bucket := range buckets {
		_ = r.b.Scan(bucket, nil, nil, func(k, v []byte) bool {
			fmt.Fprintf(&out, "%s %q = %q\n", bucket, k, v)
			return true
		})
	}
	return out.String()
}

// entries numbers requests as a log.
type entries struct {
	all  []raftpb.Entry
	term uint64
}

func (l *entries) next() raftpb.Entry {
	return raftpb.Entry{Index: uint64(len(l.all)) + 1, Term: max(l.term, 1)}
}

func (l *entries) add(e raftpb.Entry) raftpb.Entry {
	l.all = append(l.all, e)
	return e
}

func (l *entries) data(data []byte) raftpb.Entry {
	e := l.next()
	e.Data = data
	return l.add(e)
}

// request adds a request with a header that holds its index as id.
func (l *entries) request(field int, req proto.Message) raftpb.Entry {
	return l.requestAs(field, req, "", 0)
}

func (l *entries) requestAs(field int, req proto.Message, user string, rev uint64) raftpb.Entry {
	h := &pb.RequestHeader{ID: l.next().Index, Username: user, AuthRevision: rev}
	return l.data(api.AppendInternal(nil, field, api.Append(nil, req), h))
}

func (l *entries) confChange(kind raftpb.ConfChangeType, m member.Member, promote bool) raftpb.Entry {
	cc := raftpb.ConfChange{ID: l.next().Index, Type: kind, NodeID: m.ID}
	if kind != raftpb.ConfChangeRemoveNode {
		cc.Context = member.Context(m, promote)
	}
	data, err := cc.Marshal()
	if err != nil {
		panic(err)
	}
	e := l.next()
	e.Type, e.Data = raftpb.EntryConfChange, data
	return l.add(e)
}

func (l *entries) legacy(r *api.LegacyRequest) raftpb.Entry {
	r.ID = l.next().Index
	return l.data(r.Append(nil))
}

func put(key, value string, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease}
}

// birth is how every cluster begins: the member, the first term, its attributes, the
// version.
func (l *entries) birth(version string) {
	l.confChange(raftpb.ConfChangeAddNode, member.Member{ID: testSelf, PeerURLs: []string{"http://p1"}, Name: "m1"}, false)
	l.term = 2
	l.data(nil)
	l.legacy(&api.LegacyRequest{Method: "PUT", Path: "/0/members/" + fmt.Sprintf("%x", uint64(testSelf)) + "/attributes", Val: `{"name":"m1","clientURLs":["http://c1"]}`})
	l.legacy(&api.LegacyRequest{Method: "PUT", Path: "/0/version", Val: version})
}

func equalBytes(t testing.TB, what string, a, b []byte) {
	t.Helper()
	if !bytes.Equal(a, b) {
		t.Errorf("%s differ:\n%s\n%s", what, a, b)
	}
}
