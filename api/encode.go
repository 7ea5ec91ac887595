package api

import (
	"strings"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Append appends the deterministic protobuf encoding of m to dst. Hot types are
// written by hand, without their unknown fields; all others go through protobuf.
// A string that is not UTF-8, which only data of an old member can have brought
// in, has its wrong bytes replaced.
func Append(dst []byte, m proto.Message) []byte {
	switch m := m.(type) {
	case *pb.PutResponse:
		return appendPutResponse(dst, m)
	case *pb.RangeResponse:
		return appendRangeResponse(dst, m)
	case *pb.DeleteRangeResponse:
		return appendDeleteResponse(dst, m)
	case *pb.TxnResponse:
		return appendTxnResponse(dst, m)
	case *pb.CompactionResponse:
		return appendHeaderField(dst, m.GetHeader())
	case *pb.LeaseRevokeResponse:
		return appendHeaderField(dst, m.GetHeader())
	case *pb.LeaseGrantResponse:
		if m.GetError() == "" {
			return appendIDTTL(dst, m.GetHeader(), m.GetID(), m.GetTTL())
		}
	case *pb.LeaseKeepAliveResponse:
		return appendIDTTL(dst, m.GetHeader(), m.GetID(), m.GetTTL())
	case *pb.ResponseHeader:
		return appendHeader(dst, m)
	case *mvccpb.KeyValue:
		return AppendKV(dst, m)
	case *pb.PutRequest:
		return appendPut(dst, m)
	case *pb.RangeRequest:
		return appendRange(dst, m)
	case *pb.DeleteRangeRequest:
		return appendDelete(dst, m)
	case *pb.TxnRequest:
		return appendTxn(dst, m)
	case *pb.CompactionRequest:
		return appendBool(appendUint(dst, 1, uint64(m.GetRevision())), 2, m.GetPhysical())
	case *pb.LeaseGrantRequest:
		return appendUint(appendUint(dst, 1, uint64(m.GetTTL())), 2, uint64(m.GetID()))
	case *pb.LeaseRevokeRequest:
		return appendUint(dst, 1, uint64(m.GetID()))
	case *pb.LeaseKeepAliveRequest:
		return appendUint(dst, 1, uint64(m.GetID()))
	}
	return appendCold(dst, m)
}

// Size returns the length in bytes of what Append appends. The types that are
// measured by hand are those whose size decides something: requests against the
// request limit, and the responses that nest.
func Size(m proto.Message) int {
	switch m := m.(type) {
	case *pb.PutResponse:
		return sizePutResponse(m)
	case *pb.RangeResponse:
		return sizeRangeResponse(m)
	case *pb.DeleteRangeResponse:
		return sizeDeleteResponse(m)
	case *pb.TxnResponse:
		return sizeTxnResponse(m)
	case *pb.ResponseHeader:
		return sizeHeader(m)
	case *mvccpb.KeyValue:
		return sizeKV(m)
	case *pb.PutRequest:
		return sizePut(m)
	case *pb.RangeRequest:
		return sizeRange(m)
	case *pb.DeleteRangeRequest:
		return sizeDelete(m)
	case *pb.TxnRequest:
		return sizeTxn(m)
	}
	return len(Append(nil, m))
}

func appendCold(dst []byte, m proto.Message) []byte {
	o := proto.MarshalOptions{Deterministic: true, AllowPartial: true}
	out, err := o.MarshalAppend(dst, m)
	if err != nil {
		m = proto.Clone(m)
		repairStrings(m.ProtoReflect())
		out, err = o.MarshalAppend(dst, m)
	}
	if err != nil {
		panic("encode " + string(m.ProtoReflect().Descriptor().Name()) + ": " + err.Error())
	}
	return out
}

// repairStrings makes every string of m valid UTF-8; etcd's messages have no maps.
func repairStrings(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			for l, i := v.List(), 0; i < l.Len(); i++ {
				l.Set(i, protoreflect.ValueOfString(validUTF8(l.Get(i).String())))
			}
		case f.IsList() && f.Message() != nil:
			for l, i := v.List(), 0; i < l.Len(); i++ {
				repairStrings(l.Get(i).Message())
			}
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(validUTF8(v.String())))
		case f.Message() != nil:
			repairStrings(v.Message())
		}
		return true
	})
}

func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func sizeHeader(m *pb.ResponseHeader) int {
	if m == nil {
		return 0
	}
	return sizeUint(1, m.ClusterId) + sizeUint(1, m.MemberId) + sizeUint(1, uint64(m.Revision)) + sizeUint(1, m.RaftTerm)
}

func appendHeader(dst []byte, m *pb.ResponseHeader) []byte {
	if m == nil {
		return dst
	}
	dst = appendUint(dst, 1, m.ClusterId)
	dst = appendUint(dst, 2, m.MemberId)
	dst = appendUint(dst, 3, uint64(m.Revision))
	return appendUint(dst, 4, m.RaftTerm)
}

// sizeHeaderField and appendHeaderField stand for field 1 of every response.
func sizeHeaderField(m *pb.ResponseHeader) int {
	if m == nil {
		return 0
	}
	return sizeNested(1, sizeHeader(m))
}

func appendHeaderField(dst []byte, m *pb.ResponseHeader) []byte {
	if m == nil {
		return dst
	}
	return appendHeader(appendLen(dst, 1, sizeHeader(m)), m)
}

func appendIDTTL(dst []byte, h *pb.ResponseHeader, id, ttl int64) []byte {
	dst = appendHeaderField(dst, h)
	dst = appendUint(dst, 2, uint64(id))
	return appendUint(dst, 3, uint64(ttl))
}

func sizeKV(m *mvccpb.KeyValue) int {
	if m == nil {
		return 0
	}
	return sizeBytes(1, len(m.Key)) + sizeUint(1, uint64(m.CreateRevision)) + sizeUint(1, uint64(m.ModRevision)) +
		sizeUint(1, uint64(m.Version)) + sizeBytes(1, len(m.Value)) + sizeUint(1, uint64(m.Lease))
}

// AppendKV appends the encoding of kv exactly as etcd stores it in bucket "key";
// the bytes are part of the hash that members compare.
func AppendKV(dst []byte, kv *mvccpb.KeyValue) []byte {
	if kv == nil {
		return dst
	}
	dst = appendBytes(dst, 1, kv.Key)
	dst = appendUint(dst, 2, uint64(kv.CreateRevision))
	dst = appendUint(dst, 3, uint64(kv.ModRevision))
	dst = appendUint(dst, 4, uint64(kv.Version))
	dst = appendBytes(dst, 5, kv.Value)
	return appendUint(dst, 6, uint64(kv.Lease))
}

func sizeKVs(kvs []*mvccpb.KeyValue) (n int) {
	for _, kv := range kvs {
		n += sizeNested(1, sizeKV(kv))
	}
	return n
}

func appendKVs(dst []byte, field byte, kvs []*mvccpb.KeyValue) []byte {
	for _, kv := range kvs {
		dst = AppendKV(appendLen(dst, field, sizeKV(kv)), kv)
	}
	return dst
}

func sizePutResponse(m *pb.PutResponse) int {
	n := sizeHeaderField(m.GetHeader())
	if kv := m.GetPrevKv(); kv != nil {
		n += sizeNested(1, sizeKV(kv))
	}
	return n
}

func appendPutResponse(dst []byte, m *pb.PutResponse) []byte {
	dst = appendHeaderField(dst, m.GetHeader())
	if kv := m.GetPrevKv(); kv != nil {
		dst = AppendKV(appendLen(dst, 2, sizeKV(kv)), kv)
	}
	return dst
}

func sizeRangeResponse(m *pb.RangeResponse) int {
	return sizeHeaderField(m.GetHeader()) + sizeKVs(m.GetKvs()) + sizeBool(1, m.GetMore()) + sizeUint(1, uint64(m.GetCount()))
}

func appendRangeResponse(dst []byte, m *pb.RangeResponse) []byte {
	dst = appendHeaderField(dst, m.GetHeader())
	dst = appendKVs(dst, 2, m.GetKvs())
	dst = appendBool(dst, 3, m.GetMore())
	return appendUint(dst, 4, uint64(m.GetCount()))
}

func sizeDeleteResponse(m *pb.DeleteRangeResponse) int {
	return sizeHeaderField(m.GetHeader()) + sizeUint(1, uint64(m.GetDeleted())) + sizeKVs(m.GetPrevKvs())
}

func appendDeleteResponse(dst []byte, m *pb.DeleteRangeResponse) []byte {
	dst = appendHeaderField(dst, m.GetHeader())
	dst = appendUint(dst, 2, uint64(m.GetDeleted()))
	return appendKVs(dst, 3, m.GetPrevKvs())
}

func sizeTxnResponse(m *pb.TxnResponse) int {
	n := sizeHeaderField(m.GetHeader()) + sizeBool(1, m.GetSucceeded())
	for _, op := range m.GetResponses() {
		n += sizeNested(1, sizeResponseOp(op))
	}
	return n
}

func appendTxnResponse(dst []byte, m *pb.TxnResponse) []byte {
	dst = appendHeaderField(dst, m.GetHeader())
	dst = appendBool(dst, 2, m.GetSucceeded())
	for _, op := range m.GetResponses() {
		dst = appendResponseOp(appendLen(dst, 3, sizeResponseOp(op)), op)
	}
	return dst
}

func sizeResponseOp(m *pb.ResponseOp) int {
	switch one := m.GetResponse().(type) {
	case *pb.ResponseOp_ResponseRange:
		return sizeNested(1, sizeRangeResponse(one.ResponseRange))
	case *pb.ResponseOp_ResponsePut:
		return sizeNested(1, sizePutResponse(one.ResponsePut))
	case *pb.ResponseOp_ResponseDeleteRange:
		return sizeNested(1, sizeDeleteResponse(one.ResponseDeleteRange))
	case *pb.ResponseOp_ResponseTxn:
		return sizeNested(1, sizeTxnResponse(one.ResponseTxn))
	}
	return 0
}

func appendResponseOp(dst []byte, m *pb.ResponseOp) []byte {
	switch one := m.GetResponse().(type) {
	case *pb.ResponseOp_ResponseRange:
		return appendRangeResponse(appendLen(dst, 1, sizeRangeResponse(one.ResponseRange)), one.ResponseRange)
	case *pb.ResponseOp_ResponsePut:
		return appendPutResponse(appendLen(dst, 2, sizePutResponse(one.ResponsePut)), one.ResponsePut)
	case *pb.ResponseOp_ResponseDeleteRange:
		return appendDeleteResponse(appendLen(dst, 3, sizeDeleteResponse(one.ResponseDeleteRange)), one.ResponseDeleteRange)
	case *pb.ResponseOp_ResponseTxn:
		return appendTxnResponse(appendLen(dst, 4, sizeTxnResponse(one.ResponseTxn)), one.ResponseTxn)
	}
	return dst
}
