package interop

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"theseus/test/cluster"
)

// call is one unary request of the golden script.
type call struct {
	method string // of etcdserverpb, such as KV/Put
	req    proto.Message
	md     []string
}

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func opPut(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(key, value)}}
}

func opGet(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opDel(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: true}}}
}

func opTxn(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

func get(key, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func version(key string, result pb.Compare_CompareResult, n int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Result: result, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: n}}
}

// script is asked of both, in order, on a fresh member.
func script() []call {
	var all []call
	add := func(method string, reqs ...proto.Message) {
		for _, r := range reqs {
			all = append(all, call{method: method, req: r})
		}
	}
	add("KV/Put", put("a", "1"), put("b", "2"), put("a", "3"), put("", "x"), put("c", ""),
		&pb.PutRequest{Key: []byte("a"), Value: []byte("4"), PrevKv: true},
		&pb.PutRequest{Key: []byte("a"), Value: []byte("x"), IgnoreValue: true},
		&pb.PutRequest{Key: []byte("a"), IgnoreValue: true},
		&pb.PutRequest{Key: []byte("nokey"), IgnoreValue: true},
		&pb.PutRequest{Key: []byte("nokey"), IgnoreLease: true},
		&pb.PutRequest{Key: []byte("a"), IgnoreLease: true, Lease: 5},
		&pb.PutRequest{Key: []byte("a"), Lease: 5},
		put("big", strings.Repeat("v", 1536*1024)),
		put("nearly", strings.Repeat("v", 1536*1024-100)))
	addRanges(add)
	addTxns(add)
	addLeases(add)
	add("KV/DeleteRange", &pb.DeleteRangeRequest{}, &pb.DeleteRangeRequest{Key: []byte("none")},
		&pb.DeleteRangeRequest{Key: []byte("nearly"), PrevKv: false}, &pb.DeleteRangeRequest{Key: []byte("t"), RangeEnd: []byte("u"), PrevKv: true},
		&pb.DeleteRangeRequest{Key: []byte("z"), RangeEnd: []byte("a")})
	add("KV/Compact", &pb.CompactionRequest{Revision: 1000}, &pb.CompactionRequest{Revision: 5}, &pb.CompactionRequest{Revision: 5},
		&pb.CompactionRequest{Revision: 0}, &pb.CompactionRequest{Revision: -1}, &pb.CompactionRequest{Revision: 6, Physical: true})
	add("KV/Range", &pb.RangeRequest{Key: []byte("a"), Revision: 5}, &pb.RangeRequest{Key: []byte("a"), Revision: 6})
	add("Maintenance/HashKV", &pb.HashKVRequest{}, &pb.HashKVRequest{Revision: 7}, &pb.HashKVRequest{Revision: 3}, &pb.HashKVRequest{Revision: 1000})
	addCluster(add)
	addAuth(add)
	return all
}

func addRanges(add func(string, ...proto.Message)) {
	for i := range 12 {
		add("KV/Put", put(fmt.Sprintf("r/%02d", i), strings.Repeat("x", 12-i)))
	}
	add("KV/Put", put("r/03", "again"), put("r/07", "again"))
	add("KV/Range", get("", ""), get("a", ""), get("a", "c"), get("\x00", "\x00"), get("r/", "r0"), get("b", "\x00"), get("z", "a"),
		&pb.RangeRequest{Key: []byte("a"), Revision: 2}, &pb.RangeRequest{Key: []byte("a"), Revision: 1000}, &pb.RangeRequest{Key: []byte("a"), Revision: -5})
	for _, target := range []pb.RangeRequest_SortTarget{0, 1, 2, 3, 4, 5, 99} {
		for _, order := range []pb.RangeRequest_SortOrder{0, 1, 2, 3} {
			if target == pb.RangeRequest_VERSION {
				continue // equal elements: their order is not promised
			}
			for _, limit := range []int64{0, 3, -1} {
				add("KV/Range", &pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), SortTarget: target, SortOrder: order, Limit: limit, KeysOnly: limit == 3})
			}
		}
	}
	add("KV/Range",
		&pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), CountOnly: true},
		&pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), CountOnly: true, Limit: 2},
		&pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), MinModRevision: 15},
		&pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), MaxModRevision: 12, Limit: 2},
		&pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), MinCreateRevision: 12, MaxCreateRevision: 14},
		&pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), Revision: 12, Limit: 1},
		&pb.RangeRequest{Key: []byte("r/"), RangeEnd: []byte("r0"), Serializable: true, KeysOnly: true})
}

func addTxns(add func(string, ...proto.Message)) {
	eq, gt, lt, ne := pb.Compare_EQUAL, pb.Compare_GREATER, pb.Compare_LESS, pb.Compare_NOT_EQUAL
	many := &pb.TxnRequest{}
	for i := range 129 {
		many.Success = append(many.Success, opPut(fmt.Sprintf("m%d", i), ""))
	}
	add("KV/Txn", &pb.TxnRequest{}, many, &pb.TxnRequest{Success: []*pb.RequestOp{{}}},
		&pb.TxnRequest{Compare: []*pb.Compare{version("a", gt, 0)}, Success: []*pb.RequestOp{opPut("t1", "x"), opGet(get("t1", "")), opDel("b", "")}},
		&pb.TxnRequest{Compare: []*pb.Compare{version("a", eq, 99)}, Success: []*pb.RequestOp{opPut("t1", "x")}, Failure: []*pb.RequestOp{opGet(get("a", "c"))}},
		&pb.TxnRequest{Compare: []*pb.Compare{version("none", eq, 0), version("none", lt, 1), version("a", ne, 0)}, Success: []*pb.RequestOp{opPut("t2", "x")}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opPut("d", "1"), opPut("d", "2")}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opPut("d", "1"), opDel("c", "e")}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opDel("c", "d"), opDel("c", "d")}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opPut("", "1")}},
		&pb.TxnRequest{Compare: []*pb.Compare{version("", eq, 0)}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opGet(&pb.RangeRequest{Key: []byte("a"), Revision: 1000}), opPut("never", "")}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opGet(&pb.RangeRequest{Key: []byte("a"), SortTarget: 9})}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opDel("none", ""), opGet(get("t1", ""))}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{
			Compare: []*pb.Compare{version("t3", eq, 0)}, Success: []*pb.RequestOp{opPut("t4", "inner"), opGet(get("t4", ""))}}), opPut("t3", "outer")}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut("d", "1")}}), opPut("d", "2")}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opTxn(nil)}})
	for _, c := range []*pb.Compare{
		{Key: []byte("a"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("4")}},
		{Key: []byte("none"), Target: pb.Compare_VALUE, Result: ne, TargetUnion: &pb.Compare_Value{Value: []byte("4")}},
		{Key: []byte("a"), Target: pb.Compare_CREATE, Result: eq, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 2}},
		{Key: []byte("a"), Target: pb.Compare_MOD, Result: gt, TargetUnion: &pb.Compare_ModRevision{ModRevision: 3}},
		{Key: []byte("a"), Target: pb.Compare_LEASE, Result: eq, TargetUnion: &pb.Compare_Lease{}},
		{Key: []byte("r/"), RangeEnd: []byte("r0"), Target: pb.Compare_VERSION, Result: gt, TargetUnion: &pb.Compare_Version{Version: 1}},
		{Key: []byte("x/"), RangeEnd: []byte("x0"), Target: pb.Compare_VERSION, Result: gt, TargetUnion: &pb.Compare_Version{Version: 1}},
		{Key: []byte("a"), Target: pb.Compare_VERSION},
		{Key: []byte("none"), Target: pb.Compare_MOD},
		{Key: []byte("a"), Target: 77},
	} {
		add("KV/Txn", &pb.TxnRequest{Compare: []*pb.Compare{c}, Success: []*pb.RequestOp{opGet(get("a", ""))}})
	}
}

func addLeases(add func(string, ...proto.Message)) {
	add("Lease/LeaseGrant", &pb.LeaseGrantRequest{TTL: 1000, ID: 77}, &pb.LeaseGrantRequest{TTL: 1000, ID: 77}, &pb.LeaseGrantRequest{TTL: 9_000_000_001, ID: 78},
		&pb.LeaseGrantRequest{TTL: 0, ID: 79}, &pb.LeaseGrantRequest{TTL: -4, ID: 80}, &pb.LeaseGrantRequest{TTL: 1000, ID: -3})
	add("KV/Put", &pb.PutRequest{Key: []byte("l1"), Lease: 77}, &pb.PutRequest{Key: []byte("l0"), Lease: 77}, &pb.PutRequest{Key: []byte("l1"), Value: []byte("v"), IgnoreLease: true})
	add("KV/Range", get("l", "m"), &pb.RangeRequest{Key: []byte("l"), RangeEnd: []byte("m"), KeysOnly: true})
	add("Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 4242})
	add("Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: 77}, &pb.LeaseRevokeRequest{ID: 77}, &pb.LeaseRevokeRequest{ID: 79}, &pb.LeaseRevokeRequest{ID: 80})
	add("Lease/LeaseLeases", &pb.LeaseLeasesRequest{})
	add("KV/Range", get("l", "m"))
}

func addCluster(add func(string, ...proto.Message)) {
	add("Cluster/MemberList", &pb.MemberListRequest{}, &pb.MemberListRequest{Linearizable: true})
	add("Cluster/MemberAdd", &pb.MemberAddRequest{}, &pb.MemberAddRequest{PeerURLs: []string{"nonsense"}})
	add("Cluster/MemberRemove", &pb.MemberRemoveRequest{ID: 5})
	add("Cluster/MemberUpdate", &pb.MemberUpdateRequest{ID: 5, PeerURLs: []string{"http://127.0.0.1:5"}}, &pb.MemberUpdateRequest{ID: 5})
	add("Cluster/MemberPromote", &pb.MemberPromoteRequest{ID: 5})
	add("Maintenance/Alarm", &pb.AlarmRequest{}, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 9, Alarm: pb.AlarmType_NOSPACE})
	add("KV/Put", put("full", ""))
	add("KV/DeleteRange", &pb.DeleteRangeRequest{Key: []byte("c")})
	add("Lease/LeaseGrant", &pb.LeaseGrantRequest{TTL: 1000, ID: 90})
	add("Maintenance/Alarm", &pb.AlarmRequest{}, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 9, Alarm: pb.AlarmType_NOSPACE}, &pb.AlarmRequest{})
	add("Maintenance/MoveLeader", &pb.MoveLeaderRequest{TargetID: 5})
	add("Maintenance/Downgrade", &pb.DowngradeRequest{Version: "abc"}, &pb.DowngradeRequest{Version: "3.7"}, &pb.DowngradeRequest{Version: "3.6"}, &pb.DowngradeRequest{Action: 9, Version: "3.6"})
	add("Maintenance/Defragment", &pb.DefragmentRequest{})
}

func addAuth(add func(string, ...proto.Message)) {
	add("Auth/AuthStatus", &pb.AuthStatusRequest{})
	add("Auth/AuthEnable", &pb.AuthEnableRequest{})
	add("Auth/UserAdd", &pb.AuthUserAddRequest{}, &pb.AuthUserAddRequest{Name: "root", Password: "p"}, &pb.AuthUserAddRequest{Name: "root", Password: "p"},
		&pb.AuthUserAddRequest{Name: "u", Options: nil, Password: "q"})
	add("Auth/AuthEnable", &pb.AuthEnableRequest{})
	add("Auth/RoleAdd", &pb.AuthRoleAddRequest{}, &pb.AuthRoleAddRequest{Name: "r"}, &pb.AuthRoleAddRequest{Name: "r"}, &pb.AuthRoleAddRequest{Name: "root"})
	add("Auth/UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}, &pb.AuthUserGrantRoleRequest{User: "u", Role: "nosuch"},
		&pb.AuthUserGrantRoleRequest{User: "nosuch", Role: "r"}, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"}, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"})
	add("Auth/UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "nosuch"})
	add("Auth/RoleGet", &pb.AuthRoleGetRequest{Role: "r"}, &pb.AuthRoleGetRequest{Role: "nosuch"}, &pb.AuthRoleGetRequest{Role: "root"})
	add("Auth/RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("x")})
	add("Auth/UserGet", &pb.AuthUserGetRequest{Name: "u"}, &pb.AuthUserGetRequest{Name: "nosuch"})
	add("Auth/UserList", &pb.AuthUserListRequest{})
	add("Auth/RoleList", &pb.AuthRoleListRequest{})
	add("Auth/Authenticate", &pb.AuthenticateRequest{Name: "u", Password: "q"})
	add("Auth/AuthStatus", &pb.AuthStatusRequest{})
	add("Auth/AuthEnable", &pb.AuthEnableRequest{})
	add("KV/Put", put("a", "denied"))
	add("KV/Range", get("a", ""))
	addAnonymous(add)
	add("Auth/AuthDisable", &pb.AuthDisableRequest{})
	add("Auth/Authenticate", &pb.AuthenticateRequest{Name: "u", Password: "wrong"}, &pb.AuthenticateRequest{Name: "nosuch", Password: "wrong"})
}

// addAnonymous asks for everything without a login while auth is on.
func addAnonymous(add func(string, ...proto.Message)) {
	add("KV/DeleteRange", &pb.DeleteRangeRequest{Key: []byte("a")}, &pb.DeleteRangeRequest{Key: []byte("nosuch")})
	add("KV/Txn", &pb.TxnRequest{}, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: get("a", "")}}}})
	add("KV/Compact", &pb.CompactionRequest{Revision: 1}, &pb.CompactionRequest{Revision: 1 << 40})
	add("Lease/LeaseGrant", &pb.LeaseGrantRequest{TTL: 10, ID: 99}, &pb.LeaseGrantRequest{TTL: -1})
	add("Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: 77}, &pb.LeaseRevokeRequest{})
	add("Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 77}, &pb.LeaseTimeToLiveRequest{ID: 77, Keys: true})
	add("Lease/LeaseLeases", &pb.LeaseLeasesRequest{})
	add("Cluster/MemberList", &pb.MemberListRequest{}, &pb.MemberListRequest{Linearizable: true})
	add("Cluster/MemberAdd", &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}})
	add("Cluster/MemberRemove", &pb.MemberRemoveRequest{ID: 77})
	add("Cluster/MemberUpdate", &pb.MemberUpdateRequest{ID: 77, PeerURLs: []string{"http://127.0.0.1:1"}})
	add("Cluster/MemberPromote", &pb.MemberPromoteRequest{ID: 77})
	add("Maintenance/Alarm", &pb.AlarmRequest{})
	add("Maintenance/HashKV", &pb.HashKVRequest{})
	add("Maintenance/Hash", &pb.HashRequest{})
	add("Maintenance/Defragment", &pb.DefragmentRequest{})
	add("Maintenance/MoveLeader", &pb.MoveLeaderRequest{TargetID: 77})
	add("Maintenance/Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6.0"})
	add("Auth/UserAdd", &pb.AuthUserAddRequest{Name: "x", Password: "y"})
	add("Auth/UserList", &pb.AuthUserListRequest{})
	add("Auth/UserGet", &pb.AuthUserGetRequest{Name: "u"})
	add("Auth/RoleGet", &pb.AuthRoleGetRequest{Role: "r"})
	add("Auth/RoleList", &pb.AuthRoleListRequest{})
	add("Auth/AuthStatus", &pb.AuthStatusRequest{})
}

// ask1 makes one call and tells the answer as text, without what differs
// between any two clusters.
func ask1(ctx context.Context, conn *grpc.ClientConn, c call) string {
	full := protoreflect.FullName("etcdserverpb." + strings.ReplaceAll(c.method, "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return err.Error()
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(d.(protoreflect.MethodDescriptor).Output().FullName())
	if err != nil {
		return err.Error()
	}
	resp := out.New().Interface()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, metadata.Pairs(c.md...)), 10*time.Second)
	defer cancel()
	if err := conn.Invoke(ctx, "/etcdserverpb."+c.method, c.req, resp); err != nil {
		s := status.Convert(err)
		return fmt.Sprintf("%s: %s", s.Code(), s.Message())
	}
	scrub(resp.ProtoReflect())
	b, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(resp)
	return strings.ReplaceAll(string(b), `": `, `":`)
}

// scrub clears ids, terms and addresses.
func scrub(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch name := string(f.Name()); {
		case name == "cluster_id" || name == "member_id" || name == "raft_term" || name == "token":
			m.Clear(f)
		case m.Descriptor().FullName() == "etcdserverpb.Member" && (name == "ID" || name == "peerURLs" || name == "clientURLs"):
			m.Clear(f)
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				scrub(v.List().Get(i).Message())
			}
		case f.Message() != nil && !f.IsMap():
			scrub(v.Message())
		}
		return true
	})
}

func describe(c call) string {
	b, _ := protojson.Marshal(c.req)
	return c.method + " " + tail(strings.ReplaceAll(string(b), " ", ""), 200)
}

func tail(s string, n int) string { return s[:min(len(s), n)] }

// transcript runs the script on one fresh member.
func transcript(t *testing.T, b cluster.Binary) []string {
	t.Helper()
	c := cluster.New(t, cluster.Options{Binary: b})
	conn, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), MaxCallSendMsgSize: 4 << 20})
	must(t, err)
	defer func() { _ = conn.Close() }()
	var lines []string
	for i, q := range script() {
		lines = append(lines, fmt.Sprintf("%03d %s\n    %s", i, describe(q), tail(ask1(context.Background(), conn.ActiveConnection(), q), 4000)))
	}
	return lines
}

// TestSameAnswers compares every answer and error of the script with those of
// real etcd 3.7.
func TestSameAnswers(t *testing.T) {
	want := transcript(t, cluster.Etcd(t, "3.7"))
	got := transcript(t, cluster.Theseus(t))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("answers differ (-etcd 3.7 +theseus):\n%s", diff)
	}
}

// TestSameAnswersOfTheReal shows that the script itself is repeatable.
func TestSameAnswersOfTheReal(t *testing.T) {
	b := cluster.Etcd(t, "3.7")
	if diff := cmp.Diff(transcript(t, b), transcript(t, b)); diff != "" {
		t.Fatalf("two runs of etcd 3.7 differ:\n%s", diff)
	}
}
