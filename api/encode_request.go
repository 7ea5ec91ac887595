package api

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func sizePut(m *pb.PutRequest) int {
	if m == nil {
		return 0
	}
	return sizeBytes(1, len(m.Key)) + sizeBytes(1, len(m.Value)) + sizeUint(1, uint64(m.Lease)) +
		sizeBool(1, m.PrevKv) + sizeBool(1, m.IgnoreValue) + sizeBool(1, m.IgnoreLease)
}

func appendPut(dst []byte, m *pb.PutRequest) []byte {
	if m == nil {
		return dst
	}
	dst = appendBytes(dst, 1, m.Key)
	dst = appendBytes(dst, 2, m.Value)
	dst = appendUint(dst, 3, uint64(m.Lease))
	dst = appendBool(dst, 4, m.PrevKv)
	dst = appendBool(dst, 5, m.IgnoreValue)
	return appendBool(dst, 6, m.IgnoreLease)
}

func sizeRange(m *pb.RangeRequest) int {
	if m == nil {
		return 0
	}
	return sizeBytes(1, len(m.Key)) + sizeBytes(1, len(m.RangeEnd)) + sizeUint(1, uint64(m.Limit)) +
		sizeUint(1, uint64(m.Revision)) + sizeUint(1, uint64(m.SortOrder)) + sizeUint(1, uint64(m.SortTarget)) +
		sizeBool(1, m.Serializable) + sizeBool(1, m.KeysOnly) + sizeBool(1, m.CountOnly) +
		sizeUint(1, uint64(m.MinModRevision)) + sizeUint(1, uint64(m.MaxModRevision)) +
		sizeUint(1, uint64(m.MinCreateRevision)) + sizeUint(1, uint64(m.MaxCreateRevision))
}

func appendRange(dst []byte, m *pb.RangeRequest) []byte {
	if m == nil {
		return dst
	}
	dst = appendBytes(dst, 1, m.Key)
	dst = appendBytes(dst, 2, m.RangeEnd)
	dst = appendUint(dst, 3, uint64(m.Limit))
	dst = appendUint(dst, 4, uint64(m.Revision))
	dst = appendUint(dst, 5, uint64(m.SortOrder))
	dst = appendUint(dst, 6, uint64(m.SortTarget))
	dst = appendBool(dst, 7, m.Serializable)
	dst = appendBool(dst, 8, m.KeysOnly)
	dst = appendBool(dst, 9, m.CountOnly)
	dst = appendUint(dst, 10, uint64(m.MinModRevision))
	dst = appendUint(dst, 11, uint64(m.MaxModRevision))
	dst = appendUint(dst, 12, uint64(m.MinCreateRevision))
	return appendUint(dst, 13, uint64(m.MaxCreateRevision))
}

func sizeDelete(m *pb.DeleteRangeRequest) int {
	return sizeBytes(1, len(m.GetKey())) + sizeBytes(1, len(m.GetRangeEnd())) + sizeBool(1, m.GetPrevKv())
}

func appendDelete(dst []byte, m *pb.DeleteRangeRequest) []byte {
	dst = appendBytes(dst, 1, m.GetKey())
	dst = appendBytes(dst, 2, m.GetRangeEnd())
	return appendBool(dst, 3, m.GetPrevKv())
}

func sizeTxn(m *pb.TxnRequest) (n int) {
	for _, c := range m.GetCompare() {
		n += sizeNested(1, sizeCompare(c))
	}
	for _, op := range m.GetSuccess() {
		n += sizeNested(1, sizeRequestOp(op))
	}
	for _, op := range m.GetFailure() {
		n += sizeNested(1, sizeRequestOp(op))
	}
	return n
}

func appendTxn(dst []byte, m *pb.TxnRequest) []byte {
	for _, c := range m.GetCompare() {
		dst = appendCompare(appendLen(dst, 1, sizeCompare(c)), c)
	}
	for _, op := range m.GetSuccess() {
		dst = appendRequestOp(appendLen(dst, 2, sizeRequestOp(op)), op)
	}
	for _, op := range m.GetFailure() {
		dst = appendRequestOp(appendLen(dst, 3, sizeRequestOp(op)), op)
	}
	return dst
}

func sizeCompare(m *pb.Compare) int {
	if m == nil {
		return 0
	}
	n := sizeUint(1, uint64(m.Result)) + sizeUint(1, uint64(m.Target)) + sizeBytes(1, len(m.Key)) + sizeBytes(2, len(m.RangeEnd))
	// A member of a oneof is written even when it is zero.
	switch one := m.TargetUnion.(type) {
	case *pb.Compare_Version:
		n += 1 + sizeVarint(uint64(one.Version))
	case *pb.Compare_CreateRevision:
		n += 1 + sizeVarint(uint64(one.CreateRevision))
	case *pb.Compare_ModRevision:
		n += 1 + sizeVarint(uint64(one.ModRevision))
	case *pb.Compare_Value:
		n += sizeNested(1, len(one.Value))
	case *pb.Compare_Lease:
		n += 1 + sizeVarint(uint64(one.Lease))
	}
	return n
}

func appendCompare(dst []byte, m *pb.Compare) []byte {
	if m == nil {
		return dst
	}
	dst = appendUint(dst, 1, uint64(m.Result))
	dst = appendUint(dst, 2, uint64(m.Target))
	dst = appendBytes(dst, 3, m.Key)
	if len(m.RangeEnd) > 0 {
		dst = appendVarint(dst, 64<<3|wireBytes)
		dst = appendVarint(dst, uint64(len(m.RangeEnd)))
		dst = append(dst, m.RangeEnd...)
	}
	// Go's protobuf writes a oneof after all other fields.
	switch one := m.TargetUnion.(type) {
	case *pb.Compare_Version:
		dst = appendVarint(append(dst, 4<<3|wireVarint), uint64(one.Version))
	case *pb.Compare_CreateRevision:
		dst = appendVarint(append(dst, 5<<3|wireVarint), uint64(one.CreateRevision))
	case *pb.Compare_ModRevision:
		dst = appendVarint(append(dst, 6<<3|wireVarint), uint64(one.ModRevision))
	case *pb.Compare_Value:
		dst = append(appendLen(dst, 7, len(one.Value)), one.Value...)
	case *pb.Compare_Lease:
		dst = appendVarint(append(dst, 8<<3|wireVarint), uint64(one.Lease))
	}
	return dst
}

func sizeRequestOp(m *pb.RequestOp) int {
	switch one := m.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return sizeNested(1, sizeRange(one.RequestRange))
	case *pb.RequestOp_RequestPut:
		return sizeNested(1, sizePut(one.RequestPut))
	case *pb.RequestOp_RequestDeleteRange:
		return sizeNested(1, sizeDelete(one.RequestDeleteRange))
	case *pb.RequestOp_RequestTxn:
		return sizeNested(1, sizeTxn(one.RequestTxn))
	}
	return 0
}

func appendRequestOp(dst []byte, m *pb.RequestOp) []byte {
	switch one := m.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return appendRange(appendLen(dst, 1, sizeRange(one.RequestRange)), one.RequestRange)
	case *pb.RequestOp_RequestPut:
		return appendPut(appendLen(dst, 2, sizePut(one.RequestPut)), one.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return appendDelete(appendLen(dst, 3, sizeDelete(one.RequestDeleteRange)), one.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return appendTxn(appendLen(dst, 4, sizeTxn(one.RequestTxn)), one.RequestTxn)
	}
	return dst
}
