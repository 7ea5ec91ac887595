package rpc

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/internal/h2"
	"theseus/server"
)

// mutate changes some bytes of an encoded message.
func mutate(rnd *rand.Rand, b []byte) []byte {
	out := append([]byte{}, b...)
	for range rnd.IntN(4) {
		switch n := rnd.IntN(3); {
		case n == 0 && len(out) > 0:
			out[rnd.IntN(len(out))] = byte(rnd.Uint32())
		case n == 1 && len(out) > 0:
			out = out[:rnd.IntN(len(out))]
		default:
			out = append(out, byte(rnd.Uint32()))
		}
	}
	return out
}

// seeds are good messages to begin from, for the methods where they mean much.
func seeds() [][]byte {
	k := []byte("k")
	var out [][]byte
	for _, m := range []proto.Message{
		&pb.PutRequest{Key: k, Value: k, Lease: 1, PrevKv: true},
		&pb.RangeRequest{Key: k, RangeEnd: []byte("z"), Limit: 3, Revision: 2, SortOrder: 1, SortTarget: 2},
		&pb.TxnRequest{Compare: compares(2), Success: ops{put("a"), del("b", "c"), txnOp(ops{get("d")}, nil)}, Failure: ops{get("x")}},
		&pb.LeaseGrantRequest{ID: 3, TTL: 10},
		&pb.MemberAddRequest{PeerURLs: []string{"http://a:1"}, IsLearner: true},
		&pb.AuthUserAddRequest{Name: "u", Password: "p"},
		&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: k, StartRevision: 1, PrevKv: true}}},
	} {
		b, _ := proto.Marshal(m)
		out = append(out, b)
	}
	return append(out, nil, []byte{0xff})
}

// harmful methods would end or change the member under the test.
var harmful = []string{"MemberAdd", "MemberRemove", "MemberUpdate", "MemberPromote", "MoveLeader", "AuthEnable", "Downgrade", "/Lock", "Campaign", "Alarm"}

// Every method gets every kind of nonsense: no answer may come from a panic, and
// the member must serve on. member.stop looks for panics.
func TestNonsense(t *testing.T) {
	m := newMember(t, func(so *server.Options, _ *Options) { so.BcryptCost = 4 })
	cc, rnd := m.conn(), rand.New(rand.NewPCG(5, 6))
	var methods []*h2.Method
	m.front.h2.Methods(func(x *h2.Method) {
		for _, name := range harmful {
			if strings.HasSuffix(x.Path, name) {
				return
			}
		}
		methods = append(methods, x)
	})
	if len(methods) < 40 {
		t.Fatalf("%d methods", len(methods))
	}
	all := seeds()
	for _, x := range methods {
		for range 15 {
			b := mutate(rnd, all[rnd.IntN(len(all))])
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			var err error
			if x.Type() == "unary" {
				var out []byte
				err = cc.Invoke(ctx, x.Path, b, &out, grpc.ForceCodec(rawCodec{}))
			} else if x.Type() == "bidi_stream" {
				err = say(ctx, cc, x.Path, b, all[rnd.IntN(len(all))])
			} else {
				err = say(ctx, cc, x.Path, b)
			}
			cancel()
			if st := status.Convert(err); st.Code() == codes.Internal && !strings.Contains(st.Message(), "unmarshal") {
				t.Errorf("%s %x: %v", x.Path, b, err)
			}
		}
	}
	if _, err := m.client().Put(short10(t), "a", "still here"); err != nil {
		t.Fatal(err)
	}
}

// say sends messages to a stream and reads a few answers.
func say(ctx context.Context, cc *grpc.ClientConn, path string, msgs ...[]byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	for _, b := range msgs {
		if st.SendMsg(b) != nil {
			break
		}
	}
	st.CloseSend()
	time.AfterFunc(20*time.Millisecond, cancel)
	for range 3 {
		var out []byte
		if err := st.RecvMsg(&out); err != nil {
			return err
		}
	}
	return nil
}

// A member without a leader: who requires one is told at once, local reads work.
func TestNoLeader(t *testing.T) {
	m := newMember(t, func(so *server.Options, _ *Options) {
		so.InitialCluster = map[string][]string{"one": so.PeerURLs, "two": {"http://127.0.0.1:3"}}
	})
	kv, ctx := pb.NewKVClient(m.conn()), metadata.AppendToOutgoingContext(short10(t), "hasleader", "true")
	_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
	checkStatus(t, err, codes.Unavailable, "etcdserver: no leader")
	_, err = m.watchStream(ctx).Recv()
	checkStatus(t, err, codes.Unavailable, "etcdserver: no leader")
	if _, err := kv.Range(short10(t), &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err != nil {
		t.Fatal(err)
	}
	// Streams that began with a leader end when it stays away.
	st := m.watchStream(short10(t))
	st.Send(create(&pb.WatchCreateRequest{Key: []byte("a")}))
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	m.front.streams.interrupt(api.ErrNoLeader, true)
	m.front.streams.mu.Lock()
	for s := range m.front.streams.all {
		m.front.streams.all[s] = true
	}
	m.front.streams.mu.Unlock()
	_, err = st.Recv()
	checkStatus(t, err, codes.Unavailable, "etcdserver: no leader")
}

// A client version that is no text is refused, and odd ones do not fill the registry.
func TestClientVersions(t *testing.T) {
	m := newMember(t, nil)
	if err := m.front.admit(unaryRequest, false, "3.\xff", ""); err != api.ErrInvalidClientAPIVersion {
		t.Error(err)
	}
	for i := range 3 * maxVersions {
		if err := m.front.admit(unaryRequest, false, strings.Repeat("v", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(*m.front.metrics.versions.Load()); n > maxVersions+1 {
		t.Errorf("%d versions are kept", n)
	}
	families, _ := m.reg.Gather()
	for _, f := range families {
		if f.GetName() == "etcd_server_client_requests_total" && len(f.Metric) > 2*(maxVersions+1) {
			t.Errorf("%d series", len(f.Metric))
		}
	}
}

// Shutdown with open streams takes no time.
func TestShutdownWithStreams(t *testing.T) {
	m := newMember(t, nil)
	ctx := short10(t)
	for range 20 {
		st := m.watchStream(ctx)
		st.Send(create(&pb.WatchCreateRequest{Key: []byte("a")}))
		if _, err := st.Recv(); err != nil {
			t.Fatal(err)
		}
		if _, err := pb.NewLeaseClient(m.conn()).LeaseKeepAlive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	m.stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// FuzzTxn decodes and checks: never a panic, and what passes is what a look at every
// pair of operations lets pass.
func FuzzTxn(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r pb.TxnRequest
		if api.Unmarshal(b, &r) != nil {
			return
		}
		err := checkTxn(&r, 128)
		if err != nil && err != api.ErrDuplicateKey {
			return // refused before conflicts are looked for
		}
		then, ok := paths(r.Success)
		otherwise, fine := paths(r.Failure)
		if !ok || !fine {
			return // too many for a dumb look
		}
		if want := dumbConflict(r.Success) || dumbConflict(r.Failure) || dumbKeeps(then) || dumbKeeps(otherwise); want != (err != nil) {
			t.Errorf("%v: %v, but conflict %v", &r, err, want)
		}
	})
}

// paths are all the ways in which operations can be done: one list for each choice of
// branches; false if there are very many.
func paths(list ops) ([]ops, bool) {
	all := []ops{nil}
	for _, op := range list {
		next := []ops{{op}}
		if t := op.GetRequestTxn(); t != nil {
			then, ok := paths(t.Success)
			otherwise, fine := paths(t.Failure)
			if next = append(then, otherwise...); !ok || !fine || len(next)*len(all) > 1000 {
				return nil, false
			}
		}
		var longer []ops
		for _, a := range all {
			for _, b := range next {
				longer = append(longer, append(slices.Clip(a), b...))
			}
		}
		all = longer
	}
	return all, true
}

// dumbKeeps looks for a put that keeps what a delete "from this key on" has deleted.
func dumbKeeps(all []ops) bool {
	for _, path := range all {
		for i, op := range path {
			p := op.GetRequestPut()
			if p == nil || !p.IgnoreValue && !p.IgnoreLease {
				continue
			}
			for _, before := range path[:i] {
				if d := before.GetRequestDeleteRange(); d != nil && string(d.RangeEnd) == "\x00" && string(p.Key) >= string(d.Key) {
					return true
				}
			}
		}
	}
	return false
}

// dumbConflict is changesOf without sets: it collects puts and deletes in lists.
func dumbConflict(list ops) bool { _, _, bad := dumbChanges(list); return bad }

type span struct{ key, end string }

func (s span) has(k string) bool {
	if s.end == "" {
		return k == s.key
	}
	return s.key <= k && k < s.end
}

func dumbChanges(list ops) (puts []string, dels []span, bad bool) {
	hit := func(k string) bool {
		for _, d := range dels {
			if d.has(k) {
				return true
			}
		}
		return false
	}
	has := func(in []string, k string) bool {
		for _, p := range in {
			if p == k {
				return true
			}
		}
		return false
	}
	for _, op := range list {
		if d := op.GetRequestDeleteRange(); d != nil {
			dels = append(dels, span{string(d.Key), string(d.RangeEnd)})
		}
	}
	for _, op := range list {
		x := op.GetRequestTxn()
		if x == nil {
			continue
		}
		p1, d1, bad1 := dumbChanges(x.Success)
		p2, d2, bad2 := dumbChanges(x.Failure)
		bad = bad || bad1 || bad2
		for _, k := range p1 {
			bad = bad || has(puts, k) || hit(k)
		}
		for _, k := range p2 {
			bad = bad || (has(puts, k) && !has(p1, k)) || hit(k)
		}
		puts, dels = append(append(puts, p1...), p2...), append(append(dels, d1...), d2...)
	}
	for _, op := range list {
		if p := op.GetRequestPut(); p != nil {
			bad = bad || has(puts, string(p.Key)) || hit(string(p.Key))
			puts = append(puts, string(p.Key))
		}
	}
	return puts, dels, bad
}
