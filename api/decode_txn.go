package api

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func (d *decoder) txn(b []byte, m *pb.TxnRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		switch r.tag {
		case 1<<3 | wireBytes:
			r.repeated()
			c, err := d.compare(r.buf)
			if err != nil {
				return err
			}
			m.Compare = append(m.Compare, c)
		case 2<<3 | wireBytes:
			r.repeated()
			op, err := d.op(r.buf)
			if err != nil {
				return err
			}
			m.Success = append(m.Success, op)
		case 3<<3 | wireBytes:
			r.repeated()
			op, err := d.op(r.buf)
			if err != nil {
				return err
			}
			m.Failure = append(m.Failure, op)
		default:
			r.unknown()
		}
	}
	return d.leave(&r)
}

// compareBox holds a Compare and whichever of its oneof's wrappers it needs, so
// that both come in one allocation.
type compareBox struct {
	compare pb.Compare
	version pb.Compare_Version
	create  pb.Compare_CreateRevision
	mod     pb.Compare_ModRevision
	value   pb.Compare_Value
	lease   pb.Compare_Lease
}

func (d *decoder) compare(b []byte) (*pb.Compare, error) {
	r, ok := d.enter(b)
	if !ok {
		return nil, errMalformed
	}
	box := new(compareBox)
	m := &box.compare
	for r.next() {
		switch r.tag {
		case 1<<3 | wireVarint:
			m.Result = pb.Compare_CompareResult(r.num)
		case 2<<3 | wireVarint:
			m.Target = pb.Compare_CompareTarget(r.num)
		case 3<<3 | wireBytes:
			m.Key = r.bytes()
		case 4<<3 | wireVarint, 5<<3 | wireVarint, 6<<3 | wireVarint, 7<<3 | wireBytes, 8<<3 | wireVarint:
			if m.TargetUnion != nil {
				r.odd = true
			}
			r.mayFollow(64) // Go's protobuf writes a oneof after all other fields
			box.setTarget(&r)
		case 64<<3 | wireBytes:
			m.RangeEnd = r.bytes()
		default:
			r.unknown()
		}
	}
	return m, d.leave(&r)
}

func (x *compareBox) setTarget(r *reader) {
	switch r.tag >> 3 {
	case 4:
		x.version.Version = int64(r.num)
		x.compare.TargetUnion = &x.version
	case 5:
		x.create.CreateRevision = int64(r.num)
		x.compare.TargetUnion = &x.create
	case 6:
		x.mod.ModRevision = int64(r.num)
		x.compare.TargetUnion = &x.mod
	case 7:
		// A member of a oneof is there even when it is empty, hence not nil.
		x.value.Value = r.buf
		x.compare.TargetUnion = &x.value
	case 8:
		x.lease.Lease = int64(r.num)
		x.compare.TargetUnion = &x.lease
	}
}

// The boxes hold an operation, its oneof's wrapper and the request in one allocation.
type (
	rangeBox struct {
		op  pb.RequestOp
		one pb.RequestOp_RequestRange
		req pb.RangeRequest
	}
	putBox struct {
		op  pb.RequestOp
		one pb.RequestOp_RequestPut
		req pb.PutRequest
	}
	deleteBox struct {
		op  pb.RequestOp
		one pb.RequestOp_RequestDeleteRange
		req pb.DeleteRangeRequest
	}
	txnBox struct {
		op  pb.RequestOp
		one pb.RequestOp_RequestTxn
		req pb.TxnRequest
	}
)

// op reads a RequestOp. A second occurrence of the same request merges into the
// first and one of another request replaces it, as protobuf wants it of a oneof.
func (d *decoder) op(b []byte) (*pb.RequestOp, error) {
	r, ok := d.enter(b)
	if !ok {
		return nil, errMalformed
	}
	var m *pb.RequestOp
	for r.next() {
		switch r.tag {
		case 1<<3 | wireBytes, 2<<3 | wireBytes, 3<<3 | wireBytes, 4<<3 | wireBytes:
			if m != nil {
				r.odd = true
			} else {
				m = newOp(r.tag >> 3)
			}
			if err := d.request(&r, m); err != nil {
				return nil, err
			}
		default:
			r.unknown()
		}
	}
	if m == nil {
		m = new(pb.RequestOp)
	}
	return m, d.leave(&r)
}

// request reads the request at hand into m.
func (d *decoder) request(r *reader, m *pb.RequestOp) error {
	field := r.tag >> 3
	for {
		switch one := m.Request.(type) {
		case *pb.RequestOp_RequestRange:
			if field == 1 {
				return d.rangeRequest(r.buf, one.RequestRange)
			}
		case *pb.RequestOp_RequestPut:
			if field == 2 {
				return d.put(r.buf, one.RequestPut)
			}
		case *pb.RequestOp_RequestDeleteRange:
			if field == 3 {
				return d.deleteRange(r.buf, one.RequestDeleteRange)
			}
		case *pb.RequestOp_RequestTxn:
			if field == 4 {
				return d.txn(r.buf, one.RequestTxn)
			}
		}
		m.Request = newOp(field).Request // another request than before replaces it
	}
}

// newOp returns an operation with an empty request of the given field number of RequestOp.
func newOp(field uint64) *pb.RequestOp {
	switch field {
	case 1:
		box := new(rangeBox)
		box.one.RequestRange, box.op.Request = &box.req, &box.one
		return &box.op
	case 2:
		box := new(putBox)
		box.one.RequestPut, box.op.Request = &box.req, &box.one
		return &box.op
	case 3:
		box := new(deleteBox)
		box.one.RequestDeleteRange, box.op.Request = &box.req, &box.one
		return &box.op
	default:
		box := new(txnBox)
		box.one.RequestTxn, box.op.Request = &box.req, &box.one
		return &box.op
	}
}

// internal reads an InternalRaftRequest: the requests of the write path by hand,
// the rest through protobuf.
func (d *decoder) internal(b []byte, m *pb.InternalRaftRequest) error {
	r, ok := d.enter(b)
	if !ok {
		return errMalformed
	}
	for r.next() {
		var err error
		switch r.tag {
		case 1<<3 | wireVarint:
			m.ID = r.num
		case 3<<3 | wireBytes:
			err = d.rangeRequest(r.buf, fresh(&m.Range))
		case 4<<3 | wireBytes:
			err = d.put(r.buf, fresh(&m.Put))
		case 5<<3 | wireBytes:
			err = d.deleteRange(r.buf, fresh(&m.DeleteRange))
		case 6<<3 | wireBytes:
			err = d.txn(r.buf, fresh(&m.Txn))
		case 7<<3 | wireBytes:
			err = d.compaction(r.buf, fresh(&m.Compaction))
		case 8<<3 | wireBytes:
			err = d.leaseGrant(r.buf, fresh(&m.LeaseGrant))
		case 9<<3 | wireBytes:
			err = d.oneID(r.buf, &fresh(&m.LeaseRevoke).ID)
		case 100<<3 | wireBytes:
			err = d.header(r.buf, fresh(&m.Header))
		default:
			err = d.cold(&r, coldBody(m, r.tag))
		}
		if err != nil {
			return err
		}
	}
	return d.leave(&r)
}

// cold merges the field at hand into body, which is nil if there is no such field.
func (d *decoder) cold(r *reader, body proto.Message) error {
	if body == nil {
		r.unknown()
		return nil
	}
	d.odd = true // not looked at closely enough to say otherwise
	o := proto.UnmarshalOptions{Merge: true, DiscardUnknown: true, RecursionLimit: d.depth}
	if err := o.Unmarshal(r.buf, body); err != nil {
		return errMalformed
	}
	return nil
}

// fresh returns what *p points to, making it first if there is nothing.
func fresh[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

// coldBody returns the body of m that a tag means, made if it is not there yet.
func coldBody(m *pb.InternalRaftRequest, tag uint64) proto.Message {
	if tag&7 != wireBytes {
		return nil
	}
	switch tag >> 3 {
	case 10:
		return fresh(&m.Alarm)
	case 11:
		return fresh(&m.LeaseCheckpoint)
	case 1000:
		return fresh(&m.AuthEnable)
	case 1011:
		return fresh(&m.AuthDisable)
	case 1012:
		return fresh(&m.Authenticate)
	case 1013:
		return fresh(&m.AuthStatus)
	case 1100:
		return fresh(&m.AuthUserAdd)
	case 1101:
		return fresh(&m.AuthUserDelete)
	case 1102:
		return fresh(&m.AuthUserGet)
	case 1103:
		return fresh(&m.AuthUserChangePassword)
	case 1104:
		return fresh(&m.AuthUserGrantRole)
	case 1105:
		return fresh(&m.AuthUserRevokeRole)
	case 1106:
		return fresh(&m.AuthUserList)
	case 1107:
		return fresh(&m.AuthRoleList)
	}
	return coldRoleOrCluster(m, tag>>3)
}

func coldRoleOrCluster(m *pb.InternalRaftRequest, field uint64) proto.Message {
	switch field {
	case 1200:
		return fresh(&m.AuthRoleAdd)
	case 1201:
		return fresh(&m.AuthRoleDelete)
	case 1202:
		return fresh(&m.AuthRoleGet)
	case 1203:
		return fresh(&m.AuthRoleGrantPermission)
	case 1204:
		return fresh(&m.AuthRoleRevokePermission)
	case 1300:
		return fresh(&m.ClusterVersionSet)
	case 1301:
		return fresh(&m.ClusterMemberAttrSet)
	case 1302:
		return fresh(&m.DowngradeInfoSet)
	case 9900:
		return fresh(&m.DowngradeVersionTest)
	}
	return nil
}
