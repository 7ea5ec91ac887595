package api

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// TestAppendInternal checks the samples of interop A.3, and every field against protobuf.
func TestAppendInternal(t *testing.T) {
	h := &pb.RequestHeader{ID: 9190899047449383940}
	for _, tt := range []struct {
		name  string
		field int
		body  proto.Message
		whole *pb.InternalRaftRequest
	}{
		{"put", FieldPut, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")}, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("a"), Value: []byte("1")}}},
		{"delete", FieldDeleteRange, &pb.DeleteRangeRequest{Key: []byte("a")}, &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}},
		{"lease grant", FieldLeaseGrant, &pb.LeaseGrantRequest{TTL: 60, ID: 7}, &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{TTL: 60, ID: 7}}},
		{"compact", FieldCompaction, &pb.CompactionRequest{Revision: 3}, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: 3}}},
		{"user list", FieldAuthUserList, &pb.AuthUserListRequest{}, &pb.InternalRaftRequest{AuthUserList: &pb.AuthUserListRequest{}}},
		{"version", FieldClusterVersionSet, &membershippb.ClusterVersionSetRequest{Ver: "3.6.0"}, &pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.6.0"}}},
		{"downgrade cancel", FieldDowngradeInfoSet, &membershippb.DowngradeInfoSetRequest{}, &pb.InternalRaftRequest{DowngradeInfoSet: &membershippb.DowngradeInfoSetRequest{}}},
	} {
		body := Append(nil, tt.body)
		for _, h := range []*pb.RequestHeader{h, {ID: 1, Username: "root", AuthRevision: 300}, {}} {
			tt.whole.Header = h
			want := Append(nil, tt.whole)
			got := AppendInternal([]byte("x"), tt.field, body, h)
			if !bytes.Equal(got[1:], want) {
				t.Errorf("%s: %x, want %x", tt.name, got[1:], want)
			}
			if kind, err := Classify(want); kind != Internal || err != nil {
				t.Errorf("%s is classified as %v, %v", tt.name, kind, err)
			}
			var m pb.InternalRaftRequest
			if err := Unmarshal(want, &m); err != nil || !proto.Equal(&m, tt.whole) {
				t.Errorf("%s: read as %v, %v", tt.name, &m, err)
			}
		}
	}
	put := AppendInternal(nil, FieldPut, []byte("\x0a\x01a\x12\x011"), h)
	want := append([]byte("\x22\x06\x0a\x01a\x12\x011\xa2\x06\x0a\x08"), protowire.AppendVarint(nil, h.ID)...)
	if !bytes.Equal(put, want) {
		t.Errorf("put a=1 is %x, want %x", put, want)
	}
}

// TestFieldNumbers checks the constants against the message's description.
func TestFieldNumbers(t *testing.T) {
	fields := (&pb.InternalRaftRequest{}).ProtoReflect().Descriptor().Fields()
	for name, number := range map[string]int{
		"range": FieldRange, "put": FieldPut, "delete_range": FieldDeleteRange, "txn": FieldTxn, "compaction": FieldCompaction,
		"lease_grant": FieldLeaseGrant, "lease_revoke": FieldLeaseRevoke, "alarm": FieldAlarm, "lease_checkpoint": FieldLeaseCheckpoint,
		"header": FieldHeader, "auth_enable": FieldAuthEnable, "auth_disable": FieldAuthDisable, "authenticate": FieldAuthenticate,
		"auth_status": FieldAuthStatus, "auth_user_add": FieldAuthUserAdd, "auth_user_delete": FieldAuthUserDelete,
		"auth_user_get": FieldAuthUserGet, "auth_user_change_password": FieldAuthUserChangePassword,
		"auth_user_grant_role": FieldAuthUserGrantRole, "auth_user_revoke_role": FieldAuthUserRevokeRole,
		"auth_user_list": FieldAuthUserList, "auth_role_list": FieldAuthRoleList, "auth_role_add": FieldAuthRoleAdd,
		"auth_role_delete": FieldAuthRoleDelete, "auth_role_get": FieldAuthRoleGet,
		"auth_role_grant_permission": FieldAuthRoleGrantPermission, "auth_role_revoke_permission": FieldAuthRoleRevokePermission,
		"cluster_version_set": FieldClusterVersionSet, "cluster_member_attr_set": FieldClusterMemberAttrSet, "downgrade_info_set": FieldDowngradeInfoSet,
	} {
		if f := fields.ByNumber(protowire.Number(number)); f == nil || string(f.Name()) != name {
			t.Errorf("field %d is not %s but %v", number, name, f)
		}
	}
	// Every body that protobuf knows must be one that we read.
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil {
			continue
		}
		m := &pb.InternalRaftRequest{}
		if err := Unmarshal(protowire.AppendBytes(protowire.AppendTag(nil, f.Number(), protowire.BytesType), nil), m); err != nil || !m.ProtoReflect().Has(f) {
			t.Errorf("field %s is not read: %v", f.Name(), err)
		}
	}
}

func version(id uint64, v string) *LegacyRequest {
	return &LegacyRequest{ID: id, Method: "PUT", Path: "/0/version", Val: v}
}

func TestLegacyBytes(t *testing.T) {
	// As observed: 1=… 2="PUT" 3="/0/version" 4="3.5.0" 5=0 6="" 7=0 9=0 … 16=0.
	want := []byte("\x08\x07\x12\x03PUT\x1a\x0a/0/version\x22\x053.5.0\x28\x00\x32\x00\x38\x00\x48\x00\x50\x00\x58\x00\x60\x00\x68\x00\x70\x00\x78\x00\x80\x01\x00")
	if got := version(7, "3.5.0").Append(nil); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	yes, no := true, false
	for _, r := range []*LegacyRequest{
		version(7, "3.5.0"),
		{ID: 1, Method: "QGET"},
		{ID: 2, Method: "SYNC", Time: 1700000000000000000},
		{
			ID: 3, Method: "POST", Path: "/1/\xff", Val: "v", Dir: true, PrevValue: "p", PrevIndex: 4, PrevExist: &no, Expiration: -5,
			Wait: true, Since: 6, Recursive: true, Sorted: true, Quorum: true, Time: -7, Stream: true, Refresh: &yes,
		},
	} {
		var got LegacyRequest
		if err := got.Unmarshal(r.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(*r, got); d != "" {
			t.Error(d)
		}
	}
}

func TestClassify(t *testing.T) {
	wrapped := protowire.AppendBytes([]byte{0x12}, version(8, "3.4.0").Append(nil))
	wrapped = append(wrapped, AppendInternal(nil, FieldPut, nil, &pb.RequestHeader{ID: 8})[2:]...)
	for _, tt := range []struct {
		name string
		b    []byte
		want Kind
	}{
		{"nothing", nil, Empty},
		{"put attributes", (&LegacyRequest{ID: 1, Method: "PUT", Path: "/0/members/1/attributes", Val: "{}"}).Append(nil), LegacyBare},
		{"version", version(1, "3.5.0").Append(nil), LegacyBare},
		{"sync", (&LegacyRequest{Method: "SYNC", Time: 5}).Append(nil), LegacyBare},
		{"v2 post", (&LegacyRequest{Method: "POST", Path: "/1/a", Val: "b"}).Append(nil), LegacyBare},
		{"v2 delete", (&LegacyRequest{Method: "DELETE", Path: "/1/a"}).Append(nil), LegacyBare},
		{"wrapped", wrapped, LegacyWrapped},
		{"wrapped and empty", []byte{0x12, 0}, LegacyWrapped},
		{"field 2 that is no bytes", []byte{0x10, 1}, Internal},
		{"put", AppendInternal(nil, FieldPut, nil, &pb.RequestHeader{ID: 1}), Internal},
	} {
		if got, err := Classify(tt.b); got != tt.want || err != nil {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
	for _, b := range [][]byte{{0x12}, {0x12, 5, 'P'}, {0x0b}, {0x0c}, {0x07}, {0x00, 0x00}, bytes.Repeat([]byte{0xff}, 11)} {
		if kind, err := Classify(b); err == nil {
			t.Errorf("%x is classified as %v", b, kind)
		}
	}
}

// TestLegacyTrap is why Classify exists: protobuf reads a health probe of an old
// member as a range and a put, because field 2 means nothing to it any more.
func TestLegacyTrap(t *testing.T) {
	qget := (&LegacyRequest{ID: 5, Method: "QGET"}).Append(nil)
	var m pb.InternalRaftRequest
	if err := proto.Unmarshal(qget, &m); err != nil || m.Range == nil || m.Put == nil {
		t.Fatalf("protobuf refuses it by now (%v, %v): the trap has gone", err, &m)
	}
	if kind, err := Classify(qget); kind != LegacyBare || err != nil {
		t.Errorf("a QGET is classified as %v, %v", kind, err)
	}
}

func TestUnmarshalEntry(t *testing.T) {
	want := version(8, "3.4.0")
	for _, b := range [][]byte{want.Append(nil), protowire.AppendBytes([]byte{0x12}, want.Append(nil))} {
		got := LegacyRequest{Path: "of before"}
		if err := got.UnmarshalEntry(b); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(*want, got); d != "" {
			t.Error(d)
		}
	}
	for _, b := range [][]byte{nil, {0x08, 1}, {0x12, 9}, {0x12, 1, 0x0b}} {
		if err := new(LegacyRequest).UnmarshalEntry(b); err == nil {
			t.Errorf("%x was read as a legacy request", b)
		}
	}
}

func FuzzLegacyRequest(f *testing.F) {
	f.Add(version(7, "3.5.0").Append(nil))
	f.Add((&LegacyRequest{ID: 5, Method: "QGET"}).Append(nil))
	f.Add(protowire.AppendBytes([]byte{0x12}, version(8, "3.4.0").Append(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, err := Classify(b)
		if err == nil && kind == Internal {
			return // may be anything, which FuzzUnmarshal looks at
		}
		var r, again LegacyRequest
		if err := r.UnmarshalEntry(b); err != nil {
			return
		}
		if err := again.Unmarshal(r.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, again); d != "" {
			t.Errorf("%x: %s", b, d)
		}
	})
}
