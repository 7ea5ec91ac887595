package machine

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/member"
	"theseus/version"
)

// script runs the commands of one golden file:
//
//	new [cv=3.7.0]                 a new machine, after the birth of a cluster
//	put KEY VALUE [lease=] [prev]  and del, txn, ...: see commands; each is one entry
//	apply KIND                     an entry whose request follows as prototext
//	legacy METHOD PATH [VALUE]     a v2 request
//	add|learner|promote|remove|update ID [URL]   a conf change
//	as USER [rev=N]                the header of what follows
//	strip on|off                   whether an old member is present
//	dump [BUCKET...]               the records
//	snapshot                       the v2 JSON
//	reopen                         a restart
//	migrate VERSION                the storage
type script struct {
	t     *testing.T
	r     *rig
	l     *entries
	user  string
	rev   uint64
	strip bool
}

// requests are the kinds that apply takes.
var requests = map[string]struct {
	field int
	empty proto.Message
}{
	"put": {api.FieldPut, &pb.PutRequest{}}, "range": {api.FieldRange, &pb.RangeRequest{}}, "delete": {api.FieldDeleteRange, &pb.DeleteRangeRequest{}},
	"txn": {api.FieldTxn, &pb.TxnRequest{}}, "compact": {api.FieldCompaction, &pb.CompactionRequest{}},
	"grant": {api.FieldLeaseGrant, &pb.LeaseGrantRequest{}}, "revoke": {api.FieldLeaseRevoke, &pb.LeaseRevokeRequest{}}, "checkpoint": {api.FieldLeaseCheckpoint, &pb.LeaseCheckpointRequest{}},
	"alarm":       {api.FieldAlarm, &pb.AlarmRequest{}},
	"auth-enable": {api.FieldAuthEnable, &pb.AuthEnableRequest{}}, "auth-disable": {api.FieldAuthDisable, &pb.AuthDisableRequest{}}, "auth-status": {api.FieldAuthStatus, &pb.AuthStatusRequest{}},
	"authenticate": {api.FieldAuthenticate, &pb.InternalAuthenticateRequest{}},
	"user-add":     {api.FieldAuthUserAdd, &pb.AuthUserAddRequest{}}, "user-delete": {api.FieldAuthUserDelete, &pb.AuthUserDeleteRequest{}}, "user-get": {api.FieldAuthUserGet, &pb.AuthUserGetRequest{}},
	"user-passwd": {api.FieldAuthUserChangePassword, &pb.AuthUserChangePasswordRequest{}}, "user-grant": {api.FieldAuthUserGrantRole, &pb.AuthUserGrantRoleRequest{}},
	"user-revoke": {api.FieldAuthUserRevokeRole, &pb.AuthUserRevokeRoleRequest{}}, "user-list": {api.FieldAuthUserList, &pb.AuthUserListRequest{}}, "role-list": {api.FieldAuthRoleList, &pb.AuthRoleListRequest{}},
	"role-add": {api.FieldAuthRoleAdd, &pb.AuthRoleAddRequest{}}, "role-delete": {api.FieldAuthRoleDelete, &pb.AuthRoleDeleteRequest{}}, "role-get": {api.FieldAuthRoleGet, &pb.AuthRoleGetRequest{}},
	"role-grant": {api.FieldAuthRoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{}}, "role-revoke": {api.FieldAuthRoleRevokePermission, &pb.AuthRoleRevokePermissionRequest{}},
	"version": {api.FieldClusterVersionSet, &membershippb.ClusterVersionSetRequest{}}, "attributes": {api.FieldClusterMemberAttrSet, &membershippb.ClusterMemberAttrSetRequest{}},
	"downgrade": {api.FieldDowngradeInfoSet, &membershippb.DowngradeInfoSetRequest{}},
}

func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		s := &script{t: t}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(d) })
	})
}

func (s *script) run(d *datadriven.TestData) string {
	arg := func(i int) string {
		if i < len(d.CmdArgs) {
			return d.CmdArgs[i].Key
		}
		return ""
	}
	switch d.Cmd {
	case "new":
		return s.begin(d)
	case "apply":
		return s.request(arg(0), d.Input)
	case "legacy":
		return s.entry(s.l.legacy(&api.LegacyRequest{Method: arg(0), Path: arg(1), Val: d.Input}))
	case "add", "learner", "promote", "remove", "update":
		return s.confChange(d.Cmd, arg(0), arg(1))
	case "as":
		s.user, s.rev = arg(0), 0
		if s.user != "" {
			s.rev = s.r.m.Auth().Revision()
		}
		if d.HasArg("rev") {
			d.ScanArgs(s.t, "rev", &s.rev)
		}
		return fmt.Sprintf("revision %d\n", s.rev)
	case "strip":
		s.strip = arg(0) == "on"
		return "ok\n"
	case "dump":
		return s.dump(d.CmdArgs)
	case "snapshot":
		return string(s.r.m.SnapshotData()) + "\n"
	case "reopen":
		s.r.reopen(s.r.m.SnapshotData(), uint64(len(s.l.all)))
		return fmt.Sprintf("replay from %d\n", s.r.m.ReplayFrom())
	case "migrate":
		v, err := version.Parse(arg(0))
		if err == nil {
			err = s.r.m.MigrateStorage(v)
		}
		return fmt.Sprintln(err)
	}
	d.Fatalf(s.t, "unknown command")
	return ""
}

func (s *script) begin(d *datadriven.TestData) string {
	cv := "3.7.0"
	if d.HasArg("cv") {
		d.ScanArgs(s.t, "cv", &cv)
	}
	s.l = &entries{}
	s.user, s.rev, s.strip = "", 0, false
	s.r = newRig(s.t, Options{StripRanges: func() bool { return s.strip }})
	s.l.birth(cv)
	s.r.apply(false, s.l.all...)
	return "ok\n"
}

func (s *script) request(kind, input string) string {
	k, ok := requests[kind]
	if !ok {
		s.t.Fatalf("unknown request %q", kind)
	}
	req := proto.Clone(k.empty)
	if err := prototext.Unmarshal([]byte(input), req); err != nil {
		s.t.Fatal(err)
	}
	return s.entry(s.l.requestAs(k.field, req, s.user, s.rev))
}

func (s *script) confChange(what, id, url string) string {
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	m := member.Member{ID: n, PeerURLs: []string{url}}
	kind := map[string]raftpb.ConfChangeType{"learner": raftpb.ConfChangeAddLearnerNode, "remove": raftpb.ConfChangeRemoveNode, "update": raftpb.ConfChangeUpdateNode}[what]
	m.IsLearner = what == "learner"
	return s.entry(s.l.confChange(kind, m, what == "promote"))
}

// entry applies one entry and says what came of it.
func (s *script) entry(e raftpb.Entry) string {
	res := s.r.apply(true, e)[0]
	var out strings.Builder
	switch {
	case res.Fatal != nil:
		fmt.Fprintf(&out, "fatal: %v\n", res.Fatal)
	case res.Err != nil:
		fmt.Fprintf(&out, "error: %v\n", res.Err)
	case res.Resp != nil:
		fmt.Fprintf(&out, "%s\n", oneLine(res.Resp))
	default:
		out.WriteString("ok\n")
	}
	for _, ev := range res.Events {
		kv := decodeKV(ev.Raw)
		verb := map[bool]string{false: "PUT", true: "DELETE"}[ev.Delete]
		fmt.Fprintf(&out, "event %d.%d %s %s\n", ev.Rev.Main, ev.Rev.Sub, verb, oneLine(kv))
	}
	for _, f := range res.Effects {
		fmt.Fprintf(&out, "effect %s %s\n", reflect.TypeOf(f).Name(), describe(f))
	}
	return out.String()
}

func describe(f Effect) string {
	switch f := f.(type) {
	case ConfChange:
		return fmt.Sprintf("%s node %x", f.Change.Type, f.Change.NodeID)
	case AlarmChanged:
		return fmt.Sprintf("%s of %x active %v", f.Alarm.Alarm, f.Alarm.MemberID, f.Active)
	}
	return fmt.Sprintf("%+v", f)
}

// oneLine is prototext without its deliberate randomness.
func oneLine(m proto.Message) string {
	if kv, ok := m.(*mvccpb.KeyValue); ok {
		return fmt.Sprintf("%q=%q create %d mod %d version %d lease %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	text := prototext.MarshalOptions{}.Format(m)
	return strings.TrimSpace(reflect.TypeOf(m).Elem().Name() + " " + strings.Join(strings.Fields(text), " "))
}

func (s *script) dump(which []datadriven.CmdArg) string {
	var out strings.Builder
	for line := range strings.Lines(s.r.dump()) {
		bucket, _, _ := strings.Cut(line, " ")
		if len(which) == 0 || slices.ContainsFunc(which, func(a datadriven.CmdArg) bool { return a.Key == bucket }) {
			out.WriteString(line)
		}
	}
	return out.String()
}
