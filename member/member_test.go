package member

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
	"theseus/backend"
	"theseus/version"
)

// TestIDs has the vectors of interop, appendix F.
func TestIDs(t *testing.T) {
	id := MemberID([]string{"http://127.0.0.1:21701"}, "etcd-cluster", 0)
	if id != 0xbddc12ac52437f8c {
		t.Errorf("member id %x", id)
	}
	if c := ClusterID([]uint64{id}); c != 0x87187c9031281972 {
		t.Errorf("cluster id %x", c)
	}
	urls := []string{"http://b:1", "http://a:1"}
	if MemberID(urls, "t", 0) != MemberID([]string{"http://a:1", "http://b:1"}, "t", 0) {
		t.Error("the order of the URLs matters")
	}
	if urls[0] != "http://b:1" {
		t.Error("the caller's URLs were sorted")
	}
	if MemberID(urls, "", 0) == MemberID(urls, "", 5) {
		t.Error("the time does not matter")
	}
	if ClusterID([]uint64{2, 1}) != ClusterID([]uint64{1, 2}) {
		t.Error("the order of the members matters")
	}
}

// TestMemberJSON is the observed value of interop 4.7.
func TestMemberJSON(t *testing.T) {
	want := `{"id":13680830299368554380,"peerURLs":["http://h:21701"],"name":"n1","clientURLs":["http://h:21700"]}`
	m := Member{ID: 13680830299368554380, PeerURLs: []string{"http://h:21701"}, Name: "n1", ClientURLs: []string{"http://h:21700"}}
	if got := string(marshal(m)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := string(Context(Member{ID: 7, PeerURLs: []string{"x"}}, true)); got != `{"id":7,"peerURLs":null,"isPromote":true}` {
		t.Errorf("promotion: %s", got)
	}
	if got := string(Context(Member{ID: 7, PeerURLs: []string{"x"}, IsLearner: true}, false)); got != `{"id":7,"peerURLs":["x"],"isLearner":true}` {
		t.Errorf("learner: %s", got)
	}
}

// openBackend returns a database with the buckets, and a way to write in a unit.
func openBackend(t testing.TB) (*backend.Backend, func(func())) {
	b, err := backend.Open(backend.Options{Path: filepath.Join(t.TempDir(), "db"), NoSync: true, MapBytes: 1 << 24})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	unit := func(f func()) { b.Begin(); f(); b.End() }
	return b, unit
}

func change(kind raftpb.ConfChangeType, m Member, promote bool) raftpb.ConfChange {
	cc := raftpb.ConfChange{Type: kind, NodeID: m.ID}
	if kind != raftpb.ConfChangeRemoveNode {
		cc.Context = Context(m, promote)
	}
	return cc
}

// TestChanges walks through a cluster's life and pins what is refused, and how.
func TestChanges(t *testing.T) {
	b, unit := openBackend(t)
	c, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	url := func(s string) []string { return []string{"http://" + s} }
	add, learn, remove, update := raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode, raftpb.ConfChangeRemoveNode, raftpb.ConfChangeUpdateNode
	for i, s := range []struct {
		kind    raftpb.ConfChangeType
		m       Member
		promote bool
		want    error
	}{
		{add, Member{ID: 1, PeerURLs: url("1")}, false, nil},
		{add, Member{ID: 1, PeerURLs: url("9")}, false, api.ErrMemberExist},
		{add, Member{ID: 2, PeerURLs: url("1")}, false, api.ErrPeerURLExist},
		{learn, Member{ID: 2, PeerURLs: url("2"), IsLearner: true}, false, nil},
		{learn, Member{ID: 3, PeerURLs: url("2"), IsLearner: true}, false, api.ErrPeerURLExist},
		{learn, Member{ID: 3, PeerURLs: url("3"), IsLearner: true}, false, api.ErrTooManyLearners},
		{add, Member{ID: 1}, true, api.ErrMemberNotLearner},
		{add, Member{ID: 9}, true, api.ErrMemberNotFound},
		{add, Member{ID: 2}, true, nil},
		{update, Member{ID: 2, PeerURLs: url("1")}, false, api.ErrPeerURLExist},
		{update, Member{ID: 2, PeerURLs: url("2")}, false, nil},
		{update, Member{ID: 9, PeerURLs: url("9")}, false, api.ErrMemberNotFound},
		{remove, Member{ID: 9}, false, api.ErrMemberNotFound},
		{remove, Member{ID: 1}, false, nil},
		{remove, Member{ID: 1}, false, api.ErrMemberNotFound},
		{add, Member{ID: 1, PeerURLs: url("1")}, false, api.ErrMemberNotFound},
		{add, Member{ID: 4, PeerURLs: url("1")}, false, nil},
	} {
		cc := change(s.kind, s.m, s.promote)
		if got := c.Validate(cc, 1); got != s.want {
			t.Fatalf("step %d: %v, want %v", i, got, s.want)
		}
		if s.want != nil {
			continue
		}
		unit(func() {
			if _, err := c.Apply(cc); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		})
		again, err := Open(b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.Members(), again.Members()); d != "" || !slices.Equal(c.RemovedIDs(), again.RemovedIDs()) {
			t.Fatalf("step %d, opened again: %s %v %v", i, d, c.RemovedIDs(), again.RemovedIDs())
		}
	}
	want := []Member{{ID: 2, PeerURLs: url("2")}, {ID: 4, PeerURLs: url("1")}}
	if d := cmp.Diff(want, c.Members()); d != "" || !c.Removed(1) || c.Removed(2) {
		t.Errorf("in the end: %s", d)
	}
}

// TestVersionAndDowngrade pins what is stored.
func TestVersionAndDowngrade(t *testing.T) {
	b, unit := openBackend(t)
	c, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Version(); ok {
		t.Error("a new cluster has a version")
	}
	unit(func() {
		c.SetVersion(version.V(3, 6, 14))
		c.SetDowngrade(Downgrade{Target: "3.5.0", Enabled: true})
	})
	if v := b.Get(BucketCluster, keyVersion); string(v) != "3.6.0" {
		t.Errorf("version stored as %q", v)
	}
	if v := b.Get(BucketCluster, keyDowngrade); string(v) != `{"target-version":"3.5.0","enabled":true}` {
		t.Errorf("downgrade stored as %q", v)
	}
	again, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := again.Version(); !ok || v != version.V3_6 || again.Downgrade() != (Downgrade{Target: "3.5.0", Enabled: true}) {
		t.Errorf("opened again: %v %v", v, again.Downgrade())
	}
	unit(func() { c.SetDowngrade(Downgrade{Target: "3.5.0"}) })
	if c.Downgrade().Target != "" {
		t.Error("a downgrade that is over keeps its target")
	}
}

// example is the JSON of interop 3.2 with what it leaves out.
func example(t testing.TB) []byte {
	data, err := os.ReadFile("testdata/etcd-3.1.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestExample reads the JSON of a real 3.1 and writes it in the small form.
func TestExample(t *testing.T) {
	b, _ := openBackend(t)
	c, err := Open(b, Options{V2: example(t), Rebuild: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []Member{
		{ID: 0x64aee1ecd2cd09aa, PeerURLs: []string{"http://127.0.0.1:31001"}, Name: "n0", ClientURLs: []string{"http://127.0.0.1:31000"}},
		{ID: 0x9aee1ecd2cd09aa, PeerURLs: []string{"http://127.0.0.1:31003"}, IsLearner: true},
	}
	slices.SortFunc(want, func(a, b Member) int { return strings.Compare(hexID(b.ID), hexID(a.ID)) })
	if d := cmp.Diff(want, c.Members()); d != "" {
		t.Errorf("members: %s", d)
	}
	if v, ok := c.Version(); !ok || v != version.V(3, 1, 0) {
		t.Errorf("version %v", v)
	}
	if !slices.Equal(c.RemovedIDs(), []uint64{0xabc}) {
		t.Errorf("removed %x", c.RemovedIDs())
	}
	if !c.V2().HasUserContent() {
		t.Error("the user's key was not seen")
	}
	checkSmallForm(t, c.SnapshotJSON())
	twice, err := Open(b, Options{V2: c.SnapshotJSON(), Rebuild: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(twice.SnapshotJSON(), c.SnapshotJSON()) {
		t.Error("the JSON is not the same after another reading")
	}
}

// checkSmallForm checks what every etcd demands (interop 3.3), and that user's keys
// are as they were.
func checkSmallForm(t *testing.T, data []byte) {
	t.Helper()
	var ours, theirs map[string]any
	if err := json.Unmarshal(data, &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(example(t), &theirs); err != nil {
		t.Fatal(err)
	}
	at := func(store map[string]any, path ...string) any {
		n := store["Root"].(map[string]any)
		for _, name := range path {
			next, ok := n["Children"].(map[string]any)[name].(map[string]any)
			if !ok {
				return nil
			}
			n = next
		}
		return any(n)
	}
	for _, tree := range []string{"1", "2"} {
		if d := cmp.Diff(at(theirs, tree), at(ours, tree)); d != "" {
			t.Errorf("/%s: %s", tree, d)
		}
	}
	for _, path := range [][]string{{"0", "version"}, {"0", "members", "64aee1ecd2cd09aa", "attributes"}, {"0", "members", "64aee1ecd2cd09aa", "raftAttributes"}, {"0", "removed_members", "abc"}} {
		a, b := at(theirs, path...).(map[string]any), at(ours, path...).(map[string]any)
		if a["Value"] != b["Value"] || a["Path"] != b["Path"] || b["Children"] != nil {
			t.Errorf("%v: %v, want %v", path, b, a)
		}
	}
	if ours["CurrentVersion"] != 2.0 || ours["CurrentIndex"] != theirs["CurrentIndex"] {
		t.Errorf("top level: %v %v", ours["CurrentVersion"], ours["CurrentIndex"])
	}
	for key := range ours {
		if !slices.Contains([]string{"Root", "CurrentIndex", "CurrentVersion"}, key) {
			t.Errorf("%s is not of the small form", key)
		}
	}
}

// TestNewClusterJSON is the whole JSON of a cluster that we made.
func TestNewClusterJSON(t *testing.T) {
	b, unit := openBackend(t)
	c, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	unit(func() {
		if _, err := c.Apply(change(raftpb.ConfChangeAddNode, Member{ID: 0xab, PeerURLs: []string{"http://p"}}, false)); err != nil {
			t.Fatal(err)
		}
		c.SetVersion(version.V3_6)
		if ok, err := c.SetAttributes(0xab, "n", []string{"http://c"}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	})
	const zero = `"CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":`
	want := `{"Root":{"Path":"/",` + zero + `"","Children":{"0":{"Path":"/0",` + zero + `"","Children":{"members":{"Path":"/0/members",` + zero + `"","Children":{` +
		`"ab":{"Path":"/0/members/ab",` + zero + `"","Children":{` +
		`"attributes":{"Path":"/0/members/ab/attributes",` + zero + `"{\"name\":\"n\",\"clientURLs\":[\"http://c\"]}","Children":null},` +
		`"raftAttributes":{"Path":"/0/members/ab/raftAttributes",` + zero + `"{\"peerURLs\":[\"http://p\"]}","Children":null}}}}},` +
		`"version":{"Path":"/0/version",` + zero + `"3.6.0","Children":null}}},` +
		`"1":{"Path":"/1",` + zero + `"","Children":{}}}},"CurrentIndex":3,"CurrentVersion":2}`
	if got := string(c.SnapshotJSON()); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// TestRewrite: a database of 3.5 with a zombie, a stale learner and a member that the
// buckets miss is set right, once.
func TestRewrite(t *testing.T) {
	b, unit := openBackend(t)
	unit(func() {
		b.Put(BucketMembers, []byte("dead"), marshal(Member{ID: 0xdead, PeerURLs: []string{"http://zombie"}}))
		b.Put(BucketMembers, []byte("64aee1ecd2cd09aa"), marshal(Member{ID: 0x64aee1ecd2cd09aa, PeerURLs: []string{"http://old"}, IsLearner: true}))
		b.Put(BucketRemoved, []byte("77"), valueRemoved)
	})
	c, err := Open(b, Options{V2: example(t), Rebuild: true})
	if err != nil {
		t.Fatal(err)
	}
	unit(func() { // a change that is replayed must not reach the buckets
		if _, err := c.Apply(change(raftpb.ConfChangeRemoveNode, Member{ID: 0x9aee1ecd2cd09aa}, false)); err != nil {
			t.Fatal(err)
		}
	})
	if b.Get(BucketMembers, []byte("dead")) == nil || b.Get(BucketRemoved, []byte("9aee1ecd2cd09aa")) != nil {
		t.Fatal("the buckets were written before the end of the replay")
	}
	unit(func() {
		if err := c.Rewrite(); err != nil {
			t.Fatal(err)
		}
	})
	again, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c.Members(), again.Members()); d != "" || len(again.Members()) != 1 {
		t.Errorf("members: %s", d)
	}
	if want := []uint64{0x77, 0xabc, 0x9aee1ecd2cd09aa}; !slices.Equal(again.RemovedIDs(), want) || !slices.Equal(c.RemovedIDs(), want) {
		t.Errorf("removed %x, want %x", again.RemovedIDs(), want)
	}
	if v, _ := again.Version(); v != version.V(3, 1, 0) {
		t.Errorf("version %v", v)
	}
}

// TestDamaged: what cannot be read is refused by name.
func TestDamaged(t *testing.T) {
	for want, put := range map[string]func(b *backend.Backend){
		`decode member "1" of bucket members`:        func(b *backend.Backend) { b.Put(BucketMembers, []byte("1"), []byte("{")) },
		`decode key "xyz" of bucket members_removed`: func(b *backend.Backend) { b.Put(BucketRemoved, []byte("xyz"), nil) },
		`decode cluster/clusterVersion`:              func(b *backend.Backend) { b.Put(BucketCluster, keyVersion, []byte("new")) },
		`decode cluster/downgrade`:                   func(b *backend.Backend) { b.Put(BucketCluster, keyDowngrade, []byte("[")) },
	} {
		b, unit := openBackend(t)
		unit(func() { put(b) })
		if _, err := Open(b, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	b, _ := openBackend(t)
	for want, v2 := range map[string]string{
		"decode v2 store":                       `{`,
		"no root directory":                     `{"Root":{"Path":"/"}}`,
		"/0/members/xyz":                        `{"Root":{"Children":{"0":{"Children":{"members":{"Children":{"xyz":{"Children":{}}}}}}}}}`,
		"/0/members/0ab":                        `{"Root":{"Children":{"0":{"Children":{"members":{"Children":{"0ab":{"Children":{}}}}}}}}}`,
		"/0/members/ab/raftAttributes":          `{"Root":{"Children":{"0":{"Children":{"members":{"Children":{"ab":{"Children":{"raftAttributes":{"Value":"["}}}}}}}}}}`,
		"/0/version":                            `{"Root":{"Children":{"0":{"Children":{"version":{"Value":"new"}}}}}}`,
		"/0/removed_members/-1 of the v2 store": `{"Root":{"Children":{"0":{"Children":{"removed_members":{"Children":{"-1":{}}}}}}}}`,
	} {
		if _, err := Open(b, Options{V2: []byte(v2), Rebuild: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", v2, err, want)
		}
	}
}

// FuzzV2 reads arbitrary JSON, works on what is there, and must read its own output as
// the same.
func FuzzV2(f *testing.F) {
	f.Add(example(f), "PUT", "/1/a/b", "x", int64(0))
	f.Add([]byte(`{"Root":{"Children":{"1":{"Children":{"a":null,"":{},"b":{"ExpireTime":"2033-05-18T03:33:20Z"}}}}}}`), "DELETE", "/1/b", "", int64(1))
	f.Add([]byte(`{"Root":{"Children":{"0":null,"2":{"Children":{"roles":{"Children":{"r":{}}}}}}},"CurrentIndex":18446744073709551615}`), "POST", "../1", "y", int64(2e18))
	f.Add([]byte(`{"Root":{"Children":{"1":{"Value":"a file"}}}}`), "PUT", "/1/k", "v", int64(0))
	f.Fuzz(func(t *testing.T, data []byte, method, path, value string, expiry int64) {
		tree, err := ParseV2(data)
		if err != nil {
			return
		}
		path, value = strings.ToValidUTF8(path, "?"), strings.ToValidUTF8(value, "?") // JSON holds no other
		c := &Cluster{v2: tree, rebuilding: true}
		s, err := tree.state()
		if err != nil {
			return
		}
		c.now.Store(s)
		_ = c.ApplyV2(&api.LegacyRequest{Method: method, Path: path, Val: value, Expiration: expiry})
		tree.Expire(1.9e18)
		out := c.SnapshotJSON()
		again, err := ParseV2(out)
		if err != nil {
			t.Fatalf("our own JSON: %v\n%s", err, out)
		}
		s2, err := again.state()
		if err != nil {
			t.Fatal(err)
		}
		c2 := &Cluster{v2: again, rebuilding: true}
		c2.now.Store(s2)
		if got := c2.SnapshotJSON(); !bytes.Equal(got, out) {
			t.Fatalf("read again:\n%s\nwas\n%s", got, out)
		}
	})
}
