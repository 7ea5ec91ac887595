package api

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// AppendRangeResponse appends a RangeResponse whose KeyValues are already encoded.
func AppendRangeResponse(dst []byte, h *pb.ResponseHeader, kvs [][]byte, more bool, count int64) []byte {
	dst = appendHeaderField(dst, h)
	for _, kv := range kvs {
		dst = append(appendLen(dst, 2, len(kv)), kv...)
	}
	dst = appendBool(dst, 3, more)
	return appendUint(dst, 4, uint64(count))
}

// SizeRangeResponse returns the length of what AppendRangeResponse appends.
func SizeRangeResponse(h *pb.ResponseHeader, kvs [][]byte, more bool, count int64) int {
	n := sizeHeaderField(h) + sizeBool(1, more) + sizeUint(1, uint64(count))
	for _, kv := range kvs {
		n += sizeNested(1, len(kv))
	}
	return n
}

// SizeEvent returns the length of what AppendEvent appends.
func SizeEvent(del bool, kv, prev []byte) int { return sizeNested(1, sizeEventBody(del, kv, prev)) }

func sizeEventBody(del bool, kv, prev []byte) int {
	n := sizeBool(1, del) + sizeNested(1, len(kv))
	if prev != nil {
		n += sizeNested(1, len(prev))
	}
	return n
}

// AppendEvent appends one mvccpb.Event as an element of WatchResponse.events, tag
// and length included. kv is an encoded KeyValue; so is prev, or nil for none.
func AppendEvent(dst []byte, del bool, kv, prev []byte) []byte {
	dst = appendLen(dst, 11, sizeEventBody(del, kv, prev))
	dst = appendBool(dst, 1, del) // DELETE is 1, PUT 0
	dst = append(appendLen(dst, 2, len(kv)), kv...)
	if prev != nil {
		dst = append(appendLen(dst, 3, len(prev)), prev...)
	}
	return dst
}

// AppendHeader appends h as field 1 of a response, tag and length included, so
// that many responses can share the bytes.
func AppendHeader(dst []byte, h *pb.ResponseHeader) []byte { return appendHeaderField(dst, h) }

// WatchHead is a WatchResponse without its header and events.
type WatchHead struct {
	ID                int64
	Created, Canceled bool
	CompactRevision   int64
	CancelReason      string
	Fragment          bool
}

// AppendWatchHead appends the fields of a WatchResponse between header and events.
// A WatchResponse is what [AppendHeader], AppendWatchHead and then any number of
// [AppendEvent] make.
func AppendWatchHead(dst []byte, w *WatchHead) []byte {
	dst = appendUint(dst, 2, uint64(w.ID))
	dst = appendBool(dst, 3, w.Created)
	dst = appendBool(dst, 4, w.Canceled)
	dst = appendUint(dst, 5, uint64(w.CompactRevision))
	dst = appendBytes(dst, 6, validUTF8(w.CancelReason))
	return appendBool(dst, 7, w.Fragment)
}
