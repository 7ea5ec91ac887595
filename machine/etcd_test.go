package machine

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"theseus/api"
	"theseus/test/cluster"
)

// pairing does everything twice: at a real member through its API, and here as an
// entry of a log.
type pairing struct {
	t    *testing.T
	r    *rig
	l    entries
	conn *grpc.ClientConn
	real *cluster.Member
	rnd  *rand.Rand

	user, token string
	done        []string
}

func newPairing(t *testing.T, seed int64) *pairing {
	c := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, "3.7"), Args: []string{"--bcrypt-cost=4", "--log-level=fatal"}})
	conn, err := grpc.NewClient(strings.TrimPrefix(c.Members[0].ClientURL(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &pairing{t: t, r: newRig(t, Options{}), conn: conn, real: c.Members[0], rnd: rand.New(rand.NewSource(seed))}
	p.l.birth("3.7.0")
	p.r.apply(false, p.l.all...)
	return p
}

// theirs asks the real member.
func (p *pairing) theirs(method string, req proto.Message, resp proto.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if p.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", p.token)
	}
	return p.conn.Invoke(ctx, "/etcdserverpb."+method, req, resp)
}

// ours applies the request.
func (p *pairing) ours(field int, req proto.Message) (proto.Message, error) {
	rev := p.r.m.Auth().Revision()
	if p.user == "" {
		rev = 0
	}
	res := p.r.apply(true, p.l.requestAs(field, req, p.user, rev))[0]
	if res.Fatal != nil {
		p.t.Fatalf("%v: %v", req, res.Fatal)
	}
	return res.Resp, res.Err
}

// refusedByAPI are errors that etcd gives before it proposes: rpc's affair.
var refusedByAPI = []error{api.ErrEmptyKey, api.ErrDuplicateKey, api.ErrValueProvided, api.ErrLeaseProvided, api.ErrTooManyOps, api.ErrInvalidSortOption}

// both runs a request and compares the answers.
func (p *pairing) both(method string, field int, req proto.Message, resp proto.Message) {
	p.t.Helper()
	p.done = append(p.done, fmt.Sprintf("%s %v", method, req))
	theirErr := p.theirs(method, req, resp)
	for _, e := range refusedByAPI {
		if status.Convert(theirErr).Message() == e.Error() {
			return
		}
	}
	var mine proto.Message
	var err error
	if r, ok := req.(*pb.RangeRequest); ok {
		res, e := p.r.m.KV().Range(rangeOptions(r))
		mine, err = rangeResponse(res), e
	} else if r, ok := req.(*pb.TxnRequest); ok && ReadOnly(r) {
		mine, err = p.readTxn(r)
	} else {
		mine, err = p.ours(field, req)
	}
	if show(theirErr) != show(err) {
		p.t.Errorf("%s %v:\netcd answers %s\nwe answer   %s", method, req, show(theirErr), show(err))
	} else if err == nil {
		clean(resp)
		if d := cmp.Diff(resp, mine, protocmp.Transform(), protocmp.IgnoreEmptyMessages(),
			protocmp.SortRepeated(func(a, b *pb.AlarmMember) bool { return compareAlarms(a, b) < 0 })); d != "" {
			p.t.Errorf("%s %v (-etcd +ours):\n%s", method, req, d)
		}
	}
	if p.t.Failed() {
		p.t.Fatalf("after\n%s", strings.Join(p.done[max(0, len(p.done)-4):], "\n"))
	}
}

func (p *pairing) readTxn(r *pb.TxnRequest) (proto.Message, error) {
	h := &pb.RequestHeader{Username: p.user, AuthRevision: p.r.m.Auth().Revision()}
	if _, err := p.r.m.mayTxn(h.Username, h.AuthRevision, r, false); err != nil {
		return nil, err
	}
	return p.r.m.ReadTxn(r)
}

func show(err error) string {
	if err == nil {
		return "ok"
	}
	return fmt.Sprintf("%s %q", status.Convert(err).Code(), status.Convert(err).Message())
}

// clean keeps of every header, nested ones too, what the machine fills.
func clean(m proto.Message) {
	var walk func(protoreflect.Message)
	walk = func(m protoreflect.Message) {
		if h, ok := m.Interface().(*pb.ResponseHeader); ok {
			h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
			return
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.Kind() != protoreflect.MessageKind:
			case f.IsList():
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
			default:
				walk(v.Message())
			}
			return true
		})
	}
	walk(m.ProtoReflect())
}

var keyNames = []string{"a", "ab", "b", "b/1", "b/2", "c", "d"}

func (p *pairing) key() []byte { return []byte(keyNames[p.rnd.Intn(len(keyNames))]) }

func (p *pairing) interval() (key, end []byte) {
	key = p.key()
	switch p.rnd.Intn(5) {
	case 0:
		end = []byte{0}
	case 1:
		if end = p.key(); p.user != "" && string(end) <= string(key) {
			end = nil // see auth: intervals the wrong way round
		}
	}
	return key, end
}

func (p *pairing) lease() int64 {
	return []int64{0, 0, 0, 1, 2, 3, 99}[p.rnd.Intn(7)]
}

func (p *pairing) revision() int64 {
	current, compacted := int64(20), int64(5)
	if p.r != nil {
		current, compacted = p.r.m.KV().Revision()
	}
	return []int64{0, 0, 0, 0, current, current + 1, compacted, compacted - 1, compacted + 1, max(1, current-2), -1, -5}[p.rnd.Intn(12)]
}

func (p *pairing) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: p.key(), Value: []byte(fmt.Sprint(p.rnd.Intn(5))), Lease: p.lease(), PrevKv: p.rnd.Intn(3) == 0}
	if p.rnd.Intn(6) == 0 {
		r.IgnoreValue, r.Value = true, nil
	}
	if p.rnd.Intn(6) == 0 {
		r.IgnoreLease, r.Lease = true, 0
	}
	return r
}

func (p *pairing) get() *pb.RangeRequest {
	r := &pb.RangeRequest{Revision: p.revision(), Limit: int64(p.rnd.Intn(4)), CountOnly: p.rnd.Intn(9) == 0}
	r.Key, r.RangeEnd = p.interval()
	if p.rnd.Intn(4) == 0 {
		r.SortTarget, r.SortOrder = pb.RangeRequest_SortTarget(2*p.rnd.Intn(2)), pb.RangeRequest_SortOrder(p.rnd.Intn(3))
	}
	if p.rnd.Intn(8) == 0 {
		r.MinModRevision, r.MaxCreateRevision = p.revision(), p.revision()
	}
	return r
}

func (p *pairing) del() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: p.rnd.Intn(2) == 0}
	r.Key, r.RangeEnd = p.interval()
	return r
}

func (p *pairing) compare() *pb.Compare {
	c := &pb.Compare{Result: pb.Compare_CompareResult(p.rnd.Intn(4)), Target: pb.Compare_CompareTarget(p.rnd.Intn(5))}
	c.Key, c.RangeEnd = p.interval()
	if p.rnd.Intn(20) == 0 {
		c.Result = 7
	}
	if p.rnd.Intn(20) == 0 {
		c.Target = 9
	}
	n := int64(p.rnd.Intn(4))
	switch p.rnd.Intn(8) {
	case 0: // unset
	case 1:
		c.TargetUnion = &pb.Compare_Version{Version: n}
	default:
		switch c.Target {
		case pb.Compare_VERSION:
			c.TargetUnion = &pb.Compare_Version{Version: n}
		case pb.Compare_CREATE:
			c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: p.revision()}
		case pb.Compare_MOD:
			c.TargetUnion = &pb.Compare_ModRevision{ModRevision: p.revision()}
		case pb.Compare_VALUE:
			c.TargetUnion = &pb.Compare_Value{Value: []byte(fmt.Sprint(n))}
		case pb.Compare_LEASE:
			c.TargetUnion = &pb.Compare_Lease{Lease: p.lease()}
		}
	}
	return c
}

func (p *pairing) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range p.rnd.Intn(3) {
		r.Compare = append(r.Compare, p.compare())
	}
	for range p.rnd.Intn(4) {
		r.Success = append(r.Success, p.op(depth))
	}
	for range p.rnd.Intn(4) {
		r.Failure = append(r.Failure, p.op(depth))
	}
	return r
}

func (p *pairing) op(depth int) *pb.RequestOp {
	switch n := p.rnd.Intn(8); {
	case n < 2:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p.put()}}
	case n < 3:
		r := p.del()
		if string(r.RangeEnd) == "\x00" {
			// etcd does not see that such a delete covers a put beside it, and dies of a
			// put that ignores the value of a key that is gone.
			r.RangeEnd = []byte("z")
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	case n < 5 && depth > 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: p.txn(depth - 1)}}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: p.get()}}
	}
}

// step is one random request.
func (p *pairing) step() {
	switch n := p.rnd.Intn(40); {
	case n < 8:
		p.both("KV/Put", api.FieldPut, p.put(), &pb.PutResponse{})
	case n < 12:
		p.both("KV/DeleteRange", api.FieldDeleteRange, p.del(), &pb.DeleteRangeResponse{})
	case n < 15 && p.user == "":
		p.both("KV/Range", api.FieldRange, p.get(), &pb.RangeResponse{})
	case n < 30:
		p.both("KV/Txn", api.FieldTxn, p.txn(2), &pb.TxnResponse{})
	case n < 33:
		ttl := []int64{0, -1, 100, 100, 9_000_000_000, 9_000_000_001}[p.rnd.Intn(6)]
		if ttl < 100 {
			ttl = 1000 // etcd would let it expire meanwhile
		}
		p.both("Lease/LeaseGrant", api.FieldLeaseGrant, &pb.LeaseGrantRequest{ID: 1 + int64(p.rnd.Intn(3)), TTL: ttl}, &pb.LeaseGrantResponse{})
	case n < 36:
		p.both("Lease/LeaseRevoke", api.FieldLeaseRevoke, &pb.LeaseRevokeRequest{ID: 1 + int64(p.rnd.Intn(4))}, &pb.LeaseRevokeResponse{})
	case n < 37 && p.user != "u": // etcd's API asks for root
		current, _ := p.r.m.KV().Revision()
		p.both("KV/Compact", api.FieldCompaction, &pb.CompactionRequest{Revision: current - int64(p.rnd.Intn(30)) + 1, Physical: true}, &pb.CompactionResponse{})
		for p.r.m.CompactStep(100) {
		}
	case n < 39 && p.user == "":
		r := &pb.AlarmRequest{Action: pb.AlarmRequest_AlarmAction(p.rnd.Intn(3)), MemberID: uint64(p.rnd.Intn(3)), Alarm: pb.AlarmType(p.rnd.Intn(3))}
		if r.Action == pb.AlarmRequest_ACTIVATE && p.rnd.Intn(3) > 0 {
			r.Action = pb.AlarmRequest_DEACTIVATE
		}
		p.both("Maintenance/Alarm", api.FieldAlarm, r, &pb.AlarmResponse{})
	}
}

// TestAgainstEtcd compares every answer to random requests, then the buckets.
func TestAgainstEtcd(t *testing.T) {
	p := newPairing(t, 11)
	for range 1500 {
		p.step()
	}
	p.calm()
	p.withUsers()
	for i := range 600 {
		if i%50 == 0 {
			p.as([]string{"root", "u"}[i/50%2])
		}
		p.step()
	}
	p.compareBuckets()
}

// calm clears all alarms.
func (p *pairing) calm() {
	for id := range uint64(3) {
		for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			p.both("Maintenance/Alarm", api.FieldAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: id, Alarm: kind}, &pb.AlarmResponse{})
		}
	}
}

// withUsers turns authentication on: user u may write [a, c) and read [a, d).
func (p *pairing) withUsers() {
	for _, u := range []string{"root", "u"} {
		p.both("Auth/UserAdd", api.FieldAuthUserAdd, &pb.AuthUserAddRequest{Name: u, Password: u}, &pb.AuthUserAddResponse{})
		p.both("Auth/RoleAdd", api.FieldAuthRoleAdd, &pb.AuthRoleAddRequest{Name: u}, &pb.AuthRoleAddResponse{})
		p.both("Auth/UserGrantRole", api.FieldAuthUserGrantRole, &pb.AuthUserGrantRoleRequest{User: u, Role: u}, &pb.AuthUserGrantRoleResponse{})
	}
	for _, perm := range []*authpb.Permission{
		{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b/1")},
		{PermType: authpb.READWRITE, Key: []byte("b/1"), RangeEnd: []byte("c")},
		{PermType: authpb.READ, Key: []byte("c")},
	} {
		p.both("Auth/RoleGrantPermission", api.FieldAuthRoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{Name: "u", Perm: perm}, &pb.AuthRoleGrantPermissionResponse{})
	}
	p.both("Auth/AuthEnable", api.FieldAuthEnable, &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{})
}

func (p *pairing) as(user string) {
	p.user, p.token = user, ""
	resp := &pb.AuthenticateResponse{}
	if err := p.theirs("Auth/Authenticate", &pb.AuthenticateRequest{Name: user, Password: user}, resp); err != nil {
		p.t.Fatal(err)
	}
	p.token = resp.Token
}

// compareBuckets compares, byte for byte, what does not name the member.
func (p *pairing) compareBuckets() {
	p.real.Stop()
	db, err := bbolt.Open(p.real.Dir+"/member/snap/db", 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var want, got strings.Builder
	for _, bucket := range []string{"key", "lease", "alarm"} {
		_ = db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
				fmt.Fprintf(&want, "%s %q = %q\n", bucket, k, v)
				return nil
			})
		})
	}
	for _, line := range strings.SplitAfter(p.r.dump(), "\n") {
		for _, bucket := range []string{"key ", "lease ", "alarm "} {
			if strings.HasPrefix(line, bucket) {
				got.WriteString(line)
			}
		}
	}
	if d := cmp.Diff(want.String(), got.String()); d != "" {
		p.t.Errorf("buckets (-etcd +ours):\n%s", d)
	}
}
