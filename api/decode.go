package api

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Unmarshal parses b into m, which is reset first. Hot types are read by hand;
// all others go through proto.Unmarshal. Bytes fields of hot types alias b, so b
// must not change as long as m is in use. Unknown fields are dropped. After an
// error m holds nothing of use.
func Unmarshal(b []byte, m proto.Message) error {
	_, err := unmarshal(b, m)
	return err
}

// UnmarshalPlain is Unmarshal, and also reports whether b is plain: it holds
// fields of m only, each in its declared wire type, in ascending order, no
// singular field and no member of a oneof twice. Every version of etcd reads the
// same out of plain bytes, so they may become part of a raft entry as they are.
// Others must be encoded anew with [Append]: older decoders refuse or merge them
// differently, which ends those members or lets their data diverge.
func UnmarshalPlain(b []byte, m proto.Message) (plain bool, err error) {
	odd, err := unmarshal(b, m)
	return !odd && err == nil, err
}

func unmarshal(b []byte, m proto.Message) (odd bool, err error) {
	d := decoder{depth: maxDepth - 1}
	switch m := m.(type) {
	case *pb.PutRequest:
		m.Reset()
		err = d.put(b, m)
	case *pb.RangeRequest:
		m.Reset()
		err = d.rangeRequest(b, m)
	case *pb.DeleteRangeRequest:
		m.Reset()
		err = d.deleteRange(b, m)
	case *pb.TxnRequest:
		m.Reset()
		err = d.txn(b, m)
	case *pb.CompactionRequest:
		m.Reset()
		err = d.compaction(b, m)
	case *pb.LeaseGrantRequest:
		m.Reset()
		err = d.leaseGrant(b, m)
	case *pb.LeaseRevokeRequest:
		m.Reset()
		err = d.oneID(b, &m.ID)
	case *pb.LeaseKeepAliveRequest:
		m.Reset()
		err = d.oneID(b, &m.ID)
	case *pb.WatchRequest:
		m.Reset()
		err = d.watch(b, m)
	case *pb.InternalRaftRequest:
		d.depth = maxDepth
		m.Reset()
		err = d.internal(b, m)
	case *mvccpb.KeyValue:
		m.Reset()
		err = d.keyValue(b, m)
	default:
		return unmarshalCold(b, m)
	}
	if err != nil {
		return true, fmt.Errorf("decode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return d.odd, nil
}

// unmarshalCold takes bytes for odd unless encoding anew gives the same.
func unmarshalCold(b []byte, m proto.Message) (odd bool, err error) {
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return true, fmt.Errorf("decode %s: %w", m.ProtoReflect().Descriptor().Name(), errMalformed)
	}
	return !bytes.Equal(b, Append(nil, m)), nil
}

func (d *decoder) put(b []byte, m *pb.PutRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireBytes:
			m.Key = r.bytes()
		case 2<<3 | wireBytes:
			m.Value = r.bytes()
		case 3<<3 | wireVarint:
			m.Lease = int64(r.num)
		case 4<<3 | wireVarint:
			m.PrevKv = r.bool()
		case 5<<3 | wireVarint:
			m.IgnoreValue = r.bool()
		case 6<<3 | wireVarint:
			m.IgnoreLease = r.bool()
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

func (d *decoder) rangeRequest(b []byte, m *pb.RangeRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireBytes:
			m.Key = r.bytes()
		case 2<<3 | wireBytes:
			m.RangeEnd = r.bytes()
		case 3<<3 | wireVarint:
			m.Limit = int64(r.num)
		case 4<<3 | wireVarint:
			m.Revision = int64(r.num)
		case 5<<3 | wireVarint:
			m.SortOrder = pb.RangeRequest_SortOrder(r.num)
		case 6<<3 | wireVarint:
			m.SortTarget = pb.RangeRequest_SortTarget(r.num)
		case 7<<3 | wireVarint:
			m.Serializable = r.bool()
		case 8<<3 | wireVarint:
			m.KeysOnly = r.bool()
		case 9<<3 | wireVarint:
			m.CountOnly = r.bool()
		case 10<<3 | wireVarint:
			m.MinModRevision = int64(r.num)
		case 11<<3 | wireVarint:
			m.MaxModRevision = int64(r.num)
		case 12<<3 | wireVarint:
			m.MinCreateRevision = int64(r.num)
		case 13<<3 | wireVarint:
			m.MaxCreateRevision = int64(r.num)
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

func (d *decoder) deleteRange(b []byte, m *pb.DeleteRangeRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireBytes:
			m.Key = r.bytes()
		case 2<<3 | wireBytes:
			m.RangeEnd = r.bytes()
		case 3<<3 | wireVarint:
			m.PrevKv = r.bool()
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

func (d *decoder) compaction(b []byte, m *pb.CompactionRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireVarint:
			m.Revision = int64(r.num)
		case 2<<3 | wireVarint:
			m.Physical = r.bool()
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

func (d *decoder) leaseGrant(b []byte, m *pb.LeaseGrantRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireVarint:
			m.TTL = int64(r.num)
		case 2<<3 | wireVarint:
			m.ID = int64(r.num)
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

// oneID reads a message whose only field is an id in field 1.
func (d *decoder) oneID(b []byte, id *int64) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireVarint:
			*id = int64(r.num)
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

func (d *decoder) keyValue(b []byte, m *mvccpb.KeyValue) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireBytes:
			m.Key = r.bytes()
		case 2<<3 | wireVarint:
			m.CreateRevision = int64(r.num)
		case 3<<3 | wireVarint:
			m.ModRevision = int64(r.num)
		case 4<<3 | wireVarint:
			m.Version = int64(r.num)
		case 5<<3 | wireBytes:
			m.Value = r.bytes()
		case 6<<3 | wireVarint:
			m.Lease = int64(r.num)
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

// DecodeKV parses a stored KeyValue into kv, which is reset first; key and value
// alias b. An empty b is a KeyValue with an empty key, which restore tools write.
func DecodeKV(b []byte, kv *mvccpb.KeyValue) error {
	d := decoder{depth: 1}
	kv.Reset()
	if err := d.keyValue(b, kv); err != nil {
		return fmt.Errorf("decode KeyValue: %w", err)
	}
	return nil
}

func (d *decoder) watch(b []byte, m *pb.WatchRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		if m.RequestUnion != nil {
			r.odd = true
		}
		var err error
		switch r.tag {
		case 1<<3 | wireBytes:
			one, ok := m.RequestUnion.(*pb.WatchRequest_CreateRequest)
			if !ok {
				one = &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{}}
			}
			err = d.watchCreate(r.buf, one.CreateRequest)
			m.RequestUnion = one
		case 2<<3 | wireBytes:
			one, ok := m.RequestUnion.(*pb.WatchRequest_CancelRequest)
			if !ok {
				one = &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{}}
			}
			err = d.oneID(r.buf, &one.CancelRequest.WatchId)
			m.RequestUnion = one
		case 3<<3 | wireBytes:
			one, ok := m.RequestUnion.(*pb.WatchRequest_ProgressRequest)
			if !ok {
				one = &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}
			}
			err = d.empty(r.buf)
			m.RequestUnion = one
		default:
			r.unknown()
		}
		if err != nil {
			return err
		}
	}
	return d.leave(&r)
}

func (d *decoder) watchCreate(b []byte, m *pb.WatchCreateRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireBytes:
			m.Key = r.bytes()
		case 2<<3 | wireBytes:
			m.RangeEnd = r.bytes()
		case 3<<3 | wireVarint:
			m.StartRevision = int64(r.num)
		case 4<<3 | wireVarint:
			m.ProgressNotify = r.bool()
		case 5<<3 | wireVarint:
			r.repeated()
			m.Filters = append(m.Filters, pb.WatchCreateRequest_FilterType(r.num))
		case 5<<3 | wireBytes:
			r.repeated()
			for packed := r.buf; len(packed) > 0; {
				v, n := varint(packed)
				if n == 0 {
					return errMalformed
				}
				m.Filters = append(m.Filters, pb.WatchCreateRequest_FilterType(v))
				packed = packed[n:]
			}
		case 6<<3 | wireVarint:
			m.PrevKv = r.bool()
		case 7<<3 | wireVarint:
			m.WatchId = int64(r.num)
		case 8<<3 | wireVarint:
			m.Fragment = r.bool()
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

// empty reads a message that has no fields.
func (d *decoder) empty(b []byte) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		r.unknown()
	}
	return d.leave(&r)
}

func (d *decoder) header(b []byte, m *pb.RequestHeader) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireVarint:
			m.ID = r.num
		case 2<<3 | wireBytes:
			if !utf8.Valid(r.buf) {
				return errMalformed
			}
			m.Username = string(r.buf)
		case 3<<3 | wireVarint:
			m.AuthRevision = r.num
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}
