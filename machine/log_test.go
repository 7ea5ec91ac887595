package machine

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/internal/vfs"
	"theseus/member"
	"theseus/test/cluster"
	"theseus/wal"
)

// rawLog makes entries that no API would let through: any user at any revision of
// the auth store, members that are not there.
type rawLog struct {
	*pairing
	minor int
	self  uint64
	ids   []uint64 // of members
}

func (g *rawLog) user() string { return pickOne(g.rnd, "root", "root", "u", "u", "nobody", "") }

func pickOne[T any](rnd *rand.Rand, from ...T) T { return from[rnd.Intn(len(from))] }

// request is one random request with its field.
func (g *rawLog) request() (int, proto.Message) {
	rnd := g.rnd
	user, role := pickOne(rnd, "root", "u", "v", "nobody"), pickOne(rnd, "root", "u", "r", "s")
	key, end := g.interval()
	switch rnd.Intn(40) {
	case 0, 1, 2, 3, 4:
		return api.FieldPut, g.put()
	case 5, 6:
		return api.FieldDeleteRange, g.del()
	case 7, 8, 9, 10, 11:
		return api.FieldTxn, g.soundTxn()
	case 12:
		return api.FieldCompaction, &pb.CompactionRequest{Revision: int64(rnd.Intn(60))}
	case 13, 14:
		return api.FieldLeaseGrant, &pb.LeaseGrantRequest{ID: int64(rnd.Intn(4)), TTL: pickOne[int64](rnd, 1000, 5000, 9_000_000_001)}
	case 15, 16:
		return api.FieldLeaseRevoke, &pb.LeaseRevokeRequest{ID: int64(rnd.Intn(5))}
	case 17:
		return api.FieldLeaseCheckpoint, &pb.LeaseCheckpointRequest{Checkpoints: []*pb.LeaseCheckpoint{{ID: int64(rnd.Intn(5)), Remaining_TTL: int64(rnd.Intn(900))}}}
	case 18:
		if g.minor == 5 { // an alarm that is raised takes its check of permissions away
			return api.FieldAlarm, &pb.AlarmRequest{}
		}
		return api.FieldAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_AlarmAction(rnd.Intn(3)), MemberID: uint64(rnd.Intn(2)), Alarm: pickOne(rnd, pb.AlarmType_NOSPACE, pb.AlarmType_NONE)}
	case 19, 20:
		return api.FieldAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: uint64(rnd.Intn(2)), Alarm: pb.AlarmType_NOSPACE}
	case 21:
		return api.FieldAuthEnable, &pb.AuthEnableRequest{}
	case 22:
		return api.FieldAuthDisable, &pb.AuthDisableRequest{}
	case 23, 24:
		return api.FieldAuthUserAdd, &pb.AuthUserAddRequest{Name: user, HashedPassword: "aGFzaA==", Options: &authpb.UserAddOptions{NoPassword: rnd.Intn(3) == 0}}
	case 25:
		if g.minor == 5 { // where a user lives on until the next commit of the database
			return api.FieldAlarm, &pb.AlarmRequest{}
		}
		return api.FieldAuthUserDelete, &pb.AuthUserDeleteRequest{Name: pickOne(rnd, "u", "v", "root")}
	case 26:
		return api.FieldAuthUserChangePassword, &pb.AuthUserChangePasswordRequest{Name: user, HashedPassword: "b3RoZXI="}
	case 27, 28:
		return api.FieldAuthUserGrantRole, &pb.AuthUserGrantRoleRequest{User: user, Role: role}
	case 29:
		return api.FieldAuthUserRevokeRole, &pb.AuthUserRevokeRoleRequest{Name: user, Role: role}
	case 30:
		return api.FieldAuthRoleAdd, &pb.AuthRoleAddRequest{Name: role}
	case 31:
		return api.FieldAuthRoleDelete, &pb.AuthRoleDeleteRequest{Role: pickOne(rnd, "r", "s", "root")}
	case 32, 33:
		return api.FieldAuthRoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: &authpb.Permission{PermType: authpb.Permission_Type(rnd.Intn(3)), Key: key, RangeEnd: end}}
	case 34:
		return api.FieldAuthRoleRevokePermission, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: key, RangeEnd: end}
	case 35:
		return api.FieldClusterMemberAttrSet, &membershippb.ClusterMemberAttrSetRequest{Member_ID: pickOne(rnd, g.ids...), MemberAttributes: &membershippb.Attributes{Name: "n", ClientUrls: []string{"http://c"}}}
	case 36:
		return api.FieldDowngradeInfoSet, &membershippb.DowngradeInfoSetRequest{Enabled: g.minor > 5 && rnd.Intn(2) == 0, Ver: fmt.Sprintf("3.%d.0", g.minor-1)}
	case 37:
		return api.FieldClusterVersionSet, &membershippb.ClusterVersionSetRequest{Ver: fmt.Sprintf("3.%d.0", g.minor)}
	default:
		return api.FieldAuthenticate, &pb.InternalAuthenticateRequest{Name: user, SimpleToken: "abcdefghijklmnop"}
	}
}

// soundTxn is a transaction that the API lets through: no key twice.
func (g *rawLog) soundTxn() *pb.TxnRequest {
	for {
		if r := g.txn(1); distinct(r) {
			return r
		}
	}
}

func distinct(r *pb.TxnRequest) bool {
	seen, writes := map[string]int{}, 0
	var walk func(r *pb.TxnRequest)
	walk = func(r *pb.TxnRequest) {
		for _, op := range append(slices.Clone(r.Success), r.Failure...) {
			if p := op.GetRequestPut(); p != nil {
				seen[string(p.Key)]++
				writes++
			}
			if op.GetRequestDeleteRange() != nil {
				writes += 100
			}
			if n := op.GetRequestTxn(); n != nil {
				walk(n)
			}
		}
	}
	walk(r)
	for _, n := range seen {
		if n > 1 {
			return false
		}
	}
	return writes <= 100 // puts alone, or one delete alone
}

func (g *rawLog) confChange() (raftpb.EntryType, []byte) {
	m := member.Member{ID: uint64(1 + g.rnd.Intn(6)), PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", 1+g.rnd.Intn(6))}, IsLearner: true}
	cc := raftpb.ConfChange{NodeID: m.ID, Type: pickOne(g.rnd, raftpb.ConfChangeAddLearnerNode, raftpb.ConfChangeAddLearnerNode, raftpb.ConfChangeRemoveNode, raftpb.ConfChangeUpdateNode)}
	if cc.Type != raftpb.ConfChangeRemoveNode {
		cc.Context = member.Context(m, false)
	}
	data, err := cc.Marshal()
	if err != nil {
		panic(err)
	}
	if cc.Type == raftpb.ConfChangeAddLearnerNode && !slices.Contains(g.ids, m.ID) {
		g.ids = append(g.ids, g.self)
	}
	return raftpb.EntryConfChange, data
}

// extend appends n random entries behind the log of a stopped member.
func (g *rawLog) extend(dir string, n int) {
	g.t.Helper()
	w, contents, err := wal.Open(filepath.Join(dir, "member", "wal"), wal.Snapshot{}, wal.Options{FS: vfs.OS})
	if err != nil {
		g.t.Fatal(err)
	}
	last := contents.Entries[len(contents.Entries)-1]
	rev := uint64(1)
	var out []raftpb.Entry
	for i := range n {
		e := raftpb.Entry{Index: last.Index + 1 + uint64(i), Term: last.Term}
		if g.rnd.Intn(20) == 0 && i < n-3 {
			e.Type, e.Data = g.confChange()
		} else {
			field, req := g.request()
			switch n - i { // the member is to be healthy in the end, and to stay where it is
			case 1:
				field, req = api.FieldDowngradeInfoSet, &membershippb.DowngradeInfoSetRequest{}
			case 2, 3:
				field, req = api.FieldAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: uint64(n - i - 2), Alarm: pb.AlarmType_NOSPACE}
			}
			h := &pb.RequestHeader{ID: e.Index, Username: g.user(), AuthRevision: pickOne(g.rnd, 0, rev, rev, rev, 1000, 1000, 1000, rev-1)}
			e.Data = api.AppendInternal(nil, field, api.Append(nil, req), h)
			rev += uint64(g.rnd.Intn(2))
		}
		out = append(out, e)
	}
	st := contents.State
	st.Commit = out[len(out)-1].Index
	if err := w.Save(st, out); err != nil {
		g.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		g.t.Fatal(err)
	}
}

// TestLogAgainstEtcd lets a real member apply a log that was written behind its back,
// and applies the same here, beginning with the member's own database.
func TestLogAgainstEtcd(t *testing.T) {
	for _, minor := range []string{"3.5", "3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) { t.Parallel(); logAgainstEtcd(t, minor, 1) })
	}
}

func logAgainstEtcd(t *testing.T, minor string, seed int64) {
	c := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, minor), Args: []string{"--log-level=fatal"}})
	m := c.Members[0]
	m.Stop()
	g := &rawLog{pairing: &pairing{t: t, user: "somebody", rnd: rand.New(rand.NewSource(seed)), r: newRig(t, Options{})}, minor: m.Binary.Minor(), self: m.ID(), ids: []uint64{m.ID()}}
	g.extend(m.Dir, 1500)
	before := filepath.Join(t.TempDir(), "db")
	data, err := os.ReadFile(filepath.Join(m.Dir, "member", "snap", "db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(before, data, 0o600); err != nil {
		t.Fatal(err)
	}
	m.Start()
	m.WaitHealthy()
	m.Stop()
	log, _ := readDirectory(t, m.Dir)
	r := &rig{t: t, path: before, o: Options{SelfID: m.ID(), StripRanges: func() bool { return g.minor < 7 }}}
	r.conf = raftpb.ConfState{Voters: []uint64{m.ID()}}
	r.open()
	t.Cleanup(r.close)
	outcomes := map[string]int{}
	end := appliedIndex(t, m.Dir) // a member that is stopped may leave the last one
	for _, e := range log {
		if e.Index > r.m.ReplayFrom() && e.Index <= end {
			res := r.apply(false, e)[0]
			if res.Fatal != nil {
				t.Fatal(res.Fatal)
			}
			outcomes[show(res.Err)]++
		}
	}
	if outcomes["ok"] < 300 || len(outcomes) < 10 {
		t.Errorf("the log proves little: %v", outcomes)
	}
	for r.m.CompactStep(1000) {
	}
	compareDumps(t, m.Dir, r)
}

func appliedIndex(t *testing.T, dir string) (index uint64) {
	db, err := bbolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	_ = db.View(func(tx *bbolt.Tx) error {
		index = binary.BigEndian.Uint64(tx.Bucket([]byte(BucketMeta)).Get(keyIndex))
		return nil
	})
	return index
}

// local reports whether members may differ in a record: raft's part is played by
// hand here, the storage version follows a clock, and a user who needs no password
// and is given one all the same does not keep it in 3.5.
func local(key, value string) bool {
	return strings.HasPrefix(key, `meta "confState"`) || strings.HasPrefix(key, `meta "storageVersion"`) ||
		strings.HasPrefix(key, "authUsers ") && strings.HasSuffix(value, `\"\x02\b\x01"`)
}

// compareDumps compares every bucket.
func compareDumps(t *testing.T, dir string, r *rig) {
	db, err := bbolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	theirs := map[string]string{}
	_ = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				theirs[fmt.Sprintf("%s %q", name, k)] = fmt.Sprintf("%q", v)
				return nil
			})
		})
	})
	ours := map[string]string{}
	for line := range strings.Lines(r.dump()) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
		ours[k] = v
	}
	for _, k := range slices.Sorted(maps.Keys(theirs)) {
		if d := cmp.Diff(theirs[k], ours[k]); d != "" && !local(k, ours[k]) {
			t.Errorf("%s (-etcd +ours):\n%s", k, d)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(ours)) {
		if _, ok := theirs[k]; !ok {
			t.Errorf("%s = %s is ours alone", k, ours[k])
		}
	}
	if len(theirs) < 40 {
		t.Errorf("only %d records compared", len(theirs))
	}
}
