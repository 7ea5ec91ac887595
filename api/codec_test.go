package api

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// decoded are the types that Unmarshal reads by hand, and one that it does not.
var decoded = []proto.Message{
	&pb.PutRequest{}, &pb.RangeRequest{}, &pb.DeleteRangeRequest{}, &pb.TxnRequest{}, &pb.CompactionRequest{},
	&pb.LeaseGrantRequest{}, &pb.LeaseRevokeRequest{}, &pb.LeaseKeepAliveRequest{}, &pb.WatchRequest{},
	&pb.InternalRaftRequest{}, &mvccpb.KeyValue{}, &pb.AlarmRequest{},
}

// encoded are the types that Append writes by hand, and one that it does not.
var encoded = []proto.Message{
	&pb.PutResponse{}, &pb.RangeResponse{}, &pb.DeleteRangeResponse{}, &pb.TxnResponse{}, &pb.CompactionResponse{},
	&pb.LeaseRevokeResponse{}, &pb.LeaseGrantResponse{}, &pb.LeaseKeepAliveResponse{}, &pb.ResponseHeader{}, &mvccpb.KeyValue{},
	&pb.PutRequest{}, &pb.RangeRequest{}, &pb.DeleteRangeRequest{}, &pb.TxnRequest{}, &pb.CompactionRequest{},
	&pb.LeaseGrantRequest{}, &pb.LeaseRevokeRequest{}, &pb.LeaseKeepAliveRequest{}, &pb.AuthRoleListResponse{},
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

// fill sets about half of m's fields to random values, edge cases preferred.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if r.IntN(2) == 0 || f.Message() != nil && depth == 0 {
			continue
		}
		switch {
		case f.IsList() && f.Message() != nil:
			for l := m.Mutable(f).List(); r.IntN(3) > 0; {
				fill(r, l.AppendMutable().Message(), depth-1)
			}
		case f.IsList():
			for l := m.Mutable(f).List(); r.IntN(3) > 0; {
				l.Append(scalar(r, f))
			}
		case f.Message() != nil:
			fill(r, m.Mutable(f).Message(), depth-1)
		default:
			m.Set(f, scalar(r, f))
		}
	}
}

func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	n := []uint64{0, 1, 127, 128, math.MaxInt64, 1 << 63, math.MaxUint64, r.Uint64() >> r.IntN(64)}[r.IntN(8)]
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(n)))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.Repeat("é", r.IntN(4)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(bytes.Repeat([]byte{byte(n)}, []int{0, 1, 5, 127, 128, 300}[r.IntN(6)]))
	}
	panic("a kind that etcd's messages do not have: " + f.Kind().String())
}

func TestAppendAgainstProto(t *testing.T) {
	for _, kind := range encoded {
		t.Run(string(kind.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			r := source(1)
			for range 500 {
				m := kind.ProtoReflect().New().Interface()
				fill(r, m.ProtoReflect(), 5)
				want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				got := Append([]byte("x"), m)
				if !bytes.Equal(got[1:], want) || got[0] != 'x' {
					t.Fatalf("Append gives %x\nproto gives  %x\nfor %v", got[1:], want, m)
				}
				if n := Size(m); n != len(want) {
					t.Fatalf("Size gives %d, want %d, for %v", n, len(want), m)
				}
			}
		})
	}
}

func TestAppendNilParts(t *testing.T) {
	for _, m := range []proto.Message{
		(*pb.PutResponse)(nil), (*pb.PutRequest)(nil), (*pb.RangeRequest)(nil), (*mvccpb.KeyValue)(nil), (*pb.TxnRequest)(nil),
		(*pb.TxnResponse)(nil), (*pb.ResponseHeader)(nil), (*pb.LeaseGrantResponse)(nil), (*pb.CompactionResponse)(nil),
		&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{nil, {Key: []byte("a")}}},
		&pb.TxnRequest{Compare: []*pb.Compare{nil}, Success: []*pb.RequestOp{nil, {}}},
		&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{}}, {Request: &pb.RequestOp_RequestTxn{}}}},
		&pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{}}, {Request: &pb.RequestOp_RequestDeleteRange{}}}},
		&pb.TxnResponse{Responses: []*pb.ResponseOp{nil, {}, {Response: &pb.ResponseOp_ResponsePut{}}, {Response: &pb.ResponseOp_ResponseTxn{}}}},
		&pb.TxnResponse{Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{}}, {Response: &pb.ResponseOp_ResponseDeleteRange{}}}},
	} {
		want, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := Append(nil, m); !bytes.Equal(got, want) || Size(m) != len(want) {
			t.Errorf("%T %v: Append gives %x, size %d; proto gives %x", m, m, got, Size(m), want)
		}
	}
}

func TestAppendRepairsStrings(t *testing.T) {
	m := &pb.AuthUserListResponse{Header: &pb.ResponseHeader{Revision: 3}, Users: []string{"ok", "b\xffd"}}
	var got pb.AuthUserListResponse
	if err := proto.Unmarshal(Append(nil, m), &got); err != nil {
		t.Fatal(err)
	}
	if got.Users[0] != "ok" || got.Users[1] != "b\uFFFDd" || m.Users[1] != "b\xffd" {
		t.Errorf("decoded %q, and the message itself is now %q", got.Users, m.Users)
	}
}

// agree checks that Unmarshal reads b as protobuf does, and that what it calls
// plain is what protobuf would write.
func agree(t *testing.T, kind proto.Message, b []byte) {
	t.Helper()
	want, got := kind.ProtoReflect().New().Interface(), kind.ProtoReflect().New().Interface()
	wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, want)
	plain, err := UnmarshalPlain(bytes.Clone(b), got)
	name := kind.ProtoReflect().Descriptor().Name()
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("%s %x: error %v, protobuf's %v", name, b, err, wantErr)
	}
	if err != nil {
		return
	}
	if !proto.Equal(got, want) {
		t.Fatalf("%s %x: read as %v\nprotobuf reads  %v", name, b, got, want)
	}
	if len(got.ProtoReflect().GetUnknown()) > 0 {
		t.Fatalf("%s %x: unknown fields are kept", name, b)
	}
	if !plain {
		return
	}
	strict := kind.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, strict); err != nil || !proto.Equal(strict, want) {
		t.Fatalf("%s %x: plain, but protobuf finds unknown fields in it: %v", name, b, strict)
	}
}

func TestUnmarshalAgainstProto(t *testing.T) {
	for _, kind := range decoded {
		t.Run(string(kind.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			r := source(2)
			for range 500 {
				m := kind.ProtoReflect().New().Interface()
				fill(r, m.ProtoReflect(), 5)
				b := Append(nil, m)
				agree(t, kind, b)
				cold := kind.ProtoReflect().Descriptor().Name() == "InternalRaftRequest"
				if plain, err := UnmarshalPlain(b, m); !cold && (!plain || err != nil) {
					t.Fatalf("%x: what Append wrote is not plain: %v", b, err)
				}
			}
		})
	}
}

// garble returns wire bytes that are mostly fields of the message: known numbers
// with right and wrong wire types, repeated, out of order, unknown ones, groups.
func garble(r *rand.Rand, d protoreflect.MessageDescriptor, depth int) []byte {
	var b []byte
	fields := d.Fields()
	for range r.IntN(6) {
		num, typ := protowire.Number(1+r.IntN(120)), protowire.Type(r.IntN(6))
		var f protoreflect.FieldDescriptor
		if n := fields.Len(); n > 0 && r.IntN(8) > 0 {
			f = fields.Get(r.IntN(min(n, 12)))
			num = f.Number()
			if r.IntN(8) > 0 {
				typ = protowire.BytesType
				if f.Kind() != protoreflect.BytesKind && f.Kind() != protoreflect.StringKind && f.Message() == nil {
					typ = protowire.VarintType
				}
			}
		}
		b = protowire.AppendTag(b, num, typ)
		switch typ {
		case protowire.VarintType:
			b = protowire.AppendVarint(b, r.Uint64()>>r.IntN(64))
		case protowire.Fixed32Type:
			b = protowire.AppendFixed32(b, r.Uint32())
		case protowire.Fixed64Type:
			b = protowire.AppendFixed64(b, r.Uint64())
		case protowire.BytesType:
			v := []byte("\xff\x01a")[r.IntN(3):]
			if f != nil && f.Message() != nil && depth > 0 {
				v = garble(r, f.Message(), depth-1)
			}
			b = protowire.AppendBytes(b, v)
		case protowire.StartGroupType:
			b = protowire.AppendGroup(b, num, []byte{0x08, 0x01})
		}
	}
	if len(b) > 0 && r.IntN(10) == 0 {
		b[r.IntN(len(b))] = byte(r.Uint32())
	}
	return b[:len(b)-min(len(b), r.IntN(20)/19)]
}

func TestUnmarshalGarbled(t *testing.T) {
	for _, kind := range decoded {
		t.Run(string(kind.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			r := source(3)
			sound := 0
			for range 5000 {
				b := garble(r, kind.ProtoReflect().Descriptor(), 4)
				agree(t, kind, b)
				if UnmarshalErr(b, kind) == nil {
					sound++
				}
			}
			if sound < 500 {
				t.Errorf("only %d of the garbled messages parse: the test has lost its teeth", sound)
			}
		})
	}
}

// UnmarshalErr parses b as kind and returns the error only.
func UnmarshalErr(b []byte, kind proto.Message) error {
	return Unmarshal(b, kind.ProtoReflect().New().Interface())
}

func TestPlain(t *testing.T) {
	put := func(b ...byte) []byte { return b }
	for _, tt := range []struct {
		name  string
		b     []byte
		plain bool
	}{
		{"empty", nil, true},
		{"key and value", put(0x0a, 1, 'k', 0x12, 1, 'v'), true},
		{"explicit zero lease", put(0x0a, 1, 'k', 0x18, 0), true},
		{"out of order", put(0x12, 1, 'v', 0x0a, 1, 'k'), false},
		{"key twice", put(0x0a, 1, 'k', 0x0a, 1, 'k'), false},
		{"last field twice", put(0x30, 1, 0x30, 1), false},
		{"unknown field", put(0x0a, 1, 'k', 0x38, 1), false},
		{"key as varint", put(0x08, 1), false},
		{"lease as fixed64", put(0x19, 1, 0, 0, 0, 0, 0, 0, 0), false},
		{"group", put(0x3b, 0x3c), false},
	} {
		if plain, err := UnmarshalPlain(tt.b, &pb.PutRequest{}); plain != tt.plain || err != nil {
			t.Errorf("%s: plain = %v, %v", tt.name, plain, err)
		}
	}
	two := func(a, b *pb.RequestOp) []byte {
		op := append(Append(nil, &pb.TxnRequest{Success: []*pb.RequestOp{a}})[2:], Append(nil, &pb.TxnRequest{Success: []*pb.RequestOp{b}})[2:]...)
		return append([]byte{0x12, byte(len(op))}, op...)
	}
	rng := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}}
	for _, b := range [][]byte{two(rng, del), two(rng, rng), two(del, rng)} {
		agree(t, &pb.TxnRequest{}, b)
		if plain, err := UnmarshalPlain(b, &pb.TxnRequest{}); plain || err != nil {
			t.Errorf("a request of two kinds: plain = %v, %v", plain, err)
		}
	}
}

func nested(levels int) []byte {
	var b []byte
	for range levels - 1 { // a txn within an op within a txn …
		op := protowire.AppendBytes([]byte{0x22}, b)
		b = protowire.AppendBytes([]byte{0x12}, op)
	}
	return b
}

func TestDepthLimit(t *testing.T) {
	half := maxDepth / 2
	for _, tt := range []struct {
		name   string
		levels int
		ok     bool
	}{{"a request at its limit", half, true}, {"a request above it", half + 1, false}} {
		b := nested(tt.levels)
		if err := Unmarshal(b, &pb.TxnRequest{}); (err == nil) != tt.ok {
			t.Errorf("%s (%d txns): %v", tt.name, tt.levels, err)
		}
		entry := AppendInternal(nil, FieldTxn, b, &pb.RequestHeader{ID: 1})
		err, theirs := Unmarshal(entry, &pb.InternalRaftRequest{}), proto.Unmarshal(entry, &pb.InternalRaftRequest{})
		if (err == nil) != (theirs == nil) || tt.ok && err != nil {
			t.Errorf("%s as a raft entry: %v, protobuf's %v", tt.name, err, theirs)
		}
	}
	if err := Unmarshal(bytes.Repeat([]byte{0x3b}, 1<<20), &pb.PutRequest{}); err == nil {
		t.Error("a million open groups were read")
	}
}

func TestUnmarshalAliases(t *testing.T) {
	b := Append(nil, &pb.PutRequest{Key: []byte("key"), Value: []byte("value")})
	var m pb.PutRequest
	if err := Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	b[2] = 'K'
	if string(m.Key) != "Key" {
		t.Error("the key is a copy")
	}
	if m.Key = append(m.Key, '!'); b[5] == '!' {
		t.Error("appending to the key writes into the message")
	}
}

func TestUnmarshalResets(t *testing.T) {
	for _, kind := range decoded {
		m := kind.ProtoReflect().New().Interface()
		fill(source(4), m.ProtoReflect(), 3)
		if err := Unmarshal(nil, m); err != nil || proto.Size(m) != 0 {
			t.Errorf("%T: after reading nothing it holds %v (%v)", m, m, err)
		}
	}
}

func TestAssemble(t *testing.T) {
	r := source(5)
	for range 500 {
		m := &pb.RangeResponse{}
		fill(r, m.ProtoReflect(), 3)
		var kvs [][]byte
		for _, kv := range m.Kvs {
			kvs = append(kvs, AppendKV(nil, kv))
		}
		want := Append(nil, m)
		if got := AppendRangeResponse(nil, m.Header, kvs, m.More, m.Count); !bytes.Equal(got, want) {
			t.Fatalf("AppendRangeResponse gives %x, want %x", got, want)
		}
		if n := SizeRangeResponse(m.Header, kvs, m.More, m.Count); n != len(want) {
			t.Fatalf("SizeRangeResponse gives %d, want %d", n, len(want))
		}
	}
}

func TestAssembleWatch(t *testing.T) {
	r := source(6)
	for range 500 {
		m := &pb.WatchResponse{}
		fill(r, m.ProtoReflect(), 3)
		got := AppendHeader(nil, m.Header)
		got = AppendWatchHead(got, &WatchHead{m.WatchId, m.Created, m.Canceled, m.CompactRevision, m.CancelReason, m.Fragment})
		for _, e := range m.Events {
			e.Type &= 1
			if e.Kv == nil {
				e.Kv = &mvccpb.KeyValue{} // there is no event without one
			}
			var prev []byte
			if e.PrevKv != nil {
				prev = append([]byte{}, AppendKV(nil, e.PrevKv)...)
			}
			kv, at := AppendKV(nil, e.Kv), len(got)
			got = AppendEvent(got, e.Type == mvccpb.DELETE, kv, prev)
			if n := SizeEvent(e.Type == mvccpb.DELETE, kv, prev); n != len(got)-at {
				t.Fatalf("SizeEvent gives %d, want %d", n, len(got)-at)
			}
		}
		if want := Append(nil, m); !bytes.Equal(got, want) {
			t.Fatalf("assembled %x\nwant      %x", got, want)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	r := source(8)
	for i, kind := range decoded {
		m := kind.ProtoReflect().New().Interface()
		fill(r, m.ProtoReflect(), 4)
		f.Add(i, Append(nil, m))
		f.Add(i, garble(r, kind.ProtoReflect().Descriptor(), 4))
	}
	f.Fuzz(func(t *testing.T, i int, b []byte) {
		if i < 0 || i >= len(decoded) {
			return
		}
		agree(t, decoded[i], b)
	})
}

func benchTxn() *pb.TxnRequest {
	key := []byte("/registry/pods/default/a-pod-with-a-name")
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{Target: pb.Compare_MOD, Key: key, TargetUnion: &pb.Compare_ModRevision{ModRevision: 123456}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: make([]byte, 1024)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	put := &pb.PutRequest{Key: []byte("foo/bar/baz"), Value: make([]byte, 256)}
	entry := AppendInternal(nil, FieldPut, Append(nil, put), &pb.RequestHeader{ID: 9190899047449383940})
	for _, bb := range []struct {
		name string
		m    proto.Message
		b    []byte
	}{
		{"put", &pb.PutRequest{}, Append(nil, put)},
		{"range", &pb.RangeRequest{}, Append(nil, &pb.RangeRequest{Key: []byte("foo/bar/baz"), Limit: 500})},
		{"txn", &pb.TxnRequest{}, Append(nil, benchTxn())},
		{"entry", &pb.InternalRaftRequest{}, entry},
	} {
		b.Run(bb.name+"/ours", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Unmarshal(bb.b, bb.m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bb.name+"/proto", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := proto.Unmarshal(bb.b, bb.m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	h := &pb.ResponseHeader{ClusterId: math.MaxUint64, MemberId: math.MaxUint64 / 3, Revision: 123456, RaftTerm: 3}
	kv := &mvccpb.KeyValue{Key: []byte("foo/bar/baz"), CreateRevision: 1234, ModRevision: 123456, Version: 9, Value: make([]byte, 256)}
	for _, m := range []proto.Message{
		&pb.PutResponse{Header: h}, &pb.RangeResponse{Header: h, Kvs: []*mvccpb.KeyValue{kv}, Count: 1},
		&pb.TxnResponse{Header: h, Succeeded: true, Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 123456}}}}}},
	} {
		buf := make([]byte, 0, 4096)
		b.Run(fmt.Sprintf("%s/ours", m.ProtoReflect().Descriptor().Name()), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf = Append(buf[:0], m)
			}
		})
		b.Run(fmt.Sprintf("%s/proto", m.ProtoReflect().Descriptor().Name()), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = proto.MarshalOptions{}.MarshalAppend(buf[:0], m)
			}
		})
	}
}
